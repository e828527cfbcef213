//! What is said in an app's place: the same to a person, to a waiting page and to a
//! program.

use std::time::Duration;

use http::StatusCode;

use super::clock::{Clock, rounded_up, time};
use super::template::{fill, fill_or_leave_out};
use super::words::{Said, Words};
use crate::domain::app::Size;
use crate::domain::lifecycle::{Failure, FailureKind, Phase};
use crate::gate::PageApp;

/// One state of an app in words, and what a client may do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    /// The word for programs: the phase's, or `denied`.
    pub state: &'static str,
    pub text: String,
    pub detail: String,
    pub clock: Option<Clock>,
    pub tone: Tone,
    pub sign: Sign,
    /// Which of [`STEPS`] is under way; one more where all are done, 0 where none is.
    pub step: u8,
    /// Whether waiting longer changes nothing.
    pub is_final: bool,
    /// Whether the containers say more about it.
    pub has_details: bool,
    pub follow: Follow,
    /// Seconds after which it is worth asking again.
    pub retry_after: Option<u64>,
}

/// Queued, starting, checked.
pub(super) const STEPS: u8 = 3;

/// How it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tone {
    Busy,
    Ready,
    Trouble,
    Closed,
}

/// The shape that says the same as the tone to those who see no colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sign {
    None,
    Check,
    Alert,
    Lock,
    Disk,
    Size,
}

/// How a page learns what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    /// It asks, by its script; without one it is loaded again from time to time.
    Poll,
    /// It is loaded again from time to time.
    Reload,
    /// Not by itself.
    Stay,
}

/// Between two attempts to see an app that the proxy cannot reach.
const RELOAD: u64 = 5;

/// Shortest time after which a page without a script is loaded again.
const SHORTEST: u64 = 2;

/// After that many seconds a person may have freed disk space.
const FINAL_RETRY: u64 = 60;

/// An app that has not answered for so long is not about to.
const LATE: Duration = Duration::from_secs(30);

impl Notice {
    /// An app that is not awake, to a client that may use it.
    pub fn of_phase(app: &PageApp, words: &Words) -> Self {
        let phase = &app.shown.phase;
        let said = &words.phases;
        let (Said { text, detail }, step, retry_after) = match phase {
            Phase::Awake => (said.awake, STEPS + 1, 1),
            Phase::Stopped => (said.stopped, 1, SHORTEST),
            Phase::Paused => (said.paused, 1, SHORTEST),
            Phase::Missing => (said.missing, 1, SHORTEST),
            Phase::Queued { place: ..=1 } => (said.next, 1, 3),
            Phase::Queued { .. } => (said.queued, 1, 5),
            Phase::Starting => (said.starting, 2, 3),
            Phase::Unpausing => (said.unpausing, 2, SHORTEST),
            Phase::AwaitingHealth => (said.awaiting_health, 3, SHORTEST),
            Phase::AwaitingPort => (said.awaiting_port, 3, SHORTEST),
            Phase::Failed { retry_after, .. } => {
                (Said { text: said.failed, detail: "" }, 0, rounded_up(*retry_after))
            }
            Phase::LowDisk => (said.low_disk, 0, FINAL_RETRY),
            Phase::TooSmall { .. } => (said.too_small, 0, FINAL_RETRY),
            Phase::Unavailable { status } => (words.status(status), 0, 10),
        };
        let filled = |text: &str| match phase {
            Phase::Queued { place } => fill(text, |_| place.to_string()),
            Phase::TooSmall { minimum } => fill(text, |_| size(*minimum).into()),
            Phase::AwaitingPort => fill_or_leave_out(text, &on_port(app, words)),
            _ => text.to_owned(),
        };
        let detail = match phase {
            Phase::Failed { failure, .. } => reason(failure, words),
            _ => with_last_failure(app, filled(detail), words),
        };
        let (tone, sign) = look(phase);
        Self {
            state: phase.as_str(),
            text: filled(text),
            detail,
            clock: clock(app, retry_after, words),
            tone,
            sign,
            step,
            is_final: phase.is_final(),
            has_details: tone == Tone::Trouble,
            follow: Follow::Poll,
            retry_after: Some(retry_after),
        }
    }

