//! The message that is shown in place of an app: the same for a person, for a waiting page
//! and for a program.

use std::time::Duration;

use http::StatusCode;

use super::clock::{Clock, rounded_up, time};
use super::template::{fill, fill_or_leave_out};
use super::words::{Message, Words};
use super::{PageContext, Pairs};
use crate::domain::app::Size;
use crate::domain::lifecycle::{Phase, WakeError, WakeErrorKind};
use crate::gate::PageApp;

/// One state of an app in words, and how a client should proceed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    /// The state for programs: the phase's word, or `denied`.
    pub state: &'static str,
    pub text: String,
    pub detail: String,
    pub clock: Option<Clock>,
    pub tone: Tone,
    pub sign: Sign,
    /// Which of [`STEPS`] is in progress; one more if all are done, 0 if none is.
    pub step: u8,
    /// Whether waiting will not change the state.
    pub is_final: bool,
    /// Whether the page lists the containers' states as details.
    pub has_details: bool,
    pub follow: Follow,
    /// Seconds after which a client should ask again.
    pub retry_after: Option<u64>,
}

/// The number of steps of a start: queued, starting, awaiting readiness.
pub(super) const STEPS: u8 = 3;

/// The color scheme of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tone {
    Busy,
    Ready,
    Trouble,
    Closed,
}

/// A symbol that conveys the tone without colors.
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

/// How a page is updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    /// Its script polls; without scripts the page is reloaded periodically.
    Poll,
    /// The page is reloaded periodically.
    Reload,
    /// The page does not update by itself.
    Stay,
}

/// Seconds between two attempts to open an app that the proxy cannot reach.
const RELOAD: u64 = 5;

/// The shortest time in seconds after which a page without a script is reloaded.
const SHORTEST: u64 = 2;

/// Seconds after which a client should ask again about a final state: the operator may
/// have freed disk space by then.
const FINAL_RETRY: u64 = 60;

/// If an app has not answered for this long, its notice reports a problem.
const LATE: Duration = Duration::from_secs(30);

