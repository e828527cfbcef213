//! Rules for `[ledger]`.

use std::time::Duration;

use crate::config::keys::{LedgerKeys, TABLE};
use crate::config::reader::Reader;
use crate::config::setting::LedgerKind;
use crate::config::{Alerts, ArchiveKind, Ledger, Postgres};

/// A record that is written later than this is of no use to who asks what is going on now.
const LONGEST_FLUSH: Duration = Duration::from_secs(10);

/// A spool that cannot hold two batches of full size (4 MiB) would drop what it is there for.
const SMALLEST_SPOOL: u64 = 8 << 20;

/// An empty database with its indexes and its write-ahead log takes a few of these.
const SMALLEST_SIZE: u64 = 16 << 20;

/// Returns where the record is kept.
pub(super) fn archive(reader: &mut Reader, keys: &LedgerKeys, store: &Postgres) -> ArchiveKind {
    let LedgerKeys { kind, url } = keys.clone();
    let is_given = |key, file| reader.is_given(key) || reader.is_given(file);
    let has_url = is_given("ledger.url", "ledger.url_file");
    let has_store_url = is_given("store.url", "store.url_file");
    match kind {
        LedgerKind::Sqlite => {
            if has_url {
                let hint = "remove the URL, or set `ledger.kind` to \"postgres\"";
                let problem = "is \"sqlite\", but `ledger.url` is given";
                reader.refuse("ledger.kind", problem, hint);
            }
            ArchiveKind::Sqlite
        }
        LedgerKind::Postgres => {
            // If `store.url` is missing for the store too, one finding is enough.
            let is_explicit = reader.is_given("ledger.kind");
            if !has_url && !has_store_url && is_explicit {
                let hint = "give `ledger.url_file` or `ledger.url`, such as \
                            `postgres://user:password@host/database`";
                reader.refuse_because("ledger.url", "ledger.kind", "is missing", hint);
            }
            let url = url.unwrap_or_else(|| store.url.clone());
            ArchiveKind::Postgres(Postgres { url, ..store.clone() })
        }
    }
}

pub(super) fn check(reader: &mut Reader, ledger: &Ledger) {
    let Ledger { flush_interval, max_spool, max_size, .. } = *ledger;
    if flush_interval > LONGEST_FLUSH {
        let problem = format!("{} is too long", humantime::format_duration(flush_interval));
        let hint = "use 10s or less: until it is written, a record is lost with the process";
        reader.refuse("ledger.flush_interval", problem, hint);
    }
    if max_spool < SMALLEST_SPOOL {
        let hint = "use 8 MiB or more: the spool keeps whole batches";
        reader.refuse("ledger.max_spool", format!("{max_spool} bytes are too few"), hint);
    }
    if max_size < SMALLEST_SIZE {
        let hint = "use 16 MiB or more: an empty database takes a part of it";
        reader.refuse("ledger.max_size", format!("{max_size} bytes are too few"), hint);
    }
}

/// Alerts are kept in the ledger's database, and are about what is done to it.
pub(super) fn check_alerts(reader: &mut Reader, alerts: &Alerts, ledger: &Ledger) {
    let mut names = TABLE.names().filter(|name| name.starts_with("alerts."));
    let given = names.find(|name| reader.is_given(name));
    if let Some(given) = given.filter(|_| alerts.enabled && !ledger.enabled) {
        let hint = "set `ledger.enabled` to true, or `alerts.enabled` to false";
        reader.refuse_because(given, "ledger.enabled", "needs the ledger, which is off", hint);
    }
}
