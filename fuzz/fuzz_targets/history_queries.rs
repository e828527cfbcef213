#![no_main]

use libfuzzer_sys::fuzz_target;
use nightporter::fuzzing;

fuzz_target!(|text: &str| fuzzing::history_query(text));
