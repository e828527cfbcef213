//! Pairing a device with a code, and what protects it.

mod forms;
mod guessing;
mod once;

use std::sync::Arc;
use std::time::SystemTime;

use nightporter::config::Secret;
use nightporter::gate::credentials::code::Code;
use nightporter::store::invitations::Invitation;
use nightporter::store::{Freshness, Source};
use serde_json::json;

use crate::support::boxes::{SampleBox, Store, TERMINAL_SECRET, app_meta};
use crate::support::client::{Connection, Request, Response};
use crate::support::server::{Nightporter, config};

const PATH: &str = "/.nightporter/pair";
const HOST: &str = "notes.box.example";
const ORIGIN: &str = "https://notes.box.example";
const SETTINGS: &str = "[gate]\npairing = true\nhide_token = true\ndomain = \"box.example\"\n";

/// A box with one app, and a second view of its store.
struct House {
    sample: SampleBox,
    source: Source,
}

impl House {
    async fn new(store: Store) -> Self {
        let sample = SampleBox::new(store).await;
        let who = json!({"X-Ptl-Client-Name": "{{ auth.client_name }}"});
        let paths = json!({"": {"access": "private", "headers": who},
            "/shared/": {"access": "public"}});
        sample.add_app("notes", &paths).await;
        let source = view(&sample);
        Self { sample, source }
    }

    async fn server(&self) -> Nightporter {
        Nightporter::with(&self.sample, SETTINGS).await
    }

    /// Another process of the same box, without a record of its own.
    async fn replica(&self) -> Nightporter {
        let settings = self.sample.store_config();
        let settings = settings.replacen("[ledger]\n", "[ledger]\nenabled = false\n", 1);
        let replica = Nightporter::start(config(&format!("{settings}{SETTINGS}")));
        replica.ready().await;
        replica
    }

    /// Makes an invitation; returns its code.
    async fn invite(&self, name: &str) -> String {
        self.invitation(name).await.0.spelled()
    }

    #[expect(clippy::disallowed_methods, reason = "codes expire by the clock")]
    async fn invitation(&self, name: &str) -> (Code, String) {
        let secret = Secret::new(TERMINAL_SECRET.to_owned());
        loop {
            let code = Code::random().expect("random");
            let invitation = Invitation {
                handle: code.handle().to_owned(),
                digest: code.digest(&secret),
                name: name.to_owned(),
            };
            let now = SystemTime::now();
            if self.source.add_invitation(&invitation, now).await.expect("written") {
                return (code, invitation.digest);
            }
        }
    }

    async fn names(&self) -> Vec<String> {
        let terminals = self.source.terminals().await.expect("readable");
        let mut names: Vec<_> =
            terminals.iter().map(|terminal| terminal.name.to_string()).collect();
        names.sort();
        names
    }
}

/// The box's store as another process sees it.
fn view(sample: &SampleBox) -> Source {
    let settings = config(&format!("{}{SETTINGS}", sample.store_config()));
    let freshness = Arc::new(Freshness::new(settings.cache.clone()));
    Source::open(&settings, &freshness).expect("a store")
}

/// A request of a browser as the proxy passes it to the gate.
fn visit(method: &str, target: &str) -> Request {
    Request::new(method, target)
        .without("Host")
        .header("Host", HOST)
        .header("X-Forwarded-Host", HOST)
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-For", "192.0.2.7")
}

/// A form as the page sends it.
struct Form<'a> {
    code: &'a str,
    name: &'a str,
    to: &'a str,
    from: &'a str,
    headers: Vec<(&'a str, &'a str)>,
}

impl<'a> Form<'a> {
    fn new(code: &'a str) -> Self {
        Self { code, name: "", to: "", from: "192.0.2.7", headers: vec![("Origin", ORIGIN)] }
    }

    async fn send(&self, server: &Nightporter) -> Response {
        let escape = |text: &str| {
            text.bytes().fold(String::new(), |escaped, byte| format!("{escaped}%{byte:02X}"))
        };
        let Self { code, name, to, from, headers } = self;
        let body = format!("code={}&name={}&to={}", escape(code), escape(name), escape(to));
        let request = visit("POST", PATH)
            .without("X-Forwarded-For")
            .header("X-Forwarded-For", from)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Content-Length", body.len().to_string())
            .headers(headers.iter().copied());
        let mut connection = Connection::open(server.gate).await.expect("the gate listens");
        let bytes = [&request.bytes()[..], body.as_bytes()].concat();
        connection.ask_bytes(&bytes).await.expect("an answer")
    }
}

