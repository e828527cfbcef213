//! Which rows of peers are believed.

use serde_json::json;

use crate::support::boxes::{SampleBox, Store, id_of};
use crate::support::client::Request;
use crate::support::server::Nightporter;
use crate::support::sign::{self, OTHER_KEY, PEER_KEY, RsaKey, Signed, order, signature_headers};

const HOST: &str = "notes.box.example";

fn signed(key: &RsaKey, keyid: &str) -> Signed {
    let order = order(key, keyid, &format!("https://{HOST}/"));
    sign::sign(&[order]).remove(0)
}

#[tokio::test]
async fn a_peer_enters_under_no_name_but_its_own() {
    let (own, other) = (id_of(&PEER_KEY), id_of(&OTHER_KEY));
    // The other's key, signing under the name of the first.
    let forged = signed(&OTHER_KEY, &own[..6]);
    let honest = signed(&PEER_KEY, &own[..6]);
    let stranger = signed(&OTHER_KEY, &other[..6]);
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        sample.add_app("notes", &json!({"": {"access": "peer"}})).await;
        // Whole, by its first characters, and one that only begins like it.
        for id in [own[..6].to_owned(), format!("{}{}", &own[..6], &other[6..])] {
            sample.add_peer(&id, "Forged", &OTHER_KEY.public_pem).await;
        }
        let server = Nightporter::of(&sample).await;
        let asked = |headers: &Signed| Request::auth(HOST, "/").headers(signature_headers(headers));
        assert_eq!(server.ask(&asked(&honest)).await.status, 200, "{store:?}: the row of its own");
        assert_eq!(server.ask(&asked(&forged)).await.status, 401, "{store:?}: the other's key");
        assert_eq!(server.ask(&asked(&stranger)).await.status, 401, "{store:?}: no row");
        sample.add_peer(&other, "Other", &OTHER_KEY.public_pem).await;
        server.until(200, &asked(&stranger)).await;
        assert_eq!(server.ask(&asked(&forged)).await.status, 401, "{store:?}: still");
    }
}

#[tokio::test]
async fn a_key_in_pkcs_1_is_the_same_key() {
    let own = id_of(&PEER_KEY);
    let spki = pem::parse(&PEER_KEY.public_pem).expect("PEM");
    let key = aws_lc_rs::rsa::PublicKey::from_der(spki.contents()).expect("a key");
    let pkcs1 = pem::encode(&pem::Pem::new("RSA PUBLIC KEY", key.as_ref()));
    let honest = signed(&PEER_KEY, &own[..6]);
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        sample.add_app("notes", &json!({"": {"access": "peer"}})).await;
        sample.remove_peer(&own).await;
        sample.add_peer(&own, "In PKCS#1", &pkcs1).await;
        let server = Nightporter::of(&sample).await;
        let asked = Request::auth(HOST, "/").headers(signature_headers(&honest));
        assert_eq!(server.ask(&asked).await.status, 200, "{store:?}");
    }
}
