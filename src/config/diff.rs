//! Finds the keys in which two configurations differ.

use std::collections::BTreeSet;

use super::keys::TABLE;
use super::{Composed, Config};

impl Config {
    /// Returns the keys whose values differ; secrets are compared but not shown.
    #[must_use]
    pub fn diff(&self, new: &Self) -> Vec<&'static str> {
        let mut keys = Vec::new();
        self.compare(new, &mut |key, differs| {
            if differs {
                keys.push(key);
            }
        });
        keys
    }

    /// Visits every key, and whether its values differ.
    pub(super) fn compare(&self, new: &Self, visit: &mut dyn FnMut(&'static str, bool)) {
        // `upstream` and `endpoints` are among the composed ones: the first is there also if
        // there is no URL, the others are so as they were given.
        let Self {
            gate,
            ops,
            traefik,
            store,
            cache,
            touch,
            wake,
            sleep,
            ledger,
            jobs,
            alerts,
            endpoints: _,
            webhooks,
            upstream: _,
            telemetry,
            log,
            composed,
        } = self;
        let Composed {
            tls,
            store: store_keys,
            postgres,
            engine,
            ledger: ledger_keys,
            endpoints,
            upstream_url,
            upstream,
            telemetry: telemetry_keys,
        } = composed;
        gate.compare(&new.gate, visit);
        tls.compare(&new.composed.tls, visit);
        ops.compare(&new.ops, visit);
        traefik.compare(&new.traefik, visit);
        store_keys.compare(&new.composed.store, visit);
        postgres.compare(&new.composed.postgres, visit);
        store.compare(&new.store, visit);
        cache.compare(&new.cache, visit);
        touch.compare(&new.touch, visit);
        wake.compare(&new.wake, visit);
        engine.compare(&new.composed.engine, visit);
        wake.ignore.compare(&new.wake.ignore, visit);
        wake.streams.compare(&new.wake.streams, visit);
        sleep.compare(&new.sleep, visit);
        ledger.compare(&new.ledger, visit);
        ledger_keys.compare(&new.composed.ledger, visit);
        jobs.compare(&new.jobs, visit);
        alerts.compare(&new.alerts, visit);
        let mut changed = BTreeSet::new();
        for (old, new) in endpoints.iter().zip(&new.composed.endpoints) {
            old.compare(new, &mut |key, differs| {
                if differs {
                    changed.insert(key);
                }
            });
        }
        let are_as_many = endpoints.len() == new.composed.endpoints.len();
        for key in TABLE.listed() {
            visit(key.name, !are_as_many || changed.contains(key.name));
        }
        webhooks.compare(&new.webhooks, visit);
        upstream_url.compare(&new.composed.upstream_url, visit);
        upstream.compare(&new.composed.upstream, visit);
        telemetry.compare(&new.telemetry, visit);
        telemetry_keys.compare(&new.composed.telemetry, visit);
        log.compare(&new.log, visit);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::config::keys::TABLE;
    use crate::config::{Environment, load};

    #[test]
    fn every_key_is_compared() {
        let config = load(None, &Environment::new()).expect("defaults");
        let mut compared = BTreeSet::new();
        config.compare(&config, &mut |key, _| {
            compared.insert(key);
        });
        assert_eq!(compared, TABLE.keys().map(|key| key.name).collect());
    }

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
