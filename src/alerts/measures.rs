//! What the rules measure, each from what its part of the process knows.

mod apps;
mod archive;
mod disk;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::{BoxFuture, ready};

pub use self::apps::AppStarts;
pub use self::archive::ArchiveMeasures;
pub use self::disk::Disks;
use super::denials::{Denials, Windows};
use super::measurement::{Measure, MeasureContext, Measurement};
use super::rule::Rule;
use super::shared_counts::SharedCounts;
use super::subject::Subject;
use crate::gate::Gate;
use crate::ledger::Ledger;
use crate::ledger::checkpoint::rfc3339;
use crate::ledger::clock;
use crate::ledger::losses::Cause;
use crate::ledger::record::Micros;

/// The most bytes of a detail that somebody else has worded.
const MAX_DETAIL: usize = 400;

/// Answers without waiting for anything.
fn now(measurements: Vec<Measurement>) -> BoxFuture<'static, Option<Vec<Measurement>>> {
    Box::pin(ready(Some(measurements)))
}

fn measurement(rule: Rule, subject: Subject, value: u64, detail: impl Into<String>) -> Measurement {
    let mut detail = detail.into();
    detail.truncate(detail.floor_char_boundary(MAX_DETAIL));
    Measurement { rule, subject, value, detail }
}

/// Denials by one process count together with those of the others from this part of the
/// threshold on: an address that is denied by several processes alike is found if there are up
/// to so many.
const PARTS: u64 = 10;

/// How often clients and addresses are denied, by all processes of the box together.
#[derive(Debug)]
pub struct DenialRates {
    denials: Arc<Denials>,
    windows: Mutex<Windows>,
    shared: SharedCounts,
    window: Duration,
    /// What is worth being told to the others, and what is worth a number.
    part: u64,
    least: u64,
}

impl DenialRates {
    /// `denials` is the threshold within a window.
    #[must_use]
    pub fn new(
        counted: Arc<Denials>,
        shared: SharedCounts,
        denials: u64,
        window: Duration,
    ) -> Self {
        let windows = Mutex::new(Windows::new(window));
        let (part, least) = (denials.div_ceil(PARTS), denials.div_ceil(2));
        Self { denials: counted, windows, shared, window, part, least }
    }

    async fn look(&self, now: Duration) -> Vec<Measurement> {
        let own = {
            let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
            windows.look(&self.denials, now, self.part)
        };
        let others = self.shared.others(now, own.clone()).await;
        let window = humantime::format_duration(self.window);
        let sums = own.into_iter().map(|(subject, number)| {
            let elsewhere = others.get(&subject).copied().unwrap_or_default();
            (subject, number.saturating_add(elsewhere))
        });
        let measurements =
            sums.filter(|(_, number)| *number >= self.least).map(|(subject, number)| {
                let rule = match subject {
                    Subject::Client(_) => Rule::DenialsClient,
                    _ => Rule::DenialsAddress,
                };
                let detail = format!(
                    "about {number} denials in {window}; a refused credential counts as 10"
                );
                measurement(rule, subject, number, detail)
            });
        measurements.collect()
    }
}

impl Measure for DenialRates {
    fn rules(&self) -> &'static [Rule] {
        &[Rule::DenialsClient, Rule::DenialsAddress]
    }

    fn measure<'a>(
        &'a self,
        context: MeasureContext<'a>,
    ) -> BoxFuture<'a, Option<Vec<Measurement>>> {
        Box::pin(async move { Some(self.look(context.now).await) })
    }
}

/// Whether the store's notifications arrive.
#[derive(Debug)]
pub struct StoreLink(pub Arc<Gate>);

impl Measure for StoreLink {
    fn rules(&self) -> &'static [Rule] {
        &[Rule::CacheDegraded]
    }

    fn measure<'a>(&'a self, _: MeasureContext<'a>) -> BoxFuture<'a, Option<Vec<Measurement>>> {
        let health = self.0.health();
        if health.live {
            return now(Vec::new());
        }
        let ago = humantime::format_duration(Duration::from_secs(health.verified_ago.as_secs()));
        let detail =
            format!("the store was last heard {ago} ago; {}", health.store.problems.join("; "));
        now(vec![measurement(Rule::CacheDegraded, Subject::Box, 1, detail.trim_end_matches("; "))])
    }
}

