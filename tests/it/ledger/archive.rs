//! What both archives promise: each test runs against each of them.

mod alerts;
mod jobs;
mod pages;
mod records;
mod transactions;

use nightporter::ledger::archive::Archive;

/// A database of one test.
pub trait Database: Sync {
    /// Opens it as one more process would: with connections of its own.
    fn archive(&self) -> Archive;
}

/// Makes a test of each function for each kind of archive.
macro_rules! for_each_archive {
    ($($group:ident: $($test:ident),+;)+) => {
        mod on_sqlite {$(
            mod $group {$(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    let database = crate::ledger::sqlite::Folder::new();
                    crate::ledger::archive::$group::$test(&database).await;
                }
            )+}
        )+}

        mod on_postgres {$(
            mod $group {$(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    let database = crate::support::postgres::Cluster::shared().database().await;
                    crate::ledger::archive::$group::$test(&database).await;
                }
            )+}
        )+}
    };
}

for_each_archive! {
    alerts:
        an_alert_is_one_row_with_its_history,
        what_a_process_observes_counts_until_it_expires,
        what_has_expired_while_nobody_could_write_counts_for_a_while,
        what_changed_in_a_silence_is_told_once_when_it_has_ended,
        a_change_that_is_not_committed_leaves_nothing,
        pages_of_alerts_follow_each_other,
        a_silence_stays_with_the_alert_and_ends_by_itself,
        what_was_resolved_long_ago_is_removed,
        three_processes_change_an_alert_once,
        a_process_that_takes_over_tells_nothing_again;
    records:
        what_is_written_is_read_back,
        a_batch_that_is_written_again_changes_nothing,
        one_bad_record_leaves_nothing_of_its_batch,
        a_removed_record_leaves_no_step_and_no_note,
        tenants_see_nothing_of_each_other,
        several_processes_write_at_once,
        a_change_wakes_those_who_wait;
    pages:
        records_with_a_position_come_first_or_last,
        every_filter_finds_what_it_should,
        pages_skip_and_repeat_nothing_while_records_are_placed,
        pages_skip_and_repeat_nothing_while_records_are_removed,
        first_reads_of_a_new_database_all_answer,
        a_snapshot_sees_one_state;
    transactions:
        a_dropped_transaction_leaves_nothing,
        a_failed_statement_ends_the_transaction,
        one_of_two_has_the_lock,
        unplaced_records_come_oldest_first,
        a_position_is_given_once,
        tiles_and_checkpoints_are_read_back,
        removal_keeps_to_its_bounds;
    jobs:
        a_row_is_read_back,
        the_clock_is_that_of_the_database;
}
