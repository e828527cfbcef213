//! The exact words for every phase, every kind of failure and every response of a proxy in
//! place of an app, in English and German.

use std::collections::HashSet;
use std::time::Duration;

use http::header::ACCEPT_LANGUAGE;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::Instant;

use super::PageContext;
use super::notice::{Notice, Sign, Tone};
use super::samples::{app, failures};
use super::words::Words;
use crate::domain::app::Size;
use crate::domain::lifecycle::{Phase, WakeError};
use crate::gate::PageApp;

fn english() -> &'static Words {
    Words::for_client(&HeaderMap::new())
}

fn german() -> &'static Words {
    let german = HeaderValue::from_static("de");
    Words::for_client(&[(ACCEPT_LANGUAGE, german)].into_iter().collect())
}

fn said(notice: &Notice) -> String {
    format!("{}: {}", notice.text, notice.sentences())
}

fn of_phase(app: &PageApp) -> [String; 2] {
    [english(), german()].map(|words| said(&Notice::of_phase(app, words)))
}

#[test]
fn each_phase_has_its_words() {
    let unavailable = |status: &str| Phase::Unavailable { status: status.into() };
    let mut words = HashSet::new();
    for (phase, en, de) in [
        (Phase::Awake, "Ready: Opening it now.", "Bereit: Wird jetzt geöffnet."),
        (
            Phase::Stopped,
            "Waking up…: The app was put to sleep and is about to be started.",
            "Wird geweckt …: Die App war im Ruhezustand und wird gleich gestartet.",
        ),
        (
            Phase::Paused,
            "Waking up…: The app was paused and is about to continue where it left off.",
            "Wird geweckt …: Die App war pausiert und macht gleich dort weiter, wo sie war.",
        ),
        (
            Phase::Missing,
            "Waking up…: The app is about to be set up anew and started.",
            "Wird geweckt …: Die App wird gleich neu eingerichtet und gestartet.",
        ),
        (
            Phase::Queued { place: 1 },
            "In the queue: Next in line. Another app is being started first.",
            "In der Warteschlange: Als Nächstes an der Reihe. Zuerst wird eine andere App gestartet.",
        ),
        (
            Phase::Queued { place: 3 },
            "In the queue: Place 3. Other apps are being started first.",
            "In der Warteschlange: Platz 3. Zuerst werden andere Apps gestartet.",
        ),
        (
            Phase::Starting,
            "Starting…: The app is being started.",
            "Wird gestartet …: Die App wird gerade gestartet.",
        ),
        (
            Phase::Unpausing,
            "Waking up…: The app continues where it left off.",
            "Wird geweckt …: Die App macht dort weiter, wo sie war.",
        ),
        (
            Phase::AwaitingHealth,
            "Almost ready…: The app has started and is checking that all is well.",
            "Fast bereit …: Die App ist gestartet und prüft, ob alles in Ordnung ist.",
        ),
        (
            Phase::AwaitingPort,
            "Almost ready…: The app has started, but does not answer on port\u{a0}3000 yet.",
            "Fast bereit …: Die App ist gestartet, antwortet aber auf Port\u{a0}3000 noch nicht.",
        ),
        (
            Phase::LowDisk,
            "Low Disk Space: Too little disk space is left to start the app. It can be started \
             again once space has been freed.",
            "Zu wenig Speicherplatz: Es ist zu wenig Speicherplatz frei, um die App zu starten. \
             Sobald Platz geschaffen wurde, lässt sie sich wieder starten.",
        ),
        (
            Phase::TooSmall { minimum: Size::L },
            "VM too small, need at least L: The app needs a larger machine than this one.",
            "VM zu klein, mindestens L nötig: Die App braucht eine größere Maschine als diese.",
        ),
        (
            unavailable("installing"),
            "Installing…: The app can be opened when that is done.",
            "Wird installiert …: Danach lässt sich die App öffnen.",
        ),
        (
            unavailable("uninstalling"),
            "Being removed…: The app cannot be opened any more.",
            "Wird deinstalliert …: Die App lässt sich nicht mehr öffnen.",
        ),
        (
            unavailable("error"),
            "Not available: Something is wrong with the app. The operator can look it up.",
            "Nicht verfügbar: Mit der App stimmt etwas nicht. Wer die Maschine betreibt, kann es \
             nachsehen.",
        ),
    ] {
        words.insert(phase.as_str());
        assert_eq!(of_phase(&app(phase)), [en, de]);
    }
    // Failures have a table of their own.
    words.insert("failed");
    assert_eq!(words, HashSet::from(Phase::WORDS));
}

