//! A Caddyfile that asks the gate about every request.

use std::fmt::Write as _;

use super::routes::Route;
use super::{GateAddress, granted_headers};

/// Everything but the sites of the apps.
const TEMPLATE: &str = include_str!("caddy/Caddyfile");

/// The app gets the cookies of the grant in place of the client's.
const COOKIES: &str = "\t\t\t\t# The client's cookies without the terminal's token.\n\
    \t\t\t\troute {\n\
    \t\t\t\t\trequest_header -Cookie\n\
    \t\t\t\t\timport copy Cookie\n\
    \t\t\t\t}\n";

/// Returns the Caddyfile; `scheme` is `http` or `https`, of the apps' sites.
#[must_use]
pub fn caddyfile(gate: &GateAddress, scheme: &str, routes: &[Route], hides_token: bool) -> String {
    let mut copies = String::new();
    if hides_token {
        copies.push_str(COOKIES);
    }
    for header in granted_headers(routes) {
        // Writing to a string cannot fail.
        let _ = writeln!(copies, "\t\t\t\timport copy {header}");
    }
    let mut text = TEMPLATE.replace("@GATE@", gate.as_str()).replace("@COPIES@", &copies);
    for Route { app, hosts, target, headers: _ } in routes {
        let _ = match target {
            Ok(target) => {
                let sites: Vec<_> = hosts.iter().map(|host| format!("{scheme}://{host}")).collect();
                let sites = sites.join(", ");
                write!(text, "\n{sites} {{\n\timport nightporter {target}\n}}\n")
            }
            Err(problem) => {
                let (app, problem) = (app.escape_debug(), problem.escape_debug());
                write!(text, "\n# {app}: no route: {problem}\n")
            }
        };
    }
    text
}
