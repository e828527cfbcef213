//! Metrics of the ledger, set from its own counts when they are read.

use metrics::{counter, describe_counter, describe_gauge, gauge};

use super::{precise, recorder};
use crate::ledger::health::Health;

const ACCEPTED: &str = "nightporter_ledger_accepted_total";
const WAITING: &str = "nightporter_ledger_queue_length";
const AGE: &str = "nightporter_ledger_queue_age_seconds";
const WRITTEN: &str = "nightporter_ledger_written_total";
const SPOOLED: &str = "nightporter_ledger_spooled_total";
const LETTERS: &str = "nightporter_ledger_dead_letters";
const LETTER_BYTES: &str = "nightporter_ledger_dead_letter_bytes";
const SET_ASIDE: &str = "nightporter_ledger_set_aside_files";
const SET_ASIDE_BYTES: &str = "nightporter_ledger_set_aside_bytes";
const DROPPED: &str = "nightporter_ledger_dropped_total";
const PROBLEMS: &str = "nightporter_ledger_problems";

pub(super) fn describe() {
    describe_counter!(ACCEPTED, "Records accepted.");
    describe_gauge!(WAITING, "Accepted records that wait for the writer.");
    describe_gauge!(AGE, "Seconds since the oldest record that is being written was accepted.");
    describe_counter!(WRITTEN, "Records that the ledger's database took.");
    describe_counter!(SPOOLED, "Records that went to the spool instead.");
    describe_gauge!(LETTERS, "Dead letters in the spool.");
    describe_gauge!(LETTER_BYTES, "Bytes of the dead letters.");
    describe_gauge!(SET_ASIDE, "Files in the spool that are not dead letters, and were set aside.");
    describe_gauge!(SET_ASIDE_BYTES, "Bytes of the files that were set aside.");
    describe_counter!(DROPPED, "Records that were dropped, by reason.");
    describe_gauge!(PROBLEMS, "What is wrong with the ledger now; /healthz says it in words.");
}

/// Sets the metrics of the ledger.
pub(crate) fn note_ledger(health: &Health) {
    recorder();
    let Health {
        accepted,
        waiting,
        age,
        written,
        spooled,
        letters,
        letter_bytes,
        set_aside,
        set_aside_bytes,
        refused,
        lost,
        problems,
    } = health;
    counter!(ACCEPTED).absolute(*accepted);
    gauge!(WAITING).set(precise(*waiting as u64));
    gauge!(AGE).set(age.as_secs_f64());
    counter!(WRITTEN).absolute(*written);
    counter!(SPOOLED).absolute(*spooled);
    gauge!(LETTERS).set(precise(*letters as u64));
    gauge!(LETTER_BYTES).set(precise(*letter_bytes));
    gauge!(SET_ASIDE).set(precise(*set_aside as u64));
    gauge!(SET_ASIDE_BYTES).set(precise(*set_aside_bytes));
    let refused = refused.iter().map(|(_, count)| count).sum();
    counter!(DROPPED, "reason" => "queue_full").absolute(refused);
    for (cause, count) in lost {
        counter!(DROPPED, "reason" => cause.as_str()).absolute(*count);
    }
    gauge!(PROBLEMS).set(precise(problems.len() as u64));
}