#[test]
fn each_kind_of_failure_has_its_words() {
    let retry_after = Duration::from_secs(12);
    for (name, failure) in failures() {
        let (en, de) = match name {
            "exited" => (
                "It ended by itself while it was starting.",
                "Die App hat sich beim Starten selbst beendet.",
            ),
            "out-of-memory" => {
                ("It ran out of memory.", "Der App ist der Arbeitsspeicher ausgegangen.")
            }
            "image-missing" => (
                "There is no image notes:7 to start it from.",
                "Es gibt kein Image notes:7, aus dem die App starten könnte.",
            ),
            "image-not-fetched" => (
                "Its image notes:7 could not be downloaded.",
                "Das Image notes:7 der App konnte nicht heruntergeladen werden.",
            ),
            "unhealthy" => (
                "It has started, but its health check fails.",
                "Die App ist gestartet, besteht aber ihre Funktionsprüfung nicht.",
            ),
            "not-ready" => (
                "It has started, but was not ready within 2\u{a0}min.",
                "Die App ist gestartet, war aber nicht innerhalb von 2\u{a0}min bereit.",
            ),
            "interrupted" => (
                "It was stopped from outside while it was starting, for example by a restart \
                 of the container engine.",
                "Die App wurde beim Starten von außen angehalten, etwa durch einen Neustart der \
                 Container-Engine.",
            ),
            "refused" => (
                "The container engine could not start it. The operator can look up why.",
                "Die Container-Engine konnte die App nicht starten. Wer die Maschine betreibt, \
                 kann den Grund nachsehen.",
            ),
            "engine-away" => {
                ("The container engine does not answer.", "Die Container-Engine antwortet nicht.")
            }
            "not-made" | "no-compose-file" => (
                "Its containers could not be set up. The operator can look up why.",
                "Die Container der App ließen sich nicht einrichten. Wer die Maschine betreibt, \
                 kann den Grund nachsehen.",
            ),
            "store-away" => (
                "The list of apps cannot be read just now.",
                "Die Liste der Apps lässt sich gerade nicht lesen.",
            ),
            "panicked" | "declined" => (
                "Something went wrong on this machine. The operator can look it up.",
                "Auf dieser Maschine ist etwas schiefgegangen. Wer sie betreibt, kann es \
                 nachsehen.",
            ),
            other => panic!("{other} has no words"),
        };
        let mut failed = app(Phase::Failed { failure: failure.clone(), retry_after });
        assert_eq!(
            of_phase(&failed),
            [
                format!("Could not be started: {en} Next attempt within 12\u{a0}s."),
                format!(
                    "Konnte nicht gestartet werden: {de} Nächster Versuch innerhalb von 12\u{a0}s."
                ),
            ],
            "{name}"
        );
        // The last failure is shown until an attempt has succeeded.
        failed.shown.phase = Phase::Starting;
        failed.shown.last_failure = Some(failure);
        let [english, german] = of_phase(&failed);
        assert_eq!(english, format!("Starting…: The app is being started. Last attempt: {en}"));
        assert!(german.ends_with(&format!(" Letzter Versuch: {de}")), "{german}");
    }
}

#[test]
fn an_image_without_a_name_is_an_image_all_the_same() {
    let unknown = [
        (WakeError::ImageMissing { image: "?".into() }, "There is no image to start it from."),
        (
            WakeError::ImageNotFetched { image: String::new(), reason: String::new() },
            "Its image could not be downloaded.",
        ),
    ];
    for (failure, en) in unknown {
        let [english, _] =
            of_phase(&app(Phase::Failed { failure, retry_after: Duration::from_secs(1) }));
        assert!(english.contains(en), "{english}");
    }
}

#[test]
fn a_slow_start_is_said_to_be_one() {
    let mut app = app(Phase::AwaitingPort);
    app.shown.began = Instant::now().checked_sub(Duration::from_secs(20));
    app.shown.usual = Some(Duration::from_secs(48));
    let [english, german] = of_phase(&app);
    assert!(
        english.ends_with("yet. Usually ready in about 50\u{a0}s, 20\u{a0}s so far."),
        "{english}"
    );
    assert!(
        german.ends_with("nicht. Meist in etwa 50\u{a0}s bereit, bisher 20\u{a0}s."),
        "{german}"
    );
    let notice = Notice::of_phase(&app, super::words::Words::for_client(&HeaderMap::new()));
    assert_eq!(notice.step, super::notice::STEPS, "the last step is in progress, not done");
}

