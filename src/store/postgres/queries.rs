//! The gate's queries and its few writes.
//!
//! Each is one statement and one round trip. Columns are cast to the type that
//! is read, so that a table with `varchar` or an enum works too. A column that is read here
//! must be listed in [`super::triggers::TABLES`], or its changes are not heard.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{KeyPair, RsaKeyPair};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, Type};

use super::super::peers::{spki_pem, split_rows};
use super::super::{AppRow, BadPeer, Peer, Terminal, Touched, Unavailable, random_secret};
use super::{Postgres, ProblemKind};
use crate::config::Secret;
use crate::domain::app::Size;
use crate::domain::identity::{Identity, derive_domain};
use crate::postgres::{AdvisoryLock, Error, Parameter};

const TERMINAL_SECRET: &str = "terminal_jwt_secret";
const MANAGEMENT_SECRET: &str = "freeshard_controller_shared_key";
const PROFILE: &str = "profile";

/// Locks the rows in the order of their keys, so that two writers cannot deadlock,
/// and skips rows whose time is already as recent.
macro_rules! touch {
    ($table:literal, $key:literal, $column:literal) => {
        concat!(
            "WITH used AS (SELECT key, to_timestamp(max(at)) AS at \
                FROM unnest($1, $2) AS u (key, at) GROUP BY key), \
            due AS (SELECT t.",
            $key,
            " AS key, used.at FROM ",
            $table,
            " AS t JOIN used ON used.key = t.",
            $key,
            " WHERE t.",
            $column,
            " IS NULL OR t.",
            $column,
            " < used.at - make_interval(secs => $3) ORDER BY t.",
            $key,
            " FOR NO KEY UPDATE OF t) UPDATE ",
            $table,
            " AS t SET ",
            $column,
            " = due.at FROM due WHERE t.",
            $key,
            " = due.key AND (t.",
            $column,
            " IS NULL OR t.",
            $column,
            " < due.at)"
        )
    };
}

const TOUCH_APPS: &str = touch!("installed_apps", "name", "last_access");
const TOUCH_TERMINALS: &str = touch!("terminals", "id", "last_connection");

impl Postgres {
    pub async fn app_names(&self) -> Result<Vec<String>, Unavailable> {
        let rows = self.pool.query("SELECT name::text FROM installed_apps", &[]).await?;
        rows.iter().map(|row| get(row, 0)).collect()
    }

    pub async fn app(&self, name: &str) -> Result<Option<AppRow>, Unavailable> {
        let sql = "SELECT name::text, coalesce(status::text, 'unknown') FROM installed_apps \
                   WHERE name = $1";
        let row = self.row_by_key(sql, name).await?;
        row.map(|row| Ok(AppRow { name: arc(&row, 0)?, status: get(&row, 1)? })).transpose()
    }

