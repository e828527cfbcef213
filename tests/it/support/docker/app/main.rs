//! The app in the containers of the tests: one static program whose environment sets its
//! behaviour, also bad behaviour. It is built separately from the crate.
//!
//! | variable | what it does |
//! |---|---|
//! | `NAME` | its name in the response of `/` |
//! | `PORT` | the port on which it listens; 80 by default |
//! | `START_DELAY_MS` | how long it runs before it listens |
//! | `HEALTH_AFTER_MS` | how long `healthcheck` fails after that |
//! | `BUSY_MS` | how long after that it answers with 503 and a page of its own |
//! | `HEALTHY` | `never`: `healthcheck` always fails |
//! | `EXIT_CODE`, `EXIT_AFTER_MS` | ends with that code, this long after its start |
//! | `FAIL_STARTS` | this many first starts of a container end at once with code 3 |
//! | `EAT_MB` | allocates this much memory before it listens |
//! | `EAT_AFTER_MS` | allocates it this long after its start instead |
//! | `HANGS_UP` | `always`: closes every connection at once |
//! | `STOP_DELAY_MS` | how long it takes to end after SIGTERM |

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{ExitCode, exit};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SIGTERM: i32 = 15;
/// RFC 6455 section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A service worker that keeps what it has fetched, and fetches nothing twice, but leaves
/// documents to the browser.
const WORKER: &str = "
    addEventListener('install', () => skipWaiting());
    addEventListener('activate', (event) => event.waitUntil(clients.claim()));
    addEventListener('fetch', (event) => event.request.mode !== 'navigate' &&
        event.respondWith((async () => {
        const cache = await caches.open('all');
        const kept = await cache.match(event.request);
        if (kept) return kept;
        const fetched = await fetch(event.request);
        cache.put(event.request, fetched.clone());
        return fetched;
    })()));
";

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn _exit(code: i32) -> !;
    fn usleep(micros: u32) -> i32;
}

static STOP_DELAY_MS: AtomicU32 = AtomicU32::new(0);
static SPIN_PERCENT: AtomicU32 = AtomicU32::new(0);
static BEGAN: OnceLock<u128> = OnceLock::new();
static LISTENS: OnceLock<u128> = OnceLock::new();
static STARTS: OnceLock<u64> = OnceLock::new();

/// The first process of a container is not ended by a signal that it does not handle.
extern "C" fn stop(_: i32) {
    // SAFETY: both are among the functions that may be called in a handler.
    unsafe {
        usleep(STOP_DELAY_MS.load(Ordering::Relaxed) * 1000);
        _exit(0)
    }
}

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("healthcheck") => return healthcheck(),
        // A command that is run in the container beside it.
        Some("wait") => loop {
            sleep(Duration::from_secs(1));
        },
        _ => {}
    }
    BEGAN.set(now()).ok();
    STOP_DELAY_MS.store(number("STOP_DELAY_MS").unwrap_or(0) as u32, Ordering::Relaxed);
    // SAFETY: the handler touches an atomic and ends the process.
    unsafe { signal(SIGTERM, stop) };
    let starts = count_start();
    STARTS.set(starts).ok();
    if starts <= number("FAIL_STARTS").unwrap_or(0) {
        return ExitCode::from(3);
    }
    let code = number("EXIT_CODE");
    let after = number("EXIT_AFTER_MS");
    if code.is_some() || after.is_some() {
        let after = Duration::from_millis(after.unwrap_or(0));
        let code = code.unwrap_or(0) as i32;
        if after.is_zero() {
            exit(code);
        }
        spawn(move || {
            sleep(after);
            exit(code)
        });
    }
    let megabytes = number("EAT_MB").unwrap_or(0) as usize;
    let eaten = match number("EAT_AFTER_MS") {
        None => eat(megabytes),
        Some(after) => {
            spawn(move || {
                sleep(Duration::from_millis(after));
                std::mem::forget(eat(megabytes));
            });
            Vec::new()
        }
    };
    sleep(Duration::from_millis(number("START_DELAY_MS").unwrap_or(0)));
    let listener = TcpListener::bind(("0.0.0.0", port())).expect("the port is free");
    LISTENS.set(now()).ok();
    let hangs_up = std::env::var("HANGS_UP").as_deref() == Ok("always");
    for stream in listener.incoming().flatten() {
        if hangs_up {
            continue;
        }
        spawn(|| serve(stream));
    }
    drop(eaten);
    ExitCode::SUCCESS
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is {value}")))
}

fn port() -> u16 {
    number("PORT").unwrap_or(80) as u16
}

/// Unix time in nanoseconds.
fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos()
}

/// How often this container has been started, this time included.
fn count_start() -> u64 {
    let before = std::fs::read_to_string("/starts").ok().and_then(|text| text.parse().ok());
    let starts = before.unwrap_or(0) + 1;
    std::fs::write("/starts", starts.to_string()).ok();
    starts
}

