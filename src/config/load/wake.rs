//! `[wake]`, `[sleep]` and `[upstream]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::StatusCode;

use super::seconds;
use crate::config::reader::{ByApp, Bytes, Count, DockerHost, Names, Program, Reader, UpstreamUrl};
use crate::config::{
    DockerEndpoint, Environment, Ignore, Sleep, StreamWakes, Streams, Upstream, Wake,
};

/// Docker's default socket.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// Longest time a request is held: Traefik gives up an auth request after 30 seconds.
const LONGEST_HOLD: Duration = Duration::from_secs(25);

/// Each held request is a connection of the proxy: enough for a page of a hundred assets in
/// forty browsers.
const MAX_HELD: usize = 4096;

/// Clients give up after some redirects: Go's after 10, browsers after 20. Some are left for
/// redirects of the app itself.
const MAX_REDIRECTS: u32 = 8;

/// Free disk space below which shard_core starts nothing.
const MIN_FREE_DISK: u64 = 1 << 30;

/// The smallest TCP segment, in bytes: Ethernet, IP and TCP headers. Anything smaller is
/// background traffic of an unused network (ARP has 42).
const ONE_SEGMENT: u64 = 54;

pub(super) fn wake(
    reader: &mut Reader,
    env: &Environment,
    installed_apps_dir: &Path,
    beside_upstream: bool,
) -> Wake {
    let wake = Wake {
        enabled: reader.get("wake.enabled").unwrap_or(true),
        docker: docker(reader, env),
        strategy: reader.get("wake.strategy").unwrap_or_default(),
        apps: reader.get("wake.apps").map_or_else(BTreeMap::new, |ByApp(apps)| apps),
        throttle: seconds(reader, "wake.throttle", 5),
        longest_backoff: seconds(reader, "wake.longest_backoff", 300),
        max_concurrent: reader.get("wake.max_concurrent").map_or(2, count::<1000>),
        start_timeout: seconds(reader, "wake.start_timeout", 60),
        hold_timeout: reader.get("wake.hold_timeout").unwrap_or(LONGEST_HOLD),
        max_held: reader.get("wake.max_held").map_or(MAX_HELD, count::<1_000_000>),
        max_redirects: reader
            .get("wake.max_redirects")
            .map_or(MAX_REDIRECTS, |Count::<0, 15>(count)| u32::try_from(count).unwrap_or(0)),
        compose_command: reader
            .get("wake.compose_command")
            .map_or_else(Vec::new, |Program(words)| words),
        data_dir: reader.get("wake.data_dir").unwrap_or_else(|| installed_apps_dir.to_owned()),
        min_free_disk: reader.get("wake.min_free_disk").map_or(MIN_FREE_DISK, |Bytes(n)| n),
        ignore: Ignore {
            user_agents: reader
                .get("wake.ignore.user_agents")
                .map_or_else(Vec::new, |Names(parts)| lower_cased(&parts)),
            paths: reader.get("wake.ignore.paths").map_or_else(Vec::new, names),
            status: reader.get("wake.ignore.status").map_or_else(StatusCode::default, status),
        },
        streams: streams(reader, beside_upstream),
    };
    let text = humantime::format_duration;
    if wake.hold_timeout > LONGEST_HOLD {
        let problem = format!("{} is too long", text(wake.hold_timeout));
        let hint = "use 25s or less: Traefik gives up after 30s and answers 500";
        reader.refuse("wake.hold_timeout", problem, hint);
    }
    if wake.longest_backoff < wake.throttle {
        let problem = format!(
            "{} is shorter than `wake.throttle`, {}",
            text(wake.longest_backoff),
            text(wake.throttle)
        );
        let hint = "a failing app must not be tried more often than others; make it longer";
        reader.refuse_because("wake.longest_backoff", "wake.throttle", problem, hint);
    }
    if wake.ignore.paths.iter().any(|path| !path.starts_with('/')) {
        let hint = "begin every path with `/`, such as `/health`";
        reader.refuse("wake.ignore.paths", "contains an entry that is not a path", hint);
    }
    wake
}

/// Reads `[wake.streams]`. By default, every request beside shard_core wakes an app, as it
/// does in shard_core.
fn streams(reader: &mut Reader, beside_upstream: bool) -> Streams {
    let default = if beside_upstream { StreamWakes::All } else { StreamWakes::default() };
    Streams {
        wake: reader.get("wake.streams.wake").unwrap_or(default),
        apps: reader.get("wake.streams.apps").map_or_else(BTreeMap::new, |ByApp(apps)| apps),
    }
}

fn count<const MAX: u64>(Count(count): Count<1, MAX>) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn status(Count(number): Count<200, 599>) -> StatusCode {
    u16::try_from(number).ok().and_then(|n| StatusCode::from_u16(n).ok()).unwrap_or_default()
}

fn names(Names(names): Names) -> Vec<String> {
    names
}

fn lower_cased(parts: &[String]) -> Vec<String> {
    parts.iter().map(|part| part.to_lowercase()).collect()
}

