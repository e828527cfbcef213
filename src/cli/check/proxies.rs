//! Checks `gate.trusted_proxies`: which hosts it trusts besides the proxies, and whether it
//! excludes the proxies.

use std::path::Path;

use ipnet::IpNet;

use super::Report;
use crate::config::{Config, ListenAddr};

const KEY: &str = "gate.trusted_proxies";

/// RFC 6598: used between a carrier's NAT and its customers, and by Tailscale for the devices
/// of a tailnet.
const SHARED: &str = "100.64.0.0/10";

/// Ranges from which home networks and container engines take their addresses.
const PRIVATE: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

/// The shortest prefix within [`SHARED`] that counts as a few devices only.
const FEW_OF_SHARED: u8 = 24;

pub(super) fn trusted(config: &Config, report: &mut Report) {
    let trusted = &config.gate.trusted_proxies;
    let mut warn = |problem: String, hint: &str| {
        report.warning(Path::new("configuration"), KEY, problem, hint);
    };
    let asks_for_certificates = config.gate.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    for (at, network) in trusted.iter().enumerate() {
        let wider = |other: &IpNet| other != network && other.contains(network);
        if trusted.iter().any(wider) || trusted[..at].contains(network) {
            warn(format!("{network} is part of another network of the list"), "remove it");
        }
        // A client with a certificate of that authority is a proxy, whatever its address.
        if asks_for_certificates {
            continue;
        }
        if network.prefix_len() == 0 {
            warn(
                format!("{network} lets anyone connect and write any `X-Forwarded-*` headers"),
                "name the proxies' own networks, or require client certificates",
            );
        } else if is_of_shared(network) {
            warn(
                format!(
                    "{network} contains addresses of {SHARED}, which Tailscale and carriers' NAT \
                     (CGNAT) use: each such device can write any `X-Forwarded-*` headers"
                ),
                "name the proxy's own address",
            );
        } else if PRIVATE
            .iter()
            .filter_map(|net| net.parse::<IpNet>().ok())
            .any(|net| network.contains(&net))
        {
            warn(
                format!(
                    "{network} is a whole private range: every container and every device of the \
                     home in it can write any `X-Forwarded-*` headers"
                ),
                "give the proxy and the gate a network of their own, and name that network",
            );
        }
    }
    if let ListenAddr::Tcp(listen) = config.gate.listen
        && !listen.ip().is_loopback()
        && trusted.iter().all(|network| network.addr().to_canonical().is_loopback())
    {
        warn(
            format!("trusts only this machine, but the gate listens on {listen}"),
            "add the proxy's network, or listen on 127.0.0.1",
        );
    }
}

/// Returns whether a network contains more than a few of the shared addresses.
fn is_of_shared(network: &IpNet) -> bool {
    let shared = SHARED.parse::<IpNet>();
    shared.is_ok_and(|shared| {
        network.contains(&shared)
            || (shared.contains(network) && network.prefix_len() < FEW_OF_SHARED)
    })
}