/// Memory is allocated only when it is written to.
fn eat(megabytes: usize) -> Vec<Vec<u8>> {
    (0..megabytes)
        .map(|_| {
            let mut chunk = vec![0; 1 << 20];
            chunk.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
            std::hint::black_box(chunk)
        })
        .collect()
}

fn healthcheck() -> ExitCode {
    let asked = || -> io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port()))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n")?;
        let mut answer = [0; b"HTTP/1.1 200".len()];
        stream.read_exact(&mut answer)?;
        Ok(answer == *b"HTTP/1.1 200")
    };
    if asked().unwrap_or(false) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn is_healthy() -> bool {
    let after = u128::from(number("HEALTH_AFTER_MS").unwrap_or(0)) * 1_000_000;
    std::env::var("HEALTHY").as_deref() != Ok("never")
        && now() >= LISTENS.get().expect("listens") + after
}

fn is_busy() -> bool {
    let busy = u128::from(number("BUSY_MS").unwrap_or(0)) * 1_000_000;
    now() < LISTENS.get().expect("listens") + busy
}

/// A request's head; names lower-cased.
struct Head {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: Vec<(String, String)>,
}

impl Head {
    fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query = query.split('&').filter_map(|pair| pair.split_once('='));
        let query = query.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Some(Self { method, path: path.to_owned(), query, headers }))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| &**value)
    }

    fn number(&self, name: &str, otherwise: u64) -> u64 {
        self.query.get(name).and_then(|value| value.parse().ok()).unwrap_or(otherwise)
    }
}

fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut stream = BufReader::new(stream);
    while let Some(head) = Head::read(&mut stream)? {
        let length = head.header("content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body)?;
        match head.path.as_str() {
            "/healthz" => {
                let status = if is_healthy() { "200 OK" } else { "503 Service Unavailable" };
                answer(&mut out, status, "text/plain", "")?;
            }
            "/ready" => {
                let listens = LISTENS.get().expect("listens").to_string();
                answer(&mut out, "200 OK", "text/plain", &listens)?;
            }
            "/starts" => {
                let starts = STARTS.get().expect("counted").to_string();
                answer(&mut out, "200 OK", "text/plain", &starts)?;
            }
            "/echo" => {
                answer(&mut out, "200 OK", "application/json", &echo(&head, &body))?;
            }
            "/events" => answer(&mut out, "200 OK", "text/event-stream", "data: hello\n\n")?,
            "/report" => {
                let kind = "text/csv\r\nContent-Disposition: attachment; filename=\"report.csv\"";
                answer(&mut out, "200 OK", kind, "a,b\n")?;
            }
            // To itself, and with a cookie, as where a visitor is signed in on the way.
            "/turn" if !head.header("cookie").is_some_and(|cookie| cookie.contains("turned=1")) => {
                let status = "302 Found\r\nLocation: /turn\r\nSet-Cookie: turned=1";
                answer(&mut out, status, "text/plain", "")?;
            }
            // To itself without end.
            "/round" => {
                answer(&mut out, "302 Found\r\nLocation: /round", "text/plain", "")?;
            }
            _ if is_busy() => {
                let page = "<!doctype html><h1 id=\"busy\">Migrating</h1>\n";
                answer(&mut out, "503 Service Unavailable", "text/html; charset=utf-8", page)?;
            }
            "/worker.js" => answer(&mut out, "200 OK", "text/javascript", WORKER)?,
            "/poll" => {
                let to = head.query.get("to").cloned().unwrap_or_default();
                spawn(move || poll(&to));
                answer(&mut out, "200 OK", "text/plain", "")?;
            }
            "/spin" => {
                SPIN_PERCENT.store(head.number("percent", 0) as u32, Ordering::Relaxed);
                spawn(spin);
                answer(&mut out, "200 OK", "text/plain", "")?;
            }
            "/download" => return download(&mut out, &head),
            "/ws" => match head.header("sec-websocket-key") {
                Some(key) => return web_socket(&mut stream, &mut out, key),
                None => answer(&mut out, "400 Bad Request", "text/plain", "no WebSocket")?,
            },
            _ => answer(&mut out, "200 OK", "text/html; charset=utf-8", &page())?,
        }
    }
    Ok(())
}

/// Asks another app once a second.
fn poll(address: &str) {
    loop {
        let asked = || -> io::Result<()> {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")?;
            stream.read_exact(&mut [0; 64])
        };
        asked().ok();
        sleep(Duration::from_secs(1));
    }
}

/// Uses a share of one processor until another request changes it.
fn spin() {
    loop {
        let percent = SPIN_PERCENT.load(Ordering::Relaxed);
        if percent == 0 {
            return;
        }
        let until = Instant::now() + Duration::from_millis(u64::from(percent));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        sleep(Duration::from_millis(u64::from(100 - percent.min(99))));
    }
}

