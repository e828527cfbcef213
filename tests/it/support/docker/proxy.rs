//! A proxy in front of an engine that records calls and can hold or cut them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::sign::unix_nanoseconds;
use super::engine::Engine;

type Answer = Response<BoxBody<Bytes, io::Error>>;

/// One request to the engine.
#[derive(Debug, Clone)]
pub struct Call {
    pub at: Instant,
    /// The same in Unix nanoseconds.
    pub unix: u128,
    pub method: String,
    /// The path without the version of the API and without the query.
    pub path: String,
    /// When the head of the response arrived, and its status.
    pub answered: Option<(Instant, u16)>,
}

/// Which calls a proxy lets through, by method and path.
pub type Allow = fn(&str, &str) -> bool;

/// The calls that a carefully configured socket proxy lets through: inspecting
/// containers, and starting and stopping them.
pub fn least(method: &str, path: &str) -> bool {
    let verb = path.rsplit('/').next().unwrap_or_default();
    match method {
        "HEAD" => path == "/_ping",
        "GET" => {
            matches!(path, "/_ping" | "/version" | "/events") || path.starts_with("/containers/")
        }
        "POST" => {
            path.starts_with("/containers/")
                && matches!(verb, "start" | "stop" | "pause" | "unpause")
        }
        _ => false,
    }
}

/// A proxy between a client and an engine, on a unix socket and on a port.
#[derive(Debug)]
pub struct EngineProxy {
    folder: TempDir,
    pub address: SocketAddr,
    shared: Arc<Shared>,
    door: Mutex<Option<JoinHandle<()>>>,
    port: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    engine: PathBuf,
    calls: Mutex<Vec<Call>>,
    delay: Mutex<Duration>,
    allow: Mutex<Option<Allow>>,
    refusal: Mutex<(StatusCode, &'static str)>,
    holds: Mutex<Vec<Arc<Held>>>,
    /// Whether connections are cut, new ones too.
    cut: watch::Sender<bool>,
    /// Incremented to end the existing streams of events.
    event_cuts: watch::Sender<u64>,
}

/// Calls that wait until the test releases them.
#[derive(Debug)]
pub struct Hold {
    held: Arc<Held>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Held {
    method: &'static str,
    suffix: String,
    waiting: watch::Sender<usize>,
    open: watch::Sender<bool>,
}

impl EngineProxy {
    pub async fn before(engine: &Engine) -> Self {
        Self::before_socket(engine.socket()).await
    }

    /// Creates a proxy in front of a socket that need not exist yet.
    pub async fn before_socket(engine: &Path) -> Self {
        let shared = Arc::new(Shared {
            engine: engine.to_owned(),
            calls: Mutex::default(),
            delay: Mutex::default(),
            allow: Mutex::default(),
            refusal: Mutex::new((StatusCode::FORBIDDEN, "Forbidden\n")),
            holds: Mutex::default(),
            cut: watch::Sender::new(false),
            event_cuts: watch::Sender::new(0),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let port = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                loop {
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    stream.set_nodelay(true).ok();
                    Arc::clone(&shared).accept(stream);
                }
            }
        });
        let folder = tempfile::tempdir().expect("a temporary folder");
        let proxy = Self { folder, address, shared, door: Mutex::default(), port };
        proxy.appear();
        proxy
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// Its address, for `wake.docker` and `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Creates the socket.
    pub fn appear(&self) {
        let listener = UnixListener::bind(self.socket()).expect("a free name");
        let shared = Arc::clone(&self.shared);
        let door = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                Arc::clone(&shared).accept(stream);
            }
        });
        let before = self.door.lock().expect("no panic").replace(door);
        assert!(before.is_none(), "it was there");
    }

    /// Removes the socket and cuts the existing connections.
    pub fn vanish(&self) {
        let door = self.door.lock().expect("no panic").take().expect("it was there");
        door.abort();
        std::fs::remove_file(self.socket()).expect("it was there");
        self.reset();
    }

    /// Cuts the existing connections, and new ones at once, until this is reverted.
    pub fn cut(&self, cut: bool) {
        self.shared.cut.send_replace(cut);
    }

    /// Cuts the existing connections; new ones are let through.
    pub fn reset(&self) {
        self.cut(true);
        self.cut(false);
    }

    /// Ends only the existing streams of events.
    pub fn cut_events(&self) {
        self.shared.event_cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Delays every request by this time.
    pub fn delay(&self, delay: Duration) {
        *self.shared.delay.lock().expect("no panic") = delay;
    }

    /// Answers 403 to all other calls, as a socket proxy does, unless another refusal is
    /// set.
    pub fn allow_only(&self, allow: Allow) {
        *self.shared.allow.lock().expect("no panic") = Some(allow);
    }

    /// Answers this to the calls that are not allowed.
    pub fn refuse_with(&self, status: StatusCode, body: &'static str) {
        *self.shared.refusal.lock().expect("no panic") = (status, body);
    }

    /// From now on, holds calls of this method whose path has this suffix.
    pub fn hold(&self, method: &'static str, suffix: &str) -> Hold {
        let held = Arc::new(Held {
            method,
            suffix: suffix.into(),
            waiting: watch::Sender::new(0),
            open: watch::Sender::new(false),
        });
        self.shared.holds.lock().expect("no panic").push(Arc::clone(&held));
        Hold { held, shared: Arc::clone(&self.shared) }
    }

    /// All calls so far, including refused ones.
    pub fn all_calls(&self) -> Vec<Call> {
        self.shared.calls.lock().expect("no panic").clone()
    }

    /// The calls of this method whose path has this suffix.
    pub fn calls(&self, method: &str, suffix: &str) -> Vec<Call> {
        let mut calls = self.all_calls();
        calls.retain(|call| call.method == method && call.path.ends_with(suffix));
        calls
    }

    pub fn forget_calls(&self) {
        self.shared.calls.lock().expect("no panic").clear();
    }
}

