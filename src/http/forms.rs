//! Reads the forms that strangers send: few at a time.
//!
//! A form that is sent slowly occupies a connection between the proxy and the gate until all of it
//! is there. If strangers could occupy all of them, the proxy could ask about no request any more.
//! So a bounded number of forms is awaited at a time, and fewer of one origin. A new form takes
//! the place of the one that has been awaited longest: a browser sends its form at once, and those
//! that are slow on purpose do not keep it out.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::body::{self, Body, BufferedBody, ReadError};
use crate::domain::origin::Origin;

/// How many forms are awaited at a time: few enough to leave most connections to the proxy's
/// subrequests, even if a low limit of open files allows only some hundreds.
const MAX_AWAITED: usize = 128;

/// How many of them may come from one origin.
const MAX_OF_ORIGIN: usize = 16;

/// A form has some 200 bytes.
const MAX_BODY: usize = 8 * 1024;

/// How long a form is awaited, unless a new one takes its place before.
const DEADLINE: Duration = Duration::from_secs(5);

/// The forms that are awaited.
#[derive(Debug, Default)]
pub(super) struct Forms(Mutex<Awaited>);

#[derive(Debug, Default)]
struct Awaited {
    next: u64,
    /// The oldest first. A form is no longer awaited once its sender is dropped.
    places: BTreeMap<u64, (Option<Origin>, oneshot::Sender<()>)>,
}

/// The place of one form, until it is dropped.
#[derive(Debug)]
struct Place<'a> {
    forms: &'a Forms,
    number: u64,
}

impl Forms {
    /// Reads a form.
    ///
    /// # Errors
    /// [`ReadError::Busy`] if a newer form takes its place; otherwise those of [`body::read`].
    pub(super) async fn read(
        &self,
        body: Body,
        origin: Option<Origin>,
    ) -> Result<BufferedBody, ReadError> {
        let (_place, displaced) = self.take_place(origin);
        tokio::select! {
            biased;
            read = body::read(body, MAX_BODY, DEADLINE) => read,
            _ = displaced => Err(ReadError::Busy),
        }
    }

    /// Returns a place, and what ends if a newer form takes it.
    fn take_place(&self, origin: Option<Origin>) -> (Place<'_>, oneshot::Receiver<()>) {
        let (sender, displaced) = oneshot::channel();
        let mut awaited = self.lock();
        if let Some(oldest) = awaited.to_displace(origin) {
            awaited.places.remove(&oldest);
        }
        let number = awaited.next;
        awaited.next += 1;
        awaited.places.insert(number, (origin, sender));
        drop(awaited);
        (Place { forms: self, number }, displaced)
    }

    fn lock(&self) -> MutexGuard<'_, Awaited> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Awaited {
    /// Returns the form whose place a new one from there takes, if there is no other place.
    fn to_displace(&self, origin: Option<Origin>) -> Option<u64> {
        // Without an address, all visitors would share one origin.
        if origin.is_some() {
            let mut own = self.places.iter().filter(|(_, (other, _))| *other == origin);
            let oldest = own.next().map(|(number, _)| *number);
            if own.count() + 1 >= MAX_OF_ORIGIN {
                return oldest;
            }
        }
        let (oldest, _) = self.places.first_key_value()?;
        (self.places.len() >= MAX_AWAITED).then_some(*oldest)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.forms.lock().places.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    fn origin(number: usize) -> Origin {
        let number = u32::try_from(number).expect("a small number");
        Origin::V4(Ipv4Addr::from_bits(number))
    }

    fn is_awaited(displaced: &mut oneshot::Receiver<()>) -> bool {
        displaced.try_recv() == Err(TryRecvError::Empty)
    }

    #[test]
    fn a_new_form_takes_the_place_of_the_oldest() {
        let kinds: [fn(usize) -> Option<Origin>; 2] = [|number| Some(origin(number)), |_| None];
        for of in kinds {
            let forms = Forms::default();
            let mut places: Vec<_> =
                (0..MAX_AWAITED).map(|number| forms.take_place(of(number))).collect();
            assert!(places.iter_mut().all(|(_, displaced)| is_awaited(displaced)));
            for newer in 0..10 {
                places.push(forms.take_place(of(MAX_AWAITED + newer)));
                let displaced = places.iter_mut().position(|(_, displaced)| is_awaited(displaced));
                assert_eq!(displaced, Some(newer + 1), "the oldest {} are not", newer + 1);
                assert_eq!(forms.lock().places.len(), MAX_AWAITED);
            }
            // One that has ended makes room.
            drop(places.pop());
            places.push(forms.take_place(of(1)));
            let displaced = places.iter_mut().position(|(_, displaced)| is_awaited(displaced));
            assert_eq!(displaced, Some(10));
            drop(places);
            assert_eq!(forms.lock().places.len(), 0);
        }
    }

    #[test]
    fn one_origin_displaces_its_own_forms_only() {
        let forms = Forms::default();
        let mut others = [1, 2].map(|number| forms.take_place(Some(origin(number))));
        let mut own: Vec<_> =
            (0..10 * MAX_OF_ORIGIN).map(|_| forms.take_place(Some(origin(3)))).collect();
        assert!(others.iter_mut().all(|(_, displaced)| is_awaited(displaced)));
        let awaited: Vec<_> = own.iter_mut().map(|(_, displaced)| is_awaited(displaced)).collect();
        let (older, newest) = awaited.split_at(9 * MAX_OF_ORIGIN);
        assert!(older.iter().all(|awaited| !awaited) && newest.iter().all(|awaited| *awaited));
    }
}
