use super::*;
use crate::config::keys::TABLE;

#[test]
fn a_misspelt_name_finds_its_key() {
    for (wrong, right) in [
        ("gate.lisen", Some("gate.listen")),
        ("gate.Listen", Some("gate.listen")),
        ("gate.trusted_proxy", Some("gate.trusted_proxies")),
        ("store.pool-size", Some("store.pool_size")),
        ("gate.heartbeat", Some("cache.heartbeat")),
        ("gate.colour", None),
    ] {
        assert_eq!(nearest(TABLE, wrong), right, "{wrong}");
    }
    assert_eq!(nearest_section(TABLE, "gates"), Some("gate"));
    assert_eq!(nearest_section(TABLE, "downtown"), None);
}

#[test]
fn a_variable_with_too_few_underscores_finds_its_key() {
    for (wrong, right) in [
        ("NIGHTPORTER_GATE_LISTEN", Some("NIGHTPORTER_GATE__LISTEN")),
        ("NIGHTPORTER_GATE_TLS_SELF_SIGNED", Some("NIGHTPORTER_GATE__TLS__SELF_SIGNED")),
        ("NIGHTPORTER_STORE__POOLSIZE", Some("NIGHTPORTER_STORE__POOL_SIZE")),
        ("NIGHTPORTER_X", None),
    ] {
        assert_eq!(nearest_variable(TABLE, wrong).as_deref(), right, "{wrong}");
    }
}

#[test]
fn variables_that_orchestrators_set_are_not_ours() {
    for theirs in [
        "NIGHTPORTER_PORT",
        "NIGHTPORTER_PORT_8400_TCP",
        "NIGHTPORTER_SERVICE_HOST",
        "NIGHTPORTER_SERVICE_PORT_GATE",
        "NIGHTPORTER_CONFIG",
        "PATH",
    ] {
        assert!(!is_ours(theirs), "{theirs}");
    }
    assert!(is_ours("NIGHTPORTER_GATE_LISTEN"));
}
