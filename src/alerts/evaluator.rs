//! Looks at what is measured, and changes alerts.
//!
//! Each process writes what it observes; an alert fires as long as one of them does. So a fact
//! that only one process can see and a fact that all see are told in the same way, once. What
//! a process that was killed has observed counts until it expires ([`LEASE`]).

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::firing::FiringAlerts;
use super::measurement::{Measure, MeasureContext, Measurement};
use super::message;
use super::outage::Outage;
use super::plan::{self, Key};
use super::rule::{self, Rule};
use super::table::{self, Alert, Observer, after_silence};
use super::tracked::{Criteria, TrackedSubjects};
use super::transition::Limits;
use crate::backoff::jittered;
use crate::config;
use crate::ledger::archive::{Archive, ArchiveError, Transaction};
use crate::ledger::record::{Micros, WriterId, micros};
use crate::webhooks::outbox;

/// How often everything is measured.
const LOOK: Duration = Duration::from_secs(2);

/// How long one measurement may take.
const MEASURE: Duration = Duration::from_secs(15);

/// How often the stored alerts are read, which other processes change too.
const OVERVIEW_EVERY: Duration = Duration::from_secs(10);

/// For how long an observation counts, and how often it is written anew while it does. A box
/// where nothing is bad writes nothing.
const LEASE: Duration = Duration::from_secs(180);
const RENEW: Duration = Duration::from_secs(60);

/// How often the lock is tried in one evaluation, and how long the wait is in between.
const TRIES: usize = 20;
const BUSY: Duration = Duration::from_millis(50);

/// Returns the box's id; empty while it is not known.
pub type TenantSource = Box<dyn Fn() -> Arc<str> + Send + Sync>;

/// Measures, and changes alerts, for one process.
pub struct Evaluator {
    archive: Arc<Archive>,
    tenant: TenantSource,
    writer: WriterId,
    limits: BTreeMap<Rule, Limits>,
    measures: Vec<Box<dyn Measure>>,
    firing_alerts: Arc<FiringAlerts>,
    began: Instant,
    state: Mutex<Progress>,
}

/// What has been measured and written.
#[derive(Debug)]
struct Progress {
    outage: Outage,
    tenant: Arc<str>,
    tracked: TrackedSubjects,
    firing: BTreeSet<Key>,
    /// When the stored alerts were last read.
    known: Option<Instant>,
    has_expired: bool,
    /// What is written that this process observes, and when it was.
    written: BTreeSet<Key>,
    renewed: Option<Instant>,
    is_failing: bool,
}

impl fmt::Debug for Evaluator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { writer, limits, measures, .. } = self;
        f.debug_struct("Evaluator")
            .field("writer", writer)
            .field("limits", limits)
            .field("measures", measures)
            .finish_non_exhaustive()
    }
}

impl Evaluator {
    #[must_use]
    pub fn new(
        archive: Arc<Archive>,
        tenant: TenantSource,
        writer: WriterId,
        config: &config::Alerts,
        measures: Vec<Box<dyn Measure>>,
    ) -> Self {
        let limits = Rule::ALL.into_iter();
        let limits = limits.filter_map(|rule| Some((rule, rule::limits(rule, config)?))).collect();
        let (firing_alerts, began) = (Arc::default(), Instant::now());
        let state = Mutex::new(Progress::new(Outage::new(began), Arc::default()));
        Self { archive, tenant, writer, limits, measures, firing_alerts, began, state }
    }

    /// Returns what probes and metrics show.
    #[must_use]
    pub fn firing_alerts(&self) -> Arc<FiringAlerts> {
        Arc::clone(&self.firing_alerts)
    }

    /// Looks again and again, for as long as the process runs.
    pub async fn run(self: Arc<Self>) -> Infallible {
        loop {
            self.evaluate().await;
            sleep(jittered(LOOK)).await;
        }
    }

    /// Measures once, and changes alerts if something has changed.
    pub async fn evaluate(&self) {
        let progress = &mut *self.state.lock().await;
        progress.begin((self.tenant)());
        let result = self.evaluate_with(progress).await;
        match (&result, progress.is_failing) {
            (Err(error), false) => {
                warn!(%error, "alerts cannot be written; they will be once the archive answers");
            }
            (Ok(()), true) => info!("alerts are written again"),
            _ => {}
        }
        progress.is_failing = result.is_err();
    }

    async fn evaluate_with(&self, progress: &mut Progress) -> Result<(), ArchiveError> {
        let known = self.overview(progress).await;
        let context = MeasureContext { now: self.began.elapsed(), firing: &progress.firing };
        let measured = join_all(self.measures.iter().map(|measure| async {
            let measurements = timeout(MEASURE, measure.measure(context)).await.ok().flatten();
            (measure.rules(), measurements)
        }));
        let measured = measured.await;
        for (rules, measurements) in measured {
            let Some(measurements) = measurements else { continue };
            self.update(progress, rules, measurements);
        }
        self.firing_alerts.set_own(progress.tracked.bad_keys());
        known?;
        if progress.is_settled() { Ok(()) } else { self.write(progress).await }
    }