/// The `authorization` cookie that a response sets.
fn cookie(response: &Response) -> String {
    let cookie = response.text("set-cookie").expect("a cookie");
    let (pair, attributes) = cookie.split_once("; ").expect("attributes");
    for attribute in ["Domain=box.example", "HttpOnly", "Path=/", "SameSite=lax", "Secure"] {
        assert!(attributes.split("; ").any(|other| other == attribute), "{cookie}");
    }
    pair.strip_prefix("authorization=").expect("the token").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_becomes_a_terminal_and_is_back_where_he_wanted_to_go() {
    for store in Store::BOTH {
        let house = House::new(store).await;
        let server = house.server().await;
        let wanted = Request::auth(HOST, "/a/b?c=d&e=%20f");
        let shown =
            wanted.clone().header("Sec-Fetch-Dest", "document").header("Accept", "text/html");
        let denied = server.ask(&shown).await;
        assert_eq!(denied.status, 401);
        let link = "/.nightporter/pair?to=/a/b?c=d%26e=%2520f";
        assert!(
            denied.body().contains(&format!("href=\"{}\"", link.replace('&', "&#38;"))),
            "{denied:?}"
        );

        let page = server.ask(&visit("GET", link).header("Accept-Language", "de")).await;
        assert_eq!(page.status, 200, "{page:?}");
        assert!(page.body().contains("Gerät koppeln"), "{page:?}");
        assert!(page.body().contains("name=\"to\" value=\"/a/b?c=d&#38;e=%20f\""), "{page:?}");

        let code = house.invite("invited").await;
        let wrong = Form::new("AAAA-AAAA-AAAA").send(&server).await;
        assert_eq!((wrong.status, wrong.header("set-cookie")), (403, None));
        assert!(wrong.body().contains("role=\"alert\""), "{wrong:?}");

        let form = Form { name: "Ada's \u{202e}phone", to: "/a/b?c=d&e=%20f", ..Form::new(&code) };
        let paired = form.send(&server).await;
        assert_eq!(paired.status, 303, "{paired:?}");
        assert_eq!(paired.text("location"), Some("/a/b?c=d&e=%20f"));
        let token = cookie(&paired);
        // At once: nobody waits for the store's notification.
        let granted = server.ask(&wanted.clone().cookie(&token)).await;
        assert_eq!((granted.status, granted.text("x-ptl-client-name")), (200, Some("Ada's phone")));

        let again = Form::new(&code).send(&server).await;
        assert_eq!((again.status, again.header("set-cookie")), (403, None));
        let unnamed = house.invite("Kitchen").await;
        assert_eq!(
            Form::new(&unnamed.replace('-', " ").to_lowercase()).send(&server).await.status,
            303
        );
        assert_eq!(house.names().await, ["Ada's phone", "Büro-Handy", "Kitchen"]);
    }
}

#[tokio::test]
async fn where_another_program_pairs_there_is_no_page() {
    let sample = SampleBox::new(Store::Postgres).await;
    sample.add_app("notes", &json!({"": {"access": "private"}})).await;
    let server = Nightporter::of(&sample).await;
    for method in ["GET", "POST"] {
        assert_eq!(server.ask(&visit(method, PATH)).await.status, 404);
    }
    let shown = Request::auth(HOST, "/").header("Sec-Fetch-Dest", "document");
    let denied = server.ask(&shown.header("Accept", "text/html")).await;
    assert!(denied.status == 401 && !denied.body().contains(PATH), "{denied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_of_the_boxs_domain_no_device_is_told_to_pair() {
    for store in Store::BOTH {
        let house = House::new(store).await;
        let mut meta = app_meta("wiki", &json!({"": {"access": "private"}}));
        meta["hosts"] = json!(["wiki.example.org"]);
        house.sample.add_app_bytes("wiki", meta.to_string().as_bytes()).await;
        let server = house.server().await;
        let open = |host: &str| {
            Request::auth(host, "/")
                .header("Sec-Fetch-Dest", "document")
                .header("Accept", "text/html")
        };
        server.until(401, &open("wiki.example.org")).await;
        let outside = server.ask(&open("wiki.example.org")).await;
        assert!(!outside.body().contains(PATH), "{outside:?}");
        assert!(outside.body().contains("at its address in box.example."), "{outside:?}");
        let inside = server.ask(&open("wiki.box.example")).await;
        assert_eq!(inside.status, 401);
        assert!(inside.body().contains(PATH), "{inside:?}");
        assert!(!inside.body().contains("at its address"), "{inside:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_gets_what_he_can_use() {
    let house = House::new(Store::Files).await;
    let server = house.server().await;
    let shown = || Request::auth(HOST, "/").header("Accept", "text/html");
    let navigation = || shown().header("Sec-Fetch-Dest", "document");
    let (plain, problem) = (Some("application/json"), Some("application/problem+json"));
    let page = Some("text/html; charset=utf-8");
    let method = |request: Request, method: &str| {
        request.without("X-Forwarded-Method").header("X-Forwarded-Method", method)
    };
    for (request, content_type) in [
        (navigation(), page),
        (Request::auth(HOST, "/"), plain),
        (Request::auth(HOST, "/").header("Accept", "*/*"), plain),
        (Request::auth(HOST, "/api").header("Accept", "application/json"), problem),
        (Request::auth(HOST, "/api").header("Accept", "application/problem+json"), problem),
        (method(navigation(), "HEAD"), plain),
        (method(navigation(), "POST"), plain),
        (navigation().header("Sec-Purpose", "prefetch;prerender"), plain),
        (navigation().header("Purpose", "prefetch"), plain),
        (shown().header("Sec-Fetch-Dest", "image"), plain),
        (Request::auth(HOST, "/favicon.ico").header("Accept", "image/*"), plain),
        (shown().header("Sec-Fetch-Dest", "manifest"), plain),
        (shown().header("Sec-Fetch-Dest", "empty"), plain),
        (navigation().header("X-Requested-With", "XMLHttpRequest"), plain),
    ] {
        let response = server.ask(&request).await;
        assert_eq!(response.status, 401, "{request:?}");
        assert_eq!(response.text("content-type"), content_type, "{request:?}");
        assert_eq!(response.text("www-authenticate"), Some("Bearer"), "{request:?}");
        assert_eq!(response.text("cache-control"), Some("no-store"), "{request:?}");
    }
    let beside = SampleBox::new(Store::Postgres).await;
    beside.add_app("notes", &json!({"": {"access": "private"}})).await;
    let server = Nightporter::of(&beside).await;
    let request = Request::auth(HOST, "/").header("Accept", "application/json");
    let response = server.ask(&request).await;
    assert_eq!((response.status, response.body()), (401, r#"{"detail":"Unauthorized"}"#));
    assert_eq!(response.header("www-authenticate"), None, "as the contract has it");
}
