//! Counts denials by client and by address.
//!
//! What counts: every denial that is the caller's doing, whatever its reason; not those for
//! want of the store or of a usable app. A known client is counted by its id, all others by
//! their address. A denial is ordinary, since a browser that is not paired gets one whenever it
//! opens a private page; a credential that is refused is less so, and counts ten times.
//!
//! Each thread counts in a table of its own, as in [`crate::ledger::rollup`]: a request that
//! is denied writes to nothing that threads share, and one that is granted to nothing.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, header};
use thread_local::ThreadLocal;

use super::heavy_hitters::HeavyHitters;
use super::subject::{Origin, Subject};
use crate::domain::endpoint::{Endpoint, VerdictKind};
use crate::domain::observation::{Observation, Observer};
use crate::domain::reason::Reason;

/// How many callers a thread counts between two looks, and how many are remembered.
const OF_THREAD: usize = 1024;
const REMEMBERED: usize = 8192;

/// How many denials a refused credential counts for.
const REFUSED_CREDENTIAL: u64 = 10;

/// The observer that counts denials.
#[derive(Debug, Default)]
pub struct Denials {
    threads: ThreadLocal<Mutex<Counts>>,
}

#[derive(Debug)]
struct Counts(HeavyHitters<Caller>);

impl Default for Counts {
    fn default() -> Self {
        Self(HeavyHitters::new(OF_THREAD))
    }
}

/// Who was denied.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Caller {
    Client(Arc<str>),
    Address(Origin),
}

/// A [`Caller`] by reference, so that looking one up allocates nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum CallerRef<'a> {
    Client(&'a str),
    Address(Origin),
}

impl Caller {
    fn borrowed(&self) -> CallerRef<'_> {
        match self {
            Self::Client(id) => CallerRef::Client(id),
            Self::Address(origin) => CallerRef::Address(*origin),
        }
    }

    fn subject(&self) -> Subject {
        match self {
            Self::Client(id) => Subject::Client(Arc::clone(id)),
            Self::Address(origin) => Subject::Address(*origin),
        }
    }
}

impl Hash for Caller {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.borrowed().hash(state);
    }
}

impl PartialEq<CallerRef<'_>> for Caller {
    fn eq(&self, other: &CallerRef<'_>) -> bool {
        self.borrowed() == *other
    }
}

impl Denials {
    fn count(&self, caller: CallerRef<'_>, number: u64, own: impl FnOnce() -> Caller) {
        let Counts(counts) = &mut *lock(self.threads.get_or_default());
        counts.add(&caller, number, own);
    }

    /// Counts a credential that was refused elsewhere than in a subrequest.
    pub fn note_refused(&self, origin: Origin) {
        let own = || Caller::Address(origin);
        self.count(CallerRef::Address(origin), REFUSED_CREDENTIAL, own);
    }

    /// Takes the counts of all threads.
    fn take(&self) -> Vec<(Caller, u64)> {
        self.threads.iter().flat_map(|thread| lock(thread).0.take()).collect()
    }
}

impl Observer for Arc<Denials> {
    fn observe(&self, observation: &Observation<'_>) {
        let VerdictKind::Deny(reason) = observation.verdict else { return };
        if !is_the_callers_doing(reason) {
            return;
        }
        if let Some(known) = observation.client.known() {
            let own = || Caller::Client(Arc::clone(&known.id));
            return self.count(CallerRef::Client(&known.id), 1, own);
        }
        let Some(origin) = Origin::from_headers(observation.request) else { return };
        let has_credential = has_credential(observation.endpoint, observation.request);
        let number = if has_credential { REFUSED_CREDENTIAL } else { 1 };
        self.count(CallerRef::Address(origin), number, || Caller::Address(origin));
    }
}

fn is_the_callers_doing(reason: Reason) -> bool {
    !matches!(reason, Reason::BrokenApp | Reason::StoreUnavailable)
}

/// Returns whether a denied request without a known client has a credential.
fn has_credential(endpoint: Endpoint, headers: &HeaderMap) -> bool {
    const COOKIE: &[u8] = b"authorization=";
    let has_cookie = || {
        let mut cookies = headers.get_all(header::COOKIE).iter();
        cookies.any(|line| line.as_bytes().windows(COOKIE.len()).any(|text| text == COOKIE))
    };
    match endpoint {
        Endpoint::Management => headers.contains_key(header::AUTHORIZATION),
        Endpoint::Auth | Endpoint::Terminal => headers.contains_key("signature") || has_cookie(),
    }
}

/// The counts of the last two windows of time. Together they estimate the number within the
/// last window up to now: of the older one the share counts that is not over yet.
#[derive(Debug)]
pub struct Windows {
    length: Duration,
    began: Duration,
    current: HeavyHitters<Caller>,
    previous: HeavyHitters<Caller>,
}

impl Windows {
    /// The windows are this long.
    #[must_use]
    pub fn new(length: Duration) -> Self {
        let counts = || HeavyHitters::new(REMEMBERED);
        Self { length, began: Duration::ZERO, current: counts(), previous: counts() }
    }

