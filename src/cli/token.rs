//! `nightporter token`: manages the tokens of the operator's API.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;
use serde_json::{Value, json};

use super::open::open;
use super::{CliError, CommandResult, NEGATIVE, act, wait, wall_clock};
use crate::access::token::{NewToken, Token};
use crate::access::{Principal, REMEMBERED, Rights, Scope, Tokens};
use crate::config::Config;
use crate::ledger;
use crate::ledger::acts::Act;
use crate::ledger::checkpoint::rfc3339;
use crate::ledger::record::{Micros, micros};
use crate::store::Source;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Add a token and print it; it is not shown again
    Add {
        /// A name to recognize it by
        name: String,
        /// Whose records it reads: this box's id, or `*` for those of all [default: this box]
        #[arg(long, value_name = "ID")]
        tenant: Option<String>,
        /// What it may do: read (what identifies a person is masked), pii (nothing is),
        /// operate
        #[arg(long, value_delimiter = ',', default_value = "read")]
        rights: Vec<String>,
        /// How long it is valid, such as 90d [default: until it is removed]
        #[arg(long, value_name = "DURATION")]
        expires: Option<humantime::Duration>,
        /// Print everything about it, as JSON
        #[arg(long)]
        json: bool,
    },
    /// List all tokens, without their texts
    List {
        /// Print JSON, one line a token
        #[arg(long)]
        json: bool,
    },
    /// Remove a token; exit code 1 if there is none with this id
    Remove { id: String },
}

pub(super) fn run(action: &Action, config: &Config, out: &mut dyn Write) -> CommandResult {
    wait(async {
        let (source, _) = open(config)?;
        if !config.ledger.enabled {
            let problem = "tokens are kept in the ledger's database, and `ledger.enabled` is false";
            return Err(CliError::Message(problem.into()));
        }
        let archive = ledger::archive(&config.ledger)
            .map_err(|error| CliError::Message(format!("ledger.url: {error}")))?;
        archive.prepare().await?;
        let tokens = Tokens::new(Arc::new(archive));
        match action {
            Action::Add { name, tenant, rights, expires, json } => {
                let rights: Rights = rights
                    .join(",")
                    .parse()
                    .map_err(|error| CliError::Message(format!("{error}")))?;
                let scope = scope(&source, tenant.as_deref()).await?;
                let now = Micros::from(wall_clock());
                let expires = expires.map(|expires| Micros(now.0.saturating_add(micros(*expires))));
                let new = NewToken { name: name.clone(), scope, rights, expires };
                add(config, &source, &tokens, new, now, *json, out).await
            }
            Action::List { json } => list(&tokens, *json, out).await,
            Action::Remove { id } => remove(config, &source, &tokens, id, out).await,
        }
    })
}

async fn scope(source: &Source, named: Option<&str>) -> Result<Scope, CliError> {
    if let Some(tenant) = named {
        return Ok(Scope::parse(tenant));
    }
    let identity = source.identity().await?.ok_or_else(|| {
        CliError::Message(
            "the box has no identity yet; a token of all is added with `--tenant '*'`".into(),
        )
    })?;
    Ok(Scope::Tenant(identity.id.as_str().into()))
}

/// Refuses to change the tokens of another box, whose readers would not see the record of it.
async fn is_of_this_box(source: &Source, scope: &Scope) -> Result<(), CliError> {
    let Scope::Tenant(tenant) = scope else { return Ok(()) };
    let own = source.identity().await?;
    if own.is_some_and(|own| own.id.as_str() == &**tenant) {
        return Ok(());
    }
    let tenant = tenant.escape_debug();
    Err(CliError::Message(format!(
        "a token of the box `{tenant}` is added and removed by the nightporter of that box, which \
         records it; here there are tokens of this box and, with `--tenant '*'`, of all"
    )))
}

