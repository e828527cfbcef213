//! Request heads that never end, and what they may take.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::boxes::{SampleBox, Store};
use crate::support::client::{Request, ask, poll};
use crate::support::program::Program;

const PATIENCE: Duration = Duration::from_secs(120);

/// Connections of the flood: as many heads at once would take 200 MiB.
const FLOOD: usize = 400;

/// More than the heads that are let in take, and far less than all would. In KiB.
const SHARE: u64 = 100 * 1024;

const CONFIG: &str = "[gate]\nlisten = \"127.0.0.1:0\"\n[ops]\nlisten = \"127.0.0.1:0\"\n\
                      [wake]\nenabled = false\n";

/// What a process has had in memory at most, in KiB.
fn peak(program: &Program) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn frame(kind: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [.., high, middle, low] = payload.len().to_be_bytes();
    [&[high, middle, low, kind, 0, 0, 0, 0, stream], payload].concat()
}

/// A head whose frames end in no flag of the end: thousands of fields in a byte each (RFC
/// 7541 section 6.1), and a long one behind them that is not complete.
fn unfinished_head() -> Vec<u8> {
    let mut fields = vec![0x40, 1, b'a', 0];
    fields.resize(fields.len() + 2400, 0xbe);
    // A literal of 60,000 bytes, of which some come.
    let mut literal = vec![0, 1, b'b', 0x7f, 0xe1, 0xd3, 0x03];
    literal.resize(16_000, b'x');
    let mut head = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    head.extend(frame(4, 0, &[]));
    head.extend(frame(1, 1, &fields));
    head.extend(frame(9, 1, &literal));
    for _ in 0..2 {
        head.extend(frame(9, 1, &[b'x'; 16_000]));
    }
    head
}

#[tokio::test]
async fn unfinished_heads_of_a_trusted_proxy_take_their_share_and_no_more() {
    let sample = SampleBox::new(Store::Files).await;
    sample.add_app("notes", &json!({"": {"access": "public"}})).await;
    let path = sample.folder().join("nightporter.toml");
    std::fs::write(&path, format!("{}{CONFIG}", sample.store_config())).unwrap();
    let program = Program::start(&path, 1024);
    let request = Request::auth("notes.box.test", "/");
    poll("the gate answers", PATIENCE, async || ask(program.gate, &request).await.status == 200)
        .await;
    let (quiet, head) = (peak(&program), unfinished_head());
    let mut flood = JoinSet::new();
    for _ in 0..FLOOD {
        let mut stream = TcpStream::connect(program.gate).await.unwrap();
        let head = head.clone();
        flood.spawn(async move {
            // Those that are too many are closed while they send.
            stream.write_all(&head).await.ok();
            stream.read_to_end(&mut Vec::new()).await.ok();
        });
    }
    assert_eq!(ask(program.gate, &request).await.status, 200, "meanwhile");
    // All end: most as too many, the others after the time that a head may take.
    let all = async { while flood.join_next().await.is_some() {} };
    timeout(PATIENCE, all).await.expect("heads that never end are cut");
    let most = peak(&program);
    assert!(most < quiet + SHARE, "{quiet} KiB, then {most}");
    let metrics = program.metrics().await;
    let cut = metrics.lines().find(|line| line.contains("reason=\"heads\"")).unwrap_or_default();
    assert!(cut.rsplit(' ').next().is_some_and(|count| count != "0"), "{metrics}");
    assert_eq!(ask(program.gate, &request).await.status, 200, "and after it");
}
