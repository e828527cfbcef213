//! What commands say of labels.

use std::io::Write as _;
use std::process::Command;

use serde_json::json;

use super::House;
use crate::support::boxes::app_meta;

/// What `nightporter check` prints.
fn check(house: &House) -> String {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    let config = format!("{}{}", house.sample.store_config(), house.config());
    write!(file, "{config}").expect("writable");
    let mut nightporter = Command::new(env!("CARGO_BIN_EXE_nightporter"));
    let output = nightporter.env_clear().arg("--config").arg(file.path()).arg("check").output();
    String::from_utf8(output.expect("it runs").stdout).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_tells_what_is_wrong_with_labels() {
    let house = House::new().await;
    let [wrong, lost, both, first, second] =
        ["wrong", "lost", "both", "first", "second"].map(|label| house.name(label));
    let contested = format!("www.{first}.org");
    house.container(&wrong, &[("app", &wrong), ("pirvate", "/admin/")]).await;
    house.container(&lost, &[("public", "/")]).await;
    house.container(&both, &[("app", &both), ("public", "/")]).await;
    for app in [&first, &second] {
        house.container(app, &[("app", app), ("hosts", &contested), ("port", "80")]).await;
    }
    let mut meta = app_meta(&both, &json!({"": {"access": "private"}}));
    meta["hosts"] = json!(["good.example", "https://bad.example"]);
    house.sample.add_app_bytes(&both, meta.to_string().as_bytes()).await;
    let text = check(&house);
    for (container, part) in [
        (&wrong, "is unknown; known are app, public"),
        (&lost, "no label `nightporter.app`"),
        (&both, "do not count"),
        (&both, "invalid host `https://bad.example`"),
        (&contested, "is nobody's"),
    ] {
        let is_told = text.lines().any(|line| line.contains(&**container) && line.contains(part));
        assert!(is_told, "{container}: {part}: {text}");
    }
    let first_is_fine =
        !text.lines().any(|line| line.contains(&first) && !line.contains("nobody's"));
    assert!(first_is_fine, "{text}");
}
