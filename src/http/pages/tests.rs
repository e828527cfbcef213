use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::CACHE_CONTROL;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::*;
use crate::domain::app::Size;
use crate::domain::lifecycle::{Phase, WakeError};
use crate::wake::{AppView, ContainerState};

const REFRESH: &str = "http-equiv=\"refresh\"";

fn app(status: &str) -> PageApp {
    PageApp {
        name: "notes".into(),
        pretty_name: "My <b>Notes</b>".into(),
        icon: "icon.svg".into(),
        is_granted: true,
        status: status.into(),
        shown: shown(Phase::Awake, &[]),
        port: Some(80),
        unanswered: None,
    }
}

fn shown(phase: Phase, containers: &[ContainerState]) -> AppView {
    let mut shown = samples::app(phase).shown;
    shown.containers = containers.into();
    shown
}

fn in_phase(phase: Phase) -> PageApp {
    let container = |name: &str, state, exit_code| {
        let name = name.to_owned();
        ContainerState { name, state, exit_code }
    };
    let containers =
        [container("notes<i>", "running", None), container("database", "exited", Some(137))];
    let mut app = app("running");
    app.shown = shown(phase, &containers);
    app
}

fn failed(failure: WakeError) -> Phase {
    Phase::Failed { failure, retry_after: Duration::from_millis(11_001) }
}

fn engine_says(text: &str) -> WakeError {
    WakeError::Engine(text.into())
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

fn no_icons() -> Pages {
    Pages::new("/nonexistent".into())
}

async fn read(mut response: Response) -> (Response, String) {
    let body = response.body_mut().collect().await.expect("a body in memory");
    let text = String::from_utf8(body.to_bytes().to_vec()).expect("UTF-8");
    (response, text)
}

async fn page(pages: &Pages, code: u16, app: PageApp) -> (Response, String) {
    read(pages.app_error(Some(code), Some(app), &HeaderMap::new(), PageContext::default()).await)
        .await
}

async fn error(code: u16, phase: Phase, headers: &HeaderMap) -> (Response, String) {
    read(
        no_icons()
            .app_error(Some(code), Some(in_phase(phase)), headers, PageContext::default())
            .await,
    )
    .await
}

async fn asleep(form: AsleepResponse, phase: Phase, headers: &HeaderMap) -> (Response, String) {
    let asleep = Asleep { app: in_phase(phase), form };
    read(no_icons().asleep(&asleep, headers, PageContext::default()).await).await
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// Returns whether a page's script polls, and the seconds after which the browser itself
/// reloads the page if scripts are disabled, and if they are enabled.
fn following(html: &str) -> (bool, Option<u64>, Option<u64>) {
    let seconds = |html: &str| -> Option<u64> {
        let (_, rest) = html.split_once("http-equiv=\"refresh\" content=\"")?;
        rest.split('"').next()?.parse().ok()
    };
    let (inside, outside) = match html.split_once("<noscript>") {
        Some((before, rest)) => {
            let (inside, after) = rest.split_once("</noscript>").expect("an end");
            (inside, format!("{before}{after}"))
        }
        None => ("", html.to_owned()),
    };
    (html.contains("data-follow=\"poll\""), seconds(inside), seconds(&outside))
}

#[tokio::test]
async fn the_state_is_the_contracts() {
    for (code, status, text, reloads) in [
        (401, "running", ">Access Denied<", false),
        (500, "running", ">Error<", true),
        (502, "running", ">Starting…<", true),
        (502, "unknown", ">Initializing…<", true),
        (503, "stopped", ">Stopped<", true),
        (502, "installing", ">Installing…<", true),
        (404, "running", ">Starting…<", true),
    ] {
        let (response, html) = page(&no_icons(), code, app(status)).await;
        assert_eq!(response.status(), code);
        assert!(html.contains(text), "{code} {status}: {html}");
        assert!(html.contains(&format!(">{code}<")), "{html}");
        // The gate reports the app as awake: a polling page would open it in a loop.
        assert_eq!(following(&html), (false, None, reloads.then_some(5)), "{code} {status}");
        assert!(html.contains(&code.to_string()));
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().expect("ASCII");
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
    }
}

#[tokio::test]
async fn a_denial_comes_first_then_an_error_and_then_what_no_visitor_can_change() {
    for (phase, text) in [
        (Phase::LowDisk, ">Low Disk Space<"),
        (Phase::TooSmall { minimum: Size::S }, ">VM too small, need at least S<"),
    ] {
        for (code, text) in [
            (401, ">Access Denied<"),
            (500, ">Error<"),
            (404, text),
            (502, text),
            (503, text),
            (504, text),
        ] {
            let (response, html) = error(code, phase.clone(), &HeaderMap::new()).await;
            assert_eq!(response.status(), code);
            assert!(html.contains(text), "{code}: {html}");
            assert_eq!(html.contains(REFRESH), code == 500, "{code}");
            assert_eq!(following(&html).0, code > 500, "{code}");
        }
    }
}

#[tokio::test]
async fn a_proxys_error_page_is_the_waiting_page_and_a_denial_is_not() {
    for code in [502, 503, 504] {
        let (response, html) = error(code, Phase::Queued { place: 2 }, &HeaderMap::new()).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()[RETRY_AFTER]),
            (code, &"5".parse().expect("a value"))
        );
        let (_, own) =
            asleep(AsleepResponse::Page, Phase::Queued { place: 2 }, &HeaderMap::new()).await;
        assert_eq!(html, own.replace(">503<", &format!(">{code}<")));
    }
    let (response, html) = error(401, Phase::Queued { place: 2 }, &HeaderMap::new()).await;
    assert!(html.contains("Access Denied") && html.contains("data-state=\"denied\""), "{html}");
    assert!(!html.contains("database"), "a denied visitor sees no containers: {html}");
    assert_eq!(following(&html), (false, None, None));
    assert!(!response.headers().contains_key(RETRY_AFTER));
}

