//! A proof needs the public key and nothing else.

use nightporter::access::Viewer;
use nightporter::ledger::key::VerifierKey;
use nightporter::ledger::proof::{Audit, Proof, ProofError, audit};
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
        let text = masked.to_string();
        assert!(!text.contains("Ada") && !text.contains("192.0") && !text.contains("salt"));
    }
}

#[tokio::test]
async fn a_proof_of_anything_else_is_refused() {
    let ledger = Ledger::new(Kinds::Sqlite).await;
    let key = ledger.key.verifier(&ledger.tenant).to_string();
    let proof = prove(&ledger, false).await;
    let fields = proof["record"].as_object().expect("an object").clone();
    assert!(fields.len() >= 19, "{fields:#?}");
    for (name, value) in &fields {
        let mut altered = proof.clone();
        altered["record"][name] = match value {
            Value::String(text) if name == "kind" => json!(text.replace("visit", "act")),
            Value::String(text) if name == "salt" => json!(with_another_first_digit(text)),
            Value::String(text) if name == "at" => json!(text.replacen("20", "21", 1)),
            Value::String(text) if name == "id" => json!(text.replace("126", "127")),
            Value::String(text) => json!(format!("{text}x")),
            Value::Number(number) => json!(number.as_i64().expect("a number") + 1),
            _ => json!([]),
        };
        assert!(check(&altered, &key).is_err(), "{name}: {altered:#}");
        if !matches!(&**name, "id" | "tenant" | "kind" | "at" | "duration_us" | "count") {
            let mut without = proof.clone();
            without["record"].as_object_mut().expect("an object").remove(name);
            assert_eq!(check(&without, &key), Err(ProofError::NotIncluded), "{name}");
        }
    }
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
