//! Compose, for apps whose containers are missing: it alone knows how to make them.
//!
//! Only for an app's own file and project. The command is what its owner installed;
//! nothing here reads the file.

mod changes;
mod files;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use self::changes::Checked;
pub(super) use self::files::ComposeFiles;
use super::observed::Selector;
use crate::config::{DockerEndpoint, Wake};
use crate::domain::lifecycle::Failure;
use crate::store::file_calls::FileCalls;

/// How long Compose may take: an image may have to be pulled.
const LIMIT: Duration = Duration::from_secs(600);

/// Begins the names of our own settings, secrets among them.
const OWN: &str = "NIGHTPORTER_";

/// How long Compose may take to read a file.
const CONFIG_LIMIT: Duration = Duration::from_secs(30);

/// Bytes of what Compose says that are shown, from the end.
const LONGEST_WORD: usize = 400;

/// Bytes of what Compose says that are kept, from the end.
const KEPT: usize = 64 * 1024;

/// How long what Compose has said last is waited for after it ended: what it started
/// may go on and never close its standard error.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs Compose.
#[derive(Debug)]
pub(super) struct Compose {
    installed_apps_dir: PathBuf,
    /// As configured; empty to look for one.
    command: Vec<String>,
    found: OnceCell<Vec<String>>,
    files: Arc<ComposeFiles>,
    calls: FileCalls,
    environment: Vec<(&'static str, OsString)>,
    /// Variables that it must not see.
    hidden: &'static [&'static str],
    /// By app.
    checked: Mutex<HashMap<String, Checked>>,
}