/// Returns an app for a client that may not use it, in case the gate fails to leave out the
/// app's state.
fn not_granted(phase: Phase) -> PageApp {
    PageApp { is_granted: false, ..in_phase(phase) }
}

#[tokio::test]
async fn whoever_may_not_use_an_app_sees_its_name_and_nothing_of_what_it_does() {
    let failure = || failed(WakeError::OutOfMemory { container: "db".into() });
    let (html, json) = (HeaderMap::new(), headers(&[("accept", "application/json")]));
    let poll = headers(&[("x-nightporter-poll", "6")]);
    for phase in [failure(), Phase::Starting, Phase::LowDisk, Phase::Awake] {
        for code in [400, 401, 403, 404, 409, 500, 502, 503] {
            for asked in [&html, &json, &poll] {
                let app = Some(not_granted(phase.clone()));
                let pages = no_icons();
                let response =
                    pages.app_error(Some(code), app, asked, PageContext::default()).await;
                let (response, text) = read(response).await;
                assert_eq!(response.status(), code);
                for secret in ["notes<i>", "notes&#60;", "database", "137", "memory", "Disk"] {
                    assert!(!text.contains(secret), "{code} {phase:?} {asked:?}: {secret} {text}");
                }
                assert!(!following(&text).0, "{text}");
            }
        }
        for code in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN] {
            let app = not_granted(phase.clone());
            let page = no_icons().denied(code, &app, &html, PageContext::default()).await;
            let (response, text) = read(page).await;
            assert_eq!(response.status(), code);
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
            assert!(text.contains("Access Denied") && text.contains("My &#60;b&#62;Notes"));
            assert!(!text.contains(REFRESH) && !text.contains("database"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_page_loads_its_own_address_again_whatever_that_is() {
    for (uri, target) in [
        ("/", "/"),
        ("/deep/link?a=1&b=%22x", "/deep/link?a=1&#38;b=%22x"),
        ("//evil.example/x", "/.//evil.example/x"),
        ("/\\evil.example", "/./\\evil.example"),
        ("/\"><script>", "/&#34;&#62;&#60;script&#62;"),
    ] {
        let place = PageContext { uri: Some(uri), ..PageContext::default() };
        let (app, form) = (in_phase(Phase::Starting), AsleepResponse::Page);
        let waiting = no_icons().asleep(&Asleep { app, form }, &HeaderMap::new(), place).await;
        let (_, html) = read(waiting).await;
        assert!(html.contains(&format!("content=\"3;url={target}\"></noscript>")), "{html}");
        assert!(html.contains(&format!("content=\"15;url={target}\">\n")), "{html}");
        let app = Some(in_phase(Phase::Awake));
        let pages = no_icons();
        let error = pages.app_error(Some(502), app, &HeaderMap::new(), place).await;
        let (_, html) = read(error).await;
        assert!(html.contains(&format!("content=\"5;url={target}\">\n")), "{html}");
        assert!(html.contains(&format!("<a href=\"{target}\">")), "{html}");
    }
}

#[tokio::test]
async fn only_the_boxs_own_hosts_may_frame_a_page() {
    for (domain, ancestors) in [
        (Some("box.example"), "'self' box.example:* *.box.example:*"),
        (None, "'self'"),
        (Some(""), "'self'"),
        (Some("x; script-src *"), "'self'"),
        (Some("*"), "'self'"),
    ] {
        let place = PageContext { domain, ..PageContext::default() };
        let app = in_phase(Phase::Starting);
        let (pages, headers) = (no_icons(), HeaderMap::new());
        let denied = pages.denied(StatusCode::UNAUTHORIZED, &app, &headers, place).await;
        let error = pages.app_error(Some(502), Some(app.clone()), &headers, place).await;
        for response in [denied, error] {
            let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().expect("ASCII");
            let (_, found) = policy.split_once("frame-ancestors ").expect("named");
            assert_eq!(found, ancestors, "{policy}");
        }
    }
}

#[tokio::test]
async fn a_request_is_sent_again_by_an_answer_that_nobody_keeps() {
    let location = HeaderValue::from_static("https://notes.box.example/a?b");
    let form = AsleepResponse::Redirect(location.clone());
    let (response, _) = asleep(form, Phase::Starting, &HeaderMap::new()).await;
    assert_eq!(response.status(), 307);
    assert_eq!(response.headers()[LOCATION], location);
    assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
}

/// Checks for every phase its text, `Retry-After`, and the reload without a script.
#[tokio::test]
async fn each_phase_says_what_happens() {
    let unavailable = |status: &str| Phase::Unavailable { status: status.into() };
    for (phase, text, retry, reload) in [
        (Phase::Awake, "Ready", 1, Some(1)),
        (Phase::Stopped, "Waking up…", 2, Some(2)),
        (Phase::Paused, "Waking up…", 2, Some(2)),
        (Phase::Missing, "set up anew", 2, Some(2)),
        (Phase::Queued { place: 1 }, "Next in line", 3, Some(3)),
        (Phase::Queued { place: 4 }, "Place 4.", 5, Some(5)),
        (Phase::Starting, "Starting…", 3, Some(3)),
        (Phase::Unpausing, "continues where it left off", 2, Some(2)),
        (Phase::AwaitingHealth, "checking that all is well", 2, Some(2)),
        (Phase::AwaitingPort, "does not answer on port\u{a0}80 yet", 2, Some(2)),
        (Phase::LowDisk, "Low Disk Space", 60, None),
        (Phase::TooSmall { minimum: Size::Xl }, "need at least XL", 60, None),
        (unavailable("installing"), "Installing…", 10, Some(10)),
        (unavailable("unknown"), "Initializing…", 10, Some(10)),
        (unavailable("x<y"), "Not available now", 10, Some(10)),
        (failed(WakeError::Exited { container: "db".into(), code: 3 }), "by itself", 12, Some(12)),
        (failed(WakeError::OutOfMemory { container: "db".into() }), "out of memory", 12, Some(12)),
        (failed(WakeError::ImageMissing { image: "i".into() }), "no image i", 12, Some(12)),
        (failed(WakeError::Unhealthy { container: "db".into() }), "check fails", 12, Some(12)),
        (
            failed(WakeError::NotReady { after: Duration::ZERO }),
            "not ready within 1\u{a0}s",
            12,
            Some(12),
        ),
        (failed(WakeError::EngineAway), "engine does not answer", 12, Some(12)),
        (failed(WakeError::Panicked), "Something went wrong", 12, Some(12)),
    ] {
        let (response, html) = asleep(AsleepResponse::Page, phase.clone(), &HeaderMap::new()).await;
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[RETRY_AFTER], retry.to_string(), "{phase:?}");
        assert_eq!(response.headers()[VARY], "*");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert!(html.contains(text), "{phase:?}: {html}");
        assert!(html.contains(&format!("data-state=\"{}\"", phase.as_str())), "{phase:?}");
        assert!(html.contains("data-version=\"7\""), "{phase:?}");
        let fallback = reload.map(|_| 15);
        assert_eq!(following(&html), (true, reload, fallback), "{phase:?}");
        let has_failed = matches!(phase, Phase::Failed { .. });
        for part in ["<dt>notes&#60;i&#62;</dt><dd>running</dd>", "<dd>exited (137)</dd>"] {
            assert_eq!(html.contains(part), has_failed, "{phase:?}: {html}");
        }
        assert_eq!(html.contains("<details hidden>"), !has_failed, "{phase:?}: {html}");
    }
}

#[tokio::test]
async fn the_next_attempt_is_promised_in_whole_units_and_awaited_for_a_minute_at_most() {
    for (millis, retry, said, reload, fallback) in [
        (0, 1, "1\u{a0}s", 1, 15),
        (29_500, 30, "30\u{a0}s", 30, 30),
        (90_000, 90, "90\u{a0}s", 60, 60),
        (90_001, 91, "91\u{a0}s", 60, 60),
        (150_000, 150, "2\u{a0}min", 60, 60),
    ] {
        let retry_after = Duration::from_millis(millis);
        let phase = Phase::Failed { failure: WakeError::EngineAway, retry_after };
        let (response, html) = asleep(AsleepResponse::Page, phase, &HeaderMap::new()).await;
        assert_eq!(response.headers()[RETRY_AFTER], retry.to_string());
        assert!(html.contains(&format!("Next attempt within {said}.")), "{html}");
        assert_eq!(following(&html), (true, Some(reload), Some(fallback)));
    }
}

#[tokio::test]
async fn no_form_repeats_what_the_engine_says() {
    for form in [AsleepResponse::Page, AsleepResponse::Problem, AsleepResponse::Poll] {
        let failure = engine_says("no such network");
        let (_, text) = asleep(form.clone(), failed(failure), &HeaderMap::new()).await;
        assert!(!text.contains("no such network"), "{text}");
        let failure = WakeError::ImageMissing { image: "registry.secret:5000/notes:7".into() };
        let (_, text) = asleep(form, failed(failure), &HeaderMap::new()).await;
        assert!(!text.contains("secret") && text.contains("notes:7"), "{text}");
    }
}

#[tokio::test]
async fn the_only_script_is_the_pages_own() {
    let (response, html) = asleep(AsleepResponse::Page, Phase::Starting, &HeaderMap::new()).await;
    let (_, rest) = html.split_once("<script>").expect("a script");
    let (script, after) = rest.split_once("</script>").expect("its end");
    assert!(!after.contains("<script"));
    let hash = BASE64_STANDARD.encode(digest(&SHA256, script.as_bytes()));
    assert_eq!(
        response.headers()[CONTENT_SECURITY_POLICY],
        format!(
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; \
             form-action 'none'; connect-src 'self'; script-src 'sha256-{hash}'; \
             frame-ancestors 'self'"
        )
    );
}

#[tokio::test]
async fn a_question_is_answered_with_news_that_no_proxy_replaces() {
    let german = headers(&[("accept-language", "de"), ("x-nightporter-poll", "6")]);
    let expected = json!({
        "state": "failed",
        "version": 7,
        "text": "Konnte nicht gestartet werden",
        "detail": "Der App ist der Arbeitsspeicher ausgegangen.",
        "clock": {
            "at": 12,
            "by": -1,
            "said": [
                [0, "Gleich beginnt der nächste Versuch."],
                [1, "Nächster Versuch innerhalb von {{time}}."],
            ],
        },
        "final": false,
        "tone": "trouble",
        "sign": "alert",
        "step": 0,
        "rows": [
            {"name": "notes<i>", "text": "läuft"},
            {"name": "database", "text": "beendet (137)"},
        ],
        "retry_after": 12,
    });
    let phase = failed(WakeError::OutOfMemory { container: "db".into() });
    let asked = asleep(AsleepResponse::Poll, phase.clone(), &german).await;
    // If the proxy requests the page instead, the response is the same.
    let replaced = error(300, phase.clone(), &german).await;
    let replaced_by_503 = error(503, phase, &german).await;
    for (response, text) in [asked, replaced, replaced_by_503] {
        assert_eq!(response.status(), 300);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert_eq!(response.headers()[VARY], "*");
        assert_eq!(parsed(&text), expected);
    }
    for (phase, state, is_final) in [
        (Phase::Awake, "awake", false),
        (Phase::LowDisk, "low_disk", true),
        (Phase::TooSmall { minimum: Size::M }, "too_small", true),
    ] {
        let (_, text) = asleep(AsleepResponse::Poll, phase, &german).await;
        let news = parsed(&text);
        assert_eq!((&news["state"], &news["final"]), (&json!(state), &json!(is_final)));
    }
}

#[tokio::test]
async fn a_denied_question_learns_that_alone() {
    let marked = headers(&[("x-nightporter-poll", "6")]);
    for phase in [Phase::LowDisk, Phase::Starting, Phase::Awake] {
        let (response, text) = error(401, phase, &marked).await;
        assert_eq!(response.status(), 401);
        let news = parsed(&text);
        assert_eq!((&news["state"], &news["final"]), (&json!("denied"), &json!(true)));
        assert!(!text.contains("database"), "{text}");
    }
    // A malformed poll may come from any client.
    let (response, text) = error(400, Phase::Starting, &marked).await;
    assert_eq!(response.status(), 300);
    assert!(!text.contains("database"), "{text}");
}

#[tokio::test]
async fn a_program_gets_a_problem() {
    let phase = || failed(WakeError::Exited { container: "db".into(), code: 137 });
    let expected = json!({
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "Could not be started: It ended by itself while it was starting. \
                   Next attempt within 12\u{a0}s.",
        "app": "notes",
        "state": "failed",
        "containers": [
            {"name": "notes<i>", "state": "running"},
            {"name": "database", "state": "exited", "exit_code": 137},
        ],
        "retry_after": 12,
    });
    let own = asleep(AsleepResponse::Problem, phase(), &HeaderMap::new()).await;
    let json = headers(&[("accept", "application/json")]);
    let replaced = error(503, phase(), &json).await;
    for (response, text) in [own, replaced] {
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[RETRY_AFTER], "12");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        assert_eq!(parsed(&text), expected);
    }
}

#[tokio::test]
async fn only_programs_get_problems_in_place_of_an_error() {
    for (accept, is_problem) in [
        (None, false),
        (Some("*/*"), false),
        (Some("text/html,application/json"), false),
        (Some("application/json, TEXT/HTML;q=0.1"), false),
        (Some("application/jsonx"), false),
        (Some("application/json"), true),
        (Some("text/plain, Application/JSON ;q=0.5"), true),
        (Some("application/problem+json"), true),
    ] {
        let headers = accept.map_or_else(HeaderMap::new, |accept| headers(&[("accept", accept)]));
        let (response, text) = error(502, Phase::Awake, &headers).await;
        let kind = response.headers()[CONTENT_TYPE].to_str().expect("ASCII");
        assert_eq!(kind == "application/problem+json", is_problem, "{accept:?} {text}");
    }
    let json = headers(&[("accept", "application/json")]);
    let (response, text) = error(401, Phase::Starting, &json).await;
    assert_eq!(response.status(), 401);
    assert!(!response.headers().contains_key(RETRY_AFTER));
    let problem = parsed(&text);
    assert_eq!((&problem["state"], &problem["title"]), (&json!("denied"), &json!("Unauthorized")));
    assert_eq!((&problem["containers"], problem.get("retry_after")), (&json!([]), None));
}

#[tokio::test]
async fn a_page_speaks_the_visitors_language() {
    let german = headers(&[("accept-language", "de-CH, en;q=0.5")]);
    let (response, html) = asleep(AsleepResponse::Page, Phase::Starting, &german).await;
    assert!(html.contains("<html lang=\"de\">") && html.contains("Wird gestartet"), "{html}");
    assert!(!html.contains("Starting…") && !html.contains("running"), "{html}");
    assert_eq!(response.headers()[CONTENT_LANGUAGE], "de");
    let (response, html) = error(401, Phase::Awake, &german).await;
    assert!(html.contains("Zugriff verweigert"), "{html}");
    assert_eq!(response.headers()[VARY], "*");
    let french = headers(&[("accept-language", "fr")]);
    let (_, html) = asleep(AsleepResponse::Page, Phase::Starting, &french).await;
    assert!(html.contains("<html lang=\"en\">") && html.contains("Starting…"), "{html}");
}

#[tokio::test]
async fn nothing_of_an_app_becomes_markup() {
    let mut hostile = in_phase(Phase::Unavailable { status: "<script>x</script>".into() });
    hostile.name = "\"><script>".into();
    hostile.status = "<script>x</script>".into();
    let containers = [ContainerState { name: "<b>".into(), state: "<b>", exit_code: None }];
    hostile.shown.containers = containers.into();
    for code in [401, 502] {
        let (_, html) = page(&no_icons(), code, hostile.clone()).await;
        let own = html.split("<script>\"use strict\";").next().expect("a page");
        assert!(!own.contains("<script>") && !html.contains("<b>"), "{html}");
        assert!(html.contains("My &#60;b&#62;Notes&#60;/b&#62;"), "{html}");
    }
}

#[tokio::test]
async fn a_name_that_looks_like_a_hole_stays_text() {
    let mut odd = app("stopped");
    odd.pretty_name = "{{code}}".into();
    let (_, html) = page(&no_icons(), 502, odd).await;
    assert!(html.contains("<h1 dir=\"auto\">{{code}}</h1>"), "{html}");
}

#[tokio::test]
async fn a_name_of_which_nothing_is_seen_gives_way_to_the_apps_own() {
    for name in ["", "  ", "\u{200b}\u{202e}\u{feff}", "\n\u{7}"] {
        let mut odd = app("stopped");
        odd.pretty_name = name.into();
        let (_, html) = page(&no_icons(), 502, odd).await;
        assert!(html.contains("<h1 dir=\"auto\">notes</h1>"), "{name:?}: {html}");
    }
}

#[tokio::test]
async fn an_icon_is_embedded_and_never_read_from_elsewhere() {
    let directory = tempfile::tempdir().expect("a directory");
    let folder = directory.path().join("notes");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("icon.svg"), "<svg/>").expect("an icon");
    std::fs::write(directory.path().join("secret.png"), "secret").expect("a file");
    std::fs::write(folder.join("empty.png"), "").expect("a file");
    let pages = Pages::new(directory.path().into());

    let (_, html) = page(&pages, 502, app("stopped")).await;
    assert!(html.contains("data:image/svg+xml;base64,PHN2Zy8+"), "{html}");

    let link = folder.join("link.png");
    std::os::unix::fs::symlink("../secret.png", link).expect("a link");
    for elsewhere in [
        "link.png",
        "../secret.png",
        "/etc/hostname.png",
        "icon.txt",
        "",
        "missing.png",
        "empty.png",
    ] {
        let mut app = app("stopped");
        app.icon = elsewhere.into();
        let (_, html) = page(&pages, 502, app).await;
        assert!(!html.contains("<img"), "{elsewhere}");
        assert!(html.contains(">MB<"), "initials instead: {html}");
    }
}

#[tokio::test]
async fn what_is_no_status_is_not_found() {
    for status in [None, Some(0), Some(99), Some(600), Some(u16::MAX)] {
        let response = no_icons()
            .app_error(status, Some(app("running")), &HeaderMap::new(), PageContext::default())
            .await;
        assert_eq!(response.status(), 404, "{status:?}");
    }
    assert_eq!(
        no_icons()
            .app_error(Some(502), None, &HeaderMap::new(), PageContext::default())
            .await
            .status(),
        404
    );
    for status in [100, 204, 304] {
        let (response, html) = page(&no_icons(), status, app("running")).await;
        assert_eq!(response.status(), 200);
        assert!(html.contains(&status.to_string()));
    }
}
