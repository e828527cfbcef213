//! Samples of the page in every state, and of the standby page, for visual tests and for the
//! contact sheet.

use std::time::Duration;

use http::header::{ACCEPT_LANGUAGE, CONTENT_SECURITY_POLICY};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Collected};
use tokio::time::Instant;

use super::{PageContext, Pages, Pairs, pairing, standby};
use crate::domain::app::Size;
use crate::domain::lifecycle::{Phase, WakeError};
use crate::gate::PageApp;
use crate::gate::verdict::{Asleep, AsleepResponse};
use crate::http::Response;
use crate::wake::{AppView, ContainerState};

/// One page as it is sent.
#[derive(Debug)]
pub struct Sample {
    pub name: String,
    pub html: String,
    /// Its `Content-Security-Policy`.
    pub policy: String,
}

/// A name that is too long to fit.
const LONG_NAME: &str = "Donaudampfschifffahrtsgesellschaftskapitänsverwaltung and the Photographs \
                         of everybody who has ever been there, in alphabetical order, second part";

/// Renders all samples.
pub async fn samples() -> Vec<Sample> {
    let pages = Pages::new("/nonexistent".into());
    let english = HeaderMap::new();
    let mut german = HeaderMap::new();
    german.insert(ACCEPT_LANGUAGE, HeaderValue::from_static("de"));
    let (html, policy) = (standby::page(None), standby::policy());
    let mut samples = vec![Sample { name: "standby".into(), html, policy }];
    for (lang, headers) in [("en", &english), ("de", &german)] {
        let place = PageContext {
            uri: Some("/deep/link"),
            domain: Some("box.example"),
            ..PageContext::default()
        };
        for (name, app) in asleep() {
            let asleep = Asleep { app, form: AsleepResponse::Page };
            let page = pages.asleep(&asleep, headers, place).await;
            samples.push(sample(format!("{name}-{lang}"), page).await);
        }
        for (name, status, app) in in_error() {
            let page = pages.app_error(Some(status), Some(app), headers, place).await;
            samples.push(sample(format!("{name}-{lang}"), page).await);
        }
        let app = PageApp { is_granted: false, ..app(Phase::Awake) };
        for (name, pairs) in [("denied-pairing", Pairs::Here), ("denied-outside", Pairs::Nowhere)] {
            let place = PageContext { pairs, ..place };
            let page = pages.denied(StatusCode::UNAUTHORIZED, &app, headers, place).await;
            samples.push(sample(format!("{name}-{lang}"), page).await);
        }
        for (name, problem) in [
            ("pair", None),
            ("pair-wrong-code", Some(pairing::Problem::WrongCode)),
            ("pair-too-many", Some(pairing::Problem::TooMany)),
            ("pair-other-site", Some(pairing::Problem::OtherSite)),
            ("pair-needs-https", Some(pairing::Problem::NeedsHttps)),
            ("pair-busy", Some(pairing::Problem::Busy)),
            ("pair-unavailable", Some(pairing::Problem::Unavailable)),
        ] {
            let form = pairing::Form { domain: "box.example", to: "/deep/link".into(), problem };
            let page = pairing::page(StatusCode::OK, &form, headers);
            samples.push(sample(format!("{name}-{lang}"), page).await);
        }
        for (name, status, domain) in [
            ("denied", StatusCode::UNAUTHORIZED, Some("box.example")),
            ("denied-somewhere", StatusCode::UNAUTHORIZED, None),
            ("forbidden", StatusCode::FORBIDDEN, None),
            ("withheld", StatusCode::SERVICE_UNAVAILABLE, None),
        ] {
            let place = PageContext { domain, ..place };
            let page = pages.denied(status, &app, headers, place).await;
            samples.push(sample(format!("{name}-{lang}"), page).await);
        }
    }
    samples
}

async fn sample(name: String, mut response: Response) -> Sample {
    let policy = response.headers().get(CONTENT_SECURITY_POLICY);
    let policy = policy.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let body = response.body_mut().collect().await.map(Collected::to_bytes);
    let html = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
    Sample { name, html, policy }
}

pub(super) fn app(phase: Phase) -> PageApp {
    let container = |name: &str, state, exit_code| {
        let name = name.to_owned();
        ContainerState { name, state, exit_code }
    };
    let containers =
        [container("notes", "running", None), container("notes-database", "exited", Some(137))];
    PageApp {
        name: "notes".into(),
        pretty_name: "The Notes of Ada".into(),
        icon: String::new(),
        is_granted: true,
        status: "running".into(),
        shown: AppView {
            version: 7,
            phase,
            since: Instant::now(),
            containers: containers.into(),
            began: None,
            usual: None,
            last_failure: None,
        },
        port: Some(3000),
        unanswered: None,
    }
}

