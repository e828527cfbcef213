//! Whether an app's compose file has changed since its containers were made.
//!
//! Compose itself is asked, by the hash that it labels containers with: that costs a
//! second, so it is asked only where a file in the app's folder is newer than the
//! containers, and once for each such change.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::debug;

use super::Compose;
use super::files::file_of;
use crate::wake::docker::Container;

/// Files of a folder that are looked at; a project has a handful.
const MOST_FILES: usize = 64;

/// What a file was when it was looked at: path, inode, size, and the time of its change
/// in nanoseconds. Its inode's time changes with every write and every rename.
type Stamp = (PathBuf, u64, u64, i128);

/// The files an app's containers were last found to be made from, and those containers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checked {
    files: Vec<Stamp>,
    containers: Vec<String>,
}

impl Compose {
    /// Whether Compose would make other containers than these, which it has made.
    pub(in crate::wake) async fn is_changed(
        &self,
        app: &str,
        project: &str,
        made: &[&Container],
    ) -> bool {
        let (dir, name) = (self.installed_apps_dir.clone(), app.to_owned());
        let look = self.calls.run(move || {
            let look = || {
                let file = file_of(&dir, &name)?;
                Some((stamps(file.parent()?), file))
            };
            Ok(look())
        });
        let Ok(Some((files, file))) = look.await else { return false };
        let newest = files.iter().map(|(.., changed)| *changed).max().unwrap_or_default();
        let oldest = made.iter().map(|container| made_at(&container.created)).min();
        if oldest.is_none_or(|oldest| oldest > newest) {
            return false;
        }
        let mut containers: Vec<_> = made.iter().map(|c| c.id.to_string()).collect();
        containers.sort_unstable();
        let checked = Checked { files, containers };
        if self.checked().get(app) == Some(&checked) {
            return false;
        }
        // What was made from others than there are is left as it is.
        let Some(all) = self.files.all(app, &file).await else { return false };
        let Some(hashes) = self.hashes(&all, project).await else { return false };
        let is_same = |container: &&Container| {
            let belongs = &container.belongs;
            let service = belongs.service.as_deref().unwrap_or_default();
            // One whose service is in the file no more is left to its owner.
            hashes.get(service).is_none_or(|hash| Some(hash) == belongs.config_hash.as_ref())
        };
        let is_there = |service: &String| {
            made.iter().any(|container| container.belongs.service.as_ref() == Some(service))
        };
        let is_changed = !made.iter().all(is_same) || !hashes.keys().all(is_there);
        // What has changed is noted by whoever applies it.
        let containers = if is_changed { Vec::new() } else { checked.containers };
        self.checked().insert(app.to_owned(), Checked { containers, ..checked });
        is_changed
    }

    /// Notes that these containers are what Compose made of the files as they were when
    /// they were found to be changed: a service that is scaled to none has no container.
    pub(in crate::wake) fn note_applied<'a>(
        &self,
        app: &str,
        made: impl Iterator<Item = &'a Container>,
    ) {
        if let Some(checked) = self.checked().get_mut(app)
            && checked.containers.is_empty()
        {
            checked.containers = made.map(|container| container.id.to_string()).collect();
            checked.containers.sort_unstable();
        }
    }

    /// The hash of each service's configuration, as Compose labels its containers.
    async fn hashes(&self, files: &[PathBuf], project: &str) -> Option<HashMap<String, String>> {
        let mut command = self.command(files, project, &["config", "--hash", "*"]).await?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = async { self.start(command).await?.wait_with_output().await };
        match tokio::time::timeout(Duration::from_secs(30), output).await {
            Ok(Ok(output)) if output.status.success() => {
                let text = String::from_utf8_lossy(&output.stdout);
                let pairs = text.lines().filter_map(|line| line.split_once(' '));
                let pairs = pairs.map(|(name, hash)| (name.to_owned(), hash.trim().to_owned()));
                Some(pairs.collect()).filter(|hashes: &HashMap<_, _>| !hashes.is_empty())
            }
            Ok(Ok(output)) => {
                let said = String::from_utf8_lossy(&output.stderr);
                debug!(?files, %said, "compose cannot read the files");
                None
            }
            _ => None,
        }
    }
}

/// The files in a folder that a project may be made from: compose files and what they
/// include, and files of variables.
fn stamps(folder: &Path) -> Vec<Stamp> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let is_one = |name: &str| {
        let endings = [".yml", ".yaml", ".env"];
        name.starts_with(".env") || endings.iter().any(|ending| name.ends_with(ending))
    };
    let mut stamps: Vec<Stamp> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_one))
        .filter_map(|entry| {
            // Also of what a link leads to.
            let metadata = std::fs::metadata(entry.path()).ok()?;
            Some((entry.path(), metadata.ino(), metadata.size(), changed_at(&metadata)))
        })
        .take(MOST_FILES)
        .collect();
    stamps.sort();
    stamps
}

fn changed_at(metadata: &Metadata) -> i128 {
    i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec())
}

/// In nanoseconds since 1970; of what cannot be read, never.
fn made_at(created: &str) -> i128 {
    let at = humantime::parse_rfc3339(created).unwrap_or(SystemTime::UNIX_EPOCH);
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or_default()
}