impl Notice {
    /// Describes an app that is not awake to a client that may use it.
    pub fn of_phase(app: &PageApp, words: &Words) -> Self {
        let phase = &app.shown.phase;
        let texts = &words.phases;
        let (Message { text, detail }, step, retry_after) = match phase {
            Phase::Awake => (texts.awake, STEPS + 1, 1),
            Phase::Stopped => (texts.stopped, 1, SHORTEST),
            Phase::Paused => (texts.paused, 1, SHORTEST),
            Phase::Missing => (texts.missing, 1, SHORTEST),
            Phase::Queued { place: ..=1 } => (texts.next, 1, 3),
            Phase::Queued { .. } => (texts.queued, 1, 5),
            Phase::Starting => (texts.starting, 2, 3),
            Phase::Unpausing => (texts.unpausing, 2, SHORTEST),
            Phase::AwaitingHealth => (texts.awaiting_health, 3, SHORTEST),
            Phase::AwaitingPort => (texts.awaiting_port, 3, SHORTEST),
            Phase::Failed { retry_after, .. } => {
                (Message { text: texts.failed, detail: "" }, 0, rounded_up(*retry_after))
            }
            Phase::LowDisk => (texts.low_disk, 0, FINAL_RETRY),
            Phase::TooSmall { .. } => (texts.too_small, 0, FINAL_RETRY),
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
        let (tone, sign) = appearance(phase);
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

    /// Describes an app for which the proxy responded with this status instead of the app's
    /// response. The cases are in the contract's order.
    pub fn of_error(
        status: StatusCode,
        app: &PageApp,
        context: PageContext<'_>,
        words: &Words,
    ) -> Self {
        let phase = &app.shown.phase;
        if status == StatusCode::UNAUTHORIZED || !app.is_granted {
            return Self::withheld(status, context, words);
        }
        let is_error = status == StatusCode::INTERNAL_SERVER_ERROR;
        if !is_error && status.is_server_error() && *phase != Phase::Awake {
            return Self::of_phase(app, words);
        }
        if !is_error && phase.is_final() {
            let follow = Follow::Stay;
            return Self { follow, retry_after: None, ..Self::of_phase(app, words) };
        }
        let (Message { text, detail }, is_trouble) =
            if is_error { (words.error, true) } else { unreachable_app(status, app, words) };
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

    /// Describes an app to a client that may not use it, or if access cannot be decided:
    /// reveals nothing about the app's state.
    pub fn withheld(status: StatusCode, context: PageContext<'_>, words: &Words) -> Self {
        let is_temporary = status.is_server_error();
        let base = Self {
            state: "unavailable",
            text: words.statuses.other.text.into(),
            detail: words.statuses.other.detail.into(),
            clock: None,
            tone: Tone::Closed,
            sign: Sign::Alert,
            step: 0,
            is_final: !is_temporary,
            has_details: false,
            follow: if is_temporary { Follow::Reload } else { Follow::Stay },
            retry_after: is_temporary.then_some(RELOAD),
        };
        let detail = match (status, context.domain) {
            // No rule of the app covers the path: signing in would not help.
            (StatusCode::FORBIDDEN, _) => words.forbidden.into(),
            (StatusCode::UNAUTHORIZED, _) if context.pairs == Pairs::Here => {
                format!("{} {}", words.denied.detail, words.pair_here)
            }
            (StatusCode::UNAUTHORIZED, Some(domain)) if context.pairs == Pairs::Nowhere => {
                format!("{} {}", words.denied.detail, fill(words.pair_nowhere, |_| domain.into()))
            }
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

    /// Returns the detail and the clock's sentence as one text.
    pub fn sentences(&self) -> String {
        let Self { detail, clock, .. } = self;
        let clock = clock.as_ref().map(Clock::now).unwrap_or_default();
        format!("{detail} {clock}").trim().to_owned()
    }
}

fn appearance(phase: &Phase) -> (Tone, Sign) {
    match phase {
        Phase::Awake => (Tone::Ready, Sign::Check),
        Phase::Failed { .. } => (Tone::Trouble, Sign::Alert),
        Phase::LowDisk => (Tone::Closed, Sign::Disk),
        Phase::TooSmall { .. } => (Tone::Closed, Sign::Size),
        Phase::Unavailable { status } if !is_passing(status) => (Tone::Closed, Sign::Alert),
        _ => (Tone::Busy, Sign::None),
    }
}

/// Whether something is being done to an app with this status in the store.
fn is_passing(status: &str) -> bool {
    matches!(
        status,
        "unknown"
            | "running"
            | "installation_queued"
            | "installing"
            | "reinstallation_queued"
            | "reinstalling"
            | "uninstallation_queued"
            | "uninstalling"
    )
}

/// Returns how long the phase takes, if that is known.
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

/// Returns the message for an app that counts as awake but was not reached, and whether it
/// reports a problem.
fn unreachable_app(status: StatusCode, app: &PageApp, words: &Words) -> (Message, bool) {
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

/// Returns the reason of a failure without details that visitors must not know.
fn reason(failure: &WakeError, words: &Words) -> String {
    let reasons = &words.failures;
    let of_image = |text: &str, image: &str| fill_or_leave_out(text, without_registry(image));
    match failure.kind() {
        WakeErrorKind::Exited => reasons.exited.into(),
        WakeErrorKind::OutOfMemory => reasons.out_of_memory.into(),
        WakeErrorKind::ImageMissing { image } => of_image(reasons.image_missing, image),
        WakeErrorKind::ImageNotFetched { image } => of_image(reasons.image_not_fetched, image),
        WakeErrorKind::Unhealthy => reasons.unhealthy.into(),
        WakeErrorKind::NotReady { after } => {
            fill(reasons.not_ready, |_| time(rounded_up(after), words))
        }
        WakeErrorKind::Interrupted => reasons.interrupted.into(),
        WakeErrorKind::Refused => reasons.refused.into(),
        WakeErrorKind::EngineAway => reasons.engine_away.into(),
        WakeErrorKind::NotMade => reasons.not_made.into(),
        WakeErrorKind::StoreAway => reasons.store_away.into(),
        WakeErrorKind::Internal => reasons.internal.into(),
    }
}

/// Returns an image's name without its registry, which visitors need not know, and without
/// its digest, which means nothing to people.
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
