//! Collectors that do not behave. None of them costs a request or the end of the process
//! anything, and what they do not take is counted.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{sample, started, traced};
use crate::support::boxes::SampleBox;
use crate::support::client::{Connection, poll};
use crate::support::program::Program;
use crate::support::programs::free_address;

const PATIENCE: Duration = Duration::from_secs(180);

/// What a collector does with a connection, once it has read the request or not.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Reads nothing and answers nothing.
    Silent,
    /// Reads everything and answers nothing.
    Deaf,
    Closes,
    /// Answers with this, byte by byte if it is slow.
    Answers(&'static str),
    SlowHead,
    SlowBody,
    EndlessHead,
    EndlessBody,
}

async fn collector(manner: Manner) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(behave(manner, stream));
        }
    });
    address
}

async fn behave(manner: Manner, mut stream: TcpStream) {
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    let mut request = vec![0; 1 << 16];
    match manner {
        Manner::Silent => std::future::pending().await,
        Manner::Closes => return,
        _ => drop(stream.read(&mut request).await),
    }
    let slowly = async |stream: &mut TcpStream, text: &str| {
        for byte in text.bytes().cycle() {
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let endless = async |stream: &mut TcpStream, text: String| {
        while stream.write_all(text.as_bytes()).await.is_ok() {}
    };
    match manner {
        Manner::Silent | Manner::Closes => {}
        Manner::Deaf => while stream.read(&mut request).await.is_ok_and(|read| read > 0) {},
        Manner::Answers(text) => {
            stream.write_all(text.as_bytes()).await.ok();
            stream.shutdown().await.ok();
            while stream.read(&mut request).await.is_ok_and(|read| read > 0) {}
        }
        Manner::SlowHead => slowly(&mut stream, OK).await,
        Manner::SlowBody => {
            let head = format!("{OK}content-length: 1000\r\n\r\n");
            stream.write_all(head.as_bytes()).await.ok();
            slowly(&mut stream, "\n").await;
        }
        Manner::EndlessHead => {
            stream.write_all(OK.as_bytes()).await.ok();
            endless(&mut stream, format!("x-a: {}\r\n", "a".repeat(1000))).await;
        }
        Manner::EndlessBody => {
            stream.write_all(format!("{OK}\r\n").as_bytes()).await.ok();
            endless(&mut stream, "\n".repeat(10_000)).await;
        }
    }
}

/// Returns how many spans were dropped for a reason.
async fn dropped(porter: &Program, reason: &str) -> u64 {
    let series = format!("nightporter_spans_dropped_total{{reason=\"{reason}\"}} ");
    let metrics = porter.metrics().await;
    let value = metrics.lines().find_map(|line| line.strip_prefix(&series));
    value.expect("known from the start").parse().expect("a number")
}

/// A process whose collector is at this address, with more spans on their way than its queue
/// holds.
async fn loaded(address: SocketAddr) -> (SampleBox, Program) {
    let sample = sample().await;
    let lines = format!("[telemetry]\notlp_endpoint = \"http://{address}\"\n");
    let porter = started(&sample, &lines);
    let mut connection = Connection::open(porter.gate).await.expect("the gate listens");
    for _ in 0..50 {
        let answers = connection.ask_at_once(&traced("/pub/", "01"), 100).await.expect("answers");
        assert!(answers.iter().all(|answer| answer.status == 200));
    }
    (sample, porter)
}

/// Ends a process whose collector keeps what it was sent.
async fn ends(mut porter: Program) {
    porter.signal("TERM");
    assert!(porter.ended().await.success(), "{}", porter.log());
}

#[tokio::test]
async fn a_collector_that_keeps_its_client_waiting_is_given_up() {
    for manner in [Manner::Silent, Manner::Deaf, Manner::SlowHead, Manner::SlowBody] {
        let (_sample, porter) = loaded(collector(manner).await).await;
        assert!(dropped(&porter, "queue_full").await > 0, "{manner:?}");
        poll("it is given up", PATIENCE, async || {
            porter.logged("spans are not exported; see telemetry.otlp_endpoint") == 1
        })
        .await;
        assert!(porter.log().contains("no answer within 10s"), "{manner:?}: {}", porter.log());
        ends(porter).await;
    }
}

#[tokio::test]
async fn a_collector_that_is_not_there_is_asked_again_and_then_spans_are_dropped() {
    for address in [free_address(), collector(Manner::Closes).await] {
        let (_sample, porter) = loaded(address).await;
        poll("a batch is dropped", PATIENCE, async || dropped(&porter, "unreachable").await >= 512)
            .await;
        assert_eq!(porter.logged("spans are not exported"), 1, "{}", porter.log());
        ends(porter).await;
    }
}

#[tokio::test]
async fn a_collector_that_refuses_or_talks_too_much_is_not_asked_again_for_the_same() {
    for manner in [
        Manner::Answers("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"),
        Manner::Answers("HTTP/1.1 400 Bad Request\r\ncontent-length: 3\r\n\r\nno\n"),
        Manner::Answers(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\n\
             content-length: 0\r\n\r\n",
        ),
        Manner::Answers("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ncut off"),
        Manner::EndlessBody,
    ] {
        let (_sample, porter) = loaded(collector(manner).await).await;
        poll("a batch is refused", PATIENCE, async || dropped(&porter, "refused").await >= 512)
            .await;
        ends(porter).await;
    }
}

#[tokio::test]
async fn a_collector_that_speaks_another_protocol_is_a_failure_that_is_logged() {
    for manner in [Manner::Answers("SSH-2.0-OpenSSH_9.2\r\n"), Manner::EndlessHead] {
        let (_sample, porter) = loaded(collector(manner).await).await;
        poll("it is logged", PATIENCE, async || porter.logged("spans are not exported") > 0).await;
        ends(porter).await;
    }
}
