//! Traefik finds the apps by itself: its HTTP provider polls the operator's listener.

use std::fs;

use serde_json::{Value, json};

use super::{House, STARTING, answers, decides, is_ready, strips, try_ask};
use crate::support::client::{Request, ask, poll};
use crate::support::programs::{Program, free_address, traefik};

const TOKEN: &str = "the-token-that-traefik-has";

/// Writes the description of an app that is where the house's app is.
fn install(house: &House, name: &str, hosts: &[&str]) {
    let folder = house.path().join("box/installed_apps").join(name);
    fs::create_dir_all(&folder).expect("writable");
    let (ip, port) = (house.app.ip().to_string(), house.app.port());
    let meta = json!({
        "v": "1.3", "app_version": "1", "name": name, "pretty_name": name, "icon": "",
        "entrypoints": [
            {"container_name": ip, "container_port": port, "entrypoint_port": "http"}],
        "paths": {"": {"access": "public"}}, "hosts": hosts,
    });
    fs::write(folder.join("new"), meta.to_string()).expect("writable");
    fs::rename(folder.join("new"), folder.join("app_meta.json")).expect("the same folder");
}

fn page(host: &str) -> Request {
    Request::new("GET", "/").without("Host").header("Host", host)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traefik_finds_apps_by_polling_and_forgets_those_that_are_gone() {
    let house = House::with_token(false, Some(TOKEN)).await;
    house.move_apps_here();
    let (public, ops) = (free_address(), house.ops);
    let settings = json!({
        "entryPoints": {"web": {"address": public.to_string()}},
        "providers": {"http": {
            "endpoint": format!("http://{ops}/v1/traefik"),
            "pollInterval": "1s",
            "headers": {"Authorization": format!("Bearer {TOKEN}")},
        }},
    });
    let file = house.path().join("traefik.yml");
    // Every JSON document is a YAML one (YAML 1.2 section 1.3).
    fs::write(&file, settings.to_string()).expect("writable");
    let mut command = std::process::Command::new(traefik());
    command.arg(format!("--configfile={}", file.display()));
    let _traefik = Program::start(&mut command, house.path());
    is_ready(public).await;
    decides(public).await;
    strips(public).await;
    let routed = async |host: &str, status: u16| {
        poll(&format!("{status} for {host}"), STARTING, async || {
            try_ask(public, &page(host)).await.is_some_and(|answer| answer.status == status)
        })
        .await;
    };
    routed("new.box.example", 404).await;
    install(&house, "new", &["example.org", "www.example.org"]);
    for host in ["new.box.example", "example.org", "www.example.org"] {
        routed(host, 200).await;
    }
    // A host that two apps claim is routed to neither.
    install(&house, "other", &["www.example.org"]);
    routed("other.box.example", 200).await;
    routed("www.example.org", 404).await;
    assert_eq!(ask(public, &page("example.org")).await.status, 200);
    fs::remove_dir_all(house.path().join("box/installed_apps/new")).expect("it is there");
    routed("new.box.example", 404).await;
    routed("www.example.org", 200).await;
    let without = ask(ops, &Request::new("GET", "/v1/traefik")).await;
    assert_eq!(without.status, 401, "{without:?}");
    let with =
        Request::new("GET", "/v1/traefik").header("Authorization", format!("Bearer {TOKEN}"));
    let document: Value = serde_json::from_slice(&ask(ops, &with).await.body).expect("JSON");
    let router = &document["http"]["routers"]["app-other"];
    assert_eq!(router["entryPoints"], json!(["web"]), "{document}");
    assert_eq!(
        router["rule"], "Host(`other.box.example`) || Host(`www.example.org`)",
        "{document}"
    );
    answers::prove(public).await;
}

/// The output of `nightporter proxy`, as it is, with the proxy where the test finds it.
fn printed(house: &House, arguments: &[&str]) -> String {
    let printed = house.program().arg("proxy").args(arguments).output().expect("it runs");
    assert!(printed.status.success(), "{printed:?}");
    String::from_utf8(printed.stdout).expect("UTF-8")
}

#[tokio::test]
async fn caddy_takes_the_printed_file_as_it_is() {
    let house = House::open(false).await;
    house.move_apps_here();
    install(&house, "more", &["example.org", "www.example.org"]);
    let public = free_address();
    let text = printed(&house, &["caddy", "--http"]);
    assert!(text.contains("http://more.box.example, http://example.org, http://www.example.org {"));
    assert!(text.contains("import copy X-Ptl-User\n"), "{text}");
    house.print_standby_page();
    // Each site listens where the test may.
    let text = text
        .lines()
        .map(|line| match line.strip_suffix(" {") {
            Some(sites) if sites.starts_with("http://") => {
                let port = public.port();
                let sites: Vec<_> =
                    sites.split(", ").map(|site| format!("{site}:{port}")).collect();
                format!("{} {{", sites.join(", "))
            }
            _ => line.replace("/etc/caddy", &house.path().display().to_string()),
        })
        .collect::<Vec<_>>()
        .join("\n");
    let file = house.path().join("Caddyfile");
    fs::write(&file, text).expect("writable");
    let _caddy = crate::support::programs::caddy(&file, house.path());
    prove_all(public).await;
}

#[tokio::test]
async fn nginx_takes_the_printed_file_as_it_is() {
    let house = House::open(false).await;
    house.move_apps_here();
    install(&house, "more", &["example.org", "www.example.org"]);
    let public = free_address();
    house.print_standby_page();
    let text = printed(&house, &["nginx"])
        .replace("listen 80;", &format!("listen {public};"))
        .replace("/etc/nginx", &house.path().display().to_string());
    assert!(!text.contains("resolver"), "the apps have addresses here: {text}");
    let file = house.path().join("site.conf");
    fs::write(&file, text).expect("writable");
    let _nginx = crate::support::programs::nginx(&file, house.path());
    prove_all(public).await;
}

async fn prove_all(public: std::net::SocketAddr) {
    super::prove(public).await;
    for host in ["more.box.example", "example.org", "WWW.example.org"] {
        assert_eq!(ask(public, &page(host)).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn the_printed_files_say_where_apps_are_that_have_names_only() {
    let house = House::open(false).await;
    let nginx = printed(&house, &["nginx", "--address", "nightporter:8400"]);
    for part in [
        "    server nightporter:8400;",
        "    notes.box.example  notes:80;",
        "    server_name notes.box.example wiki.box.example;\n    resolver 127.0.0.11",
        "auth_request_set $ptl_user $upstream_http_x_ptl_user;",
        "proxy_set_header X-Ptl-User $ptl_user;",
    ] {
        assert!(nginx.contains(part), "{part}: {nginx}");
    }
    let caddy = printed(&house, &["caddy", "--address", "nightporter:8400"]);
    for part in [
        "reverse_proxy nightporter:8400 {",
        "https://wiki.box.example {\n\timport nightporter http://wiki:80\n}",
    ] {
        assert!(caddy.contains(part), "{part}: {caddy}");
    }
    let refused = house.program().args(["proxy", "nginx", "--address", "a b"]).output();
    assert_eq!(refused.expect("it runs").status.code(), Some(2));
}
