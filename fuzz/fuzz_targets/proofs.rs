#![no_main]

use libfuzzer_sys::fuzz_target;
use nightporter::fuzzing;

fuzz_target!(|json: &str| fuzzing::proof(json));
