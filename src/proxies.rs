//! What proxies need to know to find the apps and to ask the gate about their requests.
//!
//! [`routes`] finds the hosts and the address of each app; [`traefik`], [`caddy`] and
//! [`nginx`] make a configuration of them, which Traefik can also poll.

pub mod caddy;
pub mod nginx;
pub mod routes;
pub mod traefik;
mod yaml;

use std::collections::BTreeMap;

use self::routes::Route;

pub use yaml::to_yaml;

/// Where a proxy that cannot use TLS reaches the gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateAddress(String);

/// Why there is no configuration, worded for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingError(pub(crate) String);

impl GateAddress {
    /// Checks `host:port`.
    ///
    /// # Errors
    /// It is not of that form.
    pub fn parse(text: &str) -> Result<Self, SettingError> {
        let invalid = || SettingError(format!("invalid address `{text}`: expected host:port"));
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        let has_port = port.parse::<u16>().is_ok_and(|port| port > 0);
        if host.is_empty() || !host.bytes().all(is_host) || !has_port {
            return Err(invalid());
        }
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Headers that every app may expect, whatever its description says.
const USUAL: [&str; 4] =
    ["X-Ptl-Client-Type", "X-Ptl-Client-Id", "X-Ptl-Client-Name", "X-Ptl-User"];

/// Returns the headers that proxies copy by name: the usual ones, and those that apps set.
/// Each is named once, whatever its case.
fn granted_headers(routes: &[Route]) -> Vec<&str> {
    let usual = USUAL.map(|name| (name.to_ascii_lowercase(), name));
    let known: BTreeMap<_, _> = usual.iter().cloned().collect();
    let mut further = BTreeMap::new();
    for header in routes.iter().flat_map(|route| &route.headers) {
        let lower = header.to_ascii_lowercase();
        // No proxy strips others from a client's request, so none may be copied.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_granted = lower.starts_with("x-ptl-") && lower.bytes().all(is_plain);
        if is_granted && !known.contains_key(&lower) {
            further.entry(lower).or_insert(header.as_str());
        }
    }
    USUAL.into_iter().chain(further.into_values()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_headers_that_proxies_strip_are_copied() {
        let headers = ["X-Ptl-Role", "x-ptl-role", "X-Ptl-User", "Authorization", "X-Ptl-A_b"];
        let route = Route {
            app: "notes".into(),
            hosts: vec!["notes.box.example".into()],
            target: Ok("http://notes:80".into()),
            headers: headers.map(String::from).to_vec(),
        };
        let copied = granted_headers(std::slice::from_ref(&route));
        assert_eq!(copied, [&USUAL[..], &["X-Ptl-Role"]].concat());
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for text in ["nightporter:8400", "127.0.0.1:8400", "[::1]:8400"] {
            assert_eq!(GateAddress::parse(text).expect(text).as_str(), text);
        }
        for text in ["", "nightporter", ":8400", "http://a:8400", "a:0", "a:x", "a b:1", "a;b:1"] {
            assert!(GateAddress::parse(text).is_err(), "{text}");
        }
    }
}
