#![no_main]

use libfuzzer_sys::fuzz_target;
use nightporter::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::letter(bytes));
