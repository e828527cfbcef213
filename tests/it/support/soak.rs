//! How often the long tests repeat their rounds: some rounds in `tests/run`, all of them in
//! `tests/run --soak`.
#![allow(dead_code, reason = "unit and integration tests take what is theirs")]

/// Loads that a change overtakes.
pub const CACHE_RACES: Rounds = Rounds { few: 4_000, all: 40_000 };
/// Cold keys that several callers request at once.
pub const COLD_KEYS: Rounds = Rounds { few: 1_000, all: 5_000 };
/// Changes in Postgres among requests to the gate.
pub const REVOCATIONS: Rounds = Rounds { few: 300, all: 3_000 };
/// Requests that must cause no statement, and no call to the engine.
pub const QUIET_REQUESTS: Rounds = Rounds { few: 100_000, all: 1_000_000 };
/// Containers created again with other labels, while a stranger asks.
pub const LABEL_CHANGES: Rounds = Rounds { few: 40, all: 1_000 };
/// Apps put to sleep while they are woken.
pub const NAPS: Rounds = Rounds { few: 40, all: 500 };
/// Apps removed while they are woken.
pub const REMOVALS: Rounds = Rounds { few: 24, all: 500 };
/// Apps removed while Compose creates their containers.
pub const REMAKINGS: Rounds = Rounds { few: 8, all: 60 };
/// Rounds of two processes with one app.
pub const TWO_PROCESSES: Rounds = Rounds { few: 6, all: 50 };
/// Rounds of two processes with two apps of one database.
pub const NEIGHBOURS: Rounds = Rounds { few: 5, all: 20 };

/// Codes that are used at two replicas at once.
pub const DOUBLE_USES: Rounds = Rounds { few: 40, all: 1_000 };
/// Wrong codes of a guesser.
pub const GUESSES: Rounds = Rounds { few: 400, all: 10_000 };

/// Records that are read in pages of two, while some of them are removed.
pub const WALKED: Rounds = Rounds { few: 3_000, all: 20_000 };

/// Batches of the ledger whose COMMIT is answered by nobody.
pub const LOST_COMMITS: Rounds = Rounds { few: 20, all: 200 };

/// Ends of the ledger's database, and of nightporter, by `kill -9`.
pub const KILLS: Rounds = Rounds { few: 5, all: 50 };

/// Changes of an alert's state that several processes see.
pub const STATE_CHANGES: Rounds = Rounds { few: 100, all: 1_000 };
/// Denials of one address.
pub const DENIALS: Rounds = Rounds { few: 10_000, all: 100_000 };

/// Cases that are sent to each operation of the API, for each kind of token and each database.
pub const API_CASES: Rounds = Rounds { few: 10, all: 120 };

/// Seconds for which several instances run their jobs.
pub const JOB_SECONDS: Rounds = Rounds { few: 20, all: 120 };
/// Seconds for which nobody comes to a box.
pub const IDLE_SECONDS: Rounds = Rounds { few: 12, all: 120 };

/// Seconds that an app takes to start that is requested by uploads, and seconds of a hold.
pub const SLOW_START: Rounds = Rounds { few: 3, all: 60 };
pub const HOLD: Rounds = Rounds { few: 2, all: 25 };

/// Returns how many runs of a job are right where so many are expected: one more or less. In
/// the short form, which runs beside other tests, a quarter may have been missed, since a
/// process that gets no processor makes up for several runs by one.
#[must_use]
pub fn job_runs(expected: usize) -> std::ops::RangeInclusive<usize> {
    let missed = if is_soak() { 0 } else { expected / 4 };
    expected - 1 - missed..=expected + 1
}

/// Returns whether all rounds are run.
pub fn is_soak() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|value| value == "1")
}

/// The variable by which the tests learn of `--soak`.
const VARIABLE: &str = "TESTS_SOAK";

#[derive(Debug, Clone, Copy)]
pub struct Rounds {
    pub few: u32,
    pub all: u32,
}

impl Rounds {
    /// Returns how many rounds to run.
    #[must_use]
    pub fn count(self) -> u32 {
        if is_soak() { self.all } else { self.few }
    }
}
