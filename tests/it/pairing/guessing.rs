//! Who guesses is slowed down, and nobody else.

use serde_json::Value;

use super::{Form, HOST, House};
use crate::support::boxes::{self, MANAGEMENT_SECRET, Store};
use crate::support::client::{Request, Response, ask};
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
    assert!(wait(&server.ask(&private(GUESSER).cookie(guess)).await) <= 60);

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

#[tokio::test(flavor = "multi_thread")]
async fn guesses_of_many_addresses_find_no_code() {
    let house = House::new(Store::Files).await;
    let server = house.server().await;
    let code = house.invite("phone").await;
    let (mut refused, mut waiting) = (0, 0);
    for guess in 0..GUESSES.count() {
        let from = format!("10.{}.{}.{}", guess / 65_536, guess / 256 % 256, guess % 256);
        let wrong = format!("{}-ZZZZ-{guess:04}", &code[..4]);
        let form = if guess % 2 == 0 { wrong } else { format!("ZZZZ-ZZZZ-{guess:04}") };
        let sent = Form { from: &from, ..Form::new(&form) }.send(&server).await;
        match sent.status {
            403 => refused += 1,
            429 => waiting += 1,
            other => panic!("{other}"),
        }
    }
    // One more every three seconds.
    assert!(waiting > 0 && refused >= 100, "{refused} refused, {waiting} not looked at");
    assert_eq!(house.names().await, ["Büro-Handy"]);
    let owner = server.ask(&private("10.0.0.1").cookie(boxes::token())).await;
    assert_eq!(owner.status, 200, "{owner:?}");
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
        // The same network of an IPv6 host, and its neighbour.
        let code = house.invite("phone").await;
        let from = "2001:db8:1:2:ffff::1";
        assert!(wait(&Form { from, ..Form::new(&code) }.send(&server).await) <= 60);
        let from = "2001:db8:1:3::1";
        assert_eq!(Form { from, ..Form::new(&code) }.send(&server).await.status, 303);
        assert_eq!(limits(&server).await.len(), 2);
    }
}