    pub async fn write_status(&self, name: &str, status: &str) -> Result<(), Unavailable> {
        // The column may be of any type that can be written as text, including an enum: the
        // server infers the type of $2.
        let sql = "UPDATE installed_apps SET status = $2 WHERE name = $1 AND status::text <> $3 \
                   AND status::text IN ('stopped', 'running', 'down', 'paused')";
        if !is_valid_text(name) {
            return Ok(());
        }
        let parameters: &[Parameter<'_>] =
            &[(&name, Type::TEXT), (&status, Type::UNKNOWN), (&status, Type::TEXT)];
        match self.pool.query(sql, parameters).await {
            Ok(_) => {
                self.problems.clear(ProblemKind::Status);
                Ok(())
            }
            // The server would refuse the value again, so this is not an error to retry.
            Err(error) if is_value_refused(&error) => {
                let problem =
                    format!("`installed_apps.status` does not accept `{status}`: {error}");
                self.problems.set(ProblemKind::Status, problem);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    pub async fn box_size(&self) -> Result<Option<Size>, Unavailable> {
        let sql = "SELECT value ->> 'vm_size' FROM kv_store WHERE key = $1";
        let row = self.row_by_key(sql, PROFILE).await?;
        let word: Option<Option<String>> = row.map(|row| get(&row, 0)).transpose()?;
        // An unknown size counts as none, so that it keeps no app asleep.
        Ok(word.flatten().and_then(|word| serde_json::from_value(word.into()).ok()))
    }

    pub async fn last_uses(&self) -> Result<HashMap<Arc<str>, SystemTime>, Unavailable> {
        let sql = "SELECT name::text, extract(epoch FROM last_access)::float8 FROM installed_apps \
                   WHERE last_access IS NOT NULL AND isfinite(last_access)";
        let rows = self.pool.query(sql, &[]).await?;
        let mut uses = HashMap::with_capacity(rows.len());
        for row in &rows {
            let seconds: f64 = get(row, 1)?;
            let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            if let Some(at) = UNIX_EPOCH.checked_add(since) {
                uses.insert(arc(row, 0)?, at);
            }
        }
        Ok(uses)
    }

    /// Takes the advisory lock of an app; returns `None` if another session holds it.
    pub async fn try_lock_app(&self, name: &str) -> Result<Option<AdvisoryLock>, Unavailable> {
        let name = name.replace('\0', "");
        Ok(self.locks.try_lock(&name).await?)
    }

    pub async fn identity(&self) -> Result<Option<Identity>, Unavailable> {
        let sql = "SELECT id::text, coalesce(private_key::text, '') FROM identities \
                   WHERE is_default ORDER BY id LIMIT 1";
        let rows = self.pool.query(sql, &[]).await?;
        let Some(row) = rows.first() else {
            self.problems.clear(ProblemKind::Identity);
            return Ok(None);
        };
        let (id, private_key): (String, &str) = (get(row, 0)?, get(row, 1)?);
        let (public_key_pem, problem) = match public_key_pem(private_key) {
            Ok(pem) => (pem, None),
            Err(reason) => {
                (String::new(), Some(format!("the private key of the default identity {reason}")))
            }
        };
        self.problems.note(ProblemKind::Identity, problem);
        let domain = derive_domain(&id, self.prefix_length, &self.zone);
        Ok(Some(Identity { id, domain, public_key_pem }))
    }

    pub async fn terminal(&self, id: &str) -> Result<Option<Terminal>, Unavailable> {
        let sql = "SELECT id::text, coalesce(name::text, '') FROM terminals WHERE id = $1";
        let row = self.row_by_key(sql, id).await?;
        row.as_ref().map(terminal).transpose()
    }

    pub async fn terminals(&self) -> Result<Vec<Terminal>, Unavailable> {
        let sql = "SELECT id::text, coalesce(name::text, '') FROM terminals ORDER BY id";
        self.pool.query(sql, &[]).await?.iter().map(terminal).collect()
    }

    pub async fn peers(&self) -> Result<Vec<Peer>, Unavailable> {
        let (peers, problem) = split_rows(self.peer_rows().await?);
        self.problems.note(ProblemKind::Peers, problem);
        Ok(peers)
    }

    pub async fn peer_rows(&self) -> Result<Vec<Result<Peer, BadPeer>>, Unavailable> {
        let sql = "SELECT id::text, coalesce(name::text, ''), public_bytes_b64::text FROM peers \
                   WHERE public_bytes_b64 IS NOT NULL ORDER BY id";
        let rows = self.pool.query(sql, &[]).await?;
        rows.iter()
            .map(|row| Ok(Peer::from_row(arc(row, 0)?, arc(row, 1)?, get(row, 2)?)))
            .collect()
    }

    pub async fn terminal_secret(&self) -> Result<Option<Secret>, Unavailable> {
        self.secret(TERMINAL_SECRET, ProblemKind::TerminalSecret).await
    }

    pub async fn ensure_terminal_secret(&self) -> Result<Secret, Unavailable> {
        let sql = "INSERT INTO kv_store (key, value) VALUES ($1, to_jsonb($2::text)) \
                   ON CONFLICT DO NOTHING";
        if let Some(secret) = self.terminal_secret().await? {
            return Ok(secret);
        }
        let random = random_secret()?;
        let random = random.expose();
        self.pool.query(sql, &[(&TERMINAL_SECRET, Type::TEXT), (&random, Type::TEXT)]).await?;
        // Another process may have inserted a secret first: the one in the table counts.
        self.terminal_secret().await?.ok_or_else(|| {
            Unavailable::new(format_args!("kv_store['{TERMINAL_SECRET}'] is not a usable secret"))
        })
    }

    pub async fn management_secret(&self) -> Result<Option<Secret>, Unavailable> {
        self.secret(MANAGEMENT_SECRET, ProblemKind::ManagementSecret).await
    }

    pub async fn add_terminal(&self, terminal: &Terminal) -> Result<bool, Unavailable> {
        let sql = "INSERT INTO terminals (id, name, icon) VALUES ($1, $2, 'unknown') \
                   ON CONFLICT DO NOTHING RETURNING true";
        let (id, name) = (&*terminal.id, &*terminal.name);
        match self.pool.query(sql, &[(&id, Type::TEXT), (&name, Type::TEXT)]).await {
            Ok(added) => Ok(!added.is_empty()),
            Err(error) => Err(match missing_column(&error) {
                Some(column) => Unavailable::new(format_args!(
                    "the table `terminals` requires a `{column}`, which nightporter does not \
                     know: pair the device with the program that created the table"
                )),
                None => error.into(),
            }),
        }
    }

    pub async fn remove_terminal(&self, id: &str) -> Result<bool, Unavailable> {
        let sql = "DELETE FROM terminals WHERE id = $1 RETURNING true";
        Ok(self.row_by_key(sql, id).await?.is_some())
    }

    pub async fn write_touches(
        &self,
        touched: Touched,
        uses: &[(Arc<str>, SystemTime)],
    ) -> Result<(), Unavailable> {
        let (sql, every) = match touched {
            // Times lose up to a microsecond in conversion: a write at exactly the
            // end of the interval must not be skipped.
            Touched::App => {
                (TOUCH_APPS, self.last_access_every.saturating_sub(Duration::from_millis(1)))
            }
            Touched::Terminal => (TOUCH_TERMINALS, Duration::ZERO),
        };
        let uses = uses.iter().filter(|(key, _)| is_valid_text(key));
        let (keys, times): (Vec<&str>, Vec<f64>) =
            uses.map(|(key, at)| (&**key, seconds(*at))).unzip();
        if keys.is_empty() {
            return Ok(());
        }
        let every = every.as_secs_f64();
        self.pool
            .query(
                sql,
                &[(&keys, Type::TEXT_ARRAY), (&times, Type::FLOAT8_ARRAY), (&every, Type::FLOAT8)],
            )
            .await?;
        Ok(())
    }

    /// Returns the row of a key, if there is one.
    async fn row_by_key(&self, sql: &str, key: &str) -> Result<Option<Row>, Unavailable> {
        if !is_valid_text(key) {
            return Ok(None);
        }
        Ok(self.pool.query(sql, &[(&key, Type::TEXT)]).await?.into_iter().next())
    }

    /// Returns a secret from `kv_store`. An empty text does not count as a secret, since
    /// anyone could guess it.
    async fn secret(&self, key: &str, kind: ProblemKind) -> Result<Option<Secret>, Unavailable> {
        let sql = "SELECT CASE jsonb_typeof(value) WHEN 'string' THEN value #>> '{}' END \
                   FROM kv_store WHERE key = $1";
        let row = self.row_by_key(sql, key).await?;
        let text: Option<Option<String>> = row.map(|row| get(&row, 0)).transpose()?;
        let is_unusable = matches!(text.as_ref().map(Option::as_deref), Some(None | Some("")));
        let problem = is_unusable.then(|| format!("kv_store['{key}'] is not a non-empty string"));
        self.problems.note(kind, problem);
        Ok(text.flatten().filter(|text| !text.is_empty()).map(Secret::new))
    }
}

fn terminal(row: &Row) -> Result<Terminal, Unavailable> {
    Ok(Terminal { id: arc(row, 0)?, name: arc(row, 1)? })
}

pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Unavailable> {
    row.try_get(column).map_err(|error| Error::from(error).into())
}

fn arc(row: &Row, column: usize) -> Result<Arc<str>, Unavailable> {
    get::<&str>(row, column).map(Arc::from)
}

/// Returns whether Postgres can store the key as text. If not, no row has that key.
fn is_valid_text(key: &str) -> bool {
    !key.contains('\0')
}

/// Returns whether the server refused a value and not the statement: SQLSTATE classes 22 (data
/// exception) and 23 (integrity constraint violation).
fn is_value_refused(error: &Error) -> bool {
    error.sqlstate().is_some_and(|code| matches!(code.code().get(..2), Some("22" | "23")))
}

/// Returns the NOT NULL column that the statement gave no value, if that was the error.
fn missing_column(error: &Error) -> Option<&str> {
    let is_null = error.sqlstate() == Some(&SqlState::NOT_NULL_VIOLATION);
    error.column().filter(|_| is_null)
}

/// Returns seconds since 1970; a time before that counts as 1970.
fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Returns the SPKI PEM of a private key's public key, or what is wrong with the private
/// key.
fn public_key_pem(private_key: &str) -> Result<String, &'static str> {
    if private_key.is_empty() {
        return Err("is missing");
    }
    let pem = pem::parse(private_key).map_err(|_| "is not PEM")?;
    let pair = match pem.tag() {
        "PRIVATE KEY" => RsaKeyPair::from_pkcs8(pem.contents()),
        "RSA PRIVATE KEY" => RsaKeyPair::from_der(pem.contents()),
        _ => return Err("is not PKCS#8"),
    };
    let pair = pair.map_err(|_| "is not a usable RSA key")?;
    let der: PublicKeyX509Der<'_> =
        pair.public_key().as_der().map_err(|_| "has a public key that cannot be encoded")?;
    Ok(spki_pem(der.as_ref()))
}
