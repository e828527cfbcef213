//! The endpoints of the configuration: rows like the others, written at the start.

use tracing::{info, warn};

use super::endpoint::{Endpoint, Origin, Secrets};
use super::rows;
use crate::config;
use crate::ledger::archive::{Archive, ArchiveError, Transaction};
use crate::ledger::record::Micros;

/// How long the secret before the last change signs as well.
pub(super) const ROTATION: i64 = 24 * 3600 * 1_000_000;

/// Makes the rows of the configuration's endpoints what the configuration says. Nothing is
/// written if they are.
pub(super) async fn store(
    archive: &Archive,
    tenant: &str,
    configured: &[config::Endpoint],
) -> Result<(), ArchiveError> {
    let stored = rows::all(&mut archive.snapshot().await?, tenant).await?;
    let is_configured = |id: &str| configured.iter().any(|other| other.name == id);
    let readable = stored.readable.iter().map(|endpoint| (&endpoint.id, endpoint.origin));
    let unreadable = stored.unreadable.iter().map(|(id, origin)| (id, *origin));
    let mut transaction = archive.begin().await?;
    for (id, origin) in readable.map(|(id, origin)| (id, Some(origin))).chain(unreadable.clone()) {
        if origin == Some(Origin::Configuration)
            && !is_configured(id)
            && rows::delete(&mut transaction, tenant, id).await?
        {
            info!(endpoint = %id, "an endpoint left the configuration");
        }
    }
    for endpoint in configured {
        let is_unreadable = unreadable
            .clone()
            .any(|(id, origin)| *id == endpoint.name && origin == Some(Origin::Configuration));
        if is_unreadable {
            // The configuration is what counts.
            let now = transaction.now().await?;
            rows::update(&mut transaction, tenant, &new(endpoint, now)).await?;
            continue;
        }
        let known = stored.readable.iter().find(|stored| stored.id == endpoint.name);
        put(&mut transaction, tenant, endpoint, known).await?;
    }
    transaction.commit().await
}

fn new(configured: &config::Endpoint, now: Micros) -> Endpoint {
    let config::Endpoint { name, definition, secrets } = configured;
    Endpoint {
        id: name.clone(),
        origin: Origin::Configuration,
        definition: definition.clone(),
        secrets: secrets.clone(),
        created: now,
        failing_since: None,
        disabled: None,
    }
}

async fn put(
    transaction: &mut Transaction<'_>,
    tenant: &str,
    configured: &config::Endpoint,
    known: Option<&Endpoint>,
) -> Result<(), ArchiveError> {
    let config::Endpoint { name, definition, secrets } = configured;
    let Some(known) = known else {
        let now = transaction.now().await?;
        return rows::insert(transaction, tenant, &new(configured, now)).await.map(drop);
    };
    if known.origin == Origin::Api {
        warn!(endpoint = %name, "the API created an endpoint of this name; it stays as it is");
        return Ok(());
    }
    if known.definition == *definition
        && known.secrets.signing == secrets.signing
        && known.secrets.token == secrets.token
    {
        return Ok(());
    }
    let now = transaction.now().await?;
    // It may work now.
    let endpoint = Endpoint {
        definition: definition.clone(),
        secrets: changed(&known.secrets, secrets, now),
        failing_since: None,
        disabled: None,
        ..known.clone()
    };
    rows::update(transaction, tenant, &endpoint).await
}

/// Returns the secrets after a change of the configuration.
fn changed(known: &Secrets, configured: &Secrets, now: Micros) -> Secrets {
    let mut secrets = Secrets { token: configured.token.clone(), ..known.clone() };
    match &configured.signing {
        Some(secret) if known.signing.as_ref() != Some(secret) => {
            secrets.rotate(secret.clone(), Micros(now.0 + ROTATION));
        }
        Some(_) => {}
        None => secrets = Secrets { token: secrets.token, ..Secrets::default() },
    }
    secrets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhooks::signature::SigningSecret;

    #[test]
    fn a_secret_that_is_changed_is_rotated() {
        let secret = || SigningSecret::random().expect("random numbers");
        let of = |signing: &SigningSecret| Secrets {
            signing: Some(signing.clone()),
            ..Secrets::default()
        };
        let (old, new) = (secret(), secret());
        let rotated = changed(&of(&old), &of(&new), Micros(7));
        assert_eq!(rotated.signing, Some(new.clone()));
        assert_eq!(rotated.previous, Some((old, Micros(7 + ROTATION))));
        assert_eq!(changed(&rotated, &of(&new), Micros(9)), rotated, "nothing has changed");
        assert_eq!(changed(&rotated, &Secrets::default(), Micros(9)), Secrets::default());
    }
}
