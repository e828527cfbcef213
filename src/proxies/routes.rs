//! The hosts of each app, and where it is.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};

use crate::domain::app::labels::is_host_label;
use crate::domain::app::{AppMeta, EntrypointPort};
use crate::domain::names::Names;
use crate::domain::request::Host;
use crate::store::app_meta::ReadError;
use crate::store::{Source, Unavailable};

/// Files that are read at the same time.
const FILES: usize = 16;

/// The route to one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub app: String,
    /// In lower case; at least one if there is a target.
    pub hosts: Vec<String>,
    /// `http://container:port`, or why there is no route.
    pub target: Result<String, String>,
    /// The names of the headers that the app's rules set, as written.
    pub headers: Vec<String>,
}

/// Returns the routes to all apps, sorted by name. `domain` is the box's domain, if it is
/// known, and `gate_domain` the setting `gate.domain`.
///
/// # Errors
/// The store cannot answer.
pub async fn routes(
    source: &Source,
    domain: Option<&str>,
    gate_domain: Option<&str>,
) -> Result<Vec<Route>, Unavailable> {
    let names = source.names(gate_domain).await?;
    let mut apps = source.app_names().await?;
    apps.sort();
    // A file that may still be being written is waited for, so one at a time would take long.
    let read = async |app: String| source.descriptions().read(&app).await;
    let read: Vec<_> = stream::iter(apps.clone()).map(read).buffered(FILES).collect().await;
    let mut routes = Vec::new();
    for (app, meta) in apps.into_iter().zip(read) {
        let hosts = hosts(&names, &app, domain, gate_domain);
        let meta = match meta {
            // Nothing is known about it: that is no reason to take its route away.
            Err(ReadError::Unavailable(error)) => return Err(error),
            read => read.map_err(|error| error.to_string()),
        };
        let headers = meta.as_ref().map(headers).unwrap_or_default();
        let target = meta.and_then(|meta| target(&app, &meta)).and_then(|target| {
            let unnamed = || "no host names it, or none names it alone".to_owned();
            if hosts.is_empty() { Err(unnamed()) } else { Ok(target) }
        });
        routes.push(Route { app, hosts, target, headers });
    }
    Ok(routes)
}

/// Returns the hosts that name an app and no other: the one that its name gives it, and
/// those that it claims.
fn hosts(names: &Names, app: &str, domain: Option<&str>, gate_domain: Option<&str>) -> Vec<String> {
    let own = domain.filter(|_| is_host_label(app));
    let own = own.map(|domain| format!("{app}.{domain}").to_ascii_lowercase());
    let is_its_own = |host: &String| {
        Host::parse(host)
            .is_ok_and(|host| names.app(host, gate_domain).is_some_and(|found| **found == *app))
    };
    let mut hosts: Vec<_> = own.into_iter().filter(is_its_own).collect();
    for host in names.claimed_by(app) {
        if !hosts.iter().any(|known| known == host) {
            hosts.push(host.to_owned());
        }
    }
    hosts
}

fn headers(meta: &AppMeta) -> Vec<String> {
    let all: BTreeSet<_> = meta.paths.iter().flat_map(|rule| rule.headers.keys()).collect();
    all.into_iter().cloned().collect()
}

/// Returns the URL at which an app's container answers HTTP, or why there is none.
fn target(app: &str, meta: &AppMeta) -> Result<String, String> {
    if !is_host_label(app) {
        return Err("its name cannot be part of a host".into());
    }
    let mut http =
        meta.entrypoints.iter().filter(|entry| entry.entrypoint_port == EntrypointPort::Http);
    let entry = http.next().ok_or("it has no entry point for HTTP")?;
    let (name, port) = (&entry.container_name, entry.container_port);
    // It becomes a part of the proxy's configuration, and is the text of whoever has written
    // the app's file.
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err(format!("invalid container name {name:?}: expected letters, digits, `-_.`"));
    }
    Ok(format!("http://{name}:{port}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::names::Claims;

    #[test]
    fn no_container_name_becomes_more_than_a_name_in_a_proxys_configuration() {
        let target = |name: &str| {
            let entry = json!({
                "container_name": name, "container_port": 80, "entrypoint_port": "http",
            });
            let meta = json!({"v": "1.3", "app_version": "1", "name": "notes", "pretty_name": "Notes", "icon": "",
                "entrypoints": [entry], "paths": {"": {"access": "private"}}});
            let meta = AppMeta::parse(meta.to_string().as_bytes()).map_err(|e| e.to_string())?;
            target("notes", &meta)
        };
        assert_eq!(target("notes-web_1.a"), Ok("http://notes-web_1.a:80".into()));
        for name in ["", "a b", "a\nb", "x:80;\n}\nserver {", "a@evil.example", "a/b", "a?b", "{a}"]
        {
            assert!(target(name).is_err(), "{name}");
        }
    }

    #[test]
    fn an_app_is_routed_by_the_hosts_that_are_its_alone() {
        let claims = |app: &str, hosts: &[&str]| Claims {
            app: app.into(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        };
        let claims = [
            claims("Wiki", &["example.org", "both.example", "notes.box.example"]),
            claims("notes", &["both.example"]),
        ];
        let all = ["Wiki", "notes"].map(String::from).to_vec();
        let domain = Some("Box.example");
        let names = Names::new(all, &claims, domain);
        let of = |app, gate_domain| hosts(&names, app, domain, gate_domain);
        assert_eq!(of("Wiki", domain), ["wiki.box.example", "example.org"]);
        assert!(of("notes", domain).is_empty(), "another app claims its host");
        assert_eq!(hosts(&names, "Wiki", None, None), ["example.org"]);
    }
}
