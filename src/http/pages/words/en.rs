//! English. Some of these words are FreeShard's own and stay as they are.

use super::{Failures, Message, PairingWords, Phases, States, Statuses, Unanswered, Words};

pub(super) static WORDS: Words = Words {
    lang: "en",
    phases: Phases {
        awake: Message { text: "Ready", detail: "Opening it now." },
        stopped: Message {
            text: "Waking up…",
            detail: "The app was put to sleep and is about to be started.",
        },
        paused: Message {
            text: "Waking up…",
            detail: "The app was paused and is about to continue where it left off.",
        },
        missing: Message {
            text: "Waking up…",
            detail: "The app is about to be set up anew and started.",
        },
        queued: Message {
            text: "In the queue",
            detail: "Place {{place}}. Other apps are being started first.",
        },
        next: Message {
            text: "In the queue",
            detail: "Next in line. Another app is being started first.",
        },
        starting: Message { text: "Starting…", detail: "The app is being started." },
        unpausing: Message { text: "Waking up…", detail: "The app continues where it left off." },
        awaiting_health: Message {
            text: "Almost ready…",
            detail: "The app has started and is checking that all is well.",
        },
        awaiting_port: Message {
            text: "Almost ready…",
            detail: "The app has started, but does not answer {{port}} yet.",
        },
        failed: "Could not be started",
        low_disk: Message {
            text: "Low Disk Space",
            detail: "Too little disk space is left to start the app. \
                     It can be started again once space has been freed.",
        },
        too_small: Message {
            text: "VM too small, need at least {{size}}",
            detail: "The app needs a larger machine than this one.",
        },
    },
    failures: Failures {
        exited: "It ended by itself while it was starting.",
        out_of_memory: "It ran out of memory.",
        image_missing: "There is no image {{image}} to start it from.",
        image_not_fetched: "Its image {{image}} could not be downloaded.",
        unhealthy: "It has started, but its health check fails.",
        not_ready: "It has started, but was not ready within {{time}}.",
        interrupted: "It was stopped from outside while it was starting, \
                      for example by a restart of the container engine.",
        refused: "The container engine could not start it. The operator can look up why.",
        engine_away: "The container engine does not answer.",
        not_made: "Its containers could not be set up. The operator can look up why.",
        store_away: "The list of apps cannot be read just now.",
        internal: "Something went wrong on this machine. The operator can look it up.",
    },
    last_attempt: "Last attempt: {{reason}}",
    next_attempt: "Next attempt within {{time}}.",
    next_now: "The next attempt is about to begin.",
    usual: "Usually ready in about {{usual}}.",
    usual_so_far: "Usually ready in about {{usual}}, {{time}} so far.",
    longer: "Takes longer than usual: {{time}} so far.",
    so_far: "{{time}} so far.",
    seconds: "{{count}}\u{a0}s",
    minutes: "{{count}}\u{a0}min",
    denied: Message {
        text: "Access Denied",
        detail: "This page is for those who are signed in and allowed to see it.",
    },
    sign_in_at: "Sign in or pair this device at {{domain}}, then come back here.",
    sign_in: "Sign in or pair this device on the start page of this machine, then come back here.",
    pair_here: "With a code from whoever runs this machine, you can pair this device.",
    pair_nowhere: "At this address, no paired device is recognized. \
                   Please open the app at its address in {{domain}}.",
    pairing: PairingWords {
        title: "Pair this device",
        detail: "A paired device opens the private apps of {{domain}}. \
                 Whoever runs the machine can give you a code.",
        code: "Code",
        code_hint: "Twelve letters and digits; it is valid for five minutes, and once.",
        name: "Name of this device",
        name_hint: "By this name it can be found and removed again.",
        button: "Pair",
        wrong_code: "This code is wrong, was used already, or is too old.",
        too_many: "Too many wrong codes were tried. Please try again later.",
        other_site: "This form came from another page. Please type the code here.",
        needs_https: "Over plain HTTP, a browser cannot be paired. \
                      Please open this page with https:// instead.",
        busy: "Too many codes are being tried just now. Please try again in a moment.",
        unavailable: "The device cannot be paired just now. Please ask for a new code, \
                      and try again in a moment.",
        phone: "Phone",
        tablet: "Tablet",
        computer: "Computer",
    },
    forbidden: "Nothing at this address is open to visitors.",
    error: Message { text: "Error", detail: "The app has answered with an error." },
    unanswered: Unanswered {
        soon: Message {
            text: "Starting…",
            detail: "The app is running, but does not answer {{port}} yet.",
        },
        runs: Message {
            text: "Does not answer",
            detail: "The app is running, but has not answered {{port}} for {{time}}.",
        },
        unknown: Message {
            text: "Does not answer",
            detail: "The app has not answered {{port}} for {{time}}.",
        },
        busy: Message {
            text: "Not available now",
            detail: "The app is running, but serves nobody at the moment.",
        },
    },
    on_port: "on port\u{a0}{{port}}",
    statuses: Statuses {
        unknown: Message { text: "Initializing…", detail: "The app is being prepared." },
        running: Message { text: "Starting…", detail: "The app does not answer yet." },
        stopped: Message { text: "Stopped", detail: CANNOT_BE_OPENED },
        paused: Message { text: "Paused", detail: CANNOT_BE_OPENED },
        down: Message { text: "Down", detail: CANNOT_BE_OPENED },
        error: Message {
            text: "Not available",
            detail: "Something is wrong with the app. The operator can look it up.",
        },
        installation_queued: Message { text: "Waiting to be installed", detail: OPENS_THEN },
        installing: Message { text: "Installing…", detail: OPENS_THEN },
        reinstallation_queued: Message { text: "Waiting to be reinstalled", detail: OPENS_THEN },
        reinstalling: Message { text: "Reinstalling…", detail: OPENS_THEN },
        uninstallation_queued: Message { text: "Waiting to be removed", detail: NO_MORE },
        uninstalling: Message { text: "Being removed…", detail: NO_MORE },
        other: Message { text: "Not available now", detail: CANNOT_BE_OPENED },
    },
    states: States {
        created: "created",
        running: "running",
        restarting: "restarting",
        removing: "removing",
        paused: "paused",
        exited: "exited",
        dead: "dead",
    },
    opens_itself: "This page opens the app by itself.",
    may_be_download: "Should a download begin, there is nothing more to wait for.",
    try_again: "Try again",
    go_back: "Go back",
    details: "Details",
    status: "Status",
    container: "Container",
    delivered: Message {
        text: "Your download should have begun",
        detail: "If this is not a download, the app still opens here.",
    },
    no_news: "The progress of the app is not known at the moment. \
              This page is loaded again in {{time}}.",
    offline: "You are offline. This page goes on when you are online again.",
};

const CANNOT_BE_OPENED: &str = "The app cannot be opened at the moment.";
const OPENS_THEN: &str = "The app can be opened when that is done.";
const NO_MORE: &str = "The app cannot be opened any more.";
