//! Invitations in a table of nightporter's own.

use tokio_postgres::types::Type;

use super::super::invitations::{Invitation, LIFETIME, MAX_TRIES, Redeemed};
use super::{Postgres, Unavailable};
use crate::postgres::Parameter;

/// One statement, so that of several processes with the same code one gets the row. A wrong
/// code counts against the invitation with its handle, as long as that is valid.
const REDEEM: &str = "WITH redeemed AS (DELETE FROM nightporter.invitations \
        WHERE handle = $1 AND digest = $2 AND expires > now() AND tries < $3 RETURNING name), \
    refused AS (UPDATE nightporter.invitations SET tries = tries + 1 \
        WHERE handle = $1 AND digest <> $2 AND expires > now() AND tries < $3 RETURNING true) \
    SELECT (SELECT name FROM redeemed), EXISTS (SELECT FROM refused)";

const ADD: &str = "INSERT INTO nightporter.invitations (handle, digest, name, expires) \
    VALUES ($1, $2, $3, now() + make_interval(secs => $4)) ON CONFLICT DO NOTHING RETURNING true";

impl Postgres {
    /// Returns `false` if the handle is taken.
    pub async fn add_invitation(&self, invitation: &Invitation) -> Result<bool, Unavailable> {
        let Invitation { handle, digest, name } = invitation;
        let expired = "DELETE FROM nightporter.invitations WHERE expires <= now()";
        self.pool.query(expired, &[]).await?;
        let seconds = LIFETIME.as_secs_f64();
        let parameters: [Parameter<'_>; 4] = [
            (handle, Type::TEXT),
            (digest, Type::TEXT),
            (name, Type::TEXT),
            (&seconds, Type::FLOAT8),
        ];
        Ok(!self.pool.query(ADD, &parameters).await?.is_empty())
    }

    /// Removes the invitation with this code.
    pub async fn redeem_invitation(
        &self,
        handle: &str,
        digest: &str,
    ) -> Result<Redeemed, Unavailable> {
        let tries = i32::try_from(MAX_TRIES).unwrap_or(i32::MAX);
        let parameters: [Parameter<'_>; 3] =
            [(&handle, Type::TEXT), (&digest, Type::TEXT), (&tries, Type::INT4)];
        let rows = self.pool.query(REDEEM, &parameters).await?;
        let Some(row) = rows.first() else { return Ok(Redeemed::Unknown) };
        let name: Option<String> = super::queries::get(row, 0)?;
        let is_wrong: bool = super::queries::get(row, 1)?;
        Ok(match name {
            Some(name) => Redeemed::Name(name),
            None if is_wrong => Redeemed::Wrong,
            None => Redeemed::Unknown,
        })
    }
}
