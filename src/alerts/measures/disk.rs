//! The free space of the volumes that matter.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use futures_util::future::{BoxFuture, join_all};

use super::measurement;
use crate::alerts::measurement::{Measure, MeasureContext, Measurement};
use crate::alerts::plan::Key;
use crate::alerts::rule::Rule;
use crate::alerts::subject::Subject;
use crate::store::file_calls::FileCalls;

/// The free space of the volumes of some folders.
#[derive(Debug)]
pub struct Disks {
    folders: Vec<(PathBuf, FileCalls)>,
    /// What each folder's volume last answered.
    known: Mutex<BTreeMap<PathBuf, Volume>>,
}

/// A volume, by the number that the system knows it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Volume {
    number: u64,
    /// In bytes.
    free: u64,
}

impl Disks {
    #[must_use]
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        let folders: BTreeSet<PathBuf> = folders.into_iter().collect();
        let folders = folders.into_iter().map(|folder| (folder, FileCalls::new())).collect();
        Self { folders, known: Mutex::default() }
    }

    async fn look(&self, firing: &BTreeSet<Key>) -> Vec<Measurement> {
        let measured = join_all(self.folders.iter().map(|(folder, calls)| async move {
            let path = folder.clone();
            let measured = calls.run(move || {
                let free = rustix::fs::statvfs(&path)?;
                let free = free.f_bavail.saturating_mul(free.f_frsize);
                Ok(Volume { number: rustix::fs::stat(&path)?.st_dev, free })
            });
            (folder, measured.await)
        }));
        self.judge(measured.await, firing)
    }

    fn judge<'a>(
        &self,
        measured: impl IntoIterator<Item = (&'a PathBuf, io::Result<Volume>)>,
        firing: &BTreeSet<Key>,
    ) -> Vec<Measurement> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut numbers = BTreeSet::new();
        let mut measurements = Vec::new();
        for (folder, measured) in measured {
            let subject = Subject::Folder(folder.display().to_string().into());
            match measured {
                Ok(volume) => {
                    known.insert(folder.clone(), volume);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    known.remove(folder);
                    continue;
                }
                // A volume that does not answer has not got more space: what was known stays.
                Err(_) => {}
            }
            match known.get(folder) {
                Some(Volume { number, free }) if numbers.insert(*number) => {
                    let detail = format!("{} MiB are free", free >> 20);
                    measurements.push(measurement(Rule::DiskLow, subject, *free, detail));
                }
                None if firing.contains(&(Rule::DiskLow, subject.clone())) => {
                    let detail = "the volume does not answer";
                    measurements.push(measurement(Rule::DiskLow, subject, 0, detail));
                }
                _ => {}
            }
        }
        measurements
    }
}

impl Measure for Disks {
    fn rules(&self) -> &'static [Rule] {
        &[Rule::DiskLow]
    }

    fn measure<'a>(
        &'a self,
        context: MeasureContext<'a>,
    ) -> BoxFuture<'a, Option<Vec<Measurement>>> {
        Box::pin(async move { Some(self.look(context.firing).await) })
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
        let measurements = disks.look(&BTreeSet::new()).await;
        assert_eq!(measurements.len(), 1, "{measurements:?}");
        assert_eq!(measurements[0].subject.stored(), folder.path().display().to_string());
        assert!(measurements[0].value > 0);
    }

    #[test]
    fn a_volume_that_does_not_answer_is_as_it_was() {
        let folder = PathBuf::from("/data");
        let subject = Subject::Folder("/data".into());
        let hangs = || Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
        let values = |disks: &Disks, measured, firing: &BTreeSet<Key>| -> Vec<u64> {
            let measurements = disks.judge([(&folder, measured)], firing);
            measurements.iter().map(|measurement| measurement.value).collect()
        };
        let (none, firing) = (BTreeSet::new(), BTreeSet::from([(Rule::DiskLow, subject)]));
        let disks = Disks::new([folder.clone()]);
        assert_eq!(values(&disks, hangs(), &none), [] as [u64; 0]);
        assert_eq!(values(&disks, hangs(), &firing), [0], "what another process has seen");
        assert_eq!(values(&disks, Ok(Volume { number: 1, free: 7 }), &none), [7]);
        assert_eq!(values(&disks, hangs(), &firing), [7]);
        let missing = || Err(io::ErrorKind::NotFound.into());
        assert_eq!(values(&disks, missing(), &firing), [] as [u64; 0]);
    }

    #[test]
    fn two_volumes_are_told_apart_and_the_same_one_is_told_once() {
        let folders = [PathBuf::from("/a"), PathBuf::from("/b"), PathBuf::from("/c")];
        let volumes = [(1, 10), (2, 20), (1, 10)];
        let measured = folders.iter().zip(volumes);
        let measured =
            measured.map(|(folder, (number, free))| (folder, Ok(Volume { number, free })));
        let measurements = Disks::new(folders.clone()).judge(measured, &BTreeSet::new());
        let subjects: Vec<_> =
            measurements.iter().map(|measurement| measurement.subject.stored()).collect();
        assert_eq!(subjects, ["/a", "/b"]);
    }
}
