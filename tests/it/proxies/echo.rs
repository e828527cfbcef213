//! An app that answers with what it was asked, and echoes a WebSocket.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::client::Request;

/// RFC 6455 section 1.3: what the server appends to the client's key.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const TEXT: &[u8] = b"to the app and back";
/// A final text frame: RFC 6455 section 5.2.
const TEXT_FRAME: u8 = 0x81;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What an app saw of a request: names as they were spelled, bytes as latin-1.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) line: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// The headers that a server behind CGI would read as `X-Ptl-*`, with their
    /// names as it would read them, in order.
    pub(super) fn granted(&self) -> Vec<(String, &str)> {
        let plain = |name: &str| {
            name.replace(|c: char| !c.is_ascii_alphanumeric(), "-").to_ascii_lowercase()
        };
        let headers = self.headers.iter().map(|(name, value)| (plain(name), &**value));
        let mut granted: Vec<_> = headers.filter(|(name, _)| name.starts_with("x-ptl-")).collect();
        granted.sort();
        granted
    }
}

/// Serves until the test ends.
pub(super) async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream));
        }
    });
    address
}

async fn connection(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let head = read_head(&mut stream).await?;
        let mut seen = parse(&head);
        if let Some(key) = seen.header("sec-websocket-key")
            && seen.header("upgrade").is_some_and(|to| to.eq_ignore_ascii_case("websocket"))
        {
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Accept: {}\r\nX-Seen: {}\r\n\r\n",
                accept(key),
                seen.header("cookie").unwrap_or("none")
            );
            stream.write_all(head.as_bytes()).await?;
            return echo_frame(&mut stream).await;
        }
        let length = seen.header("content-length").map_or(0, |n| n.parse().expect("a length"));
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        seen.body = latin1(&body);
        if let Some(answer) = told(&seen.line) {
            stream.write_all(answer.as_bytes()).await?;
            continue;
        }
        let json = serde_json::to_vec(&seen).expect("JSON");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", json.len());
        stream.write_all(&[head.as_bytes(), &json].concat()).await?;
    }
}

/// The body of an answer that is an error.
pub(super) const OWN: &str = r#"{"the app":"says so itself"}"#;

/// The app's own error where it is asked for one, as `/answer/503`, with headers that
/// programs go by.
fn told(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("/answer/")?;
    let status = rest.split(' ').next()?;
    let length = OWN.len();
    Some(format!(
        "HTTP/1.1 {status} Told\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         WWW-Authenticate: Basic realm=\"app\"\r\nRetry-After: 120\r\nDAV: 1\r\n\r\n{OWN}"
    ))
}

/// Up to and without the empty line, and not a byte more.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    head.truncate(head.len() - 4);
    Ok(head)
}

fn parse(head: &[u8]) -> Seen {
    let text = latin1(head);
    let mut lines = text.split("\r\n");
    let line = lines.next().expect("a request line").to_owned();
    let pair = |line: &str| {
        let (name, value) = line.split_once(':').expect("a header");
        (name.to_owned(), value.trim().to_owned())
    };
    Seen { line, headers: lines.map(pair).collect(), body: String::new() }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

fn accept(key: &str) -> String {
    let sha1 = &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
    STANDARD.encode(aws_lc_rs::digest::digest(sha1, format!("{key}{GUID}").as_bytes()))
}

/// Reads one short masked frame and sends its text back, unmasked as servers do.
async fn echo_frame(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut head = [0; 6];
    stream.read_exact(&mut head).await?;
    let mut text = vec![0; usize::from(head[1] & 0x7f)];
    stream.read_exact(&mut text).await?;
    mask(&mut text, &head[2..]);
    stream.write_all(&[&[TEXT_FRAME, head[1] & 0x7f][..], &text].concat()).await
}

fn mask(text: &mut [u8], key: &[u8]) {
    text.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
}

/// Opens a WebSocket through a proxy and has one frame echoed. Returns the cookies that the app
/// saw; the status where it is not let through.
pub(super) async fn web_socket(proxy: SocketAddr, request: Request) -> Result<String, u16> {
    let request = request
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", KEY);
    let mut stream = TcpStream::connect(proxy).await.expect("the proxy listens");
    stream.write_all(&request.bytes()).await.expect("sent");
    let answer = parse(&read_head(&mut stream).await.expect("an answer"));
    let status = answer.line.split(' ').nth(1).expect("a status").parse().expect("a number");
    if status != 101 {
        return Err(status);
    }
    assert_eq!(answer.header("sec-websocket-accept"), Some(&*accept(KEY)));

    let length = u8::try_from(TEXT.len()).expect("short");
    let mut masked = TEXT.to_vec();
    mask(&mut masked, &MASK);
    let frame = [&[TEXT_FRAME, 0x80 | length][..], &MASK, &masked].concat();
    stream.write_all(&frame).await.expect("sent");
    let mut echoed = vec![0; 2 + TEXT.len()];
    stream.read_exact(&mut echoed).await.expect("the frame comes back");
    assert_eq!(echoed, [&[TEXT_FRAME, length][..], TEXT].concat());
    Ok(answer.header("x-seen").expect("the app says so").to_owned())
}
