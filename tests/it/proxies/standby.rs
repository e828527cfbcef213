//! What visitors see while nightporter itself is away, and that it goes on by itself.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::{House, STARTING, decides, is_ready, navigating, notes, try_ask, with_cookie};
use crate::support::client::{Request, Response, ask, poll};
use crate::support::programs::{Program, install, traefik};
use crate::wake::browser::walk;

/// The gate's name; its first address is the gate's, its second the standby's.
const NAME: &str = "gate.test";

/// Runs a program that finds the first argument in the place of /etc/hosts.
const WITH_HOSTS: &str = r#"
    bind='mount --bind "$0" /etc/hosts && exec "$@"'
    if [ "$(id -u)" = 0 ]; then own=; else own=--map-root-user; fi
    exec unshare $own --mount sh -c "$bind" "$@"
"#;

/// The answer of a proxy whose gate is away: nothing is granted, whatever is asked.
async fn grants_nothing(proxy: SocketAddr) {
    for request in [notes("/shared/"), notes("/"), with_cookie(notes("/")), question()] {
        for request in [request.clone(), navigating(request)] {
            let response = ask(proxy, &request).await;
            assert_eq!(response.status, 503, "{request:?} {response:?}");
            assert!(response.text("retry-after").is_some(), "{response:?}");
            assert_eq!(response.text("x-nightporter-state"), Some("standby"), "{response:?}");
            assert_eq!(response.text("cache-control"), Some("no-store"), "{response:?}");
        }
    }
    let post = Request::new("POST", "/shared/").without("Host").header("Host", "notes.box.example");
    let response = ask(proxy, &post.header("Content-Length", "0")).await;
    assert_eq!(response.status, 503, "{response:?}");
    let response = ask(proxy, &navigating(notes("/shared/x?y"))).await;
    assert!(is_page(&response), "{response:?}");
}

fn question() -> Request {
    notes("/shared/").header("X-Nightporter-Poll", "0")
}

fn is_page(response: &Response) -> bool {
    response.text("content-type") == Some("text/html; charset=utf-8")
        && response.body().contains("id=\"standby\"")
}

/// A proxy that is ready loses its gate, and finds it again.
async fn prove(house: &mut House, proxy: SocketAddr) {
    is_ready(proxy).await;
    house.nightporter = None;
    grants_nothing(proxy).await;
    house.come_back().await;
    is_ready(proxy).await;
    decides(proxy).await;
}

#[tokio::test]
async fn behind_caddy_a_page_stands_for_a_gate_that_is_away() {
    let mut house = House::open(false).await;
    let (_caddy, public) = house.caddy();
    prove(&mut house, public).await;
}

#[tokio::test]
async fn behind_nginx_a_page_stands_for_a_gate_that_is_away() {
    let mut house = House::open(false).await;
    let (_nginx, public) = house.nginx();
    prove(&mut house, public).await;
}

/// Traefik that finds the gate's name in a file of hosts of its own, as in the shipped
/// composition.
fn traefik_with_hosts(house: &House, routes: &Path) -> (Program, SocketAddr) {
    let public = super::free_address();
    let hosts = house.path().join("hosts");
    let shipped = include_str!("../../../deploy/traefik/hosts");
    let [own, standby] = ["172.31.84.10 gate", "172.31.84.11 gate"];
    assert!(shipped.find(own) < shipped.find(standby), "{shipped}");
    let text = shipped
        .replace(own, &format!("127.0.0.1 {NAME}"))
        .replace(standby, &format!("127.0.0.2 {NAME}"));
    fs::write(&hosts, text).expect("writable");
    let replacements = [
        ("address: \":80\"", format!("address: \"{public}\"")),
        ("/etc/traefik/dynamic.yml", routes.display().to_string()),
    ];
    let configuration = install("traefik/traefik.yml", house.path(), &replacements);
    let mut command = Command::new("sh");
    command
        .args(["-c", WITH_HOSTS, "sh"])
        .args([hosts.as_os_str(), traefik().as_os_str()])
        .arg(format!("--configfile={}", configuration.display()));
    (Program::start(&mut command, house.path()), public)
}

/// `nightporter standby` at the second address.
async fn standby(house: &House) -> Program {
    let address = SocketAddr::from(([127, 0, 0, 2], house.gate.port()));
    let mut command = house.program();
    command.args(["standby", "--listen", &address.to_string()]);
    // A program of its own name, for its log.
    let folder = house.path().join("standby");
    fs::create_dir(&folder).expect("writable");
    let standby = Program::start(&mut command, &folder);
    if !house.tls {
        poll("it listens", STARTING, async || {
            try_ask(address, &Request::new("GET", "/")).await.is_some()
        })
        .await;
    }
    standby
}

#[tokio::test]
async fn behind_traefik_a_second_process_stands_for_a_gate_that_is_away() {
    for tls in [false, true] {
        let mut house = House::open(tls).await;
        let _standby = standby(&house).await;
        let (own, port) = (house.gate.to_string(), house.gate.port());
        let there = format!("{NAME}:{port}");
        let routes = house.printed_routes(tls);
        let text = fs::read_to_string(&routes).expect("printed");
        fs::write(&routes, text.replace(&own, &there)).expect("writable");
        let (_traefik, public) = traefik_with_hosts(&house, &routes);
        is_ready(public).await;
        if tls {
            // It listens when it has read the certificates, which may take its time.
            house.nightporter = None;
            poll("the standby answers", STARTING, async || {
                ask(public, &notes("/shared/")).await.status == 503
            })
            .await;
            house.come_back().await;
        }
        prove(&mut house, public).await;
        if !tls {
            opens_by_itself(&mut house, public).await;
        }
    }
}

/// The visitor keeps the page, and is where they wanted to be when nightporter is back.
async fn opens_by_itself(house: &mut House, public: SocketAddr) {
    for javascript in [true, false] {
        house.nightporter = None;
        let fragment = if javascript { "#part" } else { "" };
        let path = "/shared/x?y=1";
        let url = format!("http://notes.box.example:{}{path}{fragment}", public.port());
        let steps = [("goto", &*url), ("see", "#standby"), ("tell", "back"), ("read", path)];
        let walked = walk(javascript, &steps, async |_: &str| house.come_back().await).await;
        assert_eq!(walked.url, url, "{walked:#?}");
        let statuses = walked.statuses("GET", "/shared/x");
        assert_eq!(statuses.first(), Some(&503), "{walked:#?}");
        assert_eq!(statuses.last(), Some(&200), "{walked:#?}");
    }
}
