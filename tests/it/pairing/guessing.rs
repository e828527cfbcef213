//! Who guesses is slowed down, and nobody else.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;

use super::{Form, HOST, House};
use crate::support::boxes::{self, MANAGEMENT_SECRET, Store};
use crate::support::client::{Request, Response, ask, poll};
use crate::support::server::Nightporter;
use crate::support::sign;
use crate::support::soak::GUESSES;

const GUESSER: &str = "198.51.100.7";

fn private(from: &str) -> Request {
    Request::auth(HOST, "/").header("X-Forwarded-For", from)
}

fn wait(response: &Response) -> u64 {
    assert_eq!(response.status, 429, "{response:?}");
    response.text("retry-after").expect("a time").parse().expect("seconds")
}

async fn limits(server: &Nightporter) -> Vec<Value> {
    let response = ask(server.ops, &Request::new("GET", "/v1/limits")).await;
    let body: Value = serde_json::from_slice(&response.body).expect("JSON");
    body["limits"].as_array().expect("a list").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_of_one_address_end_and_the_owner_behind_it_stays_in() {
    let house = House::new(Store::Files).await;
    let server = house.server().await;
    let code = house.invite("phone").await;
    for guess in 0..GUESSES.count() {
        let wrong = format!("ZZZZ-ZZZZ-{guess:04}");
        let response = Form { from: GUESSER, ..Form::new(&wrong) }.send(&server).await;
        if guess < 6 {
            assert_eq!(response.status, 403, "guess {guess}");
        } else {
            assert!((1..=60).contains(&wait(&response)), "{response:?}");
        }
    }
    let right = Form { from: GUESSER, ..Form::new(&code) }.send(&server).await;
    assert!(wait(&right) <= 60, "not even looked at: {right:?}");
    // Who is paired stays in, who shows nothing is told the ordinary way.
    let owner = server.ask(&private(GUESSER).cookie(boxes::token())).await;
    assert_eq!(owner.status, 200, "{owner:?}");
    assert_eq!(server.ask(&private(GUESSER)).await.status, 401);
    let guess = sign::token("a-secret-that-somebody-has-guessed-0123456", "phone1");
    let guess = server.ask(&private(GUESSER).cookie(guess)).await;
    assert_eq!(guess.status, 401, "tokens count apart from codes: {guess:?}");

    let listed = limits(&server).await;
    assert_eq!((listed.len(), listed[0]["address"].as_str()), (1, Some(GUESSER)), "{listed:?}");
    let metrics = ask(server.ops, &Request::new("GET", "/metrics")).await;
    assert!(metrics.body().contains("nightporter_limited_addresses 1"), "{}", metrics.body());
    let lift = Request::new("DELETE", &format!("/v1/limits/{GUESSER}"));
    assert_eq!(ask(server.ops, &lift).await.status, 200);
    assert_eq!(ask(server.ops, &lift).await.status, 404);
    assert_eq!(limits(&server).await, Vec::<Value>::new());
    let right = Form { from: GUESSER, ..Form::new(&code) }.send(&server).await;
    assert_eq!(right.status, 303, "{right:?}");
}

fn address(number: u32) -> String {
    format!("10.{}.{}.{}", number / 65_536, number / 256 % 256, number % 256)
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_of_many_addresses_find_no_code_and_keep_nobody_out() {
    for store in Store::BOTH {
        let house = House::new(store).await;
        let server = house.server().await;
        let (tried, other) = (house.invite("tried").await, house.invite("phone").await);
        for guess in 0..GUESSES.count() {
            let wrong = match guess % 4 {
                0 => format!("{}-ZZZZ-{guess:04}", &tried[..4]),
                1 => format!("no code {guess}"),
                // The handle of nobody's invitation.
                _ => format!("{:04}-ZZZZ-ZZZZ", guess % 10_000),
            };
            if wrong[..4] == other[..4] {
                continue;
            }
            let sent = Form { from: &address(guess), ..Form::new(&wrong) }.send(&server).await;
            assert_eq!(sent.status, 403, "{store:?} {wrong} {sent:?}");
        }
        assert_eq!(house.names().await, ["Büro-Handy"]);
        let dead = Form { from: "192.0.2.8", ..Form::new(&tried) }.send(&server).await;
        assert_eq!(dead.status, 403, "five of them were for this one");
        let owner = server.ask(&private(&address(1)).cookie(boxes::token())).await;
        assert_eq!(owner.status, 200, "{owner:?}");
        assert_eq!(Form::new(&other).send(&server).await.status, 303);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_codes_for_invitations_have_one_budget() {
    let house = House::new(Store::Files).await;
    let server = house.server().await;
    let code = house.invite("phone").await;
    // A hundred at once, and one more every three seconds.
    let mut guess = 0;
    'spent: loop {
        let tried = house.invite("tried").await;
        for _ in 0..5 {
            guess += 1;
            let wrong = format!("{}-ZZZZ-{guess:04}", &tried[..4]);
            let sent = Form { from: &address(guess), ..Form::new(&wrong) }.send(&server).await;
            if sent.status == 429 {
                break 'spent;
            }
            assert_eq!(sent.status, 403, "{sent:?}");
        }
        assert!(guess < 2_000, "as many as one likes");
    }
    assert!(guess > 100, "{guess}");
    assert_eq!(limits(&server).await, Vec::<Value>::new());
    poll("the owner's turn", Duration::from_secs(60), async || {
        Form::new(&code).send(&server).await.status == 303
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_cost_the_store_little() {
    let house = House::new(Store::Postgres).await;
    let server = house.server().await;
    let database = house.sample.database();
    let calls = async |part: &str| -> i64 {
        let statements = database.statements().await;
        statements.iter().filter(|(sql, _)| sql.contains(part)).map(|(_, calls)| calls).sum()
    };
    house.sample.settle().await;
    database.forget_statements().await;
    for guess in 0..20 {
        let text = format!("no code {guess}");
        let sent = Form { from: &address(guess), ..Form::new(&text) }.send(&server).await;
        assert_eq!(sent.status, 403, "{sent:?}");
    }
    let secrets = calls("jsonb_typeof(value)").await;
    assert_eq!((secrets, calls("nightporter.invitations").await), (0, 0));
    // At once, so that all are sent before the first was counted.
    let server = &server;
    let guesses = (0..100).map(|guess| async move {
        let wrong = format!("ZZZZ-ZZZZ-{guess:04}");
        Form { from: GUESSER, ..Form::new(&wrong) }.send(server).await.status
    });
    let statuses = join_all(guesses).await;
    assert!(statuses.iter().all(|status| [403, 429, 503].contains(status)), "{statuses:?}");
    let looked_up = calls("nightporter.invitations").await;
    // Seven, of which the last may have been one of four at a time.
    assert!((1..=10).contains(&looked_up), "{looked_up}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_signatures_and_secrets_are_guesses_and_nothing_else_is() {
    for store in Store::BOTH {
        let house = House::new(store).await;
        let server = house.server().await;
        for _ in 0..100 {
            assert_eq!(server.ask(&private("192.0.2.1")).await.status, 401, "without a credential");
            let outdated = private("192.0.2.1").cookie("outdated.token.of-a-browser");
            assert_eq!(server.ask(&outdated).await.status, 401, "the same once more");
        }
        for guess in 0..10 {
            let token =
                sign::token(&format!("secret-number-{guess}-of-the-guesser-0123"), "phone1");
            let response = server.ask(&private("192.0.2.2").cookie(token)).await;
            assert_eq!(response.status, if guess < 6 { 401 } else { 429 }, "token {guess}");

            let management = |secret: &str| {
                Request::new("GET", "/internal/authenticate_management")
                    .header("X-Forwarded-For", "2001:db8:1:2::3")
                    .header("Authorization", secret)
            };
            let response = server.ask(&management(&format!("wrong-secret-number-{guess}"))).await;
            assert_eq!(response.status, if guess < 6 { 401 } else { 429 }, "secret {guess}");
            let right = server.ask(&management(MANAGEMENT_SECRET)).await;
            assert_eq!(right.status, 200, "{right:?}");
        }
        let listed = limits(&server).await;
        assert_eq!(listed.len(), 2, "{listed:?}");
        // The owner may pair behind those addresses all the same.
        for from in ["192.0.2.2", "2001:db8:1:2::3"] {
            let code = house.invite("phone").await;
            let paired = Form { from, ..Form::new(&code) }.send(&server).await;
            assert_eq!(paired.status, 303, "{from} {paired:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_codes_count_by_network_and_apart_from_tokens() {
    for store in Store::BOTH {
        let house = House::new(store).await;
        let server = house.server().await;
        let code = house.invite("phone").await;
        for guess in 0..7 {
            let token =
                sign::token(&format!("secret-number-{guess}-of-the-guesser-0123"), "phone1");
            server.ask(&private("2001:db8:1:2::3").cookie(token)).await;
            let from = format!("2001:db8:1:2::{guess}");
            let wrong = format!("ZZZZ-ZZZZ-{guess:04}");
            let sent = Form { from: &from, ..Form::new(&wrong) }.send(&server).await;
            assert_eq!(sent.status, if guess < 6 { 403 } else { 429 }, "code {guess}");
        }
        // One line for one address, whatever it has guessed.
        let listed = limits(&server).await;
        assert_eq!((listed.len(), listed[0]["guesses"].as_u64()), (1, Some(14)), "{listed:?}");
        // The same network of an IPv6 host, and its neighbour.
        let from = "2001:db8:1:2:ffff::1";
        assert!(wait(&Form { from, ..Form::new(&code) }.send(&server).await) <= 60);
        let from = "2001:db8:1:3::1";
        assert_eq!(Form { from, ..Form::new(&code) }.send(&server).await.status, 303);
        let lift = Request::new("DELETE", "/v1/limits/2001:db8:1:2::1");
        assert_eq!(ask(server.ops, &lift).await.status, 200, "both at once");
        assert_eq!(limits(&server).await, Vec::<Value>::new());
    }
}
