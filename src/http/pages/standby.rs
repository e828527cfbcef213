//! The page that is shown while no gate answers. It is one file without information about
//! any app, so that a proxy may keep it on disk.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::page::{POLICY, reload_url};
use super::template::{escaped, fill};

const TEMPLATE: &str = include_str!("standby.html");
const SCRIPT: &str = include_str!("standby.js");

/// Renders the page. `uri` is the path and query of the request that it answers, if they
/// are known; a browser without scripts reloads it.
pub(crate) fn page(uri: Option<&str>) -> String {
    fill(TEMPLATE, |hole| match hole {
        "target" => {
            escaped(&uri.map_or_else(String::new, |uri| format!(";url={}", reload_url(uri))))
        }
        "script" => SCRIPT.into(),
        _ => String::new(),
    })
}

/// Returns the page's Content-Security-Policy.
pub(crate) fn policy() -> String {
    let hash = BASE64_STANDARD.encode(digest(&SHA256, SCRIPT.as_bytes()));
    format!("{POLICY}; script-src 'sha256-{hash}'")
}
