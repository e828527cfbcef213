//! How connections, sockets and the process end.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nightporter::config::{Environment, load};
use nightporter::{Listeners, Signal, run};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Connection, Request, poll};
use crate::support::program::Program;
use crate::support::server::Nightporter;

const PATIENCE: Duration = Duration::from_secs(120);

const PORTS: &str = "[gate]\nlisten = \"127.0.0.1:0\"\ndrain_timeout = \"1h\"\n\
                     [ops]\nlisten = \"127.0.0.1:0\"\n[wake]\nenabled = false\n";

async fn sample() -> SampleBox {
    let sample = SampleBox::new(Store::Files).await;
    sample.add_app("notes", &json!({"": {"access": "public"}})).await;
    sample
}

fn start(sample: &SampleBox, sections: &str) -> Program {
    let path = sample.folder().join("nightporter.toml");
    std::fs::write(&path, format!("{}{PORTS}{sections}", sample.store_config())).unwrap();
    Program::start(&path, 256)
}

/// Waits until so many connections are open.
async fn open(program: &Program, gate: usize, ops: usize) {
    let mut asking = Connection::open(program.ops).await.unwrap();
    let request = Request::new("GET", "/metrics");
    poll("connections are open", PATIENCE, async || {
        let metrics = asking.ask(&request).await.unwrap();
        let metrics = metrics.body();
        // One more asks for the metrics.
        [("gate", gate), ("ops", ops + 1)].iter().all(|(listener, count)| {
            metrics
                .contains(&format!("nightporter_connections{{listener=\"{listener}\"}} {count}\n"))
        })
    })
    .await;
}

#[tokio::test]
async fn sigterm_waits_for_no_handshake_and_no_head() {
    let sample = sample().await;
    let directory = sample.folder().join("tls").display().to_string();
    let tls = format!(
        "[gate.tls]\nself_signed = true\ndirectory = \"{directory}\"\n[log]\nlevel = \"debug\"\n"
    );
    let mut program = start(&sample, &tls);
    let mut kept = vec![TcpStream::connect(program.gate).unwrap()];
    let mut hello = TcpStream::connect(program.gate).unwrap();
    // The first bytes of a ClientHello of 512.
    hello.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).unwrap();
    kept.push(hello);
    let mut head = TcpStream::connect(program.ops).unwrap();
    head.write_all(b"GET /livez HTTP/1.1\r\nHost: loc").unwrap();
    let mut http2 = TcpStream::connect(program.ops).unwrap();
    // A HEADERS frame of 100 bytes, of which none come.
    http2.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    http2.write_all(&[0, 0, 100, 1, 5, 0, 0, 0, 1]).unwrap();
    kept.extend([head, http2]);
    open(&program, 2, 2).await;

    // What ends each of them when its time is up.
    let overdue = || program.logged("took too long") + program.logged("connection closed");
    let before = overdue();
    program.signal("TERM");
    let status = program.ended().await;
    assert!(status.success(), "{}", program.log());
    assert_eq!(program.logged("took too long") + program.logged("connection closed"), before);
    assert_eq!(program.logged("they are cut"), 0, "{}", program.log());
}

#[tokio::test]
async fn a_second_signal_waits_for_no_store() {
    let sample = sample().await;
    let lock = std::fs::File::create(sample.folder().join(".lock")).unwrap();
    lock.lock().unwrap();
    let mut program = start(&sample, "[touch]\nflush_interval = \"10ms\"\n");
    let granted = Request::auth("notes.box.example", "/");
    poll("granted", PATIENCE, async || {
        crate::support::client::ask(program.gate, &granted).await.status == 200
    })
    .await;
    program.signal("TERM");
    poll("draining", PATIENCE, async || program.logged("draining") > 0).await;
    program.signal("TERM");
    program.ended().await;
}

#[tokio::test]
async fn who_has_sent_its_end_gets_its_answers_from_a_cold_cache_too() {
    let sample = sample().await;
    for app in 0..30 {
        sample.add_app(&format!("app{app}"), &json!({"": {"access": "public"}})).await;
    }
    let porter = Nightporter::of(&sample).await;
    let gate = porter.gate;
    let clients = (0..30).map(|app| {
        tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(gate).unwrap();
            let requests = (0..20).map(|path| {
                Request::auth(format!("app{app}.box.test"), format!("/{path}")).bytes()
            });
            stream.write_all(&requests.collect::<Vec<_>>().concat()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut answers = String::new();
            stream.read_to_string(&mut answers).unwrap();
            answers.matches("HTTP/1.1 200 OK\r\n").count()
        })
    });
    for client in clients.collect::<Vec<_>>() {
        assert_eq!(client.await.unwrap(), 20, "answers to 20 requests and an end");
    }
}

async fn livez(path: &Path) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap()?;
    Ok(answer)
}

#[tokio::test]
async fn a_socket_file_that_was_removed_is_bound_anew() {
    let sample = sample().await;
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("run/gate.sock");
    std::fs::create_dir(folder.path().join("run")).unwrap();
    let file = folder.path().join("nightporter.toml");
    let sections = format!(
        "[gate]\nlisten = \"unix:{}\"\n[ops]\nlisten = \"127.0.0.1:0\"\n[wake]\nenabled = false\n",
        gate.display()
    );
    std::fs::write(&file, format!("{}{sections}", sample.store_config())).unwrap();
    let config = Arc::new(load(Some(&file), &Environment::new()).unwrap());
    let listeners = Listeners::bind(&config).unwrap();
    let (signals, receiver) = mpsc::channel(1);
    let task = tokio::spawn(run(config, listeners, receiver));
    let answers = async || livez(&gate).await.is_ok_and(|a| a.starts_with("HTTP/1.1 200"));
    poll("answers", PATIENCE, answers).await;

    std::fs::remove_file(&gate).unwrap();
    poll("answers again", PATIENCE, answers).await;

    // With its whole folder, as by a cleaner of temporary files.
    std::fs::remove_dir_all(gate.parent().unwrap()).unwrap();
    std::fs::create_dir(gate.parent().unwrap()).unwrap();
    poll("answers again", PATIENCE, answers).await;

    // What somebody else listens on is not taken away.
    std::fs::remove_file(&gate).unwrap();
    let other = UnixListener::bind(&gate).unwrap();
    // Who binds asks first whether somebody is there.
    timeout(PATIENCE, other.accept()).await.unwrap().unwrap();
    assert!(gate.exists());
    drop(other);
    poll("answers again", PATIENCE, answers).await;

    signals.send(Signal::Shutdown).await.unwrap();
    task.await.unwrap().unwrap();
    assert!(!gate.exists(), "left behind");
}
