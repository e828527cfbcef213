//! What the messages of Compose and of the engine behind it mean.

use crate::domain::lifecycle::WakeError;

/// Bytes of Compose's output that are shown, from its end.
const MAX_SHOWN: usize = 400;

/// Why a Compose command failed.
#[derive(Debug)]
pub(super) enum RunError {
    /// A network or container name of an earlier run is in the way; `down` removes it.
    Stale(String),
    Failed(WakeError),
}

impl From<RunError> for WakeError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Failed(failure) => failure,
            RunError::Stale(reason) => Self::Compose(reason),
        }
    }
}

impl RunError {
    /// Classifies the output of Compose and the engine behind it, in the words of several
    /// versions.
    pub(super) fn from_message(message: &str) -> Self {
        let message = message.trim();
        let start = message.len().saturating_sub(MAX_SHOWN);
        let start = (start..message.len()).find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        let end = message[start..].to_owned();
        let lower = message.to_lowercase();
        let has = |part: &str| lower.contains(part);
        let unresolved = has("failed to resolve reference") && has("not found");
        let is_missing = has("no such image") || has("pull access denied");
        if is_missing || has("manifest unknown") || unresolved {
            return Self::Failed(WakeError::ImageMissing { image: image_or_unknown(message) });
        }
        let stale_network = has("network") && (has("not found") || has("no such network"));
        let stale_neighbour = has("no such container") || has("cannot join network of");
        if stale_network
            || stale_neighbour
            || has("is already in use by container")
            || has("needs to be recreated")
        {
            Self::Stale(end)
        } else if NOT_FETCHED.into_iter().any(has) {
            Self::Failed(WakeError::ImageNotFetched { image: image_named_in(message), reason: end })
        } else {
            Self::Failed(WakeError::Compose(end))
        }
    }
}

/// Parts of messages about an image that cannot be fetched, because its registry cannot
/// be reached or refuses it.
const NOT_FETCHED: [&str; 11] = [
    "/v2/",
    "failed to resolve reference",
    "failed to pull",
    "failed to copy",
    "error pulling image",
    "failed to register layer",
    "no matching manifest",
    "toomanyrequests",
    "no basic auth credentials",
    "authentication required",
    "unauthorized",
];

/// Returns the image that a message is about, from a configuration as Compose prints it.
/// The message names the image, its service or its registry.
pub(super) fn image_in_config(config: &str, message: &str) -> Option<String> {
    let mut service = "";
    let mut images = Vec::new();
    for line in config.lines() {
        if let Some(name) = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')) {
            service = name.trim_end_matches(':');
        } else if let Some(image) = line.strip_prefix("    image: ") {
            images.push((service, image.trim_matches(['"', '\''])));
        }
    }
    let is_named = |what: &str| message.contains(what);
    let registry = |image: &str| Some(image.split_once('/')?.0.to_owned());
    let found = images
        .iter()
        .find(|(_, image)| is_named(image))
        .or_else(|| images.iter().find(|(service, _)| is_named(&format!(" {service} Error"))))
        .or_else(|| images.iter().find(|(_, image)| registry(image).is_some_and(|r| is_named(&r))))
        .or_else(|| images.first().filter(|_| images.len() == 1));
    found.map(|(_, image)| (*image).to_owned())
}

/// Returns the image that a message names, or `?`.
fn image_or_unknown(message: &str) -> String {
    let named = image_named_in(message);
    if named.is_empty() { "?".to_owned() } else { named }
}

/// Returns the image that a message names; empty if it names none.
fn image_named_in(message: &str) -> String {
    // This phrase is followed by a platform, not an image.
    let message = &*message.replace("no matching manifest for", "");
    let markers = ["o such image: ", "denied for ", "manifest for ", "resolve reference \""];
    let after = |mark: &&str| message.split_once(*mark).map(|(_, rest)| rest);
    // The older Compose names the image before it fetches it: `Pulling web (shop:7)...`.
    let pulled = || message.rsplit_once("Pulling ")?.1.split_once('(').map(|(_, rest)| rest);
    let rest = markers.iter().find_map(after).or_else(pulled).unwrap_or_default();
    let ends = |c: char| c.is_whitespace() || matches!(c, ',' | '"' | ')');
    rest[..rest.find(ends).unwrap_or(rest.len())].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compose_says_is_told_apart() {
        let image = |message: &str| match RunError::from_message(message) {
            RunError::Failed(WakeError::ImageMissing { image }) => image,
            other => panic!("{other:?}"),
        };
        assert_eq!(image("ERROR: No such image: shop:7"), "shop:7");
        assert_eq!(
            image("pull access denied for shop, repository does not exist or may require ..."),
            "shop"
        );
        assert_eq!(
            image("manifest for a.test:5000/shop:7 not found: manifest unknown: manifest unknown"),
            "a.test:5000/shop:7"
        );
        assert_eq!(
            image("Pulling a (b:1)...\nPulling web (shop:7)...\nmanifest unknown"),
            "shop:7"
        );
        assert_eq!(
            image("failed to resolve reference \"a.test/shop:7\": a.test/shop:7: not found"),
            "a.test/shop:7"
        );
        for stale in [
            "ERROR: for web  network 5e3f was not found",
            "Conflict. The container name \"/web\" is already in use by container \"ab\".",
            "Network \"shop_default\" needs to be recreated - option \"x\" has changed",
        ] {
            assert!(matches!(RunError::from_message(stale), RunError::Stale(_)), "{stale}");
        }
        for (message, named) in [
            (
                "Error response from daemon: Get \"http://127.0.0.1:5000/v2/\": dial tcp \
                 127.0.0.1:5000: connect: connection refused",
                "",
            ),
            (
                "Pulling web (a.test/shop:7)...\nerror pulling image configuration: EOF",
                "a.test/shop:7",
            ),
            (
                "failed to resolve reference \"a.test/shop:7\": dial tcp: i/o timeout",
                "a.test/shop:7",
            ),
            ("toomanyrequests: You have reached your unauthenticated pull rate limit.", ""),
            ("Head \"https://a.test/v2/shop/manifests/7\": unauthorized: access denied", ""),
            ("no matching manifest for linux/arm64/v8 in the manifest list entries", ""),
        ] {
            match RunError::from_message(message) {
                RunError::Failed(WakeError::ImageNotFetched { image, .. }) => {
                    assert_eq!(image, named);
                }
                other => panic!("{message}: {other:?}"),
            }
        }
        let long = "ü".repeat(1000);
        assert!(matches!(RunError::from_message(&long), RunError::Failed(WakeError::Compose(_))));
    }

    #[test]
    fn the_image_that_is_not_fetched_is_found_in_the_file() {
        let config = "name: shop\nservices:\n  db:\n    image: postgres:17\n  web:\n    \
                      environment:\n      image: none\n    image: 10.0.0.1:5000/shop:7\n";
        for (message, image) in [
            ("pulling postgres:17: EOF", Some("postgres:17")),
            (" db Error\ntoomanyrequests", Some("postgres:17")),
            ("Get \"http://10.0.0.1:5000/v2/\": connection refused", Some("10.0.0.1:5000/shop:7")),
            ("toomanyrequests", None),
        ] {
            assert_eq!(image_in_config(config, message).as_deref(), image, "{message}");
        }
        let one = "services:\n  web:\n    image: 'shop:7'\n";
        assert_eq!(image_in_config(one, "toomanyrequests").as_deref(), Some("shop:7"));
        assert_eq!(image_in_config("", "toomanyrequests"), None);
    }
}
