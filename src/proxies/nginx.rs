//! A file for nginx that asks the gate about every request.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::routes::Route;
use super::{GateAddress, granted_headers};

const TEMPLATE: &str = include_str!("nginx/nightporter.conf");

/// What is no host in a `map` (<https://nginx.org/en/docs/http/ngx_http_map_module.html>).
const MAP_WORDS: [&str; 4] = ["default", "hostnames", "include", "volatile"];

/// Docker's own name server, in every network of an app's container. A container that is
/// stopped has no name, so names are resolved when a request comes.
const RESOLVER: &str = "    resolver 127.0.0.11 valid=2s ipv6=off;\n";

/// The app gets the cookies of the grant, without the terminal's token, in place of the client's.
const COOKIE_COPIED: &str = "        auth_request_set $nightporter_cookie $upstream_http_cookie;\n";
const COOKIE_SET: &str = "        proxy_set_header Cookie $nightporter_cookie;\n";

/// Returns the file.
#[must_use]
pub fn conf(gate: &GateAddress, routes: &[Route], hides_token: bool) -> String {
    let (mut apps, mut names, mut has_names) = (String::new(), Vec::new(), false);
    for Route { app, hosts, target, headers: _ } in routes {
        // Writing to a string cannot fail.
        match target {
            Ok(target) => {
                let target = target.trim_start_matches("http://");
                has_names |= target.parse::<SocketAddr>().is_err();
                for host in hosts {
                    // Words of `map` itself, unless they are escaped.
                    let escape = if MAP_WORDS.contains(&&**host) { "\\" } else { "" };
                    let _ = writeln!(apps, "    {escape}{host}  {target};");
                    names.push(host.as_str());
                }
            }
            Err(problem) => {
                let (app, problem) = (app.escape_debug(), problem.escape_debug());
                let _ = writeln!(apps, "    # {app}: no route: {problem}");
            }
        }
    }
    // An empty list is an error to nginx, and this name is nobody's.
    let names = if names.is_empty() { "\"\"".to_owned() } else { names.join(" ") };
    let (mut copies, mut sets) = (String::new(), String::new());
    if hides_token {
        copies.push_str(COOKIE_COPIED);
        sets.push_str(COOKIE_SET);
    }
    for header in granted_headers(routes) {
        let variable = header.to_ascii_lowercase().replace('-', "_");
        let variable = variable.trim_start_matches("x_");
        let _ =
            writeln!(copies, "        auth_request_set ${variable} $upstream_http_x_{variable};");
        let _ = writeln!(sets, "        proxy_set_header {header} ${variable};");
    }
    TEMPLATE
        .replace("@GATE@", gate.as_str())
        .replace("@APPS@", &apps)
        .replace("@HOSTS@", &names)
        .replace("@RESOLVER@", if has_names { RESOLVER } else { "" })
        .replace("@COPIES@", &copies)
        .replace("@SETS@", &sets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_a_word_of_nginx_stays_a_host() {
        let gate = GateAddress::parse("nightporter:8400").expect("an address");
        let hosts = ["include", "default", "notes.example"].map(String::from).to_vec();
        let target = Ok("http://notes:80".into());
        let route = Route { app: "notes".into(), hosts, target, headers: Vec::new() };
        let conf = conf(&gate, &[route], false);
        for line in
            ["    \\include  notes:80;", "    \\default  notes:80;", "    notes.example  notes:80;"]
        {
            assert!(conf.lines().any(|other| other == line), "{line} in {conf}");
        }
    }
}
