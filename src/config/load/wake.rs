//! Rules for `[wake]` and `[sleep]`.

use std::time::Duration;

use crate::config::keys::EngineKeys;
use crate::config::reader::Reader;
use crate::config::setting::DockerHost;
use crate::config::{DockerEndpoint, Sleep, Wake};

/// Longest time a request is held: Traefik gives up an auth request after 30 seconds.
const LONGEST_HOLD: Duration = Duration::from_secs(25);

pub(super) fn check(reader: &mut Reader, wake: &Wake) {
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
}

/// Returns the engine's address. `DOCKER_HOST`, `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH`
/// are among the keys if no key is given.
pub(super) fn docker(reader: &mut Reader, keys: &EngineKeys) -> DockerEndpoint {
    let EngineKeys { docker: host, docker_certificates: certificates } = keys.clone();
    let Some(host) = host else {
        // It is wrong, and a finding says so.
        return DockerEndpoint::Unix(std::path::PathBuf::new());
    };
    let has_certificates = reader.is_given("wake.docker_certificates");
    let asks_for_tls = !reader.is_given("wake.docker")
        && reader.variable("DOCKER_HOST").is_some()
        && reader.variable("DOCKER_TLS_VERIFY").is_some();
    if asks_for_tls && certificates.is_none() && matches!(host, DockerHost::Tcp(_)) {
        let problem = "is unset, and `DOCKER_TLS_VERIFY` asks for TLS";
        let hint = "set it or `DOCKER_CERT_PATH`, or unset that variable";
        reader.refuse("wake.docker_certificates", problem, hint);
    }
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

pub(super) fn check_sleep(reader: &mut Reader, sleep: &Sleep) {
    let Sleep { pause, idle_for_pause, idle_for_stop, .. } = sleep.clone();
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
}