impl Drop for EngineProxy {
    fn drop(&mut self) {
        self.port.abort();
        if let Ok(Some(door)) = self.door.lock().as_deref() {
            door.abort();
        }
        self.cut(true);
    }
}

impl Hold {
    /// Waits until this many calls are held.
    pub async fn reached(&self, calls: usize) {
        let mut waiting = self.held.waiting.subscribe();
        let reached = waiting.wait_for(|waiting| *waiting >= calls);
        let reached = tokio::time::timeout(Duration::from_secs(120), reached).await;
        assert!(reached.is_ok(), "not {calls} calls of {} {}", self.held.method, self.held.suffix);
    }

    /// Releases the held calls; later ones are not held.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.open.send_replace(true);
        if let Ok(mut holds) = self.shared.holds.lock() {
            holds.retain(|held| !Arc::ptr_eq(held, &self.held));
        }
    }
}

/// The highest number of calls in progress at one time.
pub fn most_at_once(calls: &[Call]) -> usize {
    let under_way = |at: Instant| {
        let overlaps =
            |call: &&Call| call.at <= at && call.answered.is_none_or(|(answered, _)| answered > at);
        calls.iter().filter(overlaps).count()
    };
    calls.iter().map(|call| under_way(call.at)).max().unwrap_or(0)
}

impl Shared {
    fn accept<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self: Arc<Self>, stream: IO) {
        let mut cut = self.cut.subscribe();
        tokio::spawn(async move {
            let answer = service_fn(move |request| Arc::clone(&self).answer(request));
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .with_upgrades();
            tokio::select! {
                _ = serving => {}
                () = until_cut(&mut cut) => {}
            }
        });
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Answer> {
        let method = request.method().as_str().to_owned();
        let path = unversioned(request.uri().path()).to_owned();
        let number = {
            let call = Call {
                at: Instant::now(),
                unix: unix_nanoseconds(),
                method: method.clone(),
                path: path.clone(),
                answered: None,
            };
            let mut calls = self.calls.lock().expect("no panic");
            calls.push(call);
            calls.len() - 1
        };
        let allowed =
            self.allow.lock().expect("no panic").is_none_or(|allow| allow(&method, &path));
        let answer = if allowed {
            self.wait(&method, &path).await;
            self.pass(request, path == "/events").await
        } else {
            Ok(refusal(*self.refusal.lock().expect("no panic")))
        };
        if let Ok(answer) = &answer {
            let answered = (Instant::now(), answer.status().as_u16());
            let mut calls = self.calls.lock().expect("no panic");
            // The entry may have been cleared meanwhile, and its index reused.
            if let Some(call) = calls.get_mut(number)
                && (&*call.method, &*call.path) == (&*method, &*path)
            {
                call.answered.get_or_insert(answered);
            }
        }
        answer
    }

    async fn wait(&self, method: &str, path: &str) {
        let delay = *self.delay.lock().expect("no panic");
        tokio::time::sleep(delay).await;
        let held = {
            let holds = self.holds.lock().expect("no panic");
            let holds = holds.iter();
            let mut holds =
                holds.filter(|held| held.method == method && path.ends_with(&held.suffix));
            holds.next().map(Arc::clone)
        };
        if let Some(held) = held {
            held.waiting.send_modify(|waiting| *waiting += 1);
            let mut open = held.open.subscribe();
            open.wait_for(|open| *open).await.expect("the sender is held");
        }
    }

    /// Sends the request over a connection of its own, so that none is found closed.
    async fn pass(&self, mut request: Request<Incoming>, is_events: bool) -> io::Result<Answer> {
        let client = hyper::upgrade::on(&mut request);
        let stream = UnixStream::connect(&self.engine).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let connection = connection.with_upgrades();
        let mut cut = self.cut.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                _ = connection => {}
                () = until_cut(&mut cut) => {}
            }
        });
        let mut response = sender.send_request(request).await.map_err(io::Error::other)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let engine = hyper::upgrade::on(&mut response);
            tokio::spawn(async move {
                if let Ok((client, engine)) = tokio::try_join!(client, engine) {
                    let (mut client, mut engine) = (TokioIo::new(client), TokioIo::new(engine));
                    tokio::io::copy_bidirectional(&mut client, &mut engine).await.ok();
                }
            });
        }
        let mut cuts = self.event_cuts.subscribe();
        Ok(response.map(|body| {
            if !is_events {
                return body.map_err(io::Error::other).boxed();
            }
            let cut = async move {
                cuts.changed().await.ok();
            };
            BoxBody::new(Cuttable { body, cut: Mutex::new(Box::pin(cut)) })
        }))
    }
}

async fn until_cut(cut: &mut watch::Receiver<bool>) {
    if *cut.borrow_and_update() {
        return;
    }
    // The value may be reset before this task sees it: any change is a cut.
    cut.changed().await.ok();
}

fn unversioned(path: &str) -> &str {
    let Some(rest) = path.strip_prefix("/v1.") else { return path };
    rest.find('/').map_or(path, |slash| &rest[slash..])
}

fn refusal((status, body): (StatusCode, &'static str)) -> Answer {
    let body = Full::from(body).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// A body that ends with an error when it is cut.
struct Cuttable {
    body: Incoming,
    cut: Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Body for Cuttable {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.cut.get_mut().expect("no panic").as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())));
        }
        Pin::new(&mut this.body).poll_frame(context).map_err(io::Error::other)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
