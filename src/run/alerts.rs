//! What is measured for alerts in this process.

use std::sync::Arc;

use crate::alerts::denials::Denials;
use crate::alerts::measurement::Measure;
use crate::alerts::measures::{
    AppStarts, ArchiveMeasures, DenialRates, Disks, GateCertificate, Records, StoreLink,
};
use crate::alerts::shared_counts::SharedCounts;
use crate::alerts::starts::FailedStarts;
use crate::alerts::{Evaluator, TenantSource};
use crate::config::Config;
use crate::gate::Gate;
use crate::http::tls::ServerTls;
use crate::jobs::Jobs;
use crate::ledger::Ledger;
use crate::wake::Registry;

/// The evaluation of alerts, and the observers that count for it.
#[derive(Debug)]
pub(super) struct Alerts {
    pub(super) evaluator: Arc<Evaluator>,
    pub(super) denials: Arc<Denials>,
    pub(super) starts: FailedStarts,
}

/// The parts of the process that are measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct MeasuredParts<'a> {
    pub(super) gate: &'a Arc<Gate>,
    pub(super) ledger: &'a Arc<Ledger>,
    pub(super) jobs: &'a Arc<Jobs>,
    pub(super) registry: &'a Arc<Registry>,
    pub(super) tls: Option<&'a Arc<ServerTls>>,
}

impl Alerts {
    pub(super) fn new(config: &Config, parts: MeasuredParts<'_>) -> Self {
        let MeasuredParts { gate, ledger, jobs, registry, tls } = parts;
        let (denials, starts) = (Arc::<Denials>::default(), FailedStarts::default());
        let settings = &config.alerts;
        let tenant = || -> TenantSource {
            let tenant = Arc::clone(&ledger.tenant);
            Box::new(move || tenant.get())
        };
        let (archive, writer) = (&ledger.archive, ledger.recorder.writer());
        let window = settings.denials_window;
        let shared = SharedCounts::new(Arc::clone(archive), tenant(), writer, window);
        let rates = DenialRates::new(Arc::clone(&denials), shared, settings.denials, window);
        let disks = Disks::new([config.wake.data_dir.clone(), config.ledger.path.clone()]);
        let archived =
            ArchiveMeasures::new(Arc::clone(ledger), Arc::clone(jobs), settings.job_overdue);
        let mut measures: Vec<Box<dyn Measure>> = vec![
            Box::new(rates),
            Box::new(AppStarts::new(starts.clone(), Arc::clone(registry))),
            Box::new(StoreLink(Arc::clone(gate))),
            Box::new(Records::new(Arc::clone(ledger), settings.records_dropped)),
            Box::new(disks),
            Box::new(archived),
        ];
        if let Some(tls) = tls.cloned() {
            measures.push(Box::new(GateCertificate(Box::new(move || tls.ends()))));
        }
        let evaluator = Evaluator::new(Arc::clone(archive), tenant(), writer, settings, measures);
        Self { evaluator: Arc::new(evaluator), denials, starts }
    }
}
