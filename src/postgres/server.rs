//! The server's address and how to connect to it, parsed from either kind of libpq
//! connection string.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{ConfigError, ConnectError, explain};
use super::tls::ClientTls;

/// Options that are passed on to the client library.
const LIBRARY_OPTIONS: [&str; 18] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
    "sslnegotiation",
];

/// The library's default idle time before the first keepalive, two hours: the connection
/// string did not set it.
const UNSET_KEEPALIVE: Duration = Duration::from_secs(2 * 60 * 60);

/// A connection whose peer is silent is closed after 15 + 3 × 5 seconds.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// A server to connect to.
#[derive(Debug)]
pub struct Server {
    config: tokio_postgres::Config,
    tls: ClientTls,
    /// The time limit for all hosts of the connection string together.
    timeout: Duration,
}

/// The options of a connection string: those of the client library, in the form in which
/// it parses them, and those that nightporter handles itself.
#[derive(Default)]
struct Options {
    rest: String,
    sslmode: Option<String>,
    sslrootcert: Option<String>,
    /// The name of the last option that was parsed: errors give it as their position, since
    /// it reveals nothing.
    last: String,
}

impl Server {
    /// Parses a URL or a key-value string. No error quotes the string, because it may
    /// contain a password.
    pub fn parse(
        text: &str,
        connect_timeout: Duration,
        query_timeout: Duration,
    ) -> Result<Self, ConfigError> {
        let text = text.trim();
        let is_url = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
        let options = if is_url { Options::from_url(text)? } else { Options::from_pairs(text)? };
        let mut tls = ClientTls::parse(options.sslmode.as_deref(), options.sslrootcert.as_deref())?;
        let mut config: tokio_postgres::Config =
            options.rest.parse().map_err(|error| ConfigError(explain(&error)))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(ConfigError::new("missing host"));
        }
        let is_local = |host: &Host| matches!(host, Host::Unix(_));
        if config.get_hostaddrs().is_empty() && config.get_hosts().iter().all(is_local) {
            // libpq: sslmode is ignored for Unix domain sockets.
            tls = ClientTls::parse(Some("disable"), None)?;
        }
        if config.get_application_name().is_none() {
            config.application_name("nightporter");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(connect_timeout);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(query_timeout);
        }
        if config.get_keepalives_idle() == UNSET_KEEPALIVE {
            config.keepalives_idle(KEEPALIVE_IDLE);
        }
        if config.get_keepalives_interval().is_none() {
            config.keepalives_interval(KEEPALIVE_INTERVAL);
        }
        if config.get_keepalives_retries().is_none() {
            config.keepalives_retries(KEEPALIVE_RETRIES);
        }
        let hosts = config.get_hosts().len().max(config.get_hostaddrs().len());
        let per_host = config.get_connect_timeout().copied().unwrap_or(connect_timeout);
        let timeout = per_host.saturating_mul(u32::try_from(hosts).unwrap_or(u32::MAX));
        Ok(Self { config, tls, timeout })
    }

    /// Connects with `connect`, trying each way that `sslmode` allows.
    pub(crate) async fn connect<C>(
        &self,
        connect: impl AsyncFn(tokio_postgres::Config, MakeRustlsConnect) -> Attempt<C>,
    ) -> Result<C, ConnectError> {
        let attempts = async {
            let connector = self.tls.connector().await?;
            let mut refusals = String::new();
            for mode in self.tls.attempts() {
                let mut config = self.config.clone();
                config.ssl_mode(*mode);
                match connect(config, connector.clone()).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => {
                        let prefix =
                            if *mode == SslMode::Disable { "; without TLS: " } else { "; " };
                        refusals.push_str(prefix);
                        refusals.push_str(&explain(&error));
                        if !is_refusal(&error) {
                            break;
                        }
                    }
                }
            }
            Err(refusals.trim_start_matches("; ").to_owned())
        };
        match timeout(self.timeout, attempts).await {
            Ok(connected) => connected.map_err(ConnectError),
            Err(_) => Err(ConnectError(format!("no connection within {:?}", self.timeout))),
        }
    }

    /// Opens a connection that a task of its own drives, until the client is dropped.
    pub(crate) async fn open(&self) -> Result<tokio_postgres::Client, ConnectError> {
        let connect = async |config: tokio_postgres::Config, tls| {
            let (client, connection) = config.connect(tls).await?;
            tokio::spawn(connection);
            Ok(client)
        };
        self.connect(connect).await
    }

    /// Asks the server to cancel the query that a connection is running. No caller waits
    /// for the result.
    pub(super) async fn cancel(&self, token: tokio_postgres::CancelToken) {
        if let Ok(connector) = self.tls.connector().await {
            let _result = timeout(self.timeout, token.cancel_query(connector)).await;
        }
    }
}

type Attempt<C> = Result<C, tokio_postgres::Error>;

/// Returns whether the server may respond differently with or without TLS: it refused the
/// login (SQLSTATE class 28, as `hostssl` and `hostnossl` lines do) or the handshake failed.
fn is_refusal(error: &tokio_postgres::Error) -> bool {
    if let Some(code) = error.code() {
        return code.code().starts_with("28");
    }
    error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::get_ref)
        .is_some_and(<dyn StdError + Send + Sync>::is::<rustls::Error>)
}

