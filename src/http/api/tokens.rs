//! Tokens of this API: a token manages those of its own tenant, within its own rights, and the
//! nightporter of that tenant's box adds and removes them.

use std::sync::Arc;

use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::outcome::Outcome;
use super::problem::Problem;
use super::query::Query;
use super::{Call, Services, TENANT, json, ok, read_object};
use crate::access::token::{Invalid, NewToken, Token};
use crate::access::{Rights, Scope, Tokens};
use crate::http::Response;
use crate::ledger::acts::Act;
use crate::ledger::checkpoint::rfc3339;
use crate::ledger::clock;
use crate::ledger::record::{Micros, micros};

/// A token as it is shown: without its text, which only its creator has seen.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Token")]
pub(super) struct TokenView<'a> {
    id: &'a str,
    name: &'a str,
    tenant: &'a str,
    rights: Vec<&'static str>,
    created: String,
    expires: Option<String>,
    last_use: Option<String>,
}

impl<'a> From<&'a Token> for TokenView<'a> {
    fn from(token: &'a Token) -> Self {
        let Token { id, hash: _, name, scope, rights, created, expires, last_use } = token;
        let text = |at: &Micros| rfc3339(*at).to_string();
        Self {
            id,
            name,
            tenant: scope.as_str(),
            rights: rights.names().collect(),
            created: text(created),
            expires: expires.as_ref().map(text),
            last_use: last_use.as_ref().map(text),
        }
    }
}

/// A new token.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "NewToken")]
pub(super) struct AddedToken<'a> {
    /// The token itself: it is not shown again.
    token: &'a str,
    #[serde(flatten)]
    shown: TokenView<'a>,
}

/// All tokens that may be managed.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Tokens")]
pub(super) struct List<'a> {
    tokens: Vec<TokenView<'a>>,
}

/// The body of a request for a token.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WantedToken")]
pub(super) struct TokenRequest {
    name: String,
    /// The id of a box, or `*`; that of the token that asks, if it is missing.
    tenant: Option<String>,
    rights: Vec<String>,
    /// How long it is valid, such as `90d`; until it is removed, if it is missing.
    expires_in: Option<String>,
}

/// `GET /v1/tokens`
pub(super) async fn list(services: &Services, call: Call) -> Result<Response, Problem> {
    let scope = scope(&call)?;
    let tokens = tokens(services)?.list(&scope).await?;
    let tokens = tokens.iter().map(TokenView::from).collect();
    Ok(ok(&List { tokens }))
}

/// `GET /v1/tokens/{id}`
pub(super) async fn show(services: &Services, call: Call) -> Result<Response, Problem> {
    let (scope, id) = (scope(&call)?, call.parameters.get("id"));
    let all = tokens(services)?.list(&scope).await?;
    let token = all.iter().find(|token| *token.id == *id).ok_or_else(missing)?;
    Ok(ok(&TokenView::from(token)))
}

/// `POST /v1/tokens`
pub(super) async fn add(services: &Services, call: Call) -> Result<Outcome<'_>, Problem> {
    let scope = scope(&call)?;
    let tokens = tokens(services)?;
    let wanted: TokenRequest = read_object(call.body()).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is not that of a token: {error}"))
    })?;
    let now = clock::now();
    let default = match scope {
        Scope::All if wanted.tenant.is_none() => Scope::Tenant(services.own_rows(&call)?),
        scope => scope,
    };
    let (token, secret) = wanted.read(default, now)?.make(&call.principal, now)?;
    is_of_this_box(services, &token.scope)?;
    let act = Act::AddToken { id: Arc::clone(&token.id), rights: token.rights.to_string() };
    let mut transaction = tokens.begin().await?;
    tokens.insert(&mut transaction, &token).await?;
    let recorded = services.record(&mut transaction, act).await?;
    let added = AddedToken { token: secret.expose(), shown: (&token).into() };
    Ok(Outcome::within(transaction, recorded, json(StatusCode::CREATED, &added)))
}

/// `DELETE /v1/tokens/{id}`
pub(super) async fn remove(services: &Services, call: Call) -> Result<Outcome<'_>, Problem> {
    let scope = scope(&call)?;
    let (tokens, id) = (tokens(services)?, call.parameters.get("id"));
    let all = tokens.list(&scope).await?;
    let token = all.iter().find(|token| *token.id == *id).ok_or_else(missing)?;
    is_of_this_box(services, &token.scope)?;
    let mut transaction = tokens.begin().await?;
    if !tokens.delete(&mut transaction, &scope, token).await? {
        return Err(missing());
    }
    let act = Act::RemoveToken { id: Arc::clone(&token.id) };
    let recorded = services.record(&mut transaction, act).await?;
    let (removed, tokens) = (token.hash, Arc::clone(tokens));
    let outcome = Outcome::within(transaction, recorded, ok(&TokenView::from(token)));
    Ok(outcome.after_commit(move || tokens.note_removal(&removed)))
}

impl TokenRequest {
    fn read(self, default: Scope, now: Micros) -> Result<NewToken, Problem> {
        let Self { name, tenant, rights, expires_in } = self;
        let rights = if rights.is_empty() {
            Rights::default()
        } else {
            let read = rights.join(",").parse::<Rights>();
            read.map_err(|error| Problem::parameter("rights", error.to_string()))?
        };
        let expires = expires_in.map(|text| expiry(&text, now)).transpose()?;
        let scope = tenant.map_or(default, |tenant| Scope::parse(&tenant));
        Ok(NewToken { name, scope, rights, expires })
    }
}

fn expiry(text: &str, now: Micros) -> Result<Micros, Problem> {
    let invalid = || {
        let detail = "invalid `expires_in`: expected a number and a unit, such as `90d`";
        Problem::parameter("expires_in", detail)
    };
    let duration = humantime::parse_duration(text).map_err(|_| invalid())?;
    now.0.checked_add(micros(duration)).map(Micros).ok_or_else(invalid)
}

/// Returns whose tokens a request is about: those of the tenant that it names, or all that its
/// own token may manage.
fn scope(call: &Call) -> Result<Scope, Problem> {
    let mut query = Query::parse(call.request.uri().query())?;
    let named = query.text(TENANT)?;
    query.end()?;
    Ok(named.map_or_else(|| call.principal.scope.clone(), |tenant| Scope::Tenant(tenant.into())))
}

/// Refuses to change the tokens of another box, whose readers would not see the record of it.
fn is_of_this_box(services: &Services, scope: &Scope) -> Result<(), Problem> {
    match scope {
        Scope::All => Ok(()),
        Scope::Tenant(tenant) => services.rows_of(tenant).map(drop),
    }
}

fn tokens(services: &Services) -> Result<&Arc<Tokens>, Problem> {
    services.tokens.as_ref().ok_or_else(|| Problem::ledger_disabled("there are no tokens"))
}

fn missing() -> Problem {
    Problem::not_found("there is no such token")
}

impl From<Invalid> for Problem {
    fn from(error: Invalid) -> Self {
        let parameter = match error {
            Invalid::Name => "name",
            Invalid::Tenant => "tenant",
            Invalid::NoRight => "rights",
            Invalid::Expired => "expires_in",
            Invalid::Beyond => return Self::new(StatusCode::FORBIDDEN, error.to_string()),
            Invalid::Random(_) => return Self::unavailable(error.to_string()),
        };
        Self::parameter(parameter, error.to_string())
    }
}
