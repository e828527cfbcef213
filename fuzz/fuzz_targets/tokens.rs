#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use nightporter::fuzzing;

fuzz_target!(|text: &str| fuzzing::token(text, UNIX_EPOCH + Duration::from_secs(1_795_251_867)));
