//! A proof needs the public key and nothing else.

use nightporter::access::Viewer;
use nightporter::ledger::canonical::Version;
use nightporter::ledger::key::VerifierKey;
use nightporter::ledger::proof::{Audit, AuditError, Proof, ProofError, audit};
use nightporter::ledger::record::Personal;
use serde_json::{Value, json};

use super::sample::{Kinds, Ledger, id, new_key};
use super::{BOTH, EDITED};

async fn prove(ledger: &Ledger, is_masked: bool) -> Value {
    let viewer = Viewer::clear();
    let proof = audit(&ledger.archive, &ledger.tenant, EDITED, is_masked, &viewer).await;
    let proof = proof.expect("read");
    let Audit::Covered(proof) = proof else { panic!("{proof:?}") };
    serde_json::to_value(proof).expect("JSON")
}

/// Checks a proof as whoever has only the two texts.
fn check(proof: &Value, key: &str) -> Result<nightporter::ledger::proof::Proved, ProofError> {
    let key: VerifierKey = key.parse().expect("a verifier key");
    Proof::parse(&proof.to_string())?.verify(&key)
}

/// Salts are random: no digit is in all of them.
fn with_another_first_digit(text: &str) -> String {
    let other = if text.starts_with('0') { '1' } else { '0' };
    format!("{other}{}", &text[1..])
}

#[tokio::test]
async fn a_proof_verifies_away_from_the_database() {
    for kind in BOTH {
        let ledger = Ledger::new(kind).await;
        let key = ledger.key.verifier(&ledger.tenant).to_string();
        let (clear, masked) = (prove(&ledger, false).await, prove(&ledger, true).await);
        let original = ledger.find(EDITED).await.record;
        drop(ledger);

        let proved = check(&clear, &key).expect("valid");
        assert_eq!((proved.record.id, proved.position, proved.checkpoint.size), (EDITED, 125, 700));
        let seal = original.seal;
        assert_eq!(nightporter::ledger::record::Record { seal, ..proved.record }, original);

        let proved = check(&masked, &key).expect("valid");
        assert!(matches!(proved.record.client_name, Some(Personal::Digest(_))));
        let texts = proved.texts.expect("hidden");
        assert_eq!((texts.path.is_some(), texts.notes.len()), (true, original.notes.len()));
        let text = masked.to_string();
        // Random bytes are in it as base64: what is shorter may be there by chance.
        for personal in ["Ada's phone", "192.0.2", "\"salt", "inbox/", "no answer"] {
            assert!(!text.contains(personal), "{personal} in {text}");
        }
    }
}

