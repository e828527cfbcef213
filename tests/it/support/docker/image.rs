//! The image of the app that the tests put to sleep: one static binary.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use super::engine::Engine;

const SOURCE: &str = "tests/it/support/docker/app/main.rs";

/// The program, and the tag of its image; both are named by a hash of their source.
static BUILT: LazyLock<(PathBuf, String)> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(SOURCE);
    let version = Command::new("rustc").arg("-vV").output().expect("rustc");
    let mut hasher = DefaultHasher::new();
    version.stdout.hash(&mut hasher);
    std::fs::read(&source).expect("readable").hash(&mut hasher);
    let hash = format!("{:016x}", hasher.finish());
    let tag = format!("nightporter-test-sleeper:{hash}");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sleeper-{hash}"));
    let program = folder.join("app");
    if program.exists() {
        return (program, tag);
    }
    std::fs::create_dir_all(&folder).expect("writable");
    let new = folder.join(format!("new-{}", std::process::id()));
    let compiled = Command::new("rustc")
        .args(["--edition=2024", "-Ctarget-feature=+crt-static", "-Copt-level=1"])
        .args(["-Cpanic=abort", "-Cstrip=symbols", "-o"])
        .args([&new, &source])
        .status()
        .expect("rustc");
    assert!(compiled.success(), "the app does not compile, see above");
    std::fs::rename(new, &program).expect("the same folder");
    (program, tag)
});

/// Loads the image into an engine, which may have it already, and returns its tag.
pub(super) async fn import(engine: &Engine) -> String {
    let built = tokio::task::spawn_blocking(|| LazyLock::force(&BUILT)).await;
    let (program, tag) = built.expect("the app compiles");
    if engine.try_docker(["image", "inspect", tag]).await.is_ok() {
        return tag.clone();
    }
    let archive = tempfile::NamedTempFile::new().expect("a temporary file");
    let packed = tokio::process::Command::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(archive.path())
        .arg("--directory")
        .arg(program.parent().expect("in a folder"))
        .arg("app")
        .status();
    assert!(packed.await.expect("tar").success());
    let entry = r#"ENTRYPOINT ["/app"]"#;
    let archive = archive.path().to_str().expect("UTF-8");
    engine.docker(["import", "--change", entry, archive, tag]).await;
    tag.clone()
}
