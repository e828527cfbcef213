//! What a token is, and until when.

use serde_json::{Value, json};

use super::{Home, OTHER, PATIENCE, parsed};
use crate::support::boxes::Store;
use crate::support::client::poll;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_once_and_judged_by_its_hash() {
    for store in Store::BOTH {
        let home = Home::new(store).await;
        let wanted = json!({"name": "phone", "rights": ["read", "operate"], "expires_in": "90d"});
        let added = home.send("POST", "/v1/tokens", &wanted, None).await;
        assert_eq!(added.status, 201, "{}", added.body());
        let added = parsed(&added);
        let token = added["token"].as_str().expect("its text");
        assert_eq!((token.len(), &token[..3]), (46, "np_"));
        assert_eq!(added["tenant"], *Home::tenant());
        assert_eq!(added["rights"], json!(["read", "operate"]));
        assert!(added["expires"].is_string() && added["last_use"].is_null());

        // Nothing but the token itself is accepted, not even without `ops.token`.
        assert_eq!(home.get("/v1/apps", Some(token)).await.status, 200);
        assert_eq!(home.get("/v1/apps", None).await.status, 200);
        let other = format!("{}A", &token[..45]);
        let is_same = other == token;
        let longer = format!("{token}A");
        for wrong in [other.as_str(), longer.as_str(), "np_", "", "abc"] {
            let status = home.get("/v1/apps", Some(wrong)).await.status;
            assert!(status == 401 || (is_same && wrong == other), "{wrong}: {status}");
        }

        let listed = home.get("/v1/tokens", None).await;
        assert!(!listed.body().contains(token) && !listed.body().contains("token\":"));
        let id = added["id"].as_str().expect("an id");
        let mut used = Value::Null;
        poll("a use is noted", PATIENCE, async || {
            used = parsed(&home.get(&format!("/v1/tokens/{id}"), None).await);
            used["last_use"].is_string()
        })
        .await;
        assert_eq!(used["name"], "phone");

        // A removal acts at once.
        let path = format!("/v1/tokens/{id}");
        assert_eq!(home.send("DELETE", &path, &Value::Null, None).await.status, 200);
        assert_eq!(home.get("/v1/apps", Some(token)).await.status, 401);
        assert_eq!(home.send("DELETE", &path, &Value::Null, None).await.status, 404);
        for reason in ["add_token", "remove_token"] {
            poll(reason, PATIENCE, async || {
                let acts = home.get(&format!("/v1/requests?kind=act&reason={reason}"), None).await;
                parsed(&acts)["requests"].as_array().is_some_and(|acts| acts.len() == 1)
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_adds_lists_and_removes() {
    for store in Store::BOTH {
        let home = Home::new(store).await;
        let (code, out, err) = home.run(&["token", "add", "grafana", "--expires", "90d"]);
        assert_eq!(code, 0, "{err}");
        let token = out.trim_end().to_owned();
        assert_eq!(home.get("/v1/requests", Some(&token)).await.status, 200);
        assert_eq!(home.get("/v1/tokens", Some(&token)).await.status, 403, "it may only read");
        let all = ["token", "add", "all", "--tenant", "*", "--rights", "read,pii", "--json"];
        let (code, out, _) = home.run(&all);
        let added: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(
            (code, &added["tenant"], &added["rights"]),
            (0, &json!("*"), &json!(["read", "pii"]))
        );

        let (code, out, _) = home.run(&["token", "list"]);
        assert_eq!((code, out.lines().count()), (0, 3), "{out}");
        assert!(!out.contains(&token), "{out}");
        let (_, lines, _) = home.run(&["token", "list", "--json"]);
        let first: Value = serde_json::from_str(lines.lines().next().expect("two")).expect("JSON");
        assert_eq!(first["name"], "grafana");
        let id = first["id"].as_str().expect("an id");
        assert_eq!(home.run(&["token", "remove", id]).0, 0);
        assert_eq!(home.run(&["token", "remove", id]).0, 1);
        poll("another process's removal acts", PATIENCE, async || {
            home.get("/v1/requests", Some(&token)).await.status == 401
        })
        .await;
        for wrong in [
            &["token", "add", "x", "--rights", "all"][..],
            &["token", "add", "x", "--expires", "soon"],
            &["token", "add", ""],
            &["token", "add", "x", "--tenant", ""],
        ] {
            assert_eq!(home.run(wrong).0, 2, "{wrong:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_gives_no_more_than_it_has() {
    let home = Home::new(Store::Files).await;
    let root: Option<&str> = None;
    let own = home.token(&Home::tenant(), "read,operate").await;
    let reader = home.token(&Home::tenant(), "read").await;
    let other = home.token(OTHER, "read,operate").await;
    let wanted =
        |tenant: &str, rights: &[&str]| json!({"name": "x", "tenant": tenant, "rights": rights});
    let tenant = Home::tenant();
    for (token, body, status) in [
        (Some(&*own), wanted(&tenant, &["read"]), 201),
        (Some(&*own), wanted(&tenant, &["read", "pii"]), 403),
        (Some(&*own), wanted(OTHER, &["read"]), 403),
        (Some(&*own), wanted("*", &["read"]), 403),
        (Some(&*own), wanted(&tenant, &[]), 400),
        (Some(&*own), wanted(&tenant, &["all"]), 400),
        (Some(&*reader), wanted(&tenant, &["read"]), 403),
        (Some(&*other), wanted(&tenant, &["read"]), 403),
        // Its record would be in the ledger of this box, where nobody of that box sees it.
        (Some(&*other), wanted(OTHER, &["operate"]), 409),
        (root, wanted(OTHER, &["read"]), 409),
        (root, wanted("*", &["read", "pii", "operate"]), 201),
        (root, json!({"name": "x", "rights": ["read"], "expires_in": "soon"}), 400),
        (root, json!({"name": "x", "rights": ["read"], "expires": "90d"}), 400),
        (root, json!({"name": "", "rights": ["read"]}), 400),
        (root, json!([]), 400),
    ] {
        let answer = home.send("POST", "/v1/tokens", &body, token).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.body());
    }
    // Each sees the tokens of its own tenant, and removes no others.
    let ids = |answer: Value| -> Vec<String> {
        let tokens = answer["tokens"].as_array().expect("a list").clone();
        tokens.iter().map(|token| token["id"].as_str().expect("an id").to_owned()).collect()
    };
    let all = ids(parsed(&home.get("/v1/tokens", root).await));
    let others = ids(parsed(&home.get("/v1/tokens", Some(&other)).await));
    assert_eq!((all.len(), others.len()), (5, 1));
    assert_eq!(ids(parsed(&home.get(&format!("/v1/tokens?tenant={OTHER}"), root).await)), others);
    let foreign = all.iter().find(|id| !others.contains(id)).expect("another's");
    let path = format!("/v1/tokens/{foreign}");
    assert_eq!(home.send("DELETE", &path, &Value::Null, Some(&other)).await.status, 404);
    assert_eq!(home.get(&path, Some(&other)).await.status, 404);
    assert_eq!(home.get(&path, root).await.status, 200);
}

/// What is done to the tokens of a box, its readers see in its record; the record of another
/// box they do not see.
#[tokio::test(flavor = "multi_thread")]
async fn the_tokens_of_another_box_are_added_and_removed_there() {
    for store in Store::BOTH {
        let home = Home::new(store).await;
        let (other, id) = super::add_token(home.archive(), OTHER, "read,operate").await;
        let wanted = json!({"name": "x", "tenant": OTHER, "rights": ["read"]});
        let path = format!("/v1/tokens/{id}");
        for token in [None, Some(&*other)] {
            let added = home.send("POST", "/v1/tokens", &wanted, token).await;
            let removed = home.send("DELETE", &path, &Value::Null, token).await;
            for answer in [added, removed] {
                assert_eq!(answer.status, 409, "{}", answer.body());
                assert_eq!(parsed(&answer)["type"], "/problems/other-box");
            }
        }
        for arguments in [&["token", "add", "x", "--tenant", OTHER][..], &["token", "remove", &id]]
        {
            let (code, out, err) = home.run(arguments);
            assert_eq!((code, &*out), (2, ""), "{arguments:?}: {err}");
            assert!(err.contains("by the nightporter of that box"), "{err}");
        }
        assert_eq!(home.get("/v1/requests", Some(&other)).await.status, 200, "it is there");
        let acts = parsed(&home.get("/v1/requests?kind=act", None).await);
        assert_eq!(acts["requests"], json!([]), "{acts}");
    }
}
