//! German.

use super::{Failures, Phases, Said, States, Statuses, Words};

pub(super) static WORDS: Words = Words {
    lang: "de",
    phases: Phases {
        awake: Said { text: "Bereit", detail: "Wird jetzt geöffnet." },
        stopped: Said {
            text: "Wird geweckt …",
            detail: "Die App war im Ruhezustand und wird gleich gestartet.",
        },
        paused: Said {
            text: "Wird geweckt …",
            detail: "Die App war pausiert und macht gleich dort weiter, wo sie war.",
        },
        missing: Said {
            text: "Wird geweckt …",
            detail: "Die App wird gleich neu eingerichtet und gestartet.",
        },
        queued: Said {
            text: "In der Warteschlange",
            detail: "Platz {{place}}. Zuerst werden andere Apps gestartet.",
        },
        next: Said {
            text: "In der Warteschlange",
            detail: "Als Nächstes an der Reihe. Zuerst wird eine andere App gestartet.",
        },
        starting: Said { text: "Wird gestartet …", detail: "Die App wird gerade gestartet." },
        unpausing: Said {
            text: "Wird geweckt …",
            detail: "Die App macht dort weiter, wo sie war.",
        },
        awaiting_health: Said {
            text: "Fast bereit …",
            detail: "Die App ist gestartet und prüft, ob alles in Ordnung ist.",
        },
        awaiting_port: Said {
            text: "Fast bereit …",
            detail: "Die App ist gestartet, antwortet aber noch nicht.",
        },
        failed: "Konnte nicht gestartet werden",
        low_disk: Said {
            text: "Zu wenig Speicherplatz",
            detail: "Es ist zu wenig Speicherplatz frei, um die App zu starten. \
                     Sobald Platz geschaffen wurde, lässt sie sich wieder starten.",
        },
        too_small: Said {
            text: "VM zu klein, mindestens {{size}} nötig",
            detail: "Die App braucht eine größere Maschine als diese.",
        },
    },
    failures: Failures {
        exited: "Sie hat sich selbst beendet, mit dem Exit-Code {{code}}.",
        out_of_memory: "Ihr ist der Arbeitsspeicher ausgegangen.",
        image_missing: "Ihr Image fehlt auf dieser Maschine.",
        unhealthy: "Sie ist gestartet, besteht aber ihre Funktionsprüfung nicht.",
        not_ready: "Sie ist gestartet, war aber nicht rechtzeitig bereit.",
        internal: "Auf dieser Maschine ist etwas schiefgegangen. \
                   Wer sie betreibt, kann es nachsehen.",
    },
    next_attempt: "Nächster Versuch innerhalb von {{time}}.",
    seconds: "{{count}} s",
    minutes: "{{count}} min",
    denied: Said {
        text: "Zugriff verweigert",
        detail: "Diese Seite ist nur für Angemeldete, die sie sehen dürfen.",
    },
    error: Said { text: "Fehler", detail: "Die App hat mit einem Fehler geantwortet." },
    statuses: Statuses {
        unknown: Said { text: "Wird vorbereitet …", detail: "Die App wird gerade vorbereitet." },
        running: Said { text: "Wird gestartet …", detail: "Die App antwortet noch nicht." },
        stopped: "Gestoppt",
        paused: "Pausiert",
        down: "Heruntergefahren",
        error: "Nicht verfügbar",
        installation_queued: "Wartet auf die Installation",
        installing: "Wird installiert …",
        reinstallation_queued: "Wartet auf die Neuinstallation",
        reinstalling: "Wird neu installiert …",
        uninstallation_queued: "Wartet auf die Deinstallation",
        uninstalling: "Wird deinstalliert …",
        other: "Zurzeit nicht verfügbar",
    },
    unavailable: "Die App kann im Augenblick nicht geöffnet werden.",
    states: States {
        created: "angelegt",
        running: "läuft",
        restarting: "startet neu",
        removing: "wird entfernt",
        paused: "pausiert",
        exited: "beendet",
        dead: "defekt",
        stopped: "gestoppt",
        down: "heruntergefahren",
        unknown: "unbekannt",
        error: "Fehler",
    },
    opens_itself: "Diese Seite öffnet die App von selbst.",
    try_again: "Noch einmal versuchen",
    status: "Status",
    container: "Container",
};
