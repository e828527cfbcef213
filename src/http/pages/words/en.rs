//! English. Some of these words are FreeShard's own and stay as they are.

use super::{Failures, Phases, Said, States, Statuses, Words};

pub(super) static WORDS: Words = Words {
    lang: "en",
    phases: Phases {
        awake: Said { text: "Ready", detail: "Opening it now." },
        stopped: Said {
            text: "Waking up...",
            detail: "The app was put to sleep and is about to be started.",
        },
        paused: Said {
            text: "Waking up...",
            detail: "The app was paused and is about to continue where it left off.",
        },
        missing: Said {
            text: "Waking up...",
            detail: "The app is about to be set up anew and started.",
        },
        queued: Said {
            text: "In the queue",
            detail: "Place {{place}}. Other apps are being started first.",
        },
        next: Said {
            text: "In the queue",
            detail: "Next in line. Another app is being started first.",
        },
        starting: Said { text: "Starting...", detail: "The app is being started." },
        unpausing: Said { text: "Waking up...", detail: "The app continues where it left off." },
        awaiting_health: Said {
            text: "Almost ready...",
            detail: "The app has started and is checking that all is well.",
        },
        awaiting_port: Said {
            text: "Almost ready...",
            detail: "The app has started, but does not answer yet.",
        },
        failed: "Could not be started",
        low_disk: Said {
            text: "Low Disk Space",
            detail: "Too little disk space is left to start the app. \
                     It can be started again once space has been freed.",
        },
        too_small: Said {
            text: "VM too small, need at least {{size}}",
            detail: "The app needs a larger machine than this one.",
        },
    },
    failures: Failures {
        exited: "It ended by itself, with exit code {{code}}.",
        out_of_memory: "It ran out of memory.",
        image_missing: "Its image is missing on this machine.",
        unhealthy: "It has started, but its health check fails.",
        not_ready: "It has started, but was not ready in time.",
        internal: "Something went wrong on this machine. Its operator can look it up.",
    },
    next_attempt: "Next attempt within {{time}}.",
    seconds: "{{count}} s",
    minutes: "{{count}} min",
    denied: Said {
        text: "Access Denied",
        detail: "This page is only for those who are signed in and allowed to see it.",
    },
    error: Said { text: "Error", detail: "The app has answered with an error." },
    statuses: Statuses {
        unknown: Said { text: "Initializing...", detail: "The app is being prepared." },
        running: Said { text: "Starting...", detail: "The app does not answer yet." },
        stopped: "Stopped",
        paused: "Paused",
        down: "Down",
        error: "Not available",
        installation_queued: "Waiting to be installed",
        installing: "Installing...",
        reinstallation_queued: "Waiting to be reinstalled",
        reinstalling: "Reinstalling...",
        uninstallation_queued: "Waiting to be removed",
        uninstalling: "Being removed...",
        other: "Not available now",
    },
    unavailable: "The app cannot be opened at the moment.",
    states: States {
        created: "created",
        running: "running",
        restarting: "restarting",
        removing: "removing",
        paused: "paused",
        exited: "exited",
        dead: "dead",
        stopped: "stopped",
        down: "down",
        unknown: "unknown",
        error: "error",
    },
    opens_itself: "This page opens the app by itself.",
    try_again: "Try again",
    status: "Status",
    container: "Container",
};
