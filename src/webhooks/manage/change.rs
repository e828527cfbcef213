//! What a caller changes of an endpoint.

use serde::{Deserialize, Deserializer};

use super::{ManageError, lock, read_token, target, wanted};
use crate::ledger::archive::Transaction;
use crate::ledger::record::Micros;
use crate::webhooks::address::Allowed;
use crate::webhooks::endpoint::{Endpoint, EndpointKind, EventPattern, Origin, secrets_problem};
use crate::webhooks::quiet::Quiet;
use crate::webhooks::table::{deliveries, rows};

/// Why an endpoint is disabled that a caller has disabled.
const BY_CALLER: &str = "it was disabled over the API";

/// What is changed. What is missing stays as it is: neither the URL nor the token is shown, so
/// nobody could give them back. `null` stands for what a new endpoint has that does not say it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    /// Not changed: as it is, or missing.
    pub name: Option<String>,
    /// The same.
    pub kind: Option<EndpointKind>,
    pub url: Option<String>,
    pub token: Patch<String>,
    pub events: Patch<Vec<EventPattern>>,
    pub apps: Patch<Vec<String>>,
    pub quiet: Patch<Quiet>,
    pub pii: Option<bool>,
    pub enabled: Option<bool>,
}

/// A member of a change, as in a JSON merge patch (RFC 7396).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Patch<T> {
    /// It stays as it is.
    #[default]
    Missing,
    Null,
    Value(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Null, Self::Value))
    }
}

/// Changes an endpoint of the API, and returns it. `may_see` says whether the caller may see
/// personal values: if not, it does not decide where they are sent.
///
/// # Errors
/// If there is none, if it belongs to the configuration, or what is wrong with the change.
pub async fn change(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    id: &str,
    change: Change,
    allow: &[Allowed],
    may_see: bool,
) -> Result<Endpoint, ManageError> {
    let known = lock(transaction, tenant, id).await?;
    if known.origin == Origin::Configuration {
        return Err(ManageError::OfConfiguration);
    }
    let now = transaction.now().await?;
    let changed = changed(&known, change, allow, now)?;
    let is_other = changed.definition != known.definition;
    if is_other
        && (known.definition.subscription.pii || changed.definition.subscription.pii)
        && !may_see
    {
        return Err(ManageError::Personal);
    }
    if changed != known {
        rows::update(transaction, tenant, &changed).await?;
    }
    if changed.disabled.is_some() && known.disabled.is_none() {
        deliveries::give_up(transaction, tenant, id, now).await?;
    }
    Ok(changed)
}

