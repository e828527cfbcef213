#![no_main]

use libfuzzer_sys::fuzz_target;
use nightporter::fuzzing;

fuzz_target!(|text: &str| {
    let (name, template) = text.split_once('\0').unwrap_or(("Name", text));
    fuzzing::template(template, name);
});
