//! Uses of apps and terminals, written back in the background.
//!
//! A request only stores a number in a [`Use`]. A background task writes the uses, one
//! statement per table and interval. While the store does not accept them, uses stay
//! pending. There is one for each app and terminal, however many requests there were, so
//! an outage takes no additional memory.

use std::convert::Infallible;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::{Source, Touched};
use crate::config;

/// The last use of one app or one terminal.
#[derive(Debug)]
pub struct Use {
    touched: Touched,
    key: Arc<str>,
    /// Milliseconds since 1970.
    latest: AtomicU64,
    written: AtomicU64,
    /// Whether the next flush will write this use.
    pending: AtomicBool,
}

/// All uses that are held by a caller, and some that are not.
#[derive(Debug)]
struct Uses {
    /// By table and key, which stand in the use.
    by_row: HashTable<Arc<Use>>,
    hash: RandomState,
    /// The number of entries above which uses that no caller holds are removed.
    forget_above: usize,
}

/// Every use since the start, and those still to be written.
#[derive(Debug)]
pub struct Touches {
    times: config::Touch,
    uses: Mutex<Uses>,
    pending: Mutex<Vec<Arc<Use>>>,
    /// Held during a flush, so that the last flush waits for one that is running.
    writing: tokio::sync::Mutex<()>,
}

/// Uses of one table that were taken to be written. When it is dropped, those that are not
/// written are pending again.
struct Batch<'a> {
    touches: &'a Touches,
    touched: Touched,
    uses: Vec<(Arc<str>, SystemTime)>,
    unwritten: Vec<Arc<Use>>,
}

impl Batch<'_> {
    fn note_written(mut self) {
        for (used, (_, at)) in std::mem::take(&mut self.unwritten).iter().zip(&self.uses) {
            used.written.store(millis(*at), Ordering::Release);
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.touches.put_back(std::mem::take(&mut self.unwritten));
    }
}

/// Uses of one row within this time, in milliseconds, count as one. It is shorter than the
/// differences that shard_core's own readers distinguish.
const RESOLUTION: u64 = 200;

/// If a use is older than the last one by more than this, in milliseconds, the clock was set
/// back: no slow thread is that late.
const SET_BACK_MARGIN: u64 = 5000;

/// The initial value of [`Uses::forget_above`].
const FORGET_ABOVE: usize = 1 << 16;

