//! A stranger with a phone: from the page that denies, by a code, back to where he wanted to go.

use serde::Deserialize;
use serde_json::json;

use super::{House, STARTING, notes, try_ask};
use crate::support::client::poll;
use crate::support::docker::browser::chromium;
use crate::support::docker::script::Script;
use crate::support::programs::install;

/// Browsers resolve it to this machine, and keep `Secure` cookies of it over plain HTTP.
const DOMAIN: &str = "box.localhost";

/// What the browser saw; see `journey.py`.
#[derive(Debug, Deserialize)]
struct Seen {
    /// For each journey the address at its end, and what the app answered.
    ends: Vec<(String, String)>,
    /// Every address that the browser asked for or kept, every referrer, and what scripts read.
    traces: Vec<String>,
    /// The text in the frame of another site's page.
    framed: String,
    cookies: Vec<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_a_phone_gets_where_he_wanted_to_go() {
    let house = House::open_in(Some(DOMAIN), false, None).await;
    let mut neighbours = house.neighbours().to_vec();
    neighbours.push(("notes.box.example", format!("notes.{DOMAIN}")));
    neighbours.push(("wiki.box.example", format!("wiki.{DOMAIN}")));
    let routes = install("traefik/plain.yml", house.path(), &neighbours);
    let (_traefik, public) = house.traefik(&routes, false);
    poll("the proxy is ready", STARTING, async || {
        let request = notes("/shared/").without("Host").header("Host", format!("notes.{DOMAIN}"));
        try_ask(public, &request).await.is_some_and(|response| response.status == 200)
    })
    .await;
    let base = format!("http://notes.{DOMAIN}:{}", public.port());
    // Typed by hand with and without scripts, and as the link has it.
    let codes: Vec<_> = (0..3).map(|_| house.code("phone")).collect();
    let order = json!({"chromium": chromium(), "base": base, "codes": codes});
    let mut browser = Script::start(include_str!("journey.py"), &order).await;
    let Seen { ends, traces, framed, cookies } = browser.report().await;
    browser.end().await;

    assert_eq!(ends.len(), 3);
    for (address, body) in &ends {
        assert!(address.ends_with("/private?page=1"), "{ends:?}");
        assert!(body.to_lowercase().contains("x-ptl-client-name"), "{body}");
        assert!(!body.contains("authorization="), "{body}");
    }
    assert!(ends[2].1.contains("Kitchen phone"), "{ends:?}");
    for code in &codes {
        let found = traces.iter().find(|trace| trace.contains(code.as_str()));
        assert!(found.is_none(), "{found:?}");
    }
    assert!(!framed.contains("Pair"), "{framed}");
    assert_eq!(cookies, ["authorization .box.localhost true true Lax"]);
}
