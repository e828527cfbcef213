//! Detects whether an app's compose file has changed since its containers were created.
//!
//! Compose itself computes the hash that it labels containers with. That takes a second,
//! so it is run only if a file of the project is newer than the containers or has changed
//! since the last check, and once for each such change.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::debug;

use super::Compose;
use super::files::{file_of, known_of};
use super::inputs::{FileStamp, stamps};
use crate::wake::docker::Container;

/// The files that were last checked against an app's containers, and those containers;
/// none if a change was found that is not applied yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Checked {
    files: Vec<FileStamp>,
    containers: Vec<String>,
}

impl Compose {
    /// Returns whether Compose would now create containers that differ from these, which
    /// it created.
    pub(in crate::wake) async fn is_changed(
        &self,
        app: &str,
        project: &str,
        created: &[&Container],
    ) -> bool {
        let (dir, name) = (self.installed_apps_dir.clone(), app.to_owned());
        let made_from = self.files.last_made_from(app);
        let search = self.calls.run(move || {
            let search = || {
                let file = file_of(&dir, &name)?;
                Some((stamps(file.parent()?, known_of(&file, &made_from)), file))
            };
            Ok(search())
        });
        let Ok(Some((files, file))) = search.await else { return false };
        let newest = files.iter().map(|(.., changed)| *changed).max().unwrap_or_default();
        let oldest = created.iter().map(|container| created_at(&container.created)).min();
        let Some(oldest) = oldest else { return false };
        let mut containers: Vec<_> = created.iter().map(|c| c.id.to_string()).collect();
        containers.sort_unstable();
        let checked = Checked { files, containers };
        // A folder that was exchanged for an older one, or a clock that was set, shows only
        // in the comparison with the last check.
        {
            let mut all = self.checked();
            let last = all.get(app);
            if last == Some(&checked) {
                return false;
            }
            let is_known = last.is_some_and(|last| {
                last.containers.is_empty() || last.containers == checked.containers
            });
            if !is_known && oldest > newest {
                all.insert(app.to_owned(), checked);
                return false;
            }
        }
        // Containers that were created from files that no longer exist are left as they
        // are.
        let Some(all) = self.files.all(app, &file).await else { return false };
        let Some(hashes) = self.hashes(&all, project).await else { return false };
        let is_same = |container: &&Container| {
            let labels = &container.labels;
            let service = labels.service.as_deref().unwrap_or_default();
            // A container whose service is no longer in the file is left alone.
            hashes.get(service).is_none_or(|hash| Some(hash) == labels.config_hash.as_ref())
        };
        let has_container = |service: &String| {
            created.iter().any(|container| container.labels.service.as_ref() == Some(service))
        };
        let is_changed = !created.iter().all(is_same) || !hashes.keys().all(has_container);
        // A change is noted as checked only when it is applied.
        let containers = if is_changed { Vec::new() } else { checked.containers };
        self.checked().insert(app.to_owned(), Checked { containers, ..checked });
        is_changed
    }

    /// Notes that Compose created these containers from the files in the state in which a
    /// change was found. This is needed because a service that is scaled to zero has no
    /// container, and would count as changed for ever.
    pub(in crate::wake) fn note_applied<'a>(
        &self,
        app: &str,
        created: impl Iterator<Item = &'a Container>,
    ) {
        if let Some(checked) = self.checked().get_mut(app)
            && checked.containers.is_empty()
        {
            checked.containers = created.map(|container| container.id.to_string()).collect();
            checked.containers.sort_unstable();
        }
    }

    /// Returns the hash of each service's configuration, as Compose labels its
    /// containers.
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
                let message = String::from_utf8_lossy(&output.stderr);
                debug!(?files, %message, "compose cannot read the files");
                None
            }
            _ => None,
        }
    }
}

/// Returns nanoseconds since 1970; 0 for a time that cannot be parsed.
fn created_at(created: &str) -> i128 {
    let at = humantime::parse_rfc3339(created).unwrap_or(SystemTime::UNIX_EPOCH);
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos()).unwrap_or_default()
}