/// The older Compose believes authorities named here before those of the engine's own
/// certificates; it talks to nobody but the engine.
const OTHER_AUTHORITIES: &[&str] = &["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];

/// Why Compose did not do it.
#[derive(Debug)]
enum Trouble {
    /// A network or a name of an earlier time is in the way: taking everything down
    /// first helps.
    Stale(String),
    Failed(Failure),
}

impl Compose {
    pub(super) fn new(config: &Wake, installed_apps_dir: &Path) -> Self {
        let environment = match &config.docker {
            DockerEndpoint::Unix(path) => {
                let mut host = OsString::from("unix://");
                host.push(absolute(path));
                vec![("DOCKER_HOST", host)]
            }
            DockerEndpoint::Tcp(address) => {
                vec![("DOCKER_HOST", format!("tcp://{address}").into())]
            }
            DockerEndpoint::Tls { address, certificates } => vec![
                ("DOCKER_HOST", format!("tcp://{address}").into()),
                ("DOCKER_TLS_VERIFY", "1".into()),
                ("DOCKER_CERT_PATH", absolute(certificates).into()),
            ],
        };
        let mut command = config.compose_command.clone();
        // One without a slash is looked for in `PATH`.
        if let Some(program) = command.first_mut().filter(|program| program.contains('/'))
            && let Some(path) = absolute(Path::new(program)).to_str()
        {
            path.clone_into(program);
        }
        Self {
            calls: FileCalls::new(),
            files: Arc::new(ComposeFiles::new(absolute(installed_apps_dir))),
            installed_apps_dir: absolute(installed_apps_dir),
            command,
            found: OnceCell::new(),
            environment,
            hidden: match &config.docker {
                DockerEndpoint::Tls { .. } => OTHER_AUTHORITIES,
                DockerEndpoint::Unix(_) | DockerEndpoint::Tcp(_) => &[],
            },
            checked: Mutex::default(),
        }
    }

    fn checked(&self) -> MutexGuard<'_, HashMap<String, Checked>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of compose files.
    pub(super) fn files(&self) -> &Arc<ComposeFiles> {
        &self.files
    }

    /// The compose file in an app's own folder, as it was when it was last looked for.
    pub(super) fn file(&self, app: &str) -> Option<PathBuf> {
        self.files.get(app)
    }

    /// The same as it is now, with the others that the app's containers were made from.
    async fn files_now(&self, app: &str) -> Result<Vec<PathBuf>, Failure> {
        self.files.look(&[app]).await;
        let own = self.file(app).ok_or(Failure::NoComposeFile)?;
        // Where those are not all there, its own is what there is.
        Ok(self.files.all(app, &own).await.unwrap_or_else(|| vec![own]))
    }

    /// Whether an app's containers could be made.
    pub(super) fn can_make(&self, app: &str, selector: &Selector) -> bool {
        selector.project().is_some() && self.file(app).is_some()
    }

    /// Makes and starts an app's containers.
    pub(super) async fn up(&self, app: &str, project: &str) -> Result<(), Failure> {
        self.up_or_anew(app, project, &["up", "-d"]).await
    }

    /// Makes all containers anew, where asked to without those of services that are in
    /// the file no more. Their volumes are kept, those without a name too.
    pub(super) async fn recreate(
        &self,
        app: &str,
        project: &str,
        without_orphans: bool,
    ) -> Result<(), Failure> {
        let order = ["up", "-d", "--force-recreate", "--remove-orphans"];
        let order = if without_orphans { &order[..] } else { &order[..3] };
        self.up_or_anew(app, project, order).await
    }

    /// Makes the containers of these services anew, and touches no other.
    pub(super) async fn recreate_only(
        &self,
        app: &str,
        project: &str,
        services: &[String],
    ) -> Result<(), Failure> {
        let files = self.files_now(app).await?;
        let order = ["up", "-d", "--force-recreate", "--no-deps"];
        let services = services.iter().map(String::as_str);
        let order: Vec<_> = order.into_iter().chain(services).collect();
        self.run(&files, project, &order).await.map_err(Failure::from)
    }

    async fn up_or_anew(&self, app: &str, project: &str, order: &[&str]) -> Result<(), Failure> {
        let files = self.files_now(app).await?;
        match self.run(&files, project, order).await {
            Ok(()) => Ok(()),
            Err(Trouble::Failed(failure)) => Err(failure),
            Err(Trouble::Stale(reason)) => {
                tracing::info!(app, reason, "compose is in its own way; taking the app down first");
                self.down(app, project).await?;
                self.run(&files, project, &["up", "-d"]).await.map_err(Failure::from)
            }
        }
    }

    /// Removes an app's containers and networks; its volumes stay.
    async fn down(&self, app: &str, project: &str) -> Result<(), Failure> {
        let files = self.files_now(app).await?;
        self.run(&files, project, &["down"]).await.map_err(Failure::from)
    }

    /// Compose with an order about an app's own files and project, where there is one.
    async fn command(&self, files: &[PathBuf], project: &str, order: &[&str]) -> Option<Command> {
        // Where there is none now, one may be installed later.
        let find = async || self.find().await.ok_or(());
        let found = self.found.get_or_try_init(find).await.ok()?;
        let [program, first @ ..] = found.as_slice() else { return None };
        let mut command = Command::new(program);
        command
            .args(first)
            .args(["-p", project])
            .args(files.iter().flat_map(|file| [OsStr::new("-f"), file.as_os_str()]))
            .args(order)
            .envs(self.environment.iter().cloned())
            .current_dir(files.first().and_then(|file| file.parent()).unwrap_or(Path::new("/")))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        // A compose file may name any variable, and comes with the app.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(OWN.as_bytes()) {
                command.env_remove(name);
            }
        }
        for name in self.hidden {
            command.env_remove(name);
        }
        Some(command)
    }

    async fn run(&self, files: &[PathBuf], project: &str, order: &[&str]) -> Result<(), Trouble> {
        let Some(mut command) = self.command(files, project, order).await else {
            let reason =
                "neither `docker compose` nor `docker-compose` is here; see `wake.compose_command`";
            return Err(Trouble::Failed(Failure::Compose(reason.into())));
        };
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let failed = |reason: String| Err(Trouble::Failed(Failure::Compose(reason)));
        let done = async { said_by(&mut self.start(command).await?).await };
        match timeout(LIMIT, done).await {
            Err(_) => failed(format!("not done within {LIMIT:?}")),
            Ok(Err(error)) => failed(format!("{program}: {error}")),
            Ok(Ok((status, _))) if status.success() => Ok(()),
            Ok(Ok((_, said))) => {
                let said = String::from_utf8_lossy(&said);
                let mut trouble = Trouble::of(&said);
                if let Trouble::Failed(Failure::ImageNotFetched { image, .. }) = &mut trouble
                    && image.is_empty()
                {
                    *image = self.image_wanted(files, project, &said).await.unwrap_or_default();
                }
                Err(trouble)
            }
        }
    }

    /// Starts a command on a thread that may wait: whoever starts one waits until it has
    /// entered its folder, and that may be on a mount that hangs.
    async fn start(&self, mut command: Command) -> io::Result<Child> {
        self.calls.run(move || command.spawn()).await
    }

    /// Which of the file's images could not be fetched, where Compose has not named it.
    async fn image_wanted(&self, files: &[PathBuf], project: &str, said: &str) -> Option<String> {
        let mut command = self.command(files, project, &["config"]).await?;
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let output = async { self.start(command).await?.wait_with_output().await };
        let output = timeout(CONFIG_LIMIT, output).await.ok()?.ok()?;
        image_of(&String::from_utf8_lossy(&output.stdout), said)
    }

    /// Compose as a plugin of Docker's client, or else as the older program.
    async fn find(&self) -> Option<Vec<String>> {
        if !self.command.is_empty() {
            return Some(self.command.clone());
        }
        for words in [&["docker", "compose"][..], &["docker-compose"]] {
            let [program, rest @ ..] = words else { continue };
            let mut command = Command::new(program);
            command.args(rest).arg("version").stdin(Stdio::null());
            command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            let ended = async { self.start(command).await?.wait().await };
            let status = timeout(Duration::from_secs(10), ended).await;
            if matches!(status, Ok(Ok(status)) if status.success()) {
                return Some(words.iter().map(|word| (*word).to_owned()).collect());
            }
        }
        None
    }
}