    /// An app whose proxy has shown that status instead of an answer, in the
    /// contract's order.
    pub fn of_error(
        status: StatusCode,
        app: &PageApp,
        domain: Option<&str>,
        words: &Words,
    ) -> Self {
        let phase = &app.shown.phase;
        if status == StatusCode::UNAUTHORIZED || !app.is_granted {
            return Self::withheld(status, domain, words);
        }
        let is_error = status == StatusCode::INTERNAL_SERVER_ERROR;
        if !is_error && status.is_server_error() && *phase != Phase::Awake {
            return Self::of_phase(app, words);
        }
        if !is_error && phase.is_final() {
            let follow = Follow::Stay;
            return Self { follow, retry_after: None, ..Self::of_phase(app, words) };
        }
        let (Said { text, detail }, is_trouble) =
            if is_error { (words.error, true) } else { in_vain(status, app, words) };
        let detail = fill_or_leave_out(detail, &on_port(app, words));
        let waited = app.unanswered.unwrap_or_default().as_secs();
        Self {
            state: phase.as_str(),
            text: text.into(),
            detail: fill(&detail, |_| time(waited, words)),
            clock: None,
            tone: if is_trouble { Tone::Trouble } else { Tone::Busy },
            sign: if is_trouble { Sign::Alert } else { Sign::None },
            step: 0,
            is_final: false,
            has_details: is_trouble,
            follow: Follow::Reload,
            retry_after: Some(RELOAD),
        }
    }

    /// For whoever may not use the app, or where it cannot be said who may: nothing of
    /// what the app does. `domain` is where to sign in.
    pub fn withheld(status: StatusCode, domain: Option<&str>, words: &Words) -> Self {
        let may_pass = status.is_server_error();
        let base = Self {
            state: "unavailable",
            text: words.statuses.other.text.into(),
            detail: words.statuses.other.detail.into(),
            clock: None,
            tone: if may_pass { Tone::Busy } else { Tone::Closed },
            sign: if may_pass { Sign::None } else { Sign::Alert },
            step: 0,
            is_final: !may_pass,
            has_details: false,
            follow: if may_pass { Follow::Reload } else { Follow::Stay },
            retry_after: may_pass.then_some(RELOAD),
        };
        let detail = match (status, domain) {
            // No rule of the app names the address: signing in changes nothing.
            (StatusCode::FORBIDDEN, _) => words.forbidden.into(),
            (StatusCode::UNAUTHORIZED, Some(domain)) => {
                format!("{} {}", words.denied.detail, fill(words.sign_in_at, |_| domain.into()))
            }
            (StatusCode::UNAUTHORIZED, None) => {
                format!("{} {}", words.denied.detail, words.sign_in)
            }
            _ => return base,
        };
        Self { state: "denied", text: words.denied.text.into(), detail, sign: Sign::Lock, ..base }
    }

    /// All of it as one text.
    pub fn sentences(&self) -> String {
        let Self { detail, clock, .. } = self;
        let clock = clock.as_ref().map(Clock::now).unwrap_or_default();
        format!("{detail} {clock}").trim().to_owned()
    }
}

fn look(phase: &Phase) -> (Tone, Sign) {
    match phase {
        Phase::Awake => (Tone::Ready, Sign::Check),
        Phase::Failed { .. } => (Tone::Trouble, Sign::Alert),
        Phase::LowDisk => (Tone::Closed, Sign::Disk),
        Phase::TooSmall { .. } => (Tone::Closed, Sign::Size),
        Phase::Unavailable { status } if status == "error" => (Tone::Closed, Sign::Alert),
        _ => (Tone::Busy, Sign::None),
    }
}

