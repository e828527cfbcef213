//! What a row says of a key, and what is to be done with a request that has it.

use super::super::answer::Sealed;
use super::super::fingerprint::Payload;
use super::{Claim, KeyedRequest};
use crate::ledger::archive::ArchiveError;
use crate::ledger::archive::sql::Row;

/// The state of a key, as its row shows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyState {
    /// There is no row, or one that counts no longer.
    Free,
    /// It was done. There is no answer if the row was altered.
    Done(Option<Sealed>),
    Running,
    Mismatch,
}

/// A row as the table is asked for it ([`super::LOOK`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyRow {
    payload: Vec<u8>,
    is_expired: bool,
    is_lapsed: bool,
    is_done: bool,
    answer: Option<Sealed>,
}

impl KeyRow {
    pub(super) fn first(rows: &[Row]) -> Result<Option<Self>, ArchiveError> {
        rows.first().map(Self::from_row).transpose()
    }

    fn from_row(row: &Row) -> Result<Self, ArchiveError> {
        let status = row.optional_integer(4)?.and_then(|status| u16::try_from(status).ok());
        let stored = (status, row.optional_text(5)?, row.optional_bytes(6)?);
        let answer = match stored {
            (Some(status), Some(headers), Some(body)) => Some(Sealed { status, headers, body }),
            _ => None,
        };
        Ok(Self {
            payload: row.bytes(0)?,
            is_done: row.text(1)? == "done",
            is_expired: row.integer(2)? == 1,
            is_lapsed: row.integer(3)? == 1,
            answer,
        })
    }
}

/// Returns what the row of a key says about a request with this payload.
pub(super) fn key_state(found: Option<KeyRow>, own: &Payload) -> KeyState {
    match found {
        None | Some(KeyRow { is_expired: true, .. }) => KeyState::Free,
        Some(KeyRow { payload, .. }) if payload != own.0 => KeyState::Mismatch,
        Some(KeyRow { is_done: true, answer, .. }) => KeyState::Done(answer),
        Some(KeyRow { is_lapsed: true, .. }) => KeyState::Free,
        Some(_) => KeyState::Running,
    }
}

impl KeyState {
    /// Returns `None` if the key is free.
    pub(super) fn into_claim(self, keyed: &KeyedRequest) -> Option<Claim> {
        let open = |sealed| keyed.sealer.open(&keyed.payload, sealed).ok();
        match self {
            Self::Free => None,
            Self::Done(sealed) => {
                Some(sealed.and_then(open).map_or(Claim::Unreadable, Claim::Replay))
            }
            Self::Running => Some(Claim::Running),
            Self::Mismatch => Some(Claim::Mismatch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Payload = Payload([1; 32]);

    fn found(payload: u8, is_done: bool, is_expired: bool, is_lapsed: bool) -> KeyRow {
        let answer = is_done.then(sealed);
        KeyRow { payload: vec![payload; 32], is_expired, is_lapsed, is_done, answer }
    }

    fn sealed() -> Sealed {
        Sealed { status: 201, headers: "[]".into(), body: vec![7] }
    }

    #[test]
    fn a_row_tells_what_is_to_be_done() {
        let altered = KeyRow { answer: None, ..found(1, true, false, true) };
        for (found, expected, why) in [
            (None, KeyState::Free, "unknown"),
            (Some(found(1, true, false, true)), KeyState::Done(Some(sealed())), "done"),
            (Some(altered), KeyState::Done(None), "done, and its answer was removed"),
            (Some(found(1, false, false, false)), KeyState::Running, "running"),
            (Some(found(1, false, false, true)), KeyState::Free, "its process is gone"),
            (Some(found(2, true, false, true)), KeyState::Mismatch, "another request was done"),
            (Some(found(2, false, false, false)), KeyState::Mismatch, "another request is running"),
            (Some(found(2, false, false, true)), KeyState::Mismatch, "another request was cut off"),
            (Some(found(2, true, true, true)), KeyState::Free, "expired"),
            (Some(found(1, false, true, false)), KeyState::Free, "expired, whatever its lease"),
        ] {
            assert_eq!(key_state(found, &OWN), expected, "{why}");
        }
    }
}
