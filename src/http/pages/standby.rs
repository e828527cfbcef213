//! The page for the time in which no gate answers. It is one file that says nothing of
//! any app, so that a proxy may keep it on disk.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::page::{POLICY, own};
use super::template::{escaped, fill};

const TEMPLATE: &str = include_str!("standby.html");
const SCRIPT: &str = include_str!("standby.js");

/// `uri` is path and query of the request that it answers, where they are known: what a
/// browser without scripts loads again.
pub(crate) fn page(uri: Option<&str>) -> String {
    fill(TEMPLATE, |hole| match hole {
        "target" => escaped(&uri.map_or_else(String::new, |uri| format!(";url={}", own(uri)))),
        "script" => SCRIPT.into(),
        _ => String::new(),
    })
}

/// Its Content-Security-Policy.
pub(crate) fn policy() -> String {
    let hash = BASE64_STANDARD.encode(digest(&SHA256, SCRIPT.as_bytes()));
    format!("{POLICY}; script-src 'sha256-{hash}'")
}
