//! What is said in an app's place: the same to a person, to a waiting page and to a
//! program.

use std::time::Duration;

use http::StatusCode;

use super::template::fill;
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
    pub tone: Tone,
    /// How far it has come, of [`STEPS`]; 0 where it does not move.
    pub step: u8,
    /// Whether waiting longer changes nothing.
    pub is_final: bool,
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

impl Notice {
    /// An app that is not awake, to a client that may use it.
    pub fn of_phase(phase: &Phase, words: &Words) -> Self {
        let said = &words.phases;
        let (Said { text, detail }, step, retry_after) = match phase {
            Phase::Awake => (said.awake, STEPS, 1),
            Phase::Stopped => (said.stopped, 0, SHORTEST),
            Phase::Paused => (said.paused, 0, SHORTEST),
            Phase::Missing => (said.missing, 0, SHORTEST),
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
            Phase::Unavailable { status } => {
                let Said { text, detail } = of_status(status, words);
                let detail = if status == "unknown" { detail } else { words.unavailable };
                (Said { text, detail }, 0, 10)
            }
        };
        let with_numbers = |text: &str| match phase {
            Phase::Queued { place } => fill(text, |_| place.to_string()),
            Phase::TooSmall { minimum } => fill(text, |_| size(*minimum).into()),
            _ => text.to_owned(),
        };
        let detail = match phase {
            Phase::Failed { failure, .. } => failed(failure, retry_after, words),
            _ => with_numbers(detail),
        };
        let tone = match phase {
            Phase::Awake => Tone::Ready,
            Phase::Failed { .. } => Tone::Trouble,
            Phase::LowDisk | Phase::TooSmall { .. } => Tone::Closed,
            Phase::Unavailable { status } if status == "error" => Tone::Closed,
            _ => Tone::Busy,
        };
        Self {
            state: phase.as_str(),
            text: with_numbers(text),
            detail,
            tone,
            step,
            is_final: phase.is_final(),
            follow: Follow::Poll,
            retry_after: Some(retry_after),
        }
    }

    /// An app whose proxy has shown that status instead of an answer, in the
    /// contract's order.
    pub fn of_error(status: StatusCode, app: &PageApp, words: &Words) -> Self {
        let phase = &app.shown.phase;
        if status == StatusCode::UNAUTHORIZED || !app.is_granted {
            return Self::withheld(status, words);
        }
        let is_error = status == StatusCode::INTERNAL_SERVER_ERROR;
        if !is_error && status.is_server_error() && *phase != Phase::Awake {
            return Self::of_phase(phase, words);
        }
        if !is_error && phase.is_final() {
            let follow = Follow::Stay;
            return Self { follow, retry_after: None, ..Self::of_phase(phase, words) };
        }
        let said = if is_error { words.error } else { of_status(&app.status, words) };
        Self {
            state: phase.as_str(),
            text: said.text.into(),
            detail: said.detail.into(),
            tone: if is_error { Tone::Trouble } else { Tone::Busy },
            step: 0,
            is_final: false,
            follow: Follow::Reload,
            retry_after: Some(RELOAD),
        }
    }

    /// For whoever may not use the app, or where it cannot be said who may: nothing of
    /// what the app does.
    pub fn withheld(status: StatusCode, words: &Words) -> Self {
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Self {
                state: "denied",
                text: words.denied.text.into(),
                detail: words.denied.detail.into(),
                tone: Tone::Closed,
                step: 0,
                is_final: true,
                follow: Follow::Stay,
                retry_after: None,
            };
        }
        let may_pass = status.is_server_error();
        Self {
            state: "unavailable",
            text: words.statuses.other.into(),
            detail: words.unavailable.into(),
            tone: if may_pass { Tone::Busy } else { Tone::Closed },
            step: 0,
            is_final: !may_pass,
            follow: if may_pass { Follow::Reload } else { Follow::Stay },
            retry_after: may_pass.then_some(RELOAD),
        }
    }
}

fn of_status(status: &str, words: &Words) -> Said {
    match status {
        "running" => words.statuses.running,
        "unknown" => words.statuses.unknown,
        other => Said { text: words.status(other), detail: words.unavailable },
    }
}

/// The reason of a failure as far as visitors may know it, and how it goes on.
fn failed(failure: &Failure, retry_after: u64, words: &Words) -> String {
    let reasons = &words.failures;
    let reason = match failure.kind() {
        FailureKind::Exited { code } => fill(reasons.exited, |_| code.to_string()),
        FailureKind::OutOfMemory => reasons.out_of_memory.into(),
        FailureKind::ImageMissing => reasons.image_missing.into(),
        FailureKind::Unhealthy => reasons.unhealthy.into(),
        FailureKind::NotReady => reasons.not_ready.into(),
        FailureKind::Internal => reasons.internal.into(),
    };
    let next = fill(words.next_attempt, |_| time(retry_after, words));
    format!("{reason} {next}")
}

/// Seconds as people say them.
fn time(seconds: u64, words: &Words) -> String {
    let (text, count) = match seconds {
        0..=90 => (words.seconds, seconds),
        _ => (words.minutes, seconds.div_ceil(60)),
    };
    fill(text, |_| count.to_string())
}

/// Whole seconds, at least one.
fn rounded_up(duration: Duration) -> u64 {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() > 0 { seconds.saturating_add(1) } else { seconds.max(1) }
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