/// Compose runs in the app's folder, where a path relative to ours leads elsewhere.
fn absolute(path: &Path) -> PathBuf {
    // Fails only for an empty path, or where the working directory was removed.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// How a command ends, and the end of what it says on its standard error.
async fn said_by(child: &mut Child) -> io::Result<(ExitStatus, Vec<u8>)> {
    let (mut said, mut heard) = (child.stderr.take(), Vec::new());
    let status = {
        let listening = keep_end(said.as_mut(), &mut heard);
        let mut listening = std::pin::pin!(listening);
        tokio::select! {
            biased;
            () = &mut listening => child.wait().await?,
            status = child.wait() => {
                let _ = timeout(LAST_WORDS, listening).await;
                status?
            }
        }
    };
    Ok((status, heard))
}

/// Reads all of it and keeps the end.
async fn keep_end(from: Option<&mut (impl AsyncRead + Unpin)>, kept: &mut Vec<u8>) {
    let Some(from) = from else { return };
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..count]);
        if kept.len() > 2 * KEPT {
            kept.drain(..kept.len() - KEPT);
        }
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Failed(failure) => failure,
            Trouble::Stale(reason) => Self::Compose(reason),
        }
    }
}

impl Trouble {
    /// What Compose and the engine behind it say, in words of several versions.
    fn of(said: &str) -> Self {
        let said = said.trim();
        let start = said.len().saturating_sub(LONGEST_WORD);
        let start = (start..said.len()).find(|at| said.is_char_boundary(*at)).unwrap_or(0);
        let end = said[start..].to_owned();
        let lower = said.to_lowercase();
        let has = |part: &str| lower.contains(part);
        let unresolved = has("failed to resolve reference") && has("not found");
        let is_missing = has("no such image") || has("pull access denied");
        if is_missing || has("manifest unknown") || unresolved {
            return Self::Failed(Failure::ImageMissing { image: image_in(said) });
        }
        let stale_network = has("network") && (has("not found") || has("no such network"));
        let stale_neighbour = has("no such container") || has("cannot join network of");
        if stale_network
            || stale_neighbour
            || has("is already in use by container")
            || has("needs to be recreated")
        {
            Self::Stale(end)
        } else if NOT_FETCHED.into_iter().any(has) {
            Self::Failed(Failure::ImageNotFetched { image: named_in(said), reason: end })
        } else {
            Self::Failed(Failure::Compose(end))
        }
    }
}