/// How long it takes, as far as that is known.
fn clock(app: &PageApp, retry_after: u64, words: &Words) -> Option<Clock> {
    match &app.shown.phase {
        Phase::Failed { .. } => Some(Clock::until_next_attempt(retry_after, words)),
        Phase::Starting | Phase::AwaitingHealth | Phase::AwaitingPort => {
            let began = app.shown.began?;
            Some(Clock::of_start(began.elapsed(), app.shown.usual, words))
        }
        _ => None,
    }
}

fn with_last_failure(app: &PageApp, detail: String, words: &Words) -> String {
    let phase = &app.shown.phase;
    let goes_on =
        phase.is_under_way() || matches!(phase, Phase::Stopped | Phase::Paused | Phase::Missing);
    match app.shown.last_failure.as_ref().filter(|_| goes_on) {
        Some(failure) => {
            let last = fill(words.last_attempt, |_| reason(failure, words));
            format!("{detail} {last}")
        }
        None => detail,
    }
}

/// Where an app that counts as awake was not reached; and whether it is to be said that
/// something is wrong.
fn in_vain(status: StatusCode, app: &PageApp, words: &Words) -> (Said, bool) {
    let is_up = matches!(&*app.status, "running" | "unknown");
    let runs = !app.shown.containers.is_empty();
    let unanswered = app.unanswered.filter(|_| is_up || runs);
    match unanswered {
        Some(waited) if waited >= LATE && runs => (words.unanswered.runs, true),
        Some(waited) if waited >= LATE => (words.unanswered.unknown, true),
        Some(_) if runs => (words.unanswered.soon, false),
        _ if runs && status == StatusCode::SERVICE_UNAVAILABLE => (words.unanswered.busy, false),
        _ => (words.status(&app.status), false),
    }
}

fn on_port(app: &PageApp, words: &Words) -> String {
    let port = app.port.map(|port| fill(words.on_port, |_| port.to_string()));
    port.unwrap_or_default()
}

/// The reason of a failure as far as visitors may know it.
fn reason(failure: &Failure, words: &Words) -> String {
    let reasons = &words.failures;
    let of_image = |text: &str, image: &str| fill_or_leave_out(text, without_registry(image));
    match failure.kind() {
        FailureKind::Exited => reasons.exited.into(),
        FailureKind::OutOfMemory => reasons.out_of_memory.into(),
        FailureKind::ImageMissing { image } => of_image(reasons.image_missing, image),
        FailureKind::ImageNotFetched { image } => of_image(reasons.image_not_fetched, image),
        FailureKind::Unhealthy => reasons.unhealthy.into(),
        FailureKind::NotReady { after } => {
            fill(reasons.not_ready, |_| time(rounded_up(after), words))
        }
        FailureKind::Interrupted => reasons.interrupted.into(),
        FailureKind::Refused => reasons.refused.into(),
        FailureKind::EngineAway => reasons.engine_away.into(),
        FailureKind::NotMade => reasons.not_made.into(),
        FailureKind::StoreAway => reasons.store_away.into(),
        FailureKind::Internal => reasons.internal.into(),
    }
}

/// An image's name without the host that it comes from, which is the box's own affair, and
/// without its digest, which says nothing to people.
fn without_registry(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or_default();
    match image.split_once('/') {
        Some((host, name)) if host.contains(['.', ':']) || host == "localhost" => name,
        _ if image == "?" => "",
        _ => image,
    }
}

fn size(size: Size) -> &'static str {
    match size {
        Size::Xs => "XS",
        Size::S => "S",
        Size::M => "M",
        Size::L => "L",
        Size::Xl => "XL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_without_where_it_comes_from() {
        for (image, name) in [
            ("shop:7", "shop:7"),
            ("library/shop", "library/shop"),
            ("10.0.0.1:5000/team/shop:7", "team/shop:7"),
            ("registry.example/shop@sha256:abcd", "shop"),
            ("localhost/shop", "shop"),
            ("?", ""),
            ("", ""),
        ] {
            assert_eq!(without_registry(image), name, "{image}");
        }
    }
}
