//! Pairs a device: redeems a code, adds the terminal and issues its token.
//!
//! A code is used up before anything else is done, so it pairs one device at most, whatever fails
//! afterwards. A wrong code is a guess ([`crate::gate::limits`]).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::alerts::denials::Denials;
use crate::domain::identity::encode_id;
use crate::domain::origin::Origin;
use crate::gate::Gate;
use crate::gate::credentials::code::Code;
use crate::gate::credentials::terminal as token;
use crate::ledger::Ledger;
use crate::ledger::acts::Act;
use crate::store::invitations::{Invitation, Redeemed};
use crate::store::{Source, Terminal, Unavailable};

/// Random bytes of a new terminal's id; they give eight characters.
const ID_BYTES: usize = 5;

/// The longest name of a device, in characters.
const MAX_NAME: usize = 64;

/// How often a handle is drawn if the one before is taken.
const DRAWS: usize = 8;

/// How many codes are redeemed at a time: the store has requests of the gate to answer as well.
const REDEMPTIONS: usize = 4;

/// How many codes are redeemed or wait for that, and how long one waits.
const MAX_PENDING: usize = 64;
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Pairs devices with one box.
#[derive(Debug)]
pub(crate) struct Pairing {
    pending: Semaphore,
    redemptions: Semaphore,
    gate: Arc<Gate>,
    source: Arc<Source>,
    /// `None` if nothing is recorded.
    ledger: Option<Arc<Ledger>>,
    /// `None` if there are no alerts.
    denials: Option<Arc<Denials>>,
}

/// A device that was paired.
#[derive(Debug)]
pub(crate) struct Paired {
    /// The value of the `Set-Cookie` header that gives it its token.
    pub(crate) cookie: String,
}

/// Why a device was not paired.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PairingError {
    #[error("the code is wrong, was used, or is too old")]
    WrongCode,
    #[error("too many wrong codes")]
    TooMany(Duration),
    #[error("too many codes are being redeemed")]
    Busy,
    #[error("{0}")]
    Unavailable(String),
}

impl From<Unavailable> for PairingError {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl Pairing {
    pub(crate) fn new(
        gate: Arc<Gate>,
        source: Arc<Source>,
        ledger: Option<Arc<Ledger>>,
        denials: Option<Arc<Denials>>,
    ) -> Self {
        let (pending, redemptions) = (Semaphore::new(MAX_PENDING), Semaphore::new(REDEMPTIONS));
        Self { pending, redemptions, gate, source, ledger, denials }
    }

    /// Pairs a device that shows this code. The code is as its owner typed it; without a name,
    /// the device gets that of the invitation.
    pub(crate) async fn pair(
        &self,
        typed: &str,
        name: &str,
        origin: Option<Origin>,
        domain: &str,
        now: SystemTime,
    ) -> Result<Paired, PairingError> {
        self.check_wait(origin)?;
        let Ok(code) = typed.parse::<Code>() else {
            return Err(self.refuse(typed, origin));
        };
        let turn = self.turn().await?;
        // Others from there may have guessed meanwhile.
        self.check_wait(origin)?;
        let Some(secret) = self.source.terminal_secret().await? else {
            return Err(self.refuse(typed, origin));
        };
        let digest = code.digest(&secret);
        let invited = match self.source.redeem_invitation(code.handle(), &digest, now).await? {
            Redeemed::Name(name) => name,
            Redeemed::Wrong => {
                // Strangers cannot spend what others need: hardly any code hits an invitation.
                self.gate.spend_code();
                return Err(self.refuse(typed, origin));
            }
            Redeemed::Unknown => return Err(self.refuse(typed, origin)),
        };
        drop(turn);
        let unavailable =
            |error: &dyn std::fmt::Display| PairingError::Unavailable(error.to_string());
        let id = random_id().map_err(|error| unavailable(&error))?;
        let name = device_name(name).or_else(|| device_name(&invited)).unwrap_or_default();
        let token = token::issue(&secret, &id, now).map_err(|error| unavailable(&error))?;
        let terminal = Terminal { id: id.into(), name: name.into() };
        self.add(&terminal).await?;
        Ok(Paired { cookie: token::cookie(&token, domain, now) })
    }

