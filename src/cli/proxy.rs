//! `nightporter proxy caddy|nginx`: prints a file with which the proxy asks this gate about
//! the requests of all apps.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::open::open;
use super::{CliError, CommandResult, domain, wait};
use crate::config::{Config, ListenAddr};
use crate::proxies::GateAddress;
use crate::proxies::caddy::caddyfile;
use crate::proxies::nginx::conf;
use crate::proxies::routes::routes;

#[derive(Debug, Subcommand)]
pub(super) enum Proxy {
    /// Print a Caddyfile
    Caddy {
        #[command(flatten)]
        options: Options,
        /// Serve the apps without TLS
        #[arg(long)]
        http: bool,
    },
    /// Print a file for /etc/nginx/conf.d
    Nginx {
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where the proxy reaches the gate, such as `nightporter:8400`
    /// [default: the address of `gate.listen`]
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
}

pub(super) fn run(proxy: &Proxy, config: &Config, out: &mut dyn Write) -> CommandResult {
    wait(async {
        let (Proxy::Caddy { options, .. } | Proxy::Nginx { options }) = proxy;
        let gate = address(options, config)?;
        let (source, _) = open(config)?;
        let domain = domain(config, &source).await?;
        source.descriptions().read_claims().await;
        let routes = routes(&source, Some(&domain), config.gate.domain.as_deref()).await?;
        let text = match proxy {
            Proxy::Caddy { http, .. } => caddyfile(
                &gate,
                if *http { "http" } else { "https" },
                &routes,
                config.gate.hide_token,
            ),
            Proxy::Nginx { .. } => conf(&gate, &routes, config.gate.hide_token),
        };
        write!(out, "{text}")?;
        Ok(ExitCode::SUCCESS)
    })
}

fn address(options: &Options, config: &Config) -> Result<GateAddress, CliError> {
    if config.gate.tls.is_some() {
        let hint = "these files ask it without TLS; unset `gate.tls` for them";
        return Err(CliError::Message(format!("the gate has TLS, and {hint}")));
    }
    let text = match (&options.address, &config.gate.listen) {
        (Some(address), _) => address.clone(),
        (None, ListenAddr::Tcp(addr)) if !addr.ip().is_unspecified() && addr.port() != 0 => {
            addr.to_string()
        }
        (None, other) => {
            return Err(CliError::Message(format!(
                "`gate.listen` is {other}; give the address at which the proxy reaches it with \
                 --address"
            )));
        }
    };
    Ok(GateAddress::parse(&text)?)
}
