//! Whom `gate.trusted_proxies` trusts beside proxies, and whom it shuts out.

use std::path::Path;

use ipnet::IpNet;

use super::Report;
use crate::config::{Config, ListenAddr};

const KEY: &str = "gate.trusted_proxies";

/// RFC 6598: between a carrier's NAT and its customers, and Tailscale's for the devices
/// of a tailnet.
const SHARED: &str = "100.64.0.0/10";

/// Ranges that home networks and container engines take theirs from.
const PRIVATE: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

/// A single device, or so.
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
        // Whoever has a certificate of that authority is a proxy, from wherever.
        if asks_for_certificates {
            continue;
        }
        if network.prefix_len() == 0 {
            warn(
                format!("{network} lets anyone connect, and write `X-Forwarded-*` as they like"),
                "name the proxies' own networks, or ask for client certificates",
            );
        } else if is_of_shared(network) {
            warn(
                format!(
                    "{network} has addresses of {SHARED}, which are Tailscale's, and those of \
                     carriers' NAT (CGNAT): each such device may write `X-Forwarded-*` as it likes"
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
                     home in it may write `X-Forwarded-*` as it likes"
                ),
                "give the proxy and the gate a network of their own, and name that",
            );
        }
    }
    if let ListenAddr::Tcp(listen) = config.gate.listen
        && !listen.ip().is_loopback()
        && trusted.iter().all(|network| network.addr().to_canonical().is_loopback())
    {
        warn(
            format!("trusts this machine alone, yet the gate listens on {listen}"),
            "add the network that the proxy asks from, or listen on 127.0.0.1",
        );
    }
}

/// Whether a network has more than a few of the shared addresses.
fn is_of_shared(network: &IpNet) -> bool {
    let shared = SHARED.parse::<IpNet>();
    shared.is_ok_and(|shared| {
        network.contains(&shared)
            || (shared.contains(network) && network.prefix_len() < FEW_OF_SHARED)
    })
}
