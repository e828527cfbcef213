//! Images made from this machine's own files: nothing is pulled.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub(crate) const IMAGE: &str = "nightporter-test";
pub(crate) const TRAEFIK: &str = "nightporter-test-traefik";
pub(crate) const POSTGRES: &str = "nightporter-test-postgres";
pub(crate) const APP: &str = "nightporter-test-app";
const RUNTIME: &str = "nightporter-test-runtime";

pub(crate) const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// Runs a program that must succeed; what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = output(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.trim().to_owned()
}

pub(crate) fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| {
        panic!("{}: {error}; `tests/run` installs it", command.get_program().display())
    })
}

pub(crate) fn docker() -> Command {
    Command::new("docker")
}

/// The engine's socket.
pub(crate) fn socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock").into()
}

/// Says what to do where there is no engine.
pub(crate) fn assert_engine() {
    assert!(
        output(docker().args(["info"])).status.success(),
        "no Docker engine answers: start one, set DOCKER_HOST, or run `tests/run`, which does"
    );
}

/// The image of the shipped Dockerfile. What is looked at is how it is made and run, so
/// the program in it need not be fast; with `--soak` it is the one that is shipped.
pub(crate) fn build_nightporter() {
    assert_engine();
    let machine = machine();
    let is_soak = std::env::var_os("TESTS_SOAK").is_some_and(|value| value == "1");
    let profile = if is_soak { "dist" } else { "dev" };
    import(RUNTIME, &linked(Path::new(env!("CARGO_BIN_EXE_nightporter"))), &["--dereference"], &[]);
    run(docker()
        // Other tests run meanwhile: their containers come first.
        .args(["build", "--network=none", "--cpu-shares=64", "--tag", IMAGE])
        .args(["--build-arg", &format!("PROFILE={profile}")])
        .args(["--build-arg", &format!("BUILDER_IMAGE={machine}")])
        .args(["--build-arg", &format!("RUNTIME_IMAGE={RUNTIME}")])
        .arg(REPOSITORY));
}

/// What `deploy/compose.yml` runs beside nightporter.
pub(crate) fn build_neighbours() {
    assert_engine();
    let venv = std::env::var_os("TESTS_VENV")
        .map_or_else(|| Path::new(REPOSITORY).join("target/venv"), PathBuf::from);
    let traefik = venv.join("bin/traefik");
    let entry = format!("ENTRYPOINT [\"{}\"]", traefik.display());
    import(TRAEFIK, &[traefik], &[], &[&entry]);

    let busybox = PathBuf::from(run(Command::new("sh").args(["-c", "command -v busybox"])));
    let busybox = busybox.canonicalize().expect("installed");
    let entry = format!("ENTRYPOINT [\"{}\"]", busybox.display());
    let page = r#"CMD ["httpd", "-f", "-p", "80", "-h", "/etc"]"#;
    import(APP, &[busybox, "/etc/debian_version".into()], &[], &[&entry, page]);

    let dockerfile = include_str!("postgres.Dockerfile").replace("MACHINE", &machine());
    let mut build = docker()
        .args(["build", "--network=none", "--tag", POSTGRES, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("docker");
    let mut input = build.stdin.take().expect("piped");
    input.write_all(dockerfile.as_bytes()).expect("read by docker");
    drop(input);
    assert!(build.wait().expect("ends").success(), "no image for Postgres, see above");
}

/// This machine as an image: shell, compiler, Rust, Postgres and the crates
/// that cargo has at hand, which is all it may use. Kept while they are the same.
fn machine() -> String {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE_AT_A_TIME.lock();
    let mut hasher = DefaultHasher::new();
    run(Command::new("rustc").arg("-vV")).hash(&mut hasher);
    include_str!("../../Cargo.lock").hash(&mut hasher);
    let tag = format!("nightporter-test-machine:{:016x}", hasher.finish());
    if output(docker().args(["image", "inspect", &tag])).status.success() {
        return tag;
    }
    let rust = PathBuf::from(run(Command::new("rustc").args(["--print", "sysroot"])));
    let cargo = std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cargo"),
        PathBuf::from,
    );
    let library = format!("/usr/lib/{}", run(Command::new("cc").arg("-dumpmachine")));
    let mut files: Vec<PathBuf> = [
        "/bin",
        "/sbin",
        "/lib",
        "/lib64",
        "/etc/alternatives",
        "/etc/ssl/openssl.cnf",
        "/usr/bin",
        "/usr/include",
        "/usr/lib/gcc",
        "/usr/lib/postgresql",
        "/usr/lib/ssl",
        "/usr/lib64",
        "/usr/share/postgresql",
        "/usr/share/zoneinfo",
    ]
    .into_iter()
    .map(PathBuf::from)
    .filter(|path| path.exists())
    .collect();
    files.extend([library.into(), rust.join("bin"), rust.join("lib"), cargo.join("registry")]);
    let path = format!("ENV PATH={}/bin:/usr/bin:/bin", rust.display());
    let home = format!("ENV CARGO_HOME={} CARGO_NET_OFFLINE=true", cargo.display());
    import(&tag, &files, &["--exclude=libLLVM-*"], &[&path, &home]);
    tag
}

/// An image of these files, each where it is on this machine.
fn import(tag: &str, files: &[PathBuf], options: &[&str], changes: &[&str]) {
    let mut tar = Command::new("tar")
        .args(["--create", "--directory=/", "--hard-dereference"])
        .args(options)
        .args(files.iter().map(|path| path.strip_prefix("/").expect("absolute")))
        .stdout(Stdio::piped())
        .spawn()
        .expect("tar");
    let archive = tar.stdout.take().expect("piped");
    let mut import = docker();
    import.arg("import").args(changes.iter().flat_map(|change| ["--change", change]));
    run(import.args(["-", tag]).stdin(archive));
    assert!(tar.wait().expect("ends").success(), "tar failed for {tag}, see above");
}

/// The libraries that a program loads, its loader among them.
fn linked(program: &Path) -> Vec<PathBuf> {
    let lines = run(Command::new("ldd").arg(program));
    let words = lines.split_whitespace().filter(|word| word.starts_with('/'));
    words.map(PathBuf::from).collect()
}