    /// Returns an error if codes from there have to wait.
    fn check_wait(&self, origin: Option<Origin>) -> Result<(), PairingError> {
        self.gate.code_wait(origin).map_or(Ok(()), |wait| Err(PairingError::TooMany(wait)))
    }

    /// Waits until few enough other codes are being redeemed.
    async fn turn(&self) -> Result<[SemaphorePermit<'_>; 2], PairingError> {
        let pending = self.pending.try_acquire().map_err(|_| PairingError::Busy)?;
        let turn = timeout(MAX_WAIT, self.redemptions.acquire()).await;
        let turn = turn.ok().and_then(Result::ok).ok_or(PairingError::Busy)?;
        Ok([turn, pending])
    }

    /// Counts a wrong code.
    fn refuse(&self, typed: &str, origin: Option<Origin>) -> PairingError {
        if let (Some(denials), Some(origin)) = (&self.denials, origin) {
            denials.note_refused(origin);
        }
        match self.gate.refuse_code(origin, typed) {
            Some(wait) => PairingError::TooMany(wait),
            None => PairingError::WrongCode,
        }
    }

    /// Adds the terminal, if its record can be committed before.
    async fn add(&self, terminal: &Terminal) -> Result<(), PairingError> {
        let (id, name) = (Arc::clone(&terminal.id), Arc::clone(&terminal.name));
        let mut committed = None;
        if let Some(ledger) = &self.ledger {
            let entry = Act::Pair { id, name }.entry(crate::ledger::clock::now());
            let record = ledger.recorder.commit(entry.clone()).await.map_err(|error| {
                PairingError::Unavailable(format!("the pairing cannot be recorded: {error}"))
            })?;
            committed = Some((ledger, record, entry));
        }
        let added = match self.source.add_terminal(terminal).await {
            Ok(true) => Ok(()),
            Ok(false) => Err("the new id is taken".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        if let Some((ledger, record, entry)) = committed {
            ledger.recorder.conclude(record, entry, added.as_ref().copied().map_err(|why| &**why));
        }
        self.gate.terminals_have_changed();
        added.map_err(PairingError::Unavailable)
    }
}

/// Makes an invitation for a device of this name and returns its code, which is shown once.
///
/// # Errors
/// If the store cannot be written, or the system provides no random numbers.
pub(crate) async fn invite(
    source: &Source,
    name: &str,
    now: SystemTime,
) -> Result<Code, Unavailable> {
    let secret = source.ensure_terminal_secret().await?;
    for _ in 0..DRAWS {
        let code = Code::random()
            .map_err(|_| Unavailable::new("the system provides no random numbers"))?;
        let (handle, digest) = (code.handle().to_owned(), code.digest(&secret));
        let invitation = Invitation { handle, digest, name: name.to_owned() };
        if source.add_invitation(&invitation, now).await? {
            return Ok(code);
        }
    }
    Err(Unavailable::new("there are too many invitations"))
}

/// Returns a random id for a terminal.
///
/// # Errors
/// If the system provides no random numbers.
pub(crate) fn random_id() -> Result<String, Unavailable> {
    let mut bytes = [0; ID_BYTES];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| Unavailable::new("the system provides no random numbers"))?;
    Ok(encode_id(&bytes))
}

/// Returns a name on one line and of bounded length; `None` if nothing is left of it.
fn device_name(text: &str) -> Option<String> {
    let visible = text.chars().filter(|character| !is_hidden(*character));
    let name: String = visible.collect::<String>().trim().chars().take(MAX_NAME).collect();
    let name = name.trim_end();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Whether a character cannot be seen, or changes how others are shown (Unicode, Bidi controls).
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_name_is_one_visible_line() {
        for (text, expected) in [
            ("Phone", Some("Phone")),
            ("  Ada's\u{a0}phone \n", Some("Ada's\u{a0}phone")),
            ("a\u{202e}b\u{0}c", Some("abc")),
            ("", None),
            (" \t\u{200b}", None),
        ] {
            assert_eq!(device_name(text).as_deref(), expected, "{text:?}");
        }
        assert_eq!(device_name(&"ü".repeat(1000)).map(|name| name.chars().count()), Some(MAX_NAME));
    }
}
