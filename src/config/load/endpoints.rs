//! The endpoints of messages, one section each.

use crate::config::keys::EndpointKeys;
use crate::config::reader::Reader;
use crate::config::{Endpoint, Secret};
use crate::webhooks::endpoint::{
    Definition, EndpointKind, Secrets, Subscription, is_name, url_problem,
};
use crate::webhooks::signature::SigningSecret;
use crate::webhooks::target::Target;

/// Reads all endpoints, and their keys as they were given. Those with a mistake are left out,
/// since there is a finding then.
pub(super) fn read(
    reader: &mut Reader,
    has_ledger: bool,
) -> Option<(Vec<EndpointKeys>, Vec<Endpoint>)> {
    // What is wrong with a default shows also if there is no endpoint.
    let _defaults = EndpointKeys::read(reader)?;
    let (mut given, mut endpoints) = (Vec::new(), Vec::<Endpoint>::new());
    for entry in 0..reader.entries() {
        reader.choose(Some(entry));
        let keys = EndpointKeys::read(reader)?;
        given.push(keys.clone());
        if !has_ledger {
            let hint = "set `ledger.enabled = true`, or remove the endpoint";
            let (key, problem) = ("endpoint.name", "messages are kept in the ledger's database");
            reader.refuse_because(key, "ledger.enabled", problem, hint);
        }
        let Some(endpoint) = endpoint(reader, keys) else { continue };
        if endpoints.iter().any(|other| other.name == endpoint.name) {
            let hint = "give each endpoint a name of its own";
            reader.refuse("endpoint.name", "there is another endpoint with this name", hint);
        }
        endpoints.push(endpoint);
    }
    reader.choose(None);
    Some((given, endpoints))
}

fn endpoint(reader: &mut Reader, keys: EndpointKeys) -> Option<Endpoint> {
    let EndpointKeys { name, kind, url, secret, token, events, apps, quiet, pii, allow } = keys;
    let (name, target) = (name_of(reader, name), target(reader, kind, url));
    let signing = signing(reader, kind, secret);
    check_token(reader, kind, token.as_ref());
    let subscription = Subscription { events, apps, pii };
    let definition = Definition { kind, url: target?, subscription, quiet, allow };
    let secrets = Secrets { signing, previous: None, token };
    Some(Endpoint { name: name?, definition, secrets })
}

fn name_of(reader: &mut Reader, name: Option<String>) -> Option<String> {
    match name {
        None => {
            // The finding is at the place of whatever was given.
            let hint = "name the endpoint, such as `name = \"phone\"`";
            reader.refuse_because("endpoint.name", "endpoint.url", "is missing", hint);
            None
        }
        Some(name) if is_name(&name) => Some(name),
        Some(_) => {
            let hint = "use up to 64 letters, digits, `-`, `_` and `.`";
            reader.refuse("endpoint.name", "invalid name", hint);
            None
        }
    }
}

fn target(reader: &mut Reader, kind: EndpointKind, url: Option<Secret>) -> Option<Target> {
    let Some(url) = url else {
        let hint = "say where messages go, such as `url = \"https://ntfy.sh/my-topic\"`";
        reader.refuse_because("endpoint.url", "endpoint.name", "is missing", hint);
        return None;
    };
    match Target::parse(url.expose()) {
        Ok(target) => {
            if let Some(problem) = url_problem(kind, &target) {
                let hint = "add the topic to the URL";
                reader.refuse_because("endpoint.url", "endpoint.url_file", problem, hint);
            }
            Some(target)
        }
        Err(error) => {
            let hint = "write it as `https://host/path`";
            reader.refuse_because("endpoint.url", "endpoint.url_file", error.to_string(), hint);
            None
        }
    }
}

fn signing(
    reader: &mut Reader,
    kind: EndpointKind,
    secret: Option<Secret>,
) -> Option<SigningSecret> {
    let (key, cause) = ("endpoint.secret", "endpoint.secret_file");
    let create = "create one with `echo whsec_$(openssl rand -base64 32)`";
    match (kind, secret) {
        (EndpointKind::Webhook, None) => {
            reader.refuse_because(key, "endpoint.url", "is missing", create);
            None
        }
        (EndpointKind::Webhook, Some(secret)) => match SigningSecret::parse(secret.expose()) {
            Ok(secret) => Some(secret),
            Err(error) => {
                reader.refuse_because(key, cause, error.to_string(), create);
                None
            }
        },
        (_, Some(_)) => {
            reader.refuse_because(key, cause, "only webhooks are signed", "remove it");
            None
        }
        (_, None) => None,
    }
}

fn check_token(reader: &mut Reader, kind: EndpointKind, token: Option<&Secret>) {
    let (key, cause) = ("endpoint.token", "endpoint.token_file");
    match (kind, token) {
        (EndpointKind::Gotify, None) => {
            let hint = "create an application in Gotify and give its token";
            reader.refuse_because(key, "endpoint.url", "is missing", hint);
        }
        (EndpointKind::Webhook | EndpointKind::Discord, Some(_)) => {
            let hint = "remove it; a webhook has a secret, and Discord's URL is one";
            reader.refuse_because(key, cause, "only ntfy and Gotify have tokens", hint);
        }
        (_, Some(token)) if !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) => {
            let hint = "copy it again, without white space";
            reader.refuse_because(key, cause, "a token has visible ASCII characters only", hint);
        }
        _ => {}
    }
}
