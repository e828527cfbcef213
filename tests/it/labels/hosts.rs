//! Apps that name whole hosts.

use serde_json::json;

use super::{House, LONG, host, shown, status, until};
use crate::support::boxes::{SampleBox, Store, app_meta};
use crate::support::client::poll;
use crate::support::server::Nightporter;

#[tokio::test]
async fn labels_and_files_name_whole_hosts_and_a_host_of_two_is_nobodys() {
    let house = House::new().await;
    let (wiki, other, filed) = (house.name("wiki"), house.name("other"), house.name("filed"));
    let apex = format!("{wiki}.org");
    let hosts = format!("{apex},www.{apex}");
    let porter = house.porter().await;
    assert_eq!(status(&porter, &format!("www.{apex}"), "/").await, 404);
    house.container(&wiki, &[("app", &wiki), ("public", "/"), ("hosts", &hosts)]).await;
    let www = format!("www.{apex}");
    until(&porter, &www, "/", 200).await;
    for spelling in [format!("WWW.{apex}:8443"), format!("www.{apex}."), host(&wiki)] {
        assert_eq!(status(&porter, &spelling, "/").await, 200, "{spelling}");
    }
    assert_eq!(status(&porter, &format!("x.{www}"), "/").await, 404);
    // Two claim it.
    house.container(&other, &[("app", &other), ("public", "/"), ("hosts", &www)]).await;
    until(&porter, &www, "/", 404).await;
    for app in [&wiki, &other] {
        assert_eq!(status(&porter, &host(app), "/").await, 200, "its own host stays");
        let problems = shown(&porter, app).await["problems"].to_string();
        assert!(problems.contains("is nobody's") && problems.contains(&www), "{problems}");
    }
    house.remove(&other).await;
    until(&porter, &www, "/", 200).await;
    // A file claims it, too.
    let mut meta = app_meta(&filed, &json!({"": {"access": "public"}}));
    meta["hosts"] = json!([www.to_uppercase(), format!("files.{apex}")]);
    house.sample.add_app_bytes(&filed, meta.to_string().as_bytes()).await;
    until(&porter, &format!("files.{apex}"), "/", 200).await;
    until(&porter, &www, "/", 404).await;
    // An app's name is a claim like any other.
    let named = format!("{filed}.any.example");
    let claims = format!("{apex},{named}");
    house.remove(&wiki).await;
    house.container(&wiki, &[("app", &wiki), ("public", "/"), ("hosts", &claims)]).await;
    until(&porter, &named, "/", 404).await;
    house.sample.remove_app(&filed).await;
    until(&porter, &named, "/", 200).await;
    until(&porter, &www, "/", 404).await;
}

#[tokio::test]
async fn files_name_hosts_on_either_store_and_unknown_ones_cost_no_query() {
    for store in Store::BOTH {
        let sample = SampleBox::new(store).await;
        let mut meta = app_meta("wiki", &json!({"": {"access": "public"}}));
        meta["hosts"] = json!(["example.org", "wiki.example.net"]);
        sample.add_app_bytes("wiki", meta.to_string().as_bytes()).await;
        let porter = Nightporter::with(&sample, "[gate]\ndomain = \"box.example\"\n").await;
        until(&porter, "example.org", "/", 200).await;
        assert_eq!(status(&porter, "wiki.example.net", "/").await, 200);
        assert_eq!(status(&porter, "wiki.box.example", "/").await, 200);
        for unknown in ["wiki.else.example", "www.example.org", "example.net", "org"] {
            assert_eq!(status(&porter, unknown, "/").await, 404, "{unknown}");
        }
        meta["hosts"] = json!(["example.com"]);
        sample.write_app_meta("wiki", meta.to_string().as_bytes());
        until(&porter, "example.com", "/", 200).await;
        until(&porter, "example.org", "/", 404).await;
        let loads = async || {
            let text = crate::support::client::ask(
                porter.ops,
                &crate::support::client::Request::new("GET", "/metrics"),
            )
            .await;
            let text = text.body().to_owned();
            let counts = text.lines().filter(|line| {
                line.starts_with("nightporter_cache_loads") && line.contains("app_names")
            });
            counts.map(str::to_owned).collect::<Vec<_>>()
        };
        poll("the names are settled", LONG, async || {
            let before = loads().await;
            for n in 0..50 {
                assert_eq!(status(&porter, &format!("unknown{n}.example"), "/").await, 404);
            }
            loads().await == before
        })
        .await;
    }
}