fn changed(
    known: &Endpoint,
    change: Change,
    allow: &[Allowed],
    now: Micros,
) -> Result<Endpoint, ManageError> {
    let invalid = |field, problem: &str| Err(ManageError::Invalid(field, problem.to_owned()));
    let Change { name, kind, url, token, events, apps, quiet, pii, enabled } = change;
    if name.is_some_and(|name| name != known.id) {
        return invalid("name", "the name of an endpoint cannot be changed");
    }
    let mut endpoint = known.clone();
    let definition = &mut endpoint.definition;
    if kind.is_some_and(|kind| kind != definition.kind) {
        return invalid("kind", "the kind of an endpoint cannot be changed; create another one");
    }
    let mut is_elsewhere = false;
    if let Some(url) = url {
        let target = target(definition.kind, &url, allow)?;
        is_elsewhere = target.origin() != definition.url.origin();
        if target != definition.url {
            // It may work there.
            endpoint.failing_since = None;
        }
        definition.url = target;
    }
    let token = match token {
        // A caller who may change a URL must not read the token by it.
        Patch::Missing if is_elsewhere && known.secrets.token.is_some() => {
            let problem = "the token is for another server; give that of the new one, or `null`";
            return invalid("token", problem);
        }
        Patch::Missing => known.secrets.token.clone(),
        Patch::Null => None,
        Patch::Value(token) => Some(read_token(token)?),
    };
    if token != known.secrets.token {
        if let Some(problem) = secrets_problem(definition.kind, false, token.is_some()) {
            return invalid("token", problem);
        }
        endpoint.secrets.token = token;
    }
    match events {
        Patch::Missing => {}
        Patch::Null => definition.subscription.events = wanted(None)?,
        Patch::Value(events) => definition.subscription.events = wanted(Some(events))?,
    }
    match apps {
        Patch::Missing => {}
        Patch::Null => definition.subscription.apps.clear(),
        Patch::Value(apps) => definition.subscription.apps = apps,
    }
    match quiet {
        Patch::Missing => {}
        Patch::Null => definition.quiet = None,
        Patch::Value(quiet) => definition.quiet = Some(quiet),
    }
    if let Some(pii) = pii {
        definition.subscription.pii = pii;
    }
    match (enabled, &endpoint.disabled) {
        (Some(true), Some(_)) => (endpoint.failing_since, endpoint.disabled) = (None, None),
        (Some(false), None) => endpoint.disabled = Some((now, BY_CALLER.to_owned())),
        _ => {}
    }
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::webhooks::endpoint::{Definition, Secrets, Subscription};
    use crate::webhooks::target::Target;

    fn phone() -> Endpoint {
        let events = vec!["app.*".parse().expect("a pattern")];
        Endpoint {
            id: "phone".into(),
            origin: Origin::Api,
            definition: Definition {
                kind: EndpointKind::Ntfy,
                url: Target::parse("https://ntfy.example/topic").expect("a URL"),
                subscription: Subscription { events, apps: vec!["notes".into()], pii: false },
                quiet: Some("22:00-07:00".parse().expect("quiet hours")),
                allow: Vec::new(),
            },
            secrets: Secrets { token: Some(Secret::new("tk_a")), ..Secrets::default() },
            created: Micros(1),
            failing_since: Some(Micros(2)),
            disabled: None,
        }
    }

    fn after(body: &str) -> Result<Endpoint, ManageError> {
        let change = serde_json::from_str(body).expect("a change");
        changed(&phone(), change, &[], Micros(9))
    }

    #[test]
    fn what_is_missing_stays_and_null_is_what_a_new_one_has() {
        assert_eq!(after("{}").expect("valid"), phone());
        let nulls = r#"{"events": null, "apps": null, "quiet": null, "token": null}"#;
        let Endpoint { definition, secrets, .. } = after(nulls).expect("valid");
        assert_eq!(definition.subscription.events, ["alert.*".parse().expect("a pattern")]);
        assert_eq!((definition.subscription.apps, definition.quiet), (Vec::new(), None));
        assert_eq!(secrets, Secrets::default());
        let moved = after(r#"{"url": "https://ntfy.example/other"}"#).expect("valid");
        assert_eq!((moved.definition.url.last_segment(), moved.failing_since), ("other", None));
        assert_eq!(moved.secrets, phone().secrets, "the server is the same");
    }

    #[test]
    fn a_token_is_not_sent_to_another_server_by_a_change_of_the_url() {
        let field = |body: &str| match after(body) {
            Err(ManageError::Invalid(field, _)) => field,
            other => panic!("{body}: {other:?}"),
        };
        for url in [
            "https://evil.example/topic",
            "http://ntfy.example/topic",
            "https://ntfy.example:8443/topic",
        ] {
            assert_eq!(field(&format!(r#"{{"url": "{url}"}}"#)), "token", "{url}");
            let with = after(&format!(r#"{{"url": "{url}", "token": "tk_b"}}"#)).expect("valid");
            assert_eq!(with.secrets.token, Some(Secret::new("tk_b")));
            after(&format!(r#"{{"url": "{url}", "token": null}}"#)).expect("valid");
        }
    }

    #[test]
    fn an_endpoint_is_disabled_once_and_enabled_as_if_new() {
        let disabled = after(r#"{"enabled": false}"#).expect("valid");
        assert_eq!(disabled.disabled, Some((Micros(9), BY_CALLER.to_owned())));
        let change = |enabled| Change { enabled: Some(enabled), ..Change::default() };
        let again = changed(&disabled, change(false), &[], Micros(20)).expect("valid");
        assert_eq!(again, disabled);
        let enabled = changed(&disabled, change(true), &[], Micros(20)).expect("valid");
        assert_eq!(enabled, Endpoint { failing_since: None, ..phone() });
    }
}
