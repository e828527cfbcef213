//! In the steady state nobody asks the database anything.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::support::boxes::{SampleBox, Store, TERMINAL_SECRET, id_of};
use crate::support::client::Request;
use crate::support::load::{Shot, drive};
use crate::support::server::{self, Nightporter};
use crate::support::sign::{self, PEER_KEY, order, signature_headers};
use crate::support::soak;

const APPS: usize = 20;
const TERMINALS: usize = 200;
const CONNECTIONS: usize = 16;
/// One that does not come back in such a time, on however busy a machine, has all read anew.
const HEARTBEAT_SECONDS: u64 = 30;
const FLUSH_SECONDS: u64 = 10;

/// A thousand requests as they come to a box: a third each of anonymous ones
/// and of terminals', the rest peers', denied ones and unknown hosts.
fn mix() -> Arc<[Shot]> {
    let keyid = &id_of(&PEER_KEY)[..6];
    let url = |n: usize| format!("https://app{n}.box.example/peer/{n}");
    let orders: Vec<_> = (0..5).map(|n| order(&PEER_KEY, keyid, &url(n))).collect();
    let signed = sign::sign(&orders);
    let tokens: Vec<_> =
        (0..TERMINALS).map(|n| sign::token(TERMINAL_SECRET, &format!("t{n}"))).collect();
    let stranger = sign::token(TERMINAL_SECRET, "stranger");
    (0..1000)
        .map(|n| {
            let host = format!("app{}.box.example", n % APPS);
            let uri = |start: &str| format!("{start}/{}?n={n}", n % 50);
            match n % 10 {
                0..=2 => Shot::new(&Request::auth(host, uri("/pub")), 200),
                3..=5 => {
                    let token = &tokens[n * 7 % TERMINALS];
                    Shot::new(&Request::auth(host, uri("/private")).cookie(token), 200)
                }
                6 => {
                    let (n, host) = (n / 10 % 5, format!("app{}.box.example", n / 10 % 5));
                    let headers = signature_headers(&signed[n]);
                    let peer = Request::auth(host, format!("/peer/{n}")).headers(headers);
                    Shot::new(&peer, 200)
                }
                7 => Shot::new(&Request::auth(host, uri("/private")), 401),
                8 => Shot::new(&Request::auth(host, uri("/private")).cookie(&stranger), 401),
                _ => Shot::new(&Request::auth(format!("random{}.x", n * 31), "/"), 404),
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_mixed_requests_add_no_statement() {
    let sample = SampleBox::new(Store::Postgres).await;
    let who = json!({"X-Ptl-Client-Id": "{{ auth.client_id }}", "X-Ptl-Box": "{{ portal.id }}"});
    let rule = |access: &str| json!({"access": access, "headers": who});
    let paths = json!({"": rule("private"), "/pub": rule("public"), "/peer": rule("peer")});
    for n in 0..APPS {
        sample.add_app(&format!("app{n}"), &paths).await;
    }
    sample.add_terminals((0..TERMINALS).map(|n| format!("t{n}"))).await;
    sample.settle().await;
    let times = format!(
        "[cache]\nheartbeat = \"{HEARTBEAT_SECONDS}s\"\ndegraded_ttl = \"30s\"\nmax_stale = \"120s\"\n[touch]\nflush_interval = \"{FLUSH_SECONDS}s\"\n"
    );
    let config = format!("{}{times}", sample.quiet_config());
    let server = Nightporter::start(server::config(&config));
    server.ready().await;
    let shots = mix();
    let warm_up = shots.len() as u64;
    drive(server.gate, &shots, CONNECTIONS, warm_up).await.is_as_expected(warm_up);

    let database = sample.database();
    let began = Instant::now();
    database.forget_statements().await;
    let requests = u64::from(soak::QUIET_REQUESTS.count());
    drive(server.gate, &shots, CONNECTIONS, requests).await.is_as_expected(requests);
    let statements = database.statements().await;
    let seconds = began.elapsed().as_secs();

    let (heartbeats, others): (Vec<_>, Vec<_>) =
        statements.iter().partition(|(sql, _)| sql.contains("pg_notify"));
    let (touches, others): (Vec<_>, Vec<_>) = others
        .into_iter()
        .partition(|(sql, _)| sql.contains("UPDATE") && sql.contains("SET last_"));
    assert!(others.is_empty(), "{others:#?}");
    let count = |statements: &[&(String, i64)]| -> u64 {
        statements.iter().map(|(_, calls)| calls.unsigned_abs()).sum()
    };
    // One of each could be under way at either end.
    assert!(count(&heartbeats) <= seconds / HEARTBEAT_SECONDS + 2, "{heartbeats:#?}");
    assert!(count(&touches) <= 2 * (seconds / FLUSH_SECONDS + 2), "{touches:#?}");
    assert_eq!(server.state().await, "live", "heartbeats went on");
}
