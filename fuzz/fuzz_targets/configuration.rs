#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use nightporter::config::{self, Environment};

/// The file that every input is written to.
static FILE: LazyLock<tempfile::NamedTempFile> =
    LazyLock::new(|| tempfile::NamedTempFile::new().expect("a temporary file"));

fuzz_target!(|text: &[u8]| {
    std::fs::write(FILE.path(), text).expect("writable");
    if let Err(findings) = config::load(Some(FILE.path()), &Environment::new()) {
        assert!(findings.iter().all(|finding| !finding.to_string().is_empty()));
    }
});
