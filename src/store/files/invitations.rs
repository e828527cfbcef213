//! Invitations in the folder: one small file, changed under the folder's lock.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use crate::store::invitations::{Invitation, LIFETIME, MAX_TRIES, Redeemed};

pub(super) const INVITATIONS: &str = "invitations.json";

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    handle: String,
    digest: String,
    name: String,
    /// Seconds since 1970.
    expires: u64,
    tries: u32,
}

impl Folder {
    /// Returns `false` if the handle is taken.
    pub(super) fn add_invitation(
        &self,
        invitation: &Invitation,
        now: SystemTime,
    ) -> io::Result<bool> {
        let _lock = self.lock()?;
        let mut rows = self.invitations(now)?;
        let Invitation { handle, digest, name } = invitation.clone();
        if rows.iter().any(|row| row.handle == handle) {
            return Ok(false);
        }
        rows.push(Row { handle, digest, name, expires: seconds(now + LIFETIME), tries: 0 });
        self.write_invitations(&rows)?;
        Ok(true)
    }

    /// Removes the invitation with this code; a wrong code counts against the one with its handle.
    pub(super) fn redeem_invitation(
        &self,
        handle: &str,
        digest: &str,
        now: SystemTime,
    ) -> io::Result<Redeemed> {
        let _lock = self.lock()?;
        let mut rows = self.invitations(now)?;
        let Some(at) = rows.iter().position(|row| row.handle == handle) else {
            return Ok(Redeemed::Unknown);
        };
        let row = &mut rows[at];
        let redeemed = if verify_slices_are_equal(row.digest.as_bytes(), digest.as_bytes()).is_ok()
        {
            Redeemed::Name(rows.remove(at).name)
        } else {
            row.tries += 1;
            if row.tries >= MAX_TRIES {
                rows.remove(at);
            }
            Redeemed::Wrong
        };
        // Written before the device is added: a code that is known to be used cannot be used
        // again, whatever happens next.
        self.write_invitations(&rows)?;
        Ok(redeemed)
    }

    /// Returns the invitations that are still valid.
    fn invitations(&self, now: SystemTime) -> io::Result<Vec<Row>> {
        let json = match std::fs::read(self.path.join(INVITATIONS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read?,
        };
        // An invitation that cannot be read is none: its owner asks for another one.
        let mut rows: Vec<Row> = serde_json::from_slice(&json).unwrap_or_default();
        let (now, latest) = (seconds(now), seconds(now + LIFETIME));
        // If the clock was set back, none is valid for longer than it was made for.
        rows.retain(|row| row.expires > now && row.expires <= latest);
        Ok(rows)
    }

    fn write_invitations(&self, rows: &[Row]) -> io::Result<()> {
        self.replace(INVITATIONS, &serde_json::to_vec(rows)?, 0o600)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
