//! Finds the keys in which two configurations differ.

use super::{Cache, Config, Gate, Log, Ops, Postgres, Sleep, Store, StoreKind, Touch, Wake};

/// Adds the key of each field that is not equal in both, with its section.
macro_rules! compare {
    ($keys:ident, $section:literal, $type:ident, $old:expr, $new:expr, { $($field:ident),+ $(,)? }) => {
        // Every field is named, so a new field breaks the build here.
        let $type { $($field),+ } = $old;
        $(
            if *$field != $new.$field {
                $keys.push(concat!($section, ".", stringify!($field)));
            }
        )+
    };
}

impl Config {
    /// Returns the keys whose values differ; secrets are compared but not shown.
    #[must_use]
    pub fn diff(&self, new: &Self) -> Vec<&'static str> {
        let Self { gate, ops, store, cache, touch, wake, sleep, upstream, log } = self;
        let mut keys = Vec::new();
        compare!(keys, "gate", Gate, gate, new.gate, {
            listen, trusted_proxies, max_connections, max_connections_per_address, domain, path_matching, header_encoding, refuse_replays,
            cors_preflight, drain_timeout, tls,
        });
        compare!(keys, "ops", Ops, ops, new.ops, { listen, token, hosts, app_metrics });
        diff_store(store, &new.store, &mut keys);
        compare!(keys, "cache", Cache, cache, new.cache, {
            capacity, ttl, degraded_ttl, max_stale, heartbeat,
        });
        compare!(keys, "touch", Touch, touch, new.touch, { flush_interval, last_access_every });
        compare!(keys, "wake", Wake, wake, new.wake, {
            enabled, docker, strategy, apps, throttle, longest_backoff, max_concurrent,
            start_timeout, hold_timeout, max_held, max_redirects, compose_command, data_dir, min_free_disk, ignore,
            streams,
        });
        compare!(keys, "sleep", Sleep, sleep, new.sleep, {
            enabled, interval, pause, idle_for_pause, idle_for_stop, hold_off, activity, apps,
            activity_bytes, activity_cpu, memory_pressure, reclaim,
        });
        push_if(&mut keys, *upstream != new.upstream, "upstream");
        compare!(keys, "log", Log, log, new.log, { level, format });
        keys
    }
}

fn diff_store(old: &Store, new: &Store, keys: &mut Vec<&'static str>) {
    let Store { kind, installed_apps_dir, zone, prefix_length } = old;
    match (kind, &new.kind) {
        (StoreKind::Postgres(old), StoreKind::Postgres(new)) => {
            compare!(keys, "store", Postgres, old, new, {
                url, pool_size, pool_timeout, connect_timeout, query_timeout, create_tables,
            });
        }
        (
            StoreKind::Files { path, terminal_jwt_secret },
            StoreKind::Files { path: new_path, terminal_jwt_secret: new_secret },
        ) => {
            push_if(keys, path != new_path, "store.path");
            push_if(keys, terminal_jwt_secret != new_secret, "store.terminal_jwt_secret");
        }
        _ => keys.push("store.kind"),
    }
    push_if(keys, *installed_apps_dir != new.installed_apps_dir, "store.installed_apps_dir");
    push_if(keys, *zone != new.zone, "store.zone");
    push_if(keys, *prefix_length != new.prefix_length, "store.prefix_length");
}

fn push_if(keys: &mut Vec<&'static str>, differs: bool, key: &'static str) {
    if differs {
        keys.push(key);
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Environment, load};

    #[test]
    fn the_keys_that_differ_are_named() {
        let config = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(key, value)| ((*key).into(), (*value).into()));
            load(None, &pairs.collect::<Environment>()).expect("valid")
        };
        let old = config(&[]);
        assert!(old.diff(&old).is_empty());
        let new = config(&[
            ("NIGHTPORTER_GATE__DOMAIN", "box.example"),
            ("NIGHTPORTER_STORE__PATH", "/elsewhere"),
            ("NIGHTPORTER_OPS__TOKEN", "0123456789abcdef"),
            ("NIGHTPORTER_LOG__LEVEL", "debug"),
        ]);
        let keys = old.diff(&new);
        for key in ["gate.domain", "store.path", "ops.token", "log.level"] {
            assert!(keys.contains(&key), "{key}: {keys:?}");
        }
        assert!(!keys.contains(&"gate.listen"), "{keys:?}");
    }
}