fn answer(out: &mut TcpStream, status: &str, kind: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\n\r\n"
    );
    out.write_all(&[head.as_bytes(), body.as_bytes()].concat())
}

fn page() -> String {
    let name = std::env::var("NAME").unwrap_or_else(|_| "app".into());
    let began = BEGAN.get().expect("began");
    format!(
        "<!doctype html><html><head><title>{name}</title></head>\
         <body><h1 id=\"app\">{name}</h1><p id=\"began\">{began}</p></body></html>\n"
    )
}

/// The request as JSON; bytes outside ASCII become `?`.
fn echo(head: &Head, body: &[u8]) -> String {
    let text = |bytes: &[u8]| -> String {
        let plain = |byte: &u8| match byte {
            b'"' | b'\\' => format!("\\{}", char::from(*byte)),
            b' '..=b'~' => char::from(*byte).to_string(),
            _ => "?".into(),
        };
        bytes.iter().map(plain).collect()
    };
    let pair = |(name, value): &(String, String)| {
        format!("[\"{}\",\"{}\"]", text(name.as_bytes()), text(value.as_bytes()))
    };
    let headers: Vec<_> = head.headers.iter().map(pair).collect();
    format!(
        "{{\"method\":\"{}\",\"path\":\"{}\",\"headers\":[{}],\"body\":\"{}\"}}",
        head.method,
        text(head.path.as_bytes()),
        headers.join(","),
        text(body)
    )
}

/// `rate` bytes a second for `seconds`, in chunks of a tenth of a second.
fn download(out: &mut TcpStream, head: &Head) -> io::Result<()> {
    const CHUNKS_A_SECOND: u64 = 10;
    let (seconds, rate) = (head.number("seconds", 60), head.number("rate", 10_000));
    let chunk = vec![b'x'; (rate / CHUNKS_A_SECOND).max(1) as usize];
    let chunks = seconds * CHUNKS_A_SECOND;
    let length = chunks * chunk.len() as u64;
    write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    let began = Instant::now();
    for n in 1..=chunks {
        out.write_all(&chunk)?;
        let due = Duration::from_millis(1000 / CHUNKS_A_SECOND) * n as u32;
        sleep(due.saturating_sub(began.elapsed()));
    }
    Ok(())
}

/// Answers pings and echoes texts until a close frame. Frames as in RFC 6455
/// section 5.2, only short ones.
fn web_socket(input: &mut impl Read, out: &mut TcpStream, key: &str) -> io::Result<()> {
    const CLOSE: u8 = 0x8;
    const PING: u8 = 0x9;
    const PONG: u8 = 0xA;
    let accept = base64(&sha1(format!("{key}{GUID}").as_bytes()));
    write!(
        out,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )?;
    loop {
        let mut head = [0; 6];
        input.read_exact(&mut head)?;
        let length = usize::from(head[1] & 0x7f);
        assert!(head[1] & 0x80 != 0 && length < 126, "a short, masked frame");
        let mut payload = vec![0; length];
        input.read_exact(&mut payload)?;
        payload.iter_mut().zip(head[2..].iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        let kind = match head[0] & 0x0f {
            PING => PONG,
            kind => kind,
        };
        out.write_all(&[&[0x80 | kind, length as u8][..], &payload].concat())?;
        if kind == CLOSE {
            return Ok(());
        }
    }
}

/// FIPS 180-4 section 6.1.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut state: [u32; 5] = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0];
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend((message.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks(64) {
        let mut words: Vec<u32> = block
            .chunks(4)
            .map(|word| u32::from_be_bytes(word.try_into().expect("four bytes")))
            .collect();
        for n in 16..80 {
            let word = words[n - 3] ^ words[n - 8] ^ words[n - 14] ^ words[n - 16];
            words.push(word.rotate_left(1));
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (n, word) in words.iter().enumerate() {
            let (mixed, constant) = match n / 20 {
                0 => ((b & c) | (!b & d), 0x5A82_7999),
                1 => (b ^ c ^ d, 0x6ED9_EBA1),
                2 => ((b & c) | (b & d) | (c & d), 0x8F1B_BCDC),
                _ => (b ^ c ^ d, 0xCA62_C1D6u32),
            };
            let next = a
                .rotate_left(5)
                .wrapping_add(mixed)
                .wrapping_add(e)
                .wrapping_add(constant)
                .wrapping_add(*word);
            (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
        }
        for (word, new) in state.iter_mut().zip([a, b, c, d, e]) {
            *word = word.wrapping_add(new);
        }
    }
    let mut digest = [0; 20];
    for (bytes, word) in digest.chunks_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group =
            (0..3).fold(0u32, |group, n| group << 8 | u32::from(*chunk.get(n).unwrap_or(&0)));
        for n in 0..4 {
            let index = (group >> (18 - 6 * n)) as usize & 63;
            text.push(if n <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}
