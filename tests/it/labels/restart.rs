//! What stays known while the engine is away, and over a restart.

use super::{House, LONG, host, shown, status, until};
use crate::support::client::poll;

#[tokio::test]
async fn an_app_stays_what_it_was_while_the_engine_is_away() {
    let house = House::new().await;
    let (app, h) = (house.name("away"), host(&house.name("away")));
    let porter = house.porter().await;
    let whole = format!("www.{app}.org");
    let labels: &[_] = &[("app", &*app), ("public", "/a/"), ("port", "80"), ("hosts", &whole)];
    house.container(&app, labels).await;
    until(&porter, &h, "/a/", 200).await;
    let file = house.sample.folder().join("labels.json");
    poll("it is kept", LONG, async || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains(&app))
    })
    .await;
    house.proxy.vanish();
    house.proxy.cut(true);
    for _ in 0..20 {
        assert_eq!(status(&porter, &h, "/a/").await, 200);
        assert_eq!(status(&porter, &h, "/").await, 401);
    }
    drop(porter);
    let porter = house.porter().await;
    assert_eq!(status(&porter, &h, "/").await, 401);
    assert_eq!(status(&porter, &h, "/a/").await, 200);
    assert_eq!(status(&porter, &whole, "/").await, 401);
    // What changed meanwhile is in force when the engine is back.
    house.remove(&app).await;
    house.container(&app, &[("app", &app), ("public", "/b/"), ("port", "80")]).await;
    house.proxy.cut(false);
    house.proxy.appear();
    until(&porter, &h, "/b/", 200).await;
    assert_eq!(status(&porter, &h, "/a/").await, 401);
    poll("it is shown", LONG, async || !shown(&porter, &app).await.is_null()).await;
}