impl Touches {
    #[must_use]
    pub fn new(times: config::Touch) -> Self {
        let uses = Uses {
            by_row: HashTable::new(),
            hash: RandomState::default(),
            forget_above: FORGET_ABOVE,
        };
        Self {
            times,
            uses: Mutex::new(uses),
            pending: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    /// Returns the use of one row. Call it once when the row is loaded, not per request.
    #[must_use]
    pub fn get(&self, touched: Touched, key: &Arc<str>) -> Arc<Use> {
        let mut uses = lock(&self.uses);
        let Uses { by_row, hash, forget_above } = &mut *uses;
        if by_row.len() > *forget_above {
            by_row.retain(|used| Arc::strong_count(used) > 1);
            // If most are held, the next cleanup waits until the number has doubled.
            *forget_above = FORGET_ABOVE.max(2 * by_row.len());
        }
        let digest = hash.hash_one((touched, &**key));
        let used = by_row.entry(
            digest,
            |used| used.is_of(touched, key),
            |used| hash.hash_one((used.touched, &*used.key)),
        );
        let used = used.or_insert_with(|| {
            Arc::new(Use {
                touched,
                key: Arc::clone(key),
                latest: AtomicU64::new(0),
                written: AtomicU64::new(0),
                pending: AtomicBool::new(false),
            })
        });
        Arc::clone(used.get())
    }

    /// Returns the shortest time between two writes of one use, in milliseconds.
    fn min_interval(&self, touched: Touched) -> u64 {
        let interval = match touched {
            Touched::App => self.times.last_access_every,
            Touched::Terminal => Duration::ZERO,
        };
        u64::try_from(interval.as_millis()).unwrap_or(u64::MAX)
    }

    /// Records a use at `now`. Takes a lock only for the first use after a write.
    pub fn touch(&self, used: &Arc<Use>, now: SystemTime) {
        let now = millis(now);
        // A burst of requests writes to the shared cache line once.
        let latest = used.latest.load(Ordering::SeqCst);
        if is_set_back(now, latest) {
            used.latest.store(now, Ordering::SeqCst);
        } else if now < latest.saturating_add(RESOLUTION) {
            return;
        } else {
            used.latest.fetch_max(now, Ordering::SeqCst);
        }
        let written = used.written.load(Ordering::Relaxed);
        let min_interval = self.min_interval(used.touched);
        if now < written.saturating_add(min_interval) && !is_set_back(now, written) {
            return;
        }
        if !used.pending.load(Ordering::Acquire) && !used.pending.swap(true, Ordering::AcqRel) {
            lock(&self.pending).push(Arc::clone(used));
        }
    }

    /// Returns when an app was last used since the start, to a fifth of a second; `None` if it
    /// was not used.
    ///
    /// Sequentially consistent with [`Touches::touch`]: a caller that first closes
    /// the app to requests sees the use of every request that was still let through.
    #[must_use]
    pub fn last_use(&self, app: &Arc<str>) -> Option<SystemTime> {
        let uses = lock(&self.uses);
        let digest = uses.hash.hash_one((Touched::App, &**app));
        let used = uses.by_row.find(digest, |used| used.is_of(Touched::App, app))?;
        match used.latest.load(Ordering::SeqCst) {
            0 => None,
            at => Some(UNIX_EPOCH + Duration::from_millis(at)),
        }
    }

    /// Returns the number of uses that are waiting to be written.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.pending).len()
    }

    /// Writes the pending uses now. Those that are not written stay pending, whether the
    /// store does not accept them, the write panics or the call is cancelled.
    pub async fn flush(&self, source: &Source) {
        let _guard = self.writing.lock().await;
        for batch in self.take_pending() {
            if batch.uses.is_empty() {
                continue;
            }
            match source.write_touches(batch.touched, &batch.uses).await {
                Ok(()) => batch.note_written(),
                Err(error) => {
                    let count = batch.uses.len();
                    tracing::warn!(%error, count, "uses not written; still pending");
                }
            }
        }
    }

    /// Takes all pending uses, as one batch for each table.
    fn take_pending(&self) -> [Batch<'_>; 2] {
        let pending = std::mem::take(&mut *lock(&self.pending));
        let (apps, terminals): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|used| used.touched == Touched::App);
        [(Touched::App, apps), (Touched::Terminal, terminals)].map(|(touched, unwritten)| Batch {
            touches: self,
            touched,
            uses: unwritten.iter().map(|used| used.take()).collect(),
            unwritten,
        })
    }

    fn put_back(&self, unwritten: Vec<Arc<Use>>) {
        let mut pending = lock(&self.pending);
        // A use that was touched meanwhile is pending already.
        pending.extend(
            unwritten.into_iter().filter(|used| !used.pending.swap(true, Ordering::AcqRel)),
        );
    }

    /// Flushes at every interval, for the life of the process.
    pub async fn run(&self, source: &Source) -> Infallible {
        loop {
            tokio::time::sleep(self.times.flush_interval).await;
            self.flush(source).await;
        }
    }
}

impl Use {
    fn is_of(&self, touched: Touched, key: &str) -> bool {
        self.touched == touched && *self.key == *key
    }

    /// Returns what is to be written. A touch after this call requests another write.
    fn take(&self) -> (Arc<str>, SystemTime) {
        self.pending.store(false, Ordering::Release);
        let at = UNIX_EPOCH + Duration::from_millis(self.latest.load(Ordering::Acquire));
        (Arc::clone(&self.key), at)
    }
}

