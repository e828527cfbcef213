//! German.

use super::{Failures, Message, PairingWords, Phases, States, Statuses, Unanswered, Words};

pub(super) static WORDS: Words = Words {
    lang: "de",
    phases: Phases {
        awake: Message { text: "Bereit", detail: "Wird jetzt geöffnet." },
        stopped: Message {
            text: "Wird geweckt …",
            detail: "Die App war im Ruhezustand und wird gleich gestartet.",
        },
        paused: Message {
            text: "Wird geweckt …",
            detail: "Die App war pausiert und macht gleich dort weiter, wo sie war.",
        },
        missing: Message {
            text: "Wird geweckt …",
            detail: "Die App wird gleich neu eingerichtet und gestartet.",
        },
        queued: Message {
            text: "In der Warteschlange",
            detail: "Platz {{place}}. Zuerst werden andere Apps gestartet.",
        },
        next: Message {
            text: "In der Warteschlange",
            detail: "Als Nächstes an der Reihe. Zuerst wird eine andere App gestartet.",
        },
        starting: Message { text: "Wird gestartet …", detail: "Die App wird gerade gestartet." },
        unpausing: Message {
            text: "Wird geweckt …",
            detail: "Die App macht dort weiter, wo sie war.",
        },
        awaiting_health: Message {
            text: "Fast bereit …",
            detail: "Die App ist gestartet und prüft, ob alles in Ordnung ist.",
        },
        awaiting_port: Message {
            text: "Fast bereit …",
            detail: "Die App ist gestartet, antwortet aber {{port}} noch nicht.",
        },
        failed: "Konnte nicht gestartet werden",
        low_disk: Message {
            text: "Zu wenig Speicherplatz",
            detail: "Es ist zu wenig Speicherplatz frei, um die App zu starten. \
                     Sobald Platz geschaffen wurde, lässt sie sich wieder starten.",
        },
        too_small: Message {
            text: "VM zu klein, mindestens {{size}} nötig",
            detail: "Die App braucht eine größere Maschine als diese.",
        },
    },
    failures: Failures {
        exited: "Die App hat sich beim Starten selbst beendet.",
        out_of_memory: "Der App ist der Arbeitsspeicher ausgegangen.",
        image_missing: "Es gibt kein Image {{image}}, aus dem die App starten könnte.",
        image_not_fetched: "Das Image {{image}} der App konnte nicht heruntergeladen werden.",
        unhealthy: "Die App ist gestartet, besteht aber ihre Funktionsprüfung nicht.",
        not_ready: "Die App ist gestartet, war aber nicht innerhalb von {{time}} bereit.",
        interrupted: "Die App wurde beim Starten von außen angehalten, \
                      etwa durch einen Neustart der Container-Engine.",
        refused: "Die Container-Engine konnte die App nicht starten. \
                  Wer die Maschine betreibt, kann den Grund nachsehen.",
        engine_away: "Die Container-Engine antwortet nicht.",
        not_made: "Die Container der App ließen sich nicht einrichten. \
                   Wer die Maschine betreibt, kann den Grund nachsehen.",
        store_away: "Die Liste der Apps lässt sich gerade nicht lesen.",
        internal: "Auf dieser Maschine ist etwas schiefgegangen. \
                   Wer sie betreibt, kann es nachsehen.",
    },
    last_attempt: "Letzter Versuch: {{reason}}",
    next_attempt: "Nächster Versuch innerhalb von {{time}}.",
    next_now: "Gleich beginnt der nächste Versuch.",
    usual: "Meist in etwa {{usual}} bereit.",
    usual_so_far: "Meist in etwa {{usual}} bereit, bisher {{time}}.",
    longer: "Dauert länger als sonst: bisher {{time}}.",
    so_far: "Bisher {{time}}.",
    seconds: "{{count}}\u{a0}s",
    minutes: "{{count}}\u{a0}min",
    denied: Message {
        text: "Zugriff verweigert",
        detail: "Diese Seite ist nur für Angemeldete, die sie sehen dürfen.",
    },
    sign_in_at: "Melden Sie sich auf {{domain}} an oder koppeln Sie dort dieses Gerät, \
                 und kommen Sie dann zurück.",
    sign_in: "Melden Sie sich auf der Startseite dieser Maschine an oder koppeln Sie dort \
              dieses Gerät, und kommen Sie dann zurück.",
    pair_here: "Mit einem Code von der Person, die diese Maschine betreibt, können Sie dieses \
                Gerät koppeln.",
    pair_nowhere: "Unter dieser Adresse wird kein gekoppeltes Gerät erkannt. \
                   Bitte öffnen Sie die App unter ihrer Adresse in {{domain}}.",
    pairing: PairingWords {
        title: "Gerät koppeln",
        detail: "Ein gekoppeltes Gerät öffnet die privaten Apps von {{domain}}. \
                 Einen Code gibt Ihnen die Person, die diese Maschine betreibt.",
        code: "Code",
        code_hint: "Zwölf Buchstaben und Ziffern; er gilt fünf Minuten lang und nur einmal.",
        name: "Name dieses Geräts",
        name_hint: "Unter diesem Namen ist es zu finden und wieder zu entfernen.",
        button: "Koppeln",
        wrong_code: "Dieser Code ist falsch, schon benutzt oder zu alt.",
        too_many: "Es wurden zu viele falsche Codes versucht. Bitte versuchen Sie es später noch einmal.",
        other_site: "Dieses Formular kam von einer anderen Seite. Bitte geben Sie den Code hier ein.",
        needs_https: "Über unverschlüsseltes HTTP kann kein Browser gekoppelt werden. \
                      Bitte öffnen Sie diese Seite mit https://.",
        busy: "Gerade werden zu viele Codes versucht. Bitte versuchen Sie es gleich noch einmal.",
        unavailable: "Das Gerät kann gerade nicht gekoppelt werden. Bitte lassen Sie sich einen \
                      neuen Code geben, und versuchen Sie es gleich noch einmal.",
        phone: "Handy",
        tablet: "Tablet",
        computer: "Computer",
    },
    forbidden: "Unter dieser Adresse gibt es nichts für Besucher.",
    error: Message { text: "Fehler", detail: "Die App hat mit einem Fehler geantwortet." },
    unanswered: Unanswered {
        soon: Message {
            text: "Wird gestartet …",
            detail: "Die App läuft, antwortet aber {{port}} noch nicht.",
        },
        runs: Message {
            text: "Antwortet nicht",
            detail: "Die App läuft, hat aber {{port}} seit {{time}} nicht geantwortet.",
        },
        unknown: Message {
            text: "Antwortet nicht",
            detail: "Die App hat {{port}} seit {{time}} nicht geantwortet.",
        },
        busy: Message {
            text: "Zurzeit nicht verfügbar",
            detail: "Die App läuft, ist aber gerade für niemanden da.",
        },
    },
    on_port: "auf Port\u{a0}{{port}}",
    statuses: Statuses {
        unknown: Message {
            text: "Wird vorbereitet …", detail: "Die App wird gerade vorbereitet."
        },
        running: Message { text: "Wird gestartet …", detail: "Die App antwortet noch nicht." },
        stopped: Message { text: "Gestoppt", detail: CANNOT_BE_OPENED },
        paused: Message { text: "Pausiert", detail: CANNOT_BE_OPENED },
        down: Message { text: "Heruntergefahren", detail: CANNOT_BE_OPENED },
        error: Message {
            text: "Nicht verfügbar",
            detail: "Mit der App stimmt etwas nicht. \
                     Wer die Maschine betreibt, kann es nachsehen.",
        },
        installation_queued: Message { text: "Wartet auf die Installation", detail: OPENS_THEN },
        installing: Message { text: "Wird installiert …", detail: OPENS_THEN },
        reinstallation_queued: Message {
            text: "Wartet auf die Neuinstallation",
            detail: OPENS_THEN,
        },
        reinstalling: Message { text: "Wird neu installiert …", detail: OPENS_THEN },
        uninstallation_queued: Message { text: "Wartet auf die Deinstallation", detail: NO_MORE },
        uninstalling: Message { text: "Wird deinstalliert …", detail: NO_MORE },
        other: Message { text: "Zurzeit nicht verfügbar", detail: CANNOT_BE_OPENED },
    },
    states: States {
        created: "angelegt",
        running: "läuft",
        restarting: "startet neu",
        removing: "wird entfernt",
        paused: "pausiert",
        exited: "beendet",
        dead: "defekt",
    },
    opens_itself: "Diese Seite öffnet die App von selbst.",
    may_be_download: "Beginnt ein Download, gibt es nichts mehr abzuwarten.",
    try_again: "Noch einmal versuchen",
    go_back: "Zurück",
    details: "Einzelheiten",
    status: "Status",
    container: "Container",
    delivered: Message {
        text: "Ihr Download sollte begonnen haben",
        detail: "Ist es kein Download, so öffnet sich die App noch hier.",
    },
    no_news: "Wie weit die App ist, lässt sich gerade nicht feststellen. \
              Diese Seite wird in {{time}} neu geladen.",
    offline: "Sie sind offline. Sobald Sie wieder online sind, geht es hier weiter.",
};

const CANNOT_BE_OPENED: &str = "Die App kann im Augenblick nicht geöffnet werden.";
const OPENS_THEN: &str = "Danach lässt sich die App öffnen.";
const NO_MORE: &str = "Die App lässt sich nicht mehr öffnen.";