/// Returns an app whose start began this many seconds ago.
fn under_way(phase: Phase, seconds: u64, usual: Option<u64>) -> PageApp {
    let mut app = app(phase);
    app.shown.began = Instant::now().checked_sub(Duration::from_secs(seconds));
    app.shown.usual = usual.map(Duration::from_secs);
    app
}

/// Returns every kind of failure with a name.
pub(super) fn failures() -> Vec<(&'static str, WakeError)> {
    let container = || "db".to_owned();
    let image = || "registry.example/notes:7".to_owned();
    vec![
        ("exited", WakeError::Exited { container: container(), code: 137 }),
        ("out-of-memory", WakeError::OutOfMemory { container: container() }),
        ("image-missing", WakeError::ImageMissing { image: image() }),
        ("image-not-fetched", WakeError::ImageNotFetched { image: image(), reason: "x".into() }),
        ("unhealthy", WakeError::Unhealthy { container: container() }),
        ("not-ready", WakeError::NotReady { after: Duration::from_secs(120) }),
        ("interrupted", WakeError::Interrupted { container: container(), what: "stopped" }),
        ("refused", WakeError::Engine("no such network".into())),
        ("engine-away", WakeError::EngineAway),
        ("not-made", WakeError::Compose("no such file".into())),
        ("no-compose-file", WakeError::NoComposeFile),
        ("store-away", WakeError::Store("gone".into())),
        ("panicked", WakeError::Panicked),
        ("declined", WakeError::Declined("not now")),
    ]
}

/// The states in which the gate answers itself.
fn asleep() -> Vec<(String, PageApp)> {
    let unavailable = |status: &str| Phase::Unavailable { status: status.into() };
    let mut all: Vec<(String, PageApp)> = [
        ("awake", app(Phase::Awake)),
        ("stopped", app(Phase::Stopped)),
        ("paused", app(Phase::Paused)),
        ("missing", app(Phase::Missing)),
        ("queued", app(Phase::Queued { place: 4 })),
        ("next", app(Phase::Queued { place: 1 })),
        ("starting", under_way(Phase::Starting, 1, None)),
        ("starting-usual", under_way(Phase::Starting, 7, Some(18))),
        ("starting-longer", under_way(Phase::Starting, 50, Some(18))),
        ("unpausing", app(Phase::Unpausing)),
        ("awaiting-health", under_way(Phase::AwaitingHealth, 12, None)),
        ("awaiting-port", under_way(Phase::AwaitingPort, 20, Some(18))),
        ("low-disk", app(Phase::LowDisk)),
        ("too-small", app(Phase::TooSmall { minimum: Size::S })),
    ]
    .map(|(name, app)| (name.to_owned(), app))
    .into();
    for status in ["unknown", "installing", "uninstalling", "error", "other"] {
        all.push((status.into(), app(unavailable(status))));
    }
    let retry_after = Duration::from_secs(12);
    for (name, failure) in failures() {
        all.push((format!("failed-{name}"), app(Phase::Failed { failure, retry_after })));
    }
    let mut again = under_way(Phase::Starting, 4, Some(18));
    again.shown.last_failure = Some(WakeError::Exited { container: "db".into(), code: 1 });
    all.push(("starting-after-a-failure".into(), again));
    let mut long = under_way(Phase::Starting, 7, Some(18));
    long.pretty_name = LONG_NAME.into();
    all.push(("long-name".into(), long));
    all
}

/// The states in which an error response of a proxy or an app is replaced.
fn in_error() -> Vec<(&'static str, u16, PageApp)> {
    let unanswered =
        |seconds| PageApp { unanswered: Some(Duration::from_secs(seconds)), ..app(Phase::Awake) };
    let mut unknown = unanswered(95);
    unknown.shown.containers = [].into();
    let mut initializing = PageApp { status: "unknown".into(), ..unanswered(5) };
    initializing.shown.containers = [].into();
    vec![
        ("error", 500, app(Phase::Awake)),
        ("unanswered-soon", 502, unanswered(5)),
        ("unanswered", 502, unanswered(95)),
        ("unanswered-unknown", 504, unknown),
        ("initializing", 502, initializing),
        ("busy", 503, app(Phase::Awake)),
    ]
}
