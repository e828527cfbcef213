//! The whole hosts that `app_meta.json` files claim.
//!
//! They are read when a file changes, and not when a request asks: a request for an unknown
//! host must cost nothing. A file that cannot be used leaves its app's claims as they were.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::domain::names::Claims;
use crate::store::app_meta::{AppMetaDir, RawRead, WRITE_GRACE};
use crate::store::{Freshness, Table};

/// How long requests wait for the first scan of the files.
const FIRST_SCAN: Duration = Duration::from_secs(1);

/// How long to wait before a file is read again that could not be read.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Files that are read in one call.
const BATCH: usize = 64;

#[derive(Debug)]
pub(super) struct FileClaims {
    dir: AppMetaDir,
    freshness: Arc<Freshness>,
    /// Only of apps that claim any.
    hosts: Mutex<BTreeMap<String, Vec<String>>>,
    /// Whether the first scan is being waited for.
    pending: watch::Sender<bool>,
}

impl FileClaims {
    pub(super) fn new(dir: AppMetaDir, freshness: Arc<Freshness>) -> Self {
        Self { dir, freshness, hosts: Mutex::default(), pending: watch::Sender::new(false) }
    }

    pub(super) fn begin(&self) {
        self.pending.send_replace(true);
    }

    pub(super) async fn settled(&self) {
        if *self.pending.borrow() {
            let mut pending = self.pending.subscribe();
            // Afterwards as without any hosts: a folder that hangs must not hold all apps.
            if timeout(FIRST_SCAN, pending.wait_for(|pending| !pending)).await.is_err() {
                self.pending.send_replace(false);
            }
        }
    }

    pub(super) fn all(&self) -> Vec<Claims> {
        let hosts = self.lock();
        let claims = hosts
            .iter()
            .map(|(app, hosts)| Claims { app: app.as_str().into(), hosts: hosts.clone() });
        claims.collect()
    }

    /// Reads the files of the apps that are named on the channel, for the life of the process.
    pub(super) async fn follow(
        &self,
        mut apps: mpsc::UnboundedReceiver<String>,
        mut scanned: oneshot::Receiver<()>,
        first_scan: oneshot::Sender<()>,
    ) -> Infallible {
        let mut first_scan = Some(first_scan);
        let (mut changed, mut again) = (BTreeSet::new(), BTreeSet::new());
        loop {
            tokio::select! {
                biased;
                app = apps.recv() => changed.extend(app),
                // What the scan has found is in the channel.
                _ = &mut scanned, if first_scan.is_some() => {
                    while let Ok(app) = apps.try_recv() {
                        changed.insert(app);
                    }
                    self.read_all(&mut changed, &mut again).await;
                    self.pending.send_replace(false);
                    if let Some(first_scan) = first_scan.take() {
                        // The receiver may have been dropped.
                        let _ = first_scan.send(());
                    }
                }
                () = sleep(RETRY_DELAY), if !again.is_empty() => changed.append(&mut again),
            }
            while let Ok(app) = apps.try_recv() {
                changed.insert(app);
            }
            self.read_all(&mut changed, &mut again).await;
        }
    }

    /// Reads the files of these apps.
    pub(super) async fn read_once(&self, apps: Vec<String>) {
        self.read_all(&mut apps.into_iter().collect(), &mut BTreeSet::new()).await;
    }

    /// Reads the files of `changed`, which is empty afterwards.
    async fn read_all(&self, changed: &mut BTreeSet<String>, again: &mut BTreeSet<String>) {
        let mut missing = Vec::new();
        while !changed.is_empty() {
            let rest = changed.iter().nth(BATCH).cloned();
            let rest = rest.map_or_else(BTreeSet::new, |first| changed.split_off(&first));
            let batch: Vec<_> = std::mem::replace(changed, rest).into_iter().collect();
            let known: Vec<_> = {
                let hosts = self.lock();
                batch.iter().map(|app| hosts.contains_key(app)).collect()
            };
            for ((app, read), is_known) in self.dir.read_raw(batch).await.into_iter().zip(known) {
                match read {
                    RawRead::Content(json) => {
                        if is_known || mentions_hosts(&json) {
                            // Waits if the file is still being written.
                            if let Ok(meta) = self.dir.read(&app).await {
                                self.set(&app, &meta.hosts);
                            }
                        }
                    }
                    RawRead::Missing if is_known => missing.push(app),
                    RawRead::Missing => {}
                    RawRead::Failed => drop(again.insert(app)),
                }
            }
        }
        if missing.is_empty() {
            return;
        }
        // An editor may have removed it to write it anew.
        sleep(WRITE_GRACE).await;
        for (app, read) in self.dir.read_raw(missing).await {
            match read {
                RawRead::Missing => self.set(&app, &[]),
                RawRead::Content(_) | RawRead::Failed => drop(again.insert(app)),
            }
        }
    }

    fn set(&self, app: &str, claimed: &[String]) {
        let mut hosts = self.lock();
        let before = if claimed.is_empty() {
            hosts.remove(app)
        } else {
            hosts.insert(app.to_owned(), claimed.to_vec())
        };
        drop(hosts);
        if before.unwrap_or_default() != claimed {
            self.freshness.invalidate_table(Table::Hosts);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<String>>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a file may have the key `hosts`, which JSON may write with escapes.
fn mentions_hosts(json: &[u8]) -> bool {
    let has = |text: &[u8]| json.windows(text.len()).any(|part| part == text);
    has(b"hosts") || has(b"\\u")
}
