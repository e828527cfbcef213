#![no_main]

use libfuzzer_sys::fuzz_target;
use nightporter::fuzzing;

fuzz_target!(|json: &[u8]| fuzzing::app_meta(json));