impl Options {
    /// Parses `postgres://user:password@host:port/dbname?option=value&…`, split at the
    /// same places at which the library splits it.
    fn from_url(url: &str) -> Result<Self, ConfigError> {
        let authority = url.find('@').unwrap_or(0);
        let Some(query) = url[authority..].find('?').map(|at| authority + at) else {
            return Ok(Self { rest: url.into(), ..Self::default() });
        };
        let mut options = Self { rest: url[..query].into(), ..Self::default() };
        let mut separator = '?';
        for pair in url[query + 1..].split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = |text| {
                percent_decode_str(text).decode_utf8().map_err(|_| options.error_at("is not UTF-8"))
            };
            let (name, decoded_value) = (decoded(key)?, decoded(value)?);
            if !options.take(&name, &decoded_value)? {
                options.rest.push(separator);
                options.rest.push_str(pair);
                separator = '&';
            }
        }
        Ok(options)
    }

    /// Parses `option=value option='va lue' …`, with `\` before a quote or a backslash.
    fn from_pairs(text: &str) -> Result<Self, ConfigError> {
        let mut options = Self::default();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (name, tail) = rest.split_once('=').ok_or_else(|| {
                options.error_at("is not `option=value`; a URL begins with `postgres://`")
            })?;
            let (value, tail) = split_value(tail.trim_start())
                .ok_or_else(|| options.error_at("has an unclosed quote"))?;
            if !options.take(name.trim_end(), &value)? {
                let escaped = value.replace('\\', r"\\").replace('\'', r"\'");
                options.rest.extend([name.trim_end(), "='", &escaped, "' "]);
            }
            rest = tail.trim_start();
        }
        Ok(options)
    }

    /// Takes an option that nightporter handles itself; returns `false` if the option
    /// belongs to the library.
    fn take(&mut self, name: &str, value: &str) -> Result<bool, ConfigError> {
        let taken = match name {
            "sslmode" => {
                self.sslmode = Some(value.into());
                true
            }
            "sslrootcert" => {
                self.sslrootcert = Some(value.into());
                true
            }
            name if LIBRARY_OPTIONS.contains(&name) => false,
            _ => return Err(self.error_at("is not a known option")),
        };
        self.last = name.into();
        Ok(taken)
    }

    /// Returns an error about the option that comes after the last one that was parsed.
    fn error_at(&self, problem: impl fmt::Display) -> ConfigError {
        let position = match self.last.as_str() {
            "" => "the first option".to_owned(),
            last => format!("the option after `{last}`"),
        };
        ConfigError(format!("{position} {problem}"))
    }
}

/// Splits the first value off a key-value string; returns the value and the rest.
fn split_value(text: &str) -> Option<(String, &str)> {
    let (mut value, is_quoted) = (String::new(), text.starts_with('\''));
    let mut characters = text.char_indices().skip(usize::from(is_quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, next)| next)),
            '\'' if is_quoted => return Some((value, &text[at + 1..])),
            _ if !is_quoted && character.is_whitespace() => return Some((value, &text[at..])),
            _ => value.push(character),
        }
    }
    (!is_quoted).then_some((value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Server, ConfigError> {
        Server::parse(text, Duration::from_secs(3), Duration::from_secs(5))
    }

    #[test]
    fn both_kinds_of_string_say_the_same() {
        for text in [
            "postgres://me:p%20w'%5C@db:5433/box?sslmode=verify-ca&sslrootcert=%2Fca.pem&options=-c%20x%3D1",
            r"host=db port = 5433 user=me password='p w\'\\' dbname=box sslrootcert=/ca.pem options='-c x=1' sslmode=verify-ca",
        ] {
            let server = parse(text).expect(text);
            assert_eq!(server.config.get_hosts(), [Host::Tcp("db".into())]);
            assert_eq!(server.config.get_ports(), [5433]);
            assert_eq!(server.config.get_user(), Some("me"));
            assert_eq!(server.config.get_password(), Some(&br"p w'\"[..]));
            assert_eq!(server.config.get_dbname(), Some("box"));
            assert_eq!(server.config.get_options(), Some("-c x=1"));
            assert_eq!(server.config.get_application_name(), Some("nightporter"));
            assert_eq!(
                server.tls,
                ClientTls::parse(Some("verify-ca"), Some("/ca.pem")).expect("valid")
            );
        }
    }

    #[test]
    fn no_error_and_no_debug_output_gives_the_password_away() {
        for text in [
            "postgres://me@db/box?hush",
            "postgres://me:hu@hush:hush/box",
            "postgres://me@db/box?password=hush&hush=1",
            "host=db password=x hush",
            "host=db password=x hush=1",
            "host=db password='hush",
            "hush",
            "user=me password=hush",
            "postgres://me:hush@db/box?sslmode=hush",
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(!error.contains("hush"), "{error}");
        }
        let server = parse("postgres://me:hush@db/box").expect("valid");
        assert!(!format!("{server:?}").contains("hush"));
    }

    #[test]
    fn sslmode_is_ignored_for_socket_files() {
        let server = parse("host=/run/postgresql sslmode=require").expect("valid");
        assert_eq!(server.tls.attempts(), [SslMode::Disable]);
    }
}