    /// Adds what was counted since the last call. Returns the callers with `least` denials or
    /// more within the last window, with their number.
    pub fn look(&mut self, denials: &Denials, now: Duration, least: u64) -> Vec<(Subject, u64)> {
        self.turn(now);
        for (caller, number) in denials.take() {
            self.current.add(&caller.borrowed(), number, || caller.clone());
        }
        let elapsed = now.saturating_sub(self.began).as_secs_f64() / self.length.as_secs_f64();
        let left = (1.0 - elapsed).max(0.0);
        let estimate =
            |caller: &Caller, current: u64| current + share(self.previous.count(caller), left);
        let current = self.current.iter().map(|(caller, count)| (caller, estimate(caller, *count)));
        let only_before =
            self.previous.iter().filter(|(caller, _)| self.current.count(caller) == 0);
        let before = only_before.map(|(caller, count)| (caller, share(*count, left)));
        let frequent = current.chain(before).filter(|(_, count)| *count >= least);
        frequent.map(|(caller, count)| (caller.subject(), count)).collect()
    }

    fn turn(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.began);
        if elapsed < self.length {
            return;
        }
        let current = std::mem::replace(&mut self.current, HeavyHitters::new(REMEMBERED));
        if elapsed < self.length * 2 {
            self.previous = current;
            self.began += self.length;
        } else {
            self.previous = HeavyHitters::new(REMEMBERED);
            self.began = now;
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "an estimate; neither factor is negative"
)]
fn share(count: u64, part: f64) -> u64 {
    (count as f64 * part) as u64
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::{HeaderName, HeaderValue, StatusCode};

    use super::*;
    use crate::domain::client::{Client, KnownClient};
    use crate::domain::observation::Timings;

    fn deny(denials: &Arc<Denials>, reason: Reason, client: Client<'_>, headers: &[(&str, &str)]) {
        let header = |(name, value): &(&str, &str)| {
            let name: HeaderName = name.parse().expect("a name");
            (name, HeaderValue::from_str(value).expect("a value"))
        };
        denials.observe(&Observation {
            endpoint: Endpoint::Auth,
            verdict: VerdictKind::Deny(reason),
            app: None,
            rule: None,
            client,
            at: SystemTime::UNIX_EPOCH,
            timings: Timings::default(),
            request: &headers.iter().map(header).collect(),
            status: StatusCode::UNAUTHORIZED,
            response: &HeaderMap::new(),
            span: None,
        });
    }

    fn counts(denials: &Denials) -> Vec<(String, u64)> {
        let shown = |(caller, count): (Caller, u64)| (caller.subject().stored(), count);
        let mut counts: Vec<_> = denials.take().into_iter().map(shown).collect();
        counts.sort();
        counts
    }

    #[test]
    fn a_known_client_counts_by_its_id_and_others_by_address() {
        let denials = Arc::<Denials>::default();
        let phone = KnownClient { id: "phone".into(), name: "Phone".into() };
        let from = |address| ("x-forwarded-for", address);
        for _ in 0..3 {
            let known = Client::Terminal(&phone);
            deny(&denials, Reason::PeerRequired, known, &[from("192.0.2.1")]);
        }
        let stranger = Client::Anonymous;
        for address in ["192.0.2.7", "192.0.2.7", "2001:db8::1", "2001:db8::2"] {
            deny(&denials, Reason::TerminalRequired, stranger, &[from(address)]);
        }
        let forged = ("cookie", "a=b; authorization=forged");
        deny(&denials, Reason::TerminalRequired, stranger, &[from("192.0.2.8"), forged]);
        let signed = ("signature", "x=:aa:");
        deny(&denials, Reason::PeerRequired, stranger, &[from("192.0.2.9"), signed]);
        for reason in [Reason::StoreUnavailable, Reason::BrokenApp] {
            deny(&denials, reason, stranger, &[from("192.0.2.10")]);
        }
        deny(&denials, Reason::UnknownApp, stranger, &[]);
        let expected = [
            ("192.0.2.7", 2),
            ("192.0.2.8", 10),
            ("192.0.2.9", 10),
            ("2001:db8::/64", 2),
            ("phone", 3),
        ];
        assert_eq!(counts(&denials), expected.map(|(caller, count)| (caller.to_owned(), count)));
        assert_eq!(counts(&denials), []);
    }

    #[test]
    fn threads_count_apart_and_are_summed() {
        let denials = Arc::<Denials>::default();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let headers = [("x-forwarded-for", "192.0.2.7")];
                    deny(&denials, Reason::UnknownApp, Client::Anonymous, &headers);
                });
            }
        });
        let mut windows = Windows::new(Duration::from_secs(60));
        let found = windows.look(&denials, Duration::ZERO, 3);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1, 3);
    }

    #[test]
    fn what_was_counted_is_forgotten_within_two_windows() {
        let (denials, second) = (Denials::default(), Duration::from_secs(1));
        let mut windows = Windows::new(10 * second);
        let mut look = |at: u32, number: u64| {
            let origin = Origin::from(std::net::IpAddr::from([192, 0, 2, 7]));
            if number > 0 {
                let own = || Caller::Address(origin);
                denials.count(CallerRef::Address(origin), number, own);
            }
            windows.look(&denials, second * at, 1).first().map_or(0, |(_, count)| *count)
        };
        assert_eq!(look(1, 100), 100);
        assert_eq!(look(9, 100), 200);
        assert_eq!(look(10, 0), 200);
        assert_eq!(look(15, 0), 100);
        assert_eq!(look(16, 10), 90);
        assert_eq!(look(20, 0), 10);
        assert_eq!(look(30, 0), 0);
        assert_eq!(look(300, 7), 7);
        assert_eq!(look(340, 0), 0);
    }
}
