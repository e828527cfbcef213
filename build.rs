//! Asks the linker for a smaller program, if it can make one: functions with the same code are
//! kept once, and relocations are packed. That saves 1.7 of 28 MB, and 3 MiB of resident memory.

use std::path::Path;
use std::process::{Command, Stdio};

const FLAGS: [&str; 2] = ["-Wl,--icf=all", "-Wl,-z,pack-relative-relocs"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    let is_native = std::env::var("HOST").ok() == std::env::var("TARGET").ok();
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_ENV", "gnu") && is_native && is_supported()
    {
        for flag in FLAGS {
            println!("cargo::rustc-link-arg-bins={flag}");
        }
    }
}

/// Links an empty program with the flags and runs it: GNU's linker does not know the first, and
/// a C library before glibc 2.36 does not start a program with the second.
fn is_supported() -> bool {
    let (Some(folder), Some(rustc)) = (std::env::var_os("OUT_DIR"), std::env::var_os("RUSTC"))
    else {
        return false;
    };
    let folder = Path::new(&folder);
    let (source, program) = (folder.join("empty.rs"), folder.join("empty"));
    let mut link = Command::new(rustc);
    link.arg(&source).arg("-o").arg(&program);
    for flag in FLAGS {
        link.arg(format!("-Clink-arg={flag}"));
    }
    let succeeds = |command: &mut Command| {
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    std::fs::write(&source, "fn main() {}").is_ok()
        && succeeds(&mut link)
        && succeeds(&mut Command::new(&program))
}