/// Returns the value with each of the texts and numbers in it altered, one at a time, and with
/// each of the members and items left out.
fn alterations(value: &Value) -> Vec<(String, Value)> {
    match value {
        Value::Object(members) => {
            let altered = members.iter().flat_map(|(name, member)| {
                let with = move |(what, member)| {
                    let mut value = value.clone();
                    value[name] = member;
                    (format!("{name}.{what}"), value)
                };
                alterations(member).into_iter().map(with)
            });
            let without = members.keys().map(|name| {
                let mut members = members.clone();
                members.remove(name);
                (format!("without {name}"), Value::Object(members))
            });
            altered.chain(without).collect()
        }
        Value::Array(items) => {
            let altered = items.iter().enumerate().flat_map(|(n, item)| {
                let with = move |(what, item)| {
                    let mut items = items.clone();
                    items[n] = item;
                    (format!("{n}.{what}"), Value::Array(items))
                };
                alterations(item).into_iter().map(with)
            });
            let without = (0..items.len()).map(|n| {
                let mut items = items.clone();
                items.remove(n);
                (format!("without {n}"), Value::Array(items))
            });
            altered.chain(without).collect()
        }
        Value::String(text) => {
            let first = with_another_first_digit(text);
            let digest = json!({"sha256": "00".repeat(32)});
            vec![
                ("longer".into(), json!(format!("{text}x"))),
                ("other".into(), json!(first)),
                ("empty".into(), json!("")),
                ("digest".into(), digest),
                ("clear".into(), json!("Eve")),
            ]
        }
        Value::Number(number) => {
            let number = number.as_i64().expect("a number");
            vec![("more".into(), json!(number + 1)), ("negative".into(), json!(-number - 1))]
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn no_field_of_a_proof_can_be_altered() {
    let ledger = Ledger::new(Kinds::Sqlite).await;
    let key = ledger.key.verifier(&ledger.tenant).to_string();
    for is_masked in [false, true] {
        let proof = prove(&ledger, is_masked).await;
        check(&proof, &key).expect("valid");
        let altered = alterations(&proof["record"]);
        assert!(altered.len() >= 100, "{}", altered.len());
        for (what, record) in altered {
            let mut altered = proof.clone();
            altered["record"] = record;
            let is_same = altered == proof;
            assert!(is_same || check(&altered, &key).is_err(), "{what}: {altered:#}");
        }
        // What earlier versions took for the content's hash.
        let mut with_leaf = proof.clone();
        with_leaf["leaf"] = json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        assert!(matches!(check(&with_leaf, &key), Err(ProofError::Malformed(_))));
    }
}

#[tokio::test]
async fn a_record_of_version_1_is_proved_to_those_who_may_see_its_texts() {
    let mut ledger = Ledger::empty(Kinds::Sqlite).await;
    ledger.write_in(Version::One, 3).await;
    let _ = ledger.extend().await.expect("extended");
    assert_eq!(ledger.verify().await.findings, []);
    let key = ledger.key.verifier(&ledger.tenant).to_string();
    // One with a person, whose values needed a salt.
    let second = id(2);
    let audit = async |is_masked, viewer: &Viewer| {
        audit(&ledger.archive, &ledger.tenant, second, is_masked, viewer).await
    };
    for is_masked in [false, true] {
        let Ok(Audit::Covered(proof)) = audit(is_masked, &Viewer::clear()).await else {
            panic!("not covered")
        };
        let proof = serde_json::to_value(proof).expect("JSON");
        assert_eq!(proof["record"].get("salt").is_none(), is_masked);
        check(&proof, &key).expect("valid");
    }
    let refused = audit(false, &Viewer::masked(None, "")).await;
    assert!(matches!(refused, Err(AuditError::NotMaskable)), "{refused:?}");
}

#[tokio::test]
async fn a_proof_of_anything_else_is_refused() {
    let ledger = Ledger::new(Kinds::Sqlite).await;
    let key = ledger.key.verifier(&ledger.tenant).to_string();
    let proof = prove(&ledger, false).await;
    let mut more = proof.clone();
    more["record"]["verdict_of_appeal"] = json!("grant");
    assert!(matches!(check(&more, &key), Err(ProofError::Malformed(_))), "what is not covered");

    for position in [json!(124), json!(126), json!(700), json!(-1), json!(u64::MAX)] {
        let mut altered = proof.clone();
        altered["position"] = position;
        assert!(check(&altered, &key).is_err(), "{altered:#}");
    }
    let mut shorter = proof.clone();
    shorter["inclusion"].as_array_mut().expect("an array").pop();
    assert_eq!(check(&shorter, &key), Err(ProofError::NotIncluded));

    let folder = tempfile::tempdir().expect("a folder");
    let other = new_key(folder.path()).verifier(&ledger.tenant).to_string();
    assert!(matches!(check(&proof, &other), Err(ProofError::Checkpoint(_))));
}

#[tokio::test]
async fn a_record_waits_for_its_checkpoint() {
    let ledger = Ledger::new(Kinds::Sqlite).await;
    let viewer = Viewer::clear();
    let audit = |id| audit(&ledger.archive, &ledger.tenant, id, false, &viewer);
    assert_eq!(audit(id(705)).await.expect("read"), Audit::Pending);
    assert_eq!(audit(id(9999)).await.expect("read"), Audit::Unknown);
    let _ = ledger.extend().await.expect("extended");
    assert!(matches!(audit(id(705)).await.expect("read"), Audit::Covered(_)));
}
