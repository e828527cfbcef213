use serde_json::Value;

use super::*;
use crate::secret::Secret;
use crate::webhooks::endpoint::Subscription;
use crate::webhooks::signature::SigningSecret;

const NOW: Micros = Micros(1_700_000_000_123_456);

fn definition(kind: EndpointKind, url: &str) -> Definition {
    let url = url.to_owned().try_into().expect("a URL");
    let subscription = Subscription { events: Vec::new(), apps: Vec::new(), pii: false };
    Definition { kind, url, subscription, quiet: None, allow: Vec::new() }
}

fn claimed(kind: &str) -> ClaimedDelivery {
    ClaimedDelivery {
        event: "alert:disk_low:1".into(),
        kind: kind.into(),
        at: Micros(1_600_000_000_000_000),
        app: Some("notes".into()),
        content: String::new(),
        attempt: 1,
        lease: "l".into(),
    }
}

fn content() -> Content {
    Content {
        title: "Disk low".into(),
        text: "2 GiB are left since 12:00. Remove something.".into(),
        data: serde_json::json!({"rule": "disk_low"}),
    }
}

fn sent(kind: EndpointKind, url: &str, secrets: &Secrets) -> (Message, Value) {
    let message =
        message(&definition(kind, url), secrets, &claimed("alert.firing"), &content(), NOW)
            .expect("a message");
    let body = serde_json::from_slice(&message.body).expect("JSON");
    (message, body)
}

#[test]
fn a_webhook_is_signed_by_every_secret_and_says_what_happened() {
    let secret = |byte: u8| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode([byte; 32]);
        SigningSecret::parse(&format!("whsec_{text}")).expect("a secret")
    };
    let mut secrets = Secrets { signing: Some(secret(1)), ..Secrets::default() };
    secrets.rotate(secret(2), Micros(NOW.0 + 1));
    let url = "https://hooks.example/in?key=1";
    let (message, body) = sent(EndpointKind::Webhook, url, &secrets);
    assert_eq!(message.path, "/in?key=1");
    assert_eq!(body["type"], "alert.firing");
    assert_eq!(body["timestamp"], "2020-09-13T12:26:40.000000Z");
    assert_eq!(body["data"]["title"], "Disk low");
    assert_eq!(body["data"]["app"], "notes");
    assert_eq!(body["data"]["details"]["rule"], "disk_low");
    let header = |name: &str| message.headers[name].to_str().expect("text").to_owned();
    assert_eq!(header("webhook-id"), "alert:disk_low:1");
    assert_eq!(header("webhook-timestamp"), "1700000000");
    let expected: Vec<_> = [2, 1]
        .map(|byte| secret(byte).sign("alert:disk_low:1", 1_700_000_000, &message.body))
        .to_vec();
    assert_eq!(header("webhook-signature"), expected.join(" "));
}

#[test]
fn an_id_that_would_end_where_it_is_signed_is_encoded() {
    assert_eq!(message_id("record:00ab-7"), "record:00ab-7");
    assert_eq!(message_id("a.b c\n\u{e9}"), "a%2Eb%20c%0A%C3%A9");
}

#[test]
fn ntfy_gets_json_at_its_root_and_the_token_as_bearer() {
    let secrets = Secrets { token: Some(Secret::new("tk_abc")), ..Secrets::default() };
    let (message, body) = sent(EndpointKind::Ntfy, "https://ntfy.sh/my-topic", &secrets);
    assert_eq!(message.path, "/");
    assert_eq!(message.headers["authorization"], "Bearer tk_abc");
    assert_eq!(body["topic"], "my-topic");
    assert_eq!(body["title"], "Disk low");
    assert_eq!(body["message"], content().text);
    assert_eq!((&body["priority"], &body["tags"][0]), (&4.into(), &"warning".into()));
    let (message, _) = sent(EndpointKind::Ntfy, "https://a.example/ntfy/t", &Secrets::default());
    assert_eq!(message.path, "/ntfy/");
    assert!(!message.headers.contains_key("authorization"));
}

#[test]
fn gotify_gets_its_token_in_its_own_header() {
    let secrets = Secrets { token: Some(Secret::new("AbC.9")), ..Secrets::default() };
    for (url, path) in [
        ("https://gotify.lan", "/message"),
        ("https://gotify.lan/", "/message"),
        ("https://a.example/gotify/", "/gotify/message"),
    ] {
        let (message, body) = sent(EndpointKind::Gotify, url, &secrets);
        assert_eq!(message.path, path);
        assert_eq!(message.headers["x-gotify-key"], "AbC.9");
        assert!(message.headers["x-gotify-key"].is_sensitive());
        assert_eq!((&body["title"], &body["priority"]), (&"Disk low".into(), &8.into()));
    }
    let broken = Secrets { token: Some(Secret::new("a\nb")), ..Secrets::default() };
    let definition = definition(EndpointKind::Gotify, "https://gotify.lan");
    let refused = super::message(&definition, &broken, &claimed("test"), &content(), NOW);
    assert_eq!(refused, Err(InvalidToken));
}

#[test]
fn discord_gets_one_text_that_notifies_nobody_and_is_not_too_long() {
    let url = "https://discord.com/api/webhooks/1/x";
    let (message, body) = sent(EndpointKind::Discord, url, &Secrets::default());
    assert_eq!(message.path, "/api/webhooks/1/x");
    assert_eq!(body["content"], format!("**Disk low**\n{}", content().text));
    assert_eq!(body["allowed_mentions"]["parse"], serde_json::json!([]));
    let long = Content { title: "ü".repeat(500), text: "ä".repeat(9_000), ..content() };
    let definition = definition(EndpointKind::Discord, url);
    let message = super::message(&definition, &Secrets::default(), &claimed("test"), &long, NOW)
        .expect("a message");
    let body: Value = serde_json::from_slice(&message.body).expect("JSON");
    let length = body["content"].as_str().expect("text").chars().count();
    assert!((900..=2000).contains(&length), "{length}");
}