    fn update(&self, progress: &mut Progress, rules: &[Rule], mut measurements: Vec<Measurement>) {
        let now = self.began.elapsed();
        for rule in rules {
            let of_rule =
                measurements.extract_if(.., |measurement| measurement.rule == *rule).collect();
            let Some(limits) = self.limits.get(rule) else { continue };
            let criteria = Criteria { rule: *rule, limits, firing: &progress.firing, now };
            progress.tracked.update(criteria, of_rule);
        }
    }

    /// Reads what fires, if that was not done for a while.
    async fn overview(&self, progress: &mut Progress) -> Result<(), ArchiveError> {
        let is_recent = progress.known.is_some_and(|at| at.elapsed() < OVERVIEW_EVERY);
        if is_recent || progress.tenant.is_empty() {
            return Ok(());
        }
        let mut snapshot = self.archive.snapshot().await?;
        let overview = table::overview(&mut snapshot, &progress.tenant).await?;
        progress.has_expired = overview.has_expired;
        self.set_firing(progress, overview.firing);
        Ok(())
    }

    fn set_firing(&self, progress: &mut Progress, firing: Vec<Alert>) {
        let now = Instant::now();
        progress.firing = firing.iter().map(Alert::key).collect();
        progress.known = Some(now);
        progress.outage.note_use(now);
        self.firing_alerts.set_stored(firing);
    }

    /// Writes what this process observes, and changes alerts, in one transaction.
    async fn write(&self, progress: &mut Progress) -> Result<(), ArchiveError> {
        if progress.tenant.is_empty() {
            return Ok(());
        }
        let Some(mut transaction) = self.locked(&progress.tenant).await? else {
            debug!("another process changes alerts; this one does at its next evaluation");
            return Ok(());
        };
        let keys = progress.tracked.bad_keys();
        let firing = self.write_in(&mut transaction, progress).await?;
        transaction.commit().await?;
        progress.tracked.told();
        progress.written = keys;
        progress.renewed = Some(Instant::now());
        progress.has_expired = false;
        self.set_firing(progress, firing);
        Ok(())
    }

    /// Begins a transaction with the lock; `None` if others have it for long.
    async fn locked(&self, tenant: &str) -> Result<Option<Transaction<'_>>, ArchiveError> {
        for _ in 0..TRIES {
            let mut transaction = self.archive.begin().await?;
            if table::try_lock(&mut transaction, tenant).await? {
                return Ok(Some(transaction));
            }
            transaction.roll_back().await?;
            sleep(jittered(BUSY)).await;
        }
        Ok(None)
    }

    /// Returns what fires then.
    async fn write_in(
        &self,
        transaction: &mut Transaction<'_>,
        progress: &Progress,
    ) -> Result<Vec<Alert>, ArchiveError> {
        let Progress { tenant, tracked, .. } = progress;
        let now = transaction.now().await?;
        let own = tracked.observations(self.began.elapsed(), now);
        let expires_at = Micros(now.0.saturating_add(micros(LEASE)));
        let grace = micros(progress.outage.grace(Instant::now()));
        let expired_at = Micros(now.0.saturating_sub(grace));
        let observer = Observer { writer: self.writer, expires_at };
        let stored = table::observe(transaction, tenant, observer, &own, expired_at).await?;
        let mut firing: BTreeMap<Key, Alert> =
            stored.firing.into_iter().map(|alert| (alert.key(), alert)).collect();
        let changes = plan::changes(&stored.observed, &firing.keys().cloned().collect());
        for change in changes {
            let changed = table::change(transaction, tenant, self.writer, &change, now).await?;
            let Some(alert) = changed else { continue };
            info!(rule = alert.rule.as_str(), alert = %alert.id, firing = alert.is_firing, "alert");
            if !alert.is_silenced(now) {
                outbox::enqueue(transaction, tenant, &message::event(&alert, now)).await?;
            }
            if alert.is_firing {
                firing.insert(alert.key(), alert);
            } else {
                firing.remove(&alert.key());
            }
        }
        for alert in after_silence::end_silences(transaction, tenant, now).await? {
            if after_silence::take_message(transaction, tenant, &alert).await? {
                outbox::enqueue(transaction, tenant, &message::event(&alert, now)).await?;
            }
            if alert.is_firing {
                firing.insert(alert.key(), alert);
            }
        }
        Ok(firing.into_values().collect())
    }
}

impl Progress {
    fn new(outage: Outage, tenant: Arc<str>) -> Self {
        Self {
            outage,
            tenant,
            tracked: TrackedSubjects::default(),
            firing: BTreeSet::new(),
            known: None,
            has_expired: false,
            written: BTreeSet::new(),
            renewed: None,
            is_failing: false,
        }
    }

    /// Begins an evaluation. The alerts of another box begin anew.
    fn begin(&mut self, tenant: Arc<str>) {
        if self.tenant != tenant {
            self.tracked.untold();
            let tracked = std::mem::take(&mut self.tracked);
            let is_failing = self.is_failing;
            *self = Self { tracked, is_failing, ..Self::new(self.outage, tenant) };
        }
    }

    /// Returns whether what is written is as it should be.
    fn is_settled(&self) -> bool {
        let is_renewed = self.renewed.is_some_and(|at| at.elapsed() < RENEW);
        let observed = self.tracked.bad_keys();
        observed == self.written && (observed.is_empty() || is_renewed) && !self.has_expired
    }
}
