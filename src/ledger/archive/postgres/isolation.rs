//! Keeps the rows of tenants apart within the database, as a second wall behind the conditions
//! of the statements.
//!
//! What is read for a principal is read by a role without login for which row-level security
//! shows the rows of one tenant. The role and the policies are put in place with the
//! migrations; the database may refuse that, and an administrator may take parts away. So they
//! are checked, and while a part is missing, tokens of single tenants are refused. All else
//! goes on.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_postgres::{Client, Transaction};
use tracing::{info, warn};

use super::super::ArchiveError;
use super::rows::get;
use crate::postgres::{AssumedRole, Error, MigrationError, Pool, Repeatable, explain};

const ROLE: &str = "nightporter_reader";
const SETTING: &str = "nightporter.tenant";

const PUT_IN_PLACE: &str = include_str!("isolation/put_in_place.sql");
const CHECK: &str = include_str!("isolation/check.sql");

/// What of a long list of missing parts is shown.
const SHOWN: usize = 3;

/// What is known of the role and the policies.
#[derive(Debug, Default)]
pub(super) struct Isolation(Mutex<State>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum State {
    #[default]
    Unknown,
    InPlace,
    /// What is missing, worded for the operator.
    Missing(Arc<str>),
}

impl Isolation {
    fn state(&self) -> State {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns what is missing, and what helps.
    pub(super) fn problem(&self) -> Option<Arc<str>> {
        match self.state() {
            State::InPlace => None,
            State::Unknown => Some("the database has not been looked at yet".into()),
            State::Missing(problem) => Some(problem),
        }
    }

    /// Returns as whom the rows of a tenant are read; `None` if they can only be read as the
    /// process itself. Nobody but the operator sees the rows of a box without an id.
    pub(super) fn reader<'a>(&self, tenant: &'a str) -> Option<AssumedRole<'a>> {
        let is_in_place = !tenant.is_empty() && self.state() == State::InPlace;
        is_in_place.then_some(AssumedRole { role: ROLE, setting: SETTING, value: tenant })
    }

    /// Looks whether everything is in place.
    pub(super) async fn check(&self, pool: &Pool) -> Result<(), ArchiveError> {
        let rows = pool.query(CHECK, &[]).await?;
        let mut missing: Vec<String> =
            rows.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
        if missing.is_empty() {
            missing.extend(self.try_role(pool).await?);
        }
        self.note(&missing);
        Ok(())
    }

    /// Takes on the role, which the catalogs alone do not show to be possible. Nothing may be
    /// visible to it as long as it has chosen no tenant.
    async fn try_role(&self, pool: &Pool) -> Result<Option<String>, ArchiveError> {
        let nobody = AssumedRole { role: ROLE, setting: SETTING, value: "" };
        let sql = "SELECT (SELECT count(*) FROM nightporter_ledger.tenants)
                   + (SELECT count(*) FROM (SELECT FROM nightporter_ledger.requests LIMIT 1) AS r)";
        match pool.query_as(Some(&nobody), sql, &[]).await {
            Ok(rows) => {
                let visible: i64 = rows.first().map_or(Ok(0), |row| get(row, 0))?;
                let problem = format!("the role `{ROLE}` sees rows without a tenant");
                Ok((visible > 0).then_some(problem))
            }
            Err(error @ Error::Database(_)) if error.sqlstate().is_some() => {
                Ok(Some(format!("the role `{ROLE}` cannot be used: {error}")))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn note(&self, missing: &[String]) {
        let new = if missing.is_empty() {
            State::InPlace
        } else {
            let shown = missing[..missing.len().min(SHOWN)].join("; ");
            let more = missing.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            let problem = format!(
                "tenants are not kept apart by the database, so tokens of single tenants are \
                 refused: {shown}{more}. Run `nightporter migrate` with a database user that owns \
                 the schema `nightporter_ledger` and may create roles, or have an administrator \
                 run `CREATE ROLE {ROLE} NOLOGIN` and grant it to that user first"
            );
            State::Missing(problem.into())
        };
        let old = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *state, new.clone())
        };
        match new {
            State::Missing(problem) if old != State::Missing(Arc::clone(&problem)) => {
                warn!("{problem}");
            }
            State::InPlace if matches!(old, State::Missing(_)) => {
                info!("tenants are kept apart by the database again");
            }
            _ => {}
        }
    }
}

/// Puts the role and the policies in place with the migrations.
pub(super) struct WithMigrations {
    /// Whether to look for missing parts even if no migration is to be applied.
    pub(super) repair: bool,
}

impl Repeatable for WithMigrations {
    type Error = MigrationError;

    async fn is_in_place(&self, client: &Client, _: &[String]) -> Result<bool, MigrationError> {
        Ok(!self.repair || client.query_typed(CHECK, &[]).await?.is_empty())
    }

    /// If the database refuses, the migrations are applied nevertheless.
    async fn put_in_place(
        &self,
        transaction: &Transaction<'_>,
        _: &[String],
    ) -> Result<(), MigrationError> {
        transaction.batch_execute("SAVEPOINT isolation").await?;
        if let Err(error) = transaction.batch_execute(PUT_IN_PLACE).await {
            if error.as_db_error().is_none() {
                return Err(error.into());
            }
            warn!(error = explain(&error), "the policies of tenants are not put in place");
            transaction.batch_execute("ROLLBACK TO SAVEPOINT isolation").await?;
        }
        Ok(())
    }
}
