//! What describes an app: its `app_meta.json`, or else the labels of its containers.
//!
//! A file counts, whatever labels say: its author meant it. A file that cannot be used
//! is not replaced by labels, which may say less. Only if there is no file do labels count.

mod claims;

use std::collections::HashSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use self::claims::FileClaims;
use super::app_meta::{AppMetaDir, ReadError, WRITE_GRACE};
use super::labels::Labels;
use super::{Freshness, Unavailable};
use crate::domain::app::AppMeta;
use crate::domain::app::labels::app_key;
use crate::domain::names::Claims;

/// The descriptions of all apps.
#[derive(Debug)]
pub struct Descriptions {
    dir: AppMetaDir,
    /// `None` if labels do not count.
    labels: Option<Arc<Labels>>,
    claims: FileClaims,
    /// Apps with labels that had a file when they were last read, in lower case.
    with_file: Mutex<HashSet<Arc<str>>>,
}

impl Descriptions {
    #[must_use]
    pub fn new(dir: PathBuf, labels: Option<Arc<Labels>>, freshness: &Arc<Freshness>) -> Self {
        let dir = AppMetaDir::new(dir);
        let claims = FileClaims::new(dir.clone(), Arc::clone(freshness));
        Self { dir, labels, claims, with_file: Mutex::default() }
    }

    /// Returns what is known of labels; `None` if they do not count.
    #[must_use]
    pub fn labels(&self) -> Option<&Arc<Labels>> {
        self.labels.as_ref()
    }

    /// Reads the description of an app.
    ///
    /// # Errors
    /// Why there is none, worded for the operator.
    pub async fn read(&self, app: &str) -> Result<AppMeta, ReadError> {
        let Some(labels) = &self.labels else { return self.dir.read(app).await };
        let key = app_key(app);
        // An editor may have removed the file to write it anew.
        let had_file = self.with_file().contains(&key);
        let deadline = Instant::now() + WRITE_GRACE;
        let read = loop {
            match self.dir.read(app).await {
                Err(ReadError::Missing(_)) if had_file && Instant::now() < deadline => {
                    sleep(WRITE_GRACE / 10).await;
                }
                read => break read,
            }
        };
        // Read last, since its generation was noted first.
        let described = labels.get(app);
        match (&read, described) {
            (Err(ReadError::Missing(_)), Some(described)) => {
                self.with_file().remove(&key);
                match &described.meta {
                    Ok(meta) => Ok(meta.clone()),
                    Err(findings) => {
                        let all: Vec<_> = findings.iter().map(ToString::to_string).collect();
                        Err(ReadError::Unusable(all.join("; ")))
                    }
                }
            }
            (Err(ReadError::Missing(_)), None) | (Err(ReadError::Unavailable(_)), _) => read,
            (Ok(_) | Err(ReadError::Unusable(_)), described) => {
                if described.is_some() {
                    self.with_file().insert(key);
                }
                read
            }
        }
    }

    /// Returns what the operator should know of an app's labels: why they cannot be used,
    /// what is missing, or that a file counts in their place.
    #[must_use]
    pub fn problems(&self, app: &str) -> Vec<String> {
        let described = self.labels.as_ref().and_then(|labels| labels.get(app));
        let Some(described) = described else { return Vec::new() };
        let has_file = self.with_file().contains(&app_key(app));
        match (has_file, &described.meta) {
            (true, _) if described.is_described => {
                vec!["app_meta.json counts, and the labels that describe the app do not".into()]
            }
            (true, _) => Vec::new(),
            (false, Ok(_)) => described.notices.iter().map(ToString::to_string).collect(),
            (false, Err(findings)) => findings.iter().map(ToString::to_string).collect(),
        }
    }

    /// Returns the hosts that apps claim. Labels of the apps for which `has_file` holds do
    /// not count.
    pub(super) fn claims(&self, has_file: impl Fn(&str) -> bool) -> Vec<Claims> {
        let mut claims = self.claims.all();
        let labelled = self.labels.iter().flat_map(|labels| labels.apps());
        let claiming =
            labelled.filter(|(app, described)| !described.hosts.is_empty() && !has_file(app));
        claims.extend(
            claiming.map(|(app, described)| Claims { app, hosts: described.hosts.clone() }),
        );
        claims
    }

    /// Has [`Descriptions::settled`] wait for the first scan of [`Descriptions::watch`].
    pub fn begin(&self) {
        self.claims.begin();
    }

    /// Returns when the files have been read for the first time, if they are being watched,
    /// or when that takes too long.
    pub(super) async fn settled(&self) {
        self.claims.settled().await;
    }

    /// Reads the hosts that all files claim, for commands, which do not follow them.
    pub async fn read_claims(&self) {
        if let Ok(apps) = self.dir.apps().await {
            self.claims.read_once(apps).await;
        }
    }

    /// Follows the files for the life of the process. With `names`, the folders are also the
    /// set of installed apps. `first_scan` is notified when all files have been found once,
    /// whether or not that succeeded.
    pub async fn watch(
        &self,
        freshness: Arc<Freshness>,
        names: bool,
        first_scan: oneshot::Sender<()>,
    ) -> Infallible {
        let (changed, apps) = mpsc::unbounded_channel();
        let (scan_done, scanned) = oneshot::channel();
        let dir = self.dir.clone().telling(changed);
        let files = dir.watch(freshness, names, scan_done);
        let claims = self.claims.follow(apps, scanned, first_scan);
        tokio::select! {
            never = files => never,
            never = claims => never,
        }
    }

    /// Returns the names of all folders that contain an `app_meta.json`.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub async fn folders(&self) -> Result<Vec<String>, Unavailable> {
        self.dir.apps().await
    }

    fn with_file(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        self.with_file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