fn is_set_back(now: u64, noted: u64) -> bool {
    now.saturating_add(SET_BACK_MARGIN) < noted
}

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touches() -> Touches {
        Touches::new(config::Touch {
            flush_interval: Duration::from_secs(1),
            last_access_every: Duration::from_secs(60),
        })
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn many_uses_are_one_write() {
        let touches = touches();
        let used = touches.get(Touched::Terminal, &"t".into());
        for second in 1..100 {
            touches.touch(&used, at(second));
        }
        assert_eq!(touches.waiting(), 1);
        assert_eq!(used.take().1, at(99));
    }

    #[test]
    fn uses_more_than_a_fifth_of_a_second_apart_are_told_apart() {
        let touches = touches();
        let used = touches.get(Touched::Terminal, &"t".into());
        let mut seen = Vec::new();
        for millis in [0, 100, 199, 201, 350, 402, 700] {
            touches.touch(&used, at(1000) + Duration::from_millis(millis));
            seen.push(used.take().1);
        }
        let expected = [0, 0, 0, 201, 201, 402, 700];
        assert_eq!(seen, expected.map(|millis| at(1000) + Duration::from_millis(millis)));
    }

    #[test]
    fn an_app_is_written_at_most_once_in_its_time() {
        let touches = touches();
        let used = touches.get(Touched::App, &"a".into());
        touches.touch(&used, at(1000));
        let pending = std::mem::take(&mut *lock(&touches.pending));
        used.written.store(millis(pending[0].take().1), Ordering::Release);
        touches.touch(&used, at(1059));
        assert_eq!(touches.waiting(), 0);
        touches.touch(&used, at(1060));
        assert_eq!(touches.waiting(), 1);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_hide_uses() {
        let touches = touches();
        let (app, used) = ("a".into(), touches.get(Touched::App, &"a".into()));
        touches.touch(&used, at(10_000));
        let pending = std::mem::take(&mut *lock(&touches.pending));
        used.written.store(millis(pending[0].take().1), Ordering::Release);
        touches.touch(&used, at(9_999));
        assert_eq!(touches.last_use(&app), Some(at(10_000)), "a slow thread");
        touches.touch(&used, at(6_400));
        assert_eq!(touches.last_use(&app), Some(at(6_400)));
        assert_eq!(touches.waiting(), 1, "others are to know of it");
        touches.touch(&used, at(6_410));
        assert_eq!(touches.last_use(&app), Some(at(6_410)));
    }

    #[test]
    fn a_refused_use_waits_once() {
        let touches = touches();
        let used = touches.get(Touched::App, &"a".into());
        touches.touch(&used, at(1000));
        let pending = std::mem::take(&mut *lock(&touches.pending));
        pending[0].take();
        touches.touch(&used, at(1001));
        touches.put_back(pending);
        assert_eq!(touches.waiting(), 1);
        assert_eq!(used.take().1, at(1001));
    }

    /// One app and one terminal, both used.
    fn two_used(touches: &Touches) -> [Arc<Use>; 2] {
        [Touched::App, Touched::Terminal].map(|touched| {
            let used = touches.get(touched, &"a".into());
            touches.touch(&used, at(1000));
            used
        })
    }

    #[tokio::test]
    async fn uses_of_a_flush_that_is_cancelled_are_written_by_the_next() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let mut config =
            crate::config::load(None, &crate::config::Environment::new()).expect("defaults");
        config.store.kind = config::StoreKind::Postgres(config::Postgres {
            url: config::Secret::new(format!("postgres://nobody@127.0.0.1:{port}/none")),
            pool_size: 1,
            pool_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(60),
            query_timeout: Duration::from_secs(60),
            create_tables: false,
        });
        let freshness = Arc::new(super::super::Freshness::new(config.cache.clone()));
        let source = Source::open(&config, &freshness).expect("a valid configuration");
        let touches = touches();
        let [app, _] = two_used(&touches);
        {
            let mut flush = std::pin::pin!(touches.flush(&source));
            tokio::select! {
                () = &mut flush => panic!("the server does not answer"),
                accepted = listener.accept() => {
                    let _open = accepted.expect("a connection");
                    assert_eq!(touches.waiting(), 0, "they are being written");
                }
            }
        }
        assert_eq!(touches.waiting(), 2);
        assert_eq!(app.take().1, at(1000));
    }

    #[test]
    fn uses_of_a_write_that_panics_stay_pending() {
        let touches = touches();
        let used = two_used(&touches);
        let write = std::panic::AssertUnwindSafe(|| {
            let [apps, _terminals] = touches.take_pending();
            apps.note_written();
            panic!("on purpose");
        });
        std::panic::catch_unwind(write).expect_err("it panics");
        assert_eq!(touches.waiting(), 1, "the terminal");
        for used in &used {
            touches.touch(used, at(2000));
        }
        assert_eq!(touches.waiting(), 2, "each once");
    }

    #[test]
    fn no_use_is_lost_between_touch_and_take() {
        let touches = touches();
        let used = touches.get(Touched::Terminal, &"t".into());
        let last = 20_000;
        let seen = std::thread::scope(|scope| {
            scope.spawn(|| (1..=last).for_each(|second| touches.touch(&used, at(second))));
            let mut seen = SystemTime::UNIX_EPOCH;
            while seen < at(last) {
                for used in std::mem::take(&mut *lock(&touches.pending)) {
                    seen = seen.max(used.take().1);
                }
            }
            seen
        });
        assert_eq!(seen, at(last));
    }
}
