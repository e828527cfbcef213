//! The free space of the volumes that matter.

use std::collections::BTreeSet;
use std::path::PathBuf;

use futures_util::future::{BoxFuture, join_all};

use super::signal;
use crate::alerts::rule::Rule;
use crate::alerts::signal::{Look, Measure, Signal};
use crate::alerts::subject::Subject;
use crate::store::file_calls::FileCalls;

/// The free space of the volumes of some folders.
#[derive(Debug)]
pub struct Disks(Vec<(PathBuf, FileCalls)>);

impl Disks {
    #[must_use]
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        let folders: BTreeSet<PathBuf> = folders.into_iter().collect();
        Self(folders.into_iter().map(|folder| (folder, FileCalls::new())).collect())
    }

    async fn look(&self) -> Vec<Signal> {
        let volumes = join_all(self.0.iter().map(|(folder, calls)| async move {
            let path = folder.clone();
            let statistics = calls.run(move || Ok(rustix::fs::statvfs(&path)?)).await.ok()?;
            let free = statistics.f_bavail.saturating_mul(statistics.f_frsize);
            Some((folder, statistics.f_fsid, free))
        }));
        let mut known = BTreeSet::new();
        let mut signals = Vec::new();
        // A folder that is missing, or whose disk does not answer, says nothing of its space.
        for (folder, volume, free) in volumes.await.into_iter().flatten() {
            if known.insert(volume) {
                let subject = Subject::Folder(folder.display().to_string().into());
                let detail = format!("{} MiB are free", free >> 20);
                signals.push(signal(Rule::DiskLow, subject, free, detail));
            }
        }
        signals
    }
}

impl Measure for Disks {
    fn rules(&self) -> &'static [Rule] {
        &[Rule::DiskLow]
    }

    fn measure<'a>(&'a self, _: Look<'a>) -> BoxFuture<'a, Option<Vec<Signal>>> {
        Box::pin(async { Some(self.look().await) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_volume_is_looked_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = folder.path().join("inside");
        std::fs::create_dir(&inside).expect("a new folder");
        let missing = folder.path().join("missing");
        let disks = Disks::new([folder.path().into(), inside, missing, folder.path().into()]);
        let signals = disks.look().await;
        assert_eq!(signals.len(), 1, "{signals:?}");
        assert_eq!(signals[0].subject.stored(), folder.path().display().to_string());
        assert!(signals[0].value > 0);
    }
}
