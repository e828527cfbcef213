//! The page that pairs a device, behind every proxy, and who guesses there.

use std::net::SocketAddr;

use super::{House, TERMINAL, navigating, notes, passes, with_cookie};
use crate::support::client::{Connection, Request, Response, ask};
use crate::support::sign;

const PATH: &str = "/.nightporter/pair";

impl House {
    /// A code, as `nightporter terminal add` prints it.
    pub(super) fn code(&self, name: &str) -> String {
        let mut command = self.program();
        let printed = command.args(["terminal", "add", name, "--code"]).output().expect("runs");
        assert!(printed.status.success(), "{printed:?}");
        let text = String::from_utf8(printed.stdout).expect("text");
        let code = text.lines().find_map(|line| line.strip_prefix("Code  ")).expect("a code");
        let code = code.split(' ').next().expect("a word").to_owned();
        let domain = self.domain.unwrap_or("box.example");
        let link = format!("Link  https://notes.{domain}{PATH}#{code}/{name}");
        assert!(text.lines().any(|line| line == link), "{text}");
        assert!(text.contains('\u{2588}'), "no picture: {text}");
        code
    }
}

async fn send(proxy: SocketAddr, code: &str) -> Response {
    let body = format!("code={code}&name=Ada%27s+phone&to=%2Fa%3Fb%3Dc");
    let request = Request::new("POST", PATH)
        .without("Host")
        .header("Host", "notes.box.example")
        .header("Origin", "http://notes.box.example")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("Content-Length", body.len().to_string());
    let bytes = [&request.bytes()[..], body.as_bytes()].concat();
    let mut connection = Connection::open(proxy).await.expect("the proxy listens");
    connection.ask_bytes(&bytes).await.expect("an answer")
}

pub(super) async fn prove(house: &House, proxy: SocketAddr) {
    let denied = ask(proxy, &navigating(notes("/a?b=c"))).await;
    assert!(denied.body().contains("/.nightporter/pair?to=/a?b=c"), "{denied:?}");
    let page = ask(proxy, &notes("/.nightporter/pair?to=/a?b=c")).await;
    assert_eq!(page.status, 200, "{page:?}");
    assert!(page.body().contains("name=\"to\" value=\"/a?b=c\""), "{page:?}");

    let code = house.code("phone");
    let paired = send(proxy, &code).await;
    assert_eq!((paired.status, paired.text("location")), (303, Some("/a?b=c")), "{paired:?}");
    let cookie = paired.text("set-cookie").expect("a cookie");
    let (pair, _) = cookie.split_once(';').expect("attributes");
    let seen = passes(proxy, &notes("/a?b=c").header("Cookie", pair)).await;
    assert_eq!(seen.header("x-ptl-client-name"), Some("Ada's phone"), "{seen:?}");
    assert_eq!(seen.header("cookie"), None, "{seen:?}");
    assert_eq!(send(proxy, &code).await.status, 403, "once");

    for guess in 0..9 {
        let secret = format!("secret-number-{guess}-of-somebody-who-guesses");
        let response = ask(proxy, &notes("/").cookie(sign::token(&secret, TERMINAL))).await;
        let (status, is_waiting) = (response.status, response.text("retry-after").is_some());
        assert_eq!((status, is_waiting), if guess < 6 { (401, false) } else { (429, true) });
    }
    assert_eq!(ask(proxy, &notes("/")).await.status, 401);
    // Codes count apart: the used one was the first.
    for guess in 1..9 {
        let response = send(proxy, &format!("ZZZZ-ZZZZ-{guess:04}")).await;
        let (status, is_waiting) = (response.status, response.text("retry-after").is_some());
        assert_eq!((status, is_waiting), if guess < 6 { (403, false) } else { (429, true) });
    }
    passes(proxy, &with_cookie(notes("/"))).await;
}