/// The app counts as awake, and the response is not its own.
#[test]
fn an_app_that_runs_and_does_not_answer_is_said_to() {
    let running = |unanswered: u64| PageApp {
        status: "unknown".into(),
        unanswered: Some(Duration::from_secs(unanswered)),
        ..app(Phase::Awake)
    };
    let unmatched = |unanswered| {
        let mut app = running(unanswered);
        app.shown.containers = [].into();
        app
    };
    let installing = PageApp { status: "installing".into(), ..unmatched(300) };
    let stopped = PageApp { unanswered: None, status: "stopped".into(), ..app(Phase::Awake) };
    for (code, app, tone, en, de) in [
        (
            502,
            running(5),
            Tone::Busy,
            "Starting…: The app is running, but does not answer on port\u{a0}3000 yet.",
            "Wird gestartet …: Die App läuft, antwortet aber auf Port\u{a0}3000 noch nicht.",
        ),
        (
            502,
            running(95),
            Tone::Trouble,
            "Does not answer: The app is running, but has not answered on port\u{a0}3000 for 95\u{a0}s.",
            "Antwortet nicht: Die App läuft, hat aber auf Port\u{a0}3000 seit 95\u{a0}s nicht geantwortet.",
        ),
        (
            504,
            PageApp { port: None, ..running(300) },
            Tone::Trouble,
            "Does not answer: The app is running, but has not answered for 5\u{a0}min.",
            "Antwortet nicht: Die App läuft, hat aber seit 5\u{a0}min nicht geantwortet.",
        ),
        (
            502,
            unmatched(5),
            Tone::Busy,
            "Initializing…: The app is being prepared.",
            "Wird vorbereitet …: Die App wird gerade vorbereitet.",
        ),
        (
            502,
            unmatched(40),
            Tone::Trouble,
            "Does not answer: The app has not answered on port\u{a0}3000 for 40\u{a0}s.",
            "Antwortet nicht: Die App hat auf Port\u{a0}3000 seit 40\u{a0}s nicht geantwortet.",
        ),
        (
            502,
            installing,
            Tone::Busy,
            "Installing…: The app can be opened when that is done.",
            "Wird installiert …: Danach lässt sich die App öffnen.",
        ),
        (
            503,
            PageApp { unanswered: None, ..running(0) },
            Tone::Busy,
            "Not available now: The app is running, but serves nobody at the moment.",
            "Zurzeit nicht verfügbar: Die App läuft, ist aber gerade für niemanden da.",
        ),
        (
            500,
            running(0),
            Tone::Trouble,
            "Error: The app has answered with an error.",
            "Fehler: Die App hat mit einem Fehler geantwortet.",
        ),
        (
            404,
            stopped,
            Tone::Busy,
            "Stopped: The app cannot be opened at the moment.",
            "Gestoppt: Die App kann im Augenblick nicht geöffnet werden.",
        ),
    ] {
        let status = StatusCode::from_u16(code).expect("one");
        let notice = |words| Notice::of_error(status, &app, PageContext::default(), words);
        assert_eq!([english(), german()].map(|words| said(&notice(words))), [en, de]);
        assert_eq!(notice(english()).tone, tone, "{en}");
    }
}

#[test]
fn whoever_is_denied_learns_how_to_get_in() {
    for (status, domain, en) in [
        (
            StatusCode::UNAUTHORIZED,
            Some("box.example"),
            "Access Denied: This page is for those who are signed in and allowed to see it. Sign \
             in or pair this device at box.example, then come back here.",
        ),
        (
            StatusCode::UNAUTHORIZED,
            None,
            "Access Denied: This page is for those who are signed in and allowed to see it. Sign \
             in or pair this device on the start page of this machine, then come back here.",
        ),
        // No client has access there.
        (
            StatusCode::FORBIDDEN,
            Some("box.example"),
            "Access Denied: Nothing at this address is open to visitors.",
        ),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            Some("box.example"),
            "Not available now: The app cannot be opened at the moment.",
        ),
    ] {
        let notice =
            Notice::withheld(status, PageContext { domain, ..PageContext::default() }, english());
        assert_eq!(said(&notice), en);
        assert_eq!(notice.sign == Sign::Lock, status.is_client_error());
        assert_eq!(notice.tone, Tone::Closed, "nothing is under way: {en}");
    }
}