/// Reads the engine's address. `DOCKER_HOST`, `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH`
/// count if no key is given, as they do for Docker's own client.
fn docker(reader: &mut Reader, env: &Environment) -> DockerEndpoint {
    let variable = |name| env.get(name).filter(|value: &&String| !value.is_empty());
    let certificates: Option<PathBuf> = reader.get("wake.docker_certificates");
    let host: Option<DockerHost> = reader.get("wake.docker");
    let has_certificates = certificates.is_some();
    let (host, certificates) = match (host, variable("DOCKER_HOST")) {
        (Some(host), _) => (host, certificates),
        (None, Some(text)) if !reader.is_given("wake.docker") => match text.parse() {
            Ok(host) => {
                let verify = variable("DOCKER_TLS_VERIFY").is_some();
                let path = variable("DOCKER_CERT_PATH").filter(|_| verify).map(PathBuf::from);
                let certificates = certificates.or(path);
                if verify && certificates.is_none() && matches!(host, DockerHost::Tcp(_)) {
                    let problem = "is unset, and `DOCKER_TLS_VERIFY` asks for TLS";
                    let hint = "set it or `DOCKER_CERT_PATH`, or unset that variable";
                    reader.refuse("wake.docker_certificates", problem, hint);
                }
                (host, certificates)
            }
            Err(hint) => {
                let problem = format!("invalid engine address `{text}` in `DOCKER_HOST`");
                reader.refuse("wake.docker", problem, hint);
                return DockerEndpoint::Unix(DOCKER_SOCKET.into());
            }
        },
        (None, _) => (DockerHost::Unix(DOCKER_SOCKET.into()), certificates),
    };
    match (host, certificates) {
        (DockerHost::Unix(path), _) => {
            if has_certificates {
                let hint = "remove it, or set `wake.docker` to `tcp://host:2376`";
                reader.refuse("wake.docker_certificates", "has no effect with a socket", hint);
            }
            DockerEndpoint::Unix(path)
        }
        (DockerHost::Tcp(address), None) => DockerEndpoint::Tcp(address),
        (DockerHost::Tcp(address), Some(certificates)) => {
            for file in ["ca.pem", "cert.pem", "key.pem"] {
                let path = certificates.join(file);
                if let Err(error) = std::fs::File::open(&path) {
                    let problem = format!("{} cannot be read: {error}", path.display());
                    let hint = "name a folder with ca.pem, cert.pem and key.pem";
                    reader.refuse_because("wake.docker_certificates", "wake.docker", problem, hint);
                }
            }
            DockerEndpoint::Tls { address, certificates }
        }
    }
}

/// Reads `[sleep]`. By default, shard_core puts apps to sleep if it runs beside nightporter.
pub(super) fn sleep(reader: &mut Reader, beside_upstream: bool) -> Sleep {
    let sleep = Sleep {
        enabled: reader.get("sleep.enabled").unwrap_or(!beside_upstream),
        interval: seconds(reader, "sleep.interval", 10),
        pause: reader.get("sleep.pause").unwrap_or(true),
        idle_for_pause: seconds(reader, "sleep.idle_for_pause", 60),
        idle_for_stop: seconds(reader, "sleep.idle_for_stop", 10_800),
        hold_off: seconds(reader, "sleep.hold_off", 120),
        activity: reader.get("sleep.activity").unwrap_or_default(),
        apps: reader.get("sleep.apps").map_or_else(BTreeMap::new, |ByApp(apps)| apps),
        activity_cpu: reader
            .get("sleep.activity_cpu")
            .map_or(10, |Count(percentage): Count<1, 100_000>| percentage),
        activity_bytes: reader.get("sleep.activity_bytes").map_or(ONE_SEGMENT, |Bytes(n)| n),
        memory_pressure: match reader.get("sleep.memory_pressure") {
            None => Some(10),
            Some(Count::<0, 100>(percentage)) => {
                u8::try_from(percentage).ok().filter(|percentage| *percentage > 0)
            }
        },
        reclaim: reader.get("sleep.reclaim").unwrap_or(true),
    };
    let Sleep { pause, idle_for_pause, idle_for_stop, .. } = sleep;
    if pause && idle_for_pause >= idle_for_stop {
        let text = humantime::format_duration;
        let problem = format!(
            "{} is not shorter than `sleep.idle_for_stop`, {}",
            text(idle_for_pause),
            text(idle_for_stop)
        );
        let hint =
            "an app is paused before it is stopped; make it shorter or set `sleep.pause = false`";
        reader.refuse_because("sleep.idle_for_pause", "sleep.idle_for_stop", problem, hint);
    }
    sleep
}

pub(super) fn upstream(reader: &mut Reader) -> Option<Upstream> {
    let url = reader.get("upstream.url").map(|UpstreamUrl(url)| url);
    let shadow = reader.get("upstream.shadow").unwrap_or(false);
    if shadow && !reader.is_given("upstream.url") {
        let hint = "give `upstream.url`, or remove it";
        reader.refuse("upstream.shadow", "has no effect without an upstream", hint);
    }
    url.map(|url| Upstream { url, shadow })
}