/// What is said where an image, or the registry that has it, is not reached or does not
/// give it.
const NOT_FETCHED: [&str; 11] = [
    "/v2/",
    "failed to resolve reference",
    "failed to pull",
    "failed to copy",
    "error pulling image",
    "failed to register layer",
    "no matching manifest",
    "toomanyrequests",
    "no basic auth credentials",
    "authentication required",
    "unauthorized",
];

/// Of the images in a file as Compose writes it, the one that a message is about: it names
/// the image, its service or its registry.
fn image_of(config: &str, said: &str) -> Option<String> {
    let mut service = "";
    let mut images = Vec::new();
    for line in config.lines() {
        if let Some(name) = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')) {
            service = name.trim_end_matches(':');
        } else if let Some(image) = line.strip_prefix("    image: ") {
            images.push((service, image.trim_matches(['"', '\''])));
        }
    }
    let is_said = |what: &str| said.contains(what);
    let registry = |image: &str| Some(image.split_once('/')?.0.to_owned());
    let found = images
        .iter()
        .find(|(_, image)| is_said(image))
        .or_else(|| images.iter().find(|(service, _)| is_said(&format!(" {service} Error"))))
        .or_else(|| images.iter().find(|(_, image)| registry(image).is_some_and(|r| is_said(&r))))
        .or_else(|| images.first().filter(|_| images.len() == 1));
    found.map(|(_, image)| (*image).to_owned())
}

/// The image that a message is about, as far as one can tell.
fn image_in(said: &str) -> String {
    let named = named_in(said);
    if named.is_empty() { "?".to_owned() } else { named }
}