/// Whether records wait on the disk, and whether some were lost.
#[derive(Debug)]
pub struct Records {
    ledger: Arc<Ledger>,
    /// For how long a loss counts.
    recent: Duration,
    losses: Mutex<Losses>,
}

#[derive(Debug, Default)]
struct Losses {
    seen: u64,
    /// When the last one was seen, and how many came since none were recent.
    recent: Option<(Duration, u64)>,
}

impl Records {
    #[must_use]
    pub fn new(ledger: Arc<Ledger>, recent: Duration) -> Self {
        Self { ledger, recent, losses: Mutex::default() }
    }

    /// Returns how many records were lost lately. Those that the operator gave up are not.
    fn lost(&self, now: Duration) -> u64 {
        let lost = self.ledger.losses.lost().into_iter();
        let lost = lost.filter(|(cause, _)| *cause != Cause::Dismissed).map(|(_, count)| count);
        let refused = self.ledger.losses.refused().into_iter().map(|(_, count)| count);
        let total = lost.chain(refused).sum();
        let losses = &mut *self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        losses.add(total, now, self.recent)
    }
}

impl Losses {
    fn add(&mut self, total: u64, now: Duration, counts_for: Duration) -> u64 {
        let Self { seen, recent } = self;
        if recent.is_some_and(|(at, _)| now.saturating_sub(at) >= counts_for) {
            *recent = None;
        }
        let new = total.saturating_sub(*seen);
        *seen = total;
        if new > 0 {
            *recent = Some((now, recent.map_or(0, |(_, number)| number) + new));
        }
        recent.map_or(0, |(_, number)| number)
    }
}

impl Measure for Records {
    fn rules(&self) -> &'static [Rule] {
        &[Rule::DeadLetters, Rule::RecordsDropped]
    }

    fn measure<'a>(
        &'a self,
        context: MeasureContext<'a>,
    ) -> BoxFuture<'a, Option<Vec<Measurement>>> {
        let mut measurements = Vec::new();
        let (letters, bytes) = self.ledger.letters.size();
        if letters > 0 {
            // Not why: a database may quote the value that it refuses.
            let detail = format!("{letters} dead letters, {bytes} bytes");
            measurements.push(measurement(Rule::DeadLetters, Subject::Box, letters as u64, detail));
        }
        let lost = self.lost(context.now);
        if lost > 0 {
            measurements.push(measurement(
                Rule::RecordsDropped,
                Subject::Box,
                lost,
                format!("{lost} records"),
            ));
        }
        now(measurements)
    }
}

/// When the gate's certificate ends.
pub struct GateCertificate(pub Box<dyn Fn() -> Option<SystemTime> + Send + Sync>);

impl fmt::Debug for GateCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GateCertificate")
    }
}

impl Measure for GateCertificate {
    fn rules(&self) -> &'static [Rule] {
        &[Rule::CertificateExpiring]
    }

    fn measure<'a>(&'a self, _: MeasureContext<'a>) -> BoxFuture<'a, Option<Vec<Measurement>>> {
        let Some(end) = (self.0)() else { return now(Vec::new()) };
        let today = UNIX_EPOCH + Duration::from_micros(u64::try_from(clock::now().0).unwrap_or(0));
        let left = end.duration_since(today).unwrap_or_default().as_secs();
        let detail = format!("it is valid until {}", rfc3339(Micros::from(end)));
        now(vec![measurement(Rule::CertificateExpiring, Subject::Box, left, detail)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_count_for_their_time_and_each_once() {
        let (mut losses, second) = (Losses::default(), Duration::from_secs(1));
        let counts_for = 10 * second;
        for (at, total, expected) in
            [(0, 0, 0), (1, 5, 5), (2, 5, 5), (9, 6, 6), (18, 6, 6), (19, 6, 0), (40, 7, 1)]
        {
            assert_eq!(losses.add(total, second * at, counts_for), expected, "at {at}");
        }
    }

    #[test]
    fn a_detail_is_cut_at_a_character() {
        let long = measurement(Rule::DeadLetters, Subject::Box, 1, "ü".repeat(1000));
        assert_eq!(long.detail, "ü".repeat(200));
    }
}
