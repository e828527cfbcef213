//! Defaults that depend on other keys or on the environment.
#![expect(
    clippy::unnecessary_wraps,
    reason = "all of them have the type of those that may be unset"
)]

use std::path::Path;

use super::findings::Origin;
use super::key::GivenValues;
use super::raw::Raw;

/// Docker's default socket.
const DOCKER_SOCKET: &str = "unix:///var/run/docker.sock";

pub(super) fn kind(sources: &dyn GivenValues) -> Option<(Origin, Raw)> {
    let has_url = sources.has("store.url") || sources.has("store.url_file");
    text(if has_url { "postgres" } else { "files" })
}

/// The record is kept where the box's data is, unless it has a database of its own.
pub(super) fn ledger_kind(sources: &dyn GivenValues) -> Option<(Origin, Raw)> {
    let has_url = sources.has("ledger.url") || sources.has("ledger.url_file");
    text(if has_url || is_in_postgres(sources) { "postgres" } else { "sqlite" })
}

/// FreeShard's own proxy does not copy cookies, and its apps know the token.
pub(super) fn hide_token(sources: &dyn GivenValues) -> Option<(Origin, Raw)> {
    Some((Origin::Default, Raw::Boolean(!is_in_postgres(sources))))
}

/// FreeShard's core pairs devices itself.
pub(super) fn pairing(sources: &dyn GivenValues) -> Option<(Origin, Raw)> {
    Some((Origin::Default, Raw::Boolean(!is_in_postgres(sources))))
}

fn is_in_postgres(sources: &dyn GivenValues) -> bool {
    matches!(
        sources.effective_value("store.kind"),
        Some((_, Raw::Text(kind) | Raw::Variable(kind))) if kind == "postgres"
    )
}

pub(super) fn installed_apps_dir(sources: &dyn GivenValues) -> Option<(Origin, Raw)> {
    let path = path(sources, "store.path");
    text(Path::new(&path).join("installed_apps").to_string_lossy())
}

/// Beside FreeShard, its core alone says which apps there are.
pub(super) fn labels(sources: &dyn GivenValues) -> Option<(Origin, Raw)> {
    let is_files = matches!(
        sources.effective_value("store.kind"),
        Some((_, Raw::Text(kind) | Raw::Variable(kind))) if kind == "files"
    );
    Some((Origin::Default, Raw::Boolean(is_files && !beside_upstream(sources))))
}

pub(super) fn data_dir(sources: &dyn GivenValues) -> Option<(Origin, Raw)> {
    text(path(sources, "store.installed_apps_dir"))
}

/// `TZ` counts if the key is not given, as it does for other programs. Without it, the
/// system's own zone is read.
pub(super) fn time_zone(sources: &dyn GivenValues) -> Option<(Origin, Raw)> {
    let value = sources.variable("TZ")?;
    Some((Origin::Variable("TZ".into()), Raw::Text(value.into())))
}

/// `DOCKER_HOST` counts if the key is not given, as it does for Docker's own client.
pub(super) fn docker(sources: &dyn GivenValues) -> Option<(Origin, Raw)> {
    match sources.variable("DOCKER_HOST") {
        Some(host) => Some((Origin::Variable("DOCKER_HOST".into()), Raw::Text(host.into()))),
        None => text(DOCKER_SOCKET),
    }
}

/// Docker's own client uses this folder only if it is told to use TLS.
pub(super) fn docker_certificates(sources: &dyn GivenValues) -> Option<(Origin, Raw)> {
    let is_docker_host = !sources.has("wake.docker") && sources.variable("DOCKER_HOST").is_some();
    sources.variable("DOCKER_TLS_VERIFY").filter(|_| is_docker_host)?;
    let folder = sources.variable("DOCKER_CERT_PATH")?;
    Some((Origin::Variable("DOCKER_CERT_PATH".into()), Raw::Text(folder.into())))
}

/// By default, every stream beside shard_core wakes an app, as it does in shard_core.
pub(super) fn streams_wake(sources: &dyn GivenValues) -> Option<(Origin, Raw)> {
    text(if beside_upstream(sources) { "all" } else { "programs" })
}

/// By default, shard_core puts apps to sleep if it runs beside nightporter.
pub(super) fn sleep_enabled(sources: &dyn GivenValues) -> Option<(Origin, Raw)> {
    Some((Origin::Default, Raw::Boolean(!beside_upstream(sources))))
}

fn beside_upstream(sources: &dyn GivenValues) -> bool {
    sources.has("upstream.url")
}

/// Returns the path in force; a value that is none is a finding where it is read, and not
/// another one here.
fn path(sources: &dyn GivenValues, key: &'static str) -> String {
    match sources.effective_value(key) {
        Some((_, Raw::Text(path) | Raw::Variable(path))) if !path.trim().is_empty() => path,
        _ => ".".into(),
    }
}

fn text(text: impl Into<String>) -> Option<(Origin, Raw)> {
    Some((Origin::Default, Raw::Text(text.into())))
}
