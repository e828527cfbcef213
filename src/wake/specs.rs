//! Reads the specs of all installed apps, those that nobody requests included, and reads each
//! again when its description may have changed.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::spec::AppSpec;
use crate::store::Table;
use crate::store::app_meta::ReadError;
use crate::store::descriptions::Descriptions;
use crate::store::freshness::{Freshness, Moment, Origin, Validity};

/// What was last read of each app's file, and when.
#[derive(Debug)]
pub(super) struct Specs {
    descriptions: Arc<Descriptions>,
    freshness: Arc<Freshness>,
    read: HashMap<Arc<str>, Read, RandomState>,
}

#[derive(Debug)]
struct Read {
    origin: Origin,
    /// Shared with the app's handle; `None` if the file cannot be used.
    spec: Option<Arc<AppSpec>>,
}

impl Specs {
    pub(super) fn new(descriptions: Arc<Descriptions>, freshness: Arc<Freshness>) -> Self {
        Self { descriptions, freshness, read: HashMap::default() }
    }

    /// Returns the spec of an app; `None` if its file cannot be used, or not be read now.
    pub(super) async fn get(&mut self, app: &Arc<str>, now: Moment) -> Option<Arc<AppSpec>> {
        if let Some(Read { origin, spec }) = self.read.get(app)
            && self.freshness.validity(origin, now) == Validity::Fresh
        {
            return spec.clone();
        }
        // Noted first: a change during the read makes what was read outdated.
        let origin = self.freshness.origin([Table::AppMeta; 2], app);
        let spec = match self.descriptions.read(app).await {
            Ok(meta) => Some(Arc::new(AppSpec::new(&meta))),
            // The gate reports what is wrong with it.
            Err(ReadError::Unusable(_) | ReadError::Missing(_)) => None,
            Err(ReadError::Unavailable(_)) => return None,
        };
        // The same as before: the handle goes on sharing it.
        let before = self.read.get(app).and_then(|read| read.spec.clone());
        let spec = if before == spec { before } else { spec };
        self.read.insert(Arc::clone(app), Read { origin, spec: spec.clone() });
        spec
    }

    /// Forgets an app that is not installed any more.
    pub(super) fn forget(&mut self, app: &str) {
        self.read.remove(app);
    }
}