/// The same; empty where it names none.
fn named_in(said: &str) -> String {
    // There a platform is named.
    let said = &*said.replace("no matching manifest for", "");
    let marks = ["o such image: ", "denied for ", "manifest for ", "resolve reference \""];
    let after = |mark: &&str| said.split_once(*mark).map(|(_, rest)| rest);
    // The older Compose has named it before it asked for it: `Pulling web (shop:7)...`.
    let pulled = || said.rsplit_once("Pulling ")?.1.split_once('(').map(|(_, rest)| rest);
    let rest = marks.iter().find_map(after).or_else(pulled).unwrap_or_default();
    let ends = |c: char| c.is_whitespace() || matches!(c, ',' | '"' | ')');
    rest[..rest.find(ends).unwrap_or(rest.len())].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compose_says_is_told_apart() {
        let image = |said: &str| match Trouble::of(said) {
            Trouble::Failed(Failure::ImageMissing { image }) => image,
            other => panic!("{other:?}"),
        };
        assert_eq!(image("ERROR: No such image: shop:7"), "shop:7");
        assert_eq!(
            image("pull access denied for shop, repository does not exist or may require ..."),
            "shop"
        );
        assert_eq!(
            image("manifest for a.test:5000/shop:7 not found: manifest unknown: manifest unknown"),
            "a.test:5000/shop:7"
        );
        assert_eq!(
            image("Pulling a (b:1)...\nPulling web (shop:7)...\nmanifest unknown"),
            "shop:7"
        );
        assert_eq!(
            image("failed to resolve reference \"a.test/shop:7\": a.test/shop:7: not found"),
            "a.test/shop:7"
        );
        for stale in [
            "ERROR: for web  network 5e3f was not found",
            "Conflict. The container name \"/web\" is already in use by container \"ab\".",
            "Network \"shop_default\" needs to be recreated - option \"x\" has changed",
        ] {
            assert!(matches!(Trouble::of(stale), Trouble::Stale(_)), "{stale}");
        }
        for (said, named) in [
            (
                "Error response from daemon: Get \"http://127.0.0.1:5000/v2/\": dial tcp \
                 127.0.0.1:5000: connect: connection refused",
                "",
            ),
            (
                "Pulling web (a.test/shop:7)...\nerror pulling image configuration: EOF",
                "a.test/shop:7",
            ),
            (
                "failed to resolve reference \"a.test/shop:7\": dial tcp: i/o timeout",
                "a.test/shop:7",
            ),
            ("toomanyrequests: You have reached your unauthenticated pull rate limit.", ""),
            ("Head \"https://a.test/v2/shop/manifests/7\": unauthorized: access denied", ""),
            ("no matching manifest for linux/arm64/v8 in the manifest list entries", ""),
        ] {
            match Trouble::of(said) {
                Trouble::Failed(Failure::ImageNotFetched { image, .. }) => assert_eq!(image, named),
                other => panic!("{said}: {other:?}"),
            }
        }
        let long = "ü".repeat(1000);
        assert!(matches!(Trouble::of(&long), Trouble::Failed(Failure::Compose(_))));
    }

    #[test]
    fn the_image_that_is_not_fetched_is_found_in_the_file() {
        let config = "name: shop\nservices:\n  db:\n    image: postgres:17\n  web:\n    \
                      environment:\n      image: none\n    image: 10.0.0.1:5000/shop:7\n";
        for (said, image) in [
            ("pulling postgres:17: EOF", Some("postgres:17")),
            (" db Error\ntoomanyrequests", Some("postgres:17")),
            ("Get \"http://10.0.0.1:5000/v2/\": connection refused", Some("10.0.0.1:5000/shop:7")),
            ("toomanyrequests", None),
        ] {
            assert_eq!(image_of(config, said).as_deref(), image, "{said}");
        }
        let one = "services:\n  web:\n    image: 'shop:7'\n";
        assert_eq!(image_of(one, "toomanyrequests").as_deref(), Some("shop:7"));
        assert_eq!(image_of("", "toomanyrequests"), None);
    }

    /// A Compose that is a shell script: `$2` is the project, `$4` the file.
    fn scripted(installed_apps_dir: &Path, script: &str) -> Compose {
        let config = crate::config::load(None, &crate::config::Environment::new());
        let mut wake = config.expect("defaults").wake;
        wake.compose_command = ["sh", "-c", script, "sh"].map(Into::into).into();
        Compose::new(&wake, installed_apps_dir)
    }

    fn folder_with_app() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let app = folder.path().join("shop");
        std::fs::create_dir(&app).expect("made");
        std::fs::write(app.join("compose.yaml"), "services: {}").expect("written");
        folder
    }

    #[tokio::test]
    async fn a_relative_folder_is_found_from_the_apps_own() {
        let folder = folder_with_app();
        let here = std::env::current_dir().expect("known");
        let up = "../".repeat(here.components().count() - 1);
        let relative = Path::new(&up).join(folder.path().strip_prefix("/").expect("absolute"));
        assert!(relative.is_relative() && relative.is_dir());
        let compose = scripted(&relative, r#"test -f "$4" && test -f compose.yaml"#);
        assert_eq!(compose.up("shop", "shop").await, Ok(()));
    }

    #[tokio::test]
    async fn of_much_that_is_said_the_end_is_heard() {
        let folder = folder_with_app();
        let script = "yes | head -c 10000000 >&2; echo No such image: shop:7 >&2; exit 1";
        let failed = scripted(folder.path(), script).up("shop", "shop").await;
        assert_eq!(failed, Err(Failure::ImageMissing { image: "shop:7".into() }));
        let mut kept = Vec::new();
        let mut much = tokio::io::repeat(b'x').take(100 * KEPT as u64);
        keep_end(Some(&mut much), &mut kept).await;
        assert!((KEPT..=3 * KEPT).contains(&kept.len()) && kept.capacity() <= 8 * KEPT);
    }

    #[tokio::test]
    async fn what_compose_leaves_running_is_not_waited_for() {
        let folder = folder_with_app();
        let compose = scripted(folder.path(), "sleep 20 & echo no >&2; exit 1");
        let done = timeout(Duration::from_secs(10), compose.up("shop", "shop")).await;
        assert_eq!(done, Ok(Err(Failure::Compose("no".into()))));
    }
}