/// Adds a token. Unless as JSON, only its text is written to `out`, so that a script can read
/// it.
async fn add(
    config: &Config,
    source: &Source,
    tokens: &Tokens,
    new: NewToken,
    now: Micros,
    as_json: bool,
    out: &mut dyn Write,
) -> CommandResult {
    is_of_this_box(source, &new.scope).await?;
    let made = new.make(&Principal::root(), now);
    let (token, secret) = made.map_err(|error| CliError::Message(error.to_string()))?;
    let Token { id, name, rights, .. } = &token;
    let act = Act::AddToken { id: Arc::clone(id), rights: rights.to_string() };
    let act = act::commit(config, source, act).await?;
    let inserted = insert(tokens, &token).await;
    act.conclude_with(&inserted).await;
    inserted?;
    if as_json {
        let mut described = describe(&token);
        described["token"] = secret.expose().into();
        writeln!(out, "{described}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "{}", secret.expose())?;
    out.flush()?;
    let written = writeln!(
        std::io::stderr(),
        "token `{id}` ({}) is added; it is not shown again",
        name.escape_debug()
    );
    Ok(written.map(|()| ExitCode::SUCCESS)?)
}

async fn insert(tokens: &Tokens, token: &Token) -> Result<(), CliError> {
    let mut transaction = tokens.begin().await?;
    tokens.insert(&mut transaction, token).await?;
    Ok(transaction.commit().await?)
}

async fn delete(tokens: &Tokens, token: &Token) -> Result<bool, CliError> {
    let mut transaction = tokens.begin().await?;
    let removed = tokens.delete(&mut transaction, &Scope::All, token).await?;
    transaction.commit().await?;
    Ok(removed)
}

async fn list(tokens: &Tokens, as_json: bool, out: &mut dyn Write) -> CommandResult {
    let tokens = tokens.list(&Scope::All).await?;
    if as_json {
        for token in &tokens {
            writeln!(out, "{}", describe(token))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "{:<16}  {:<17}  {:<20}  {:<20}  NAME, TENANT",
        "ID", "RIGHTS", "EXPIRES", "USED"
    )?;
    for token in &tokens {
        let Token { id, hash: _, name, scope, rights, created: _, expires, last_use } = token;
        let at = |at: &Option<Micros>| at.map_or_else(|| "-".to_owned(), seconds);
        let (rights, expires, used) = (rights.to_string(), at(expires), at(last_use));
        // A name can be any text: control characters must not reach the operator's terminal.
        let (name, tenant) = (name.escape_debug(), scope.as_str().escape_debug());
        writeln!(out, "{id:<16}  {rights:<17}  {expires:<20}  {used:<20}  {name}, {tenant}")?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn remove(
    config: &Config,
    source: &Source,
    tokens: &Tokens,
    id: &str,
    out: &mut dyn Write,
) -> CommandResult {
    let all = tokens.list(&Scope::All).await?;
    if let Some(token) = all.iter().find(|token| *token.id == *id) {
        is_of_this_box(source, &token.scope).await?;
        let act = Act::RemoveToken { id: Arc::clone(&token.id) };
        let act = act::commit(config, source, act).await?;
        let removed = delete(tokens, token).await;
        act.conclude_with(&removed).await;
        if removed? {
            let limit = REMEMBERED.as_secs();
            writeln!(out, "token `{id}` is removed; it is refused within {limit} seconds")?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    writeln!(out, "no token has the id `{}`", id.escape_debug())?;
    Ok(NEGATIVE.into())
}

fn describe(token: &Token) -> Value {
    let Token { id, hash: _, name, scope, rights, created, expires, last_use } = token;
    let text = |at: &Micros| rfc3339(*at).to_string();
    json!({
        "id": **id,
        "name": name,
        "tenant": scope.as_str(),
        "rights": rights.names().collect::<Vec<_>>(),
        "created": text(created),
        "expires": expires.as_ref().map(text),
        "last_use": last_use.as_ref().map(text),
    })
}

/// Returns a time without the fraction of its second.
fn seconds(at: Micros) -> String {
    rfc3339(Micros(at.0 - at.0.rem_euclid(1_000_000))).to_string()
}
