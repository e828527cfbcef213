//! Programs that a test starts from the files under `deploy/`.

use std::fs::{self, File};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// A running program; it ends with the test.
#[derive(Debug)]
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it; its output goes to a file in `folder`.
    pub fn start(command: &mut Command, folder: &Path) -> Self {
        let name = Path::new(command.get_program()).file_name().expect("a name").to_owned();
        let log = folder.join(name).with_extension("log");
        let out = File::create(&log).expect("writable");
        let command = command.stdout(out.try_clone().expect("a file")).stderr(out);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("{}: {error}; `tests/run` installs it", command.get_program().display())
        });
        Self { child, log }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("{}:\n{}", self.log.display(), self.log());
        }
    }
}

/// An address that is free, and that no other test of this process gets: below the range from
/// which the kernel chooses, and apart from the ports of the Postgres servers.
pub fn free_address() -> SocketAddr {
    const FIRST: u16 = 11_000;
    const COUNT: u16 = 8_000;
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
        let random = RandomState::new().build_hasher().finish() % u64::from(COUNT);
        AtomicU16::new(u16::try_from(random).expect("small"))
    });
    let mut addresses = (0..COUNT).map(|_| {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    });
    addresses.find(|address| TcpListener::bind(address).is_ok()).expect("a free port")
}

/// Writes a shipped file into `folder`, in which only these texts are replaced.
/// Each of them must occur.
pub fn install(shipped: &str, folder: &Path, replacements: &[(&str, String)]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(shipped);
    let mut text = fs::read_to_string(source).expect("shipped");
    for (old, new) in replacements {
        assert!(text.contains(old), "{shipped} has no {old:?}");
        text = text.replace(old, new);
    }
    let path = folder.join(Path::new(shipped).file_name().expect("a name"));
    fs::write(&path, text).expect("writable");
    path
}

/// The virtual environment: `TESTS_VENV`, or `target/venv`.
pub fn virtual_environment() -> PathBuf {
    std::env::var_os("TESTS_VENV")
        .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv").into(), PathBuf::from)
}

/// Traefik of the virtual environment.
pub fn traefik() -> PathBuf {
    virtual_environment().join("bin/traefik")
}

/// Caddy with this configuration.
pub fn caddy(configuration: &Path, folder: &Path) -> Program {
    let mut command = Command::new("caddy");
    command
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(configuration)
        .env("XDG_CONFIG_HOME", folder)
        .env("XDG_DATA_HOME", folder);
    Program::start(&mut command, folder)
}

/// nginx with these sites in Debian's `nginx.conf`, without its own log, user and pid.
pub fn nginx(sites: &Path, folder: &Path) -> Program {
    let main = folder.join("nginx.conf");
    let (here, sites) = (folder.display(), sites.display());
    let text = format!(
        "load_module /usr/lib/nginx/modules/ngx_http_headers_more_filter_module.so;
         daemon off; master_process off; pid {here}/nginx.pid; error_log stderr;
         events {{}}
         http {{
             access_log off;
             client_body_temp_path {here}/bodies; proxy_temp_path {here}/proxied;
             fastcgi_temp_path {here}/f; uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;
             include {sites};
         }}"
    );
    fs::write(&main, text).expect("writable");
    let mut command = Command::new("nginx");
    command.arg("-c").arg(main).args(["-g", "", "-e", "stderr"]);
    Program::start(&mut command, folder)
}
