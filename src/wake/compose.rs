//! Runs Compose for apps whose containers are missing, since only Compose can create
//! them.
//!
//! Compose is only called with an app's own files and project. The command is the one
//! that the operator installed; nightporter itself does not read compose files.

mod changes;
pub(super) mod files;
mod inputs;
mod messages;

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
use self::files::ComposeFiles;
use self::messages::{RunError, image_in_config};
use super::selector::Selector;
use crate::config::{DockerEndpoint, Wake};
use crate::domain::lifecycle::WakeError;
use crate::store::file_calls::FileCalls;

/// How long Compose may take: an image may have to be pulled.
const LIMIT: Duration = Duration::from_secs(600);

/// Prefix of the variables of nightporter's own settings, which include secrets.
const OWN_PREFIX: &str = "NIGHTPORTER_";

/// How long Compose may take to read a file.
const CONFIG_LIMIT: Duration = Duration::from_secs(30);

/// Bytes of Compose's output that are kept, from its end.
const MAX_OUTPUT: usize = 64 * 1024;

/// How long the rest of Compose's output is waited for after Compose has ended: a process
/// that it started may keep running and never close the standard error.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);

/// Runs Compose.
#[derive(Debug)]
pub(super) struct Compose {
    installed_apps_dir: PathBuf,
    /// As configured; empty if it is to be searched for.
    command: Vec<String>,
    found: OnceCell<Vec<String>>,
    files: Arc<ComposeFiles>,
    calls: FileCalls,
    environment: Vec<(&'static str, OsString)>,
    /// Variables that are removed from its environment.
    hidden: &'static [&'static str],
    /// By app.
    checked: Mutex<HashMap<String, Checked>>,
}

/// Variables with certificate authorities that the older Compose prefers to the engine's
/// own. Compose connects to nothing but the engine, so they are removed.
const OTHER_AUTHORITIES: &[&str] = &["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];

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
        // A program without a slash is searched for in `PATH`.
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

    /// Returns the known compose files.
    pub(super) fn files(&self) -> &Arc<ComposeFiles> {
        &self.files
    }

    /// Returns the compose file in an app's own folder, as of the last search for it.
    pub(super) fn file(&self, app: &str) -> Option<PathBuf> {
        self.files.get(app)
    }

    /// Searches for the compose file again, and returns it with the further files that
    /// the app's containers were created from.
    async fn files_now(&self, app: &str) -> Result<Vec<PathBuf>, WakeError> {
        self.files.search(&[app]).await;
        let own = self.file(app).ok_or(WakeError::NoComposeFile)?;
        // If any of the further files is missing, only the app's own is used.
        Ok(self.files.all(app, &own).await.unwrap_or_else(|| vec![own]))
    }

    /// Returns whether Compose could create an app's containers.
    pub(super) fn can_make(&self, app: &str, selector: &Selector) -> bool {
        selector.project().is_some() && self.file(app).is_some()
    }

    /// Creates and starts an app's containers.
    pub(super) async fn up(&self, app: &str, project: &str) -> Result<(), WakeError> {
        self.up_or_retry(app, project, &["up", "-d"]).await
    }

    /// Recreates all containers and, if asked to, removes those of services that are no
    /// longer in the file. Volumes are kept, including anonymous ones.
    pub(super) async fn recreate(
        &self,
        app: &str,
        project: &str,
        remove_orphans: bool,
    ) -> Result<(), WakeError> {
        let arguments = ["up", "-d", "--force-recreate", "--remove-orphans"];
        let arguments = if remove_orphans { &arguments[..] } else { &arguments[..3] };
        self.up_or_retry(app, project, arguments).await
    }

    /// Recreates the containers of these services and no others.
    pub(super) async fn recreate_only(
        &self,
        app: &str,
        project: &str,
        services: &[String],
    ) -> Result<(), WakeError> {
        let files = self.files_now(app).await?;
        let arguments = ["up", "-d", "--force-recreate", "--no-deps"];
        let services = services.iter().map(String::as_str);
        let arguments: Vec<_> = arguments.into_iter().chain(services).collect();
        self.run(&files, project, &arguments).await.map_err(WakeError::from)
    }

    async fn up_or_retry(
        &self,
        app: &str,
        project: &str,
        arguments: &[&str],
    ) -> Result<(), WakeError> {
        let files = self.files_now(app).await?;
        match self.run(&files, project, arguments).await {
            Ok(()) => Ok(()),
            Err(RunError::Failed(failure)) => Err(failure),
            Err(RunError::Stale(reason)) => {
                tracing::info!(
                    app,
                    reason,
                    "an earlier run is in the way; running `compose down` first"
                );
                self.down(app, project).await?;
                self.run(&files, project, &["up", "-d"]).await.map_err(WakeError::from)
            }
        }
    }

    /// Removes an app's containers and networks; its volumes stay.
    async fn down(&self, app: &str, project: &str) -> Result<(), WakeError> {
        let files = self.files_now(app).await?;
        self.run(&files, project, &["down"]).await.map_err(WakeError::from)
    }

    /// Returns a Compose command for an app's own files and project; `None` if Compose is
    /// not installed.
    async fn command(
        &self,
        files: &[PathBuf],
        project: &str,
        arguments: &[&str],
    ) -> Option<Command> {
        // If Compose is not found now, it may be installed later.
        let find = async || self.find().await.ok_or(());
        let found = self.found.get_or_try_init(find).await.ok()?;
        let [program, first @ ..] = found.as_slice() else { return None };
        let mut command = Command::new(program);
        command
            .args(first)
            .args(["-p", project])
            .args(files.iter().flat_map(|file| [OsStr::new("-f"), file.as_os_str()]))
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .current_dir(files.first().and_then(|file| file.parent()).unwrap_or(Path::new("/")))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        // A compose file comes with the app and may refer to any variable.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(OWN_PREFIX.as_bytes()) {
                command.env_remove(name);
            }
        }
        for name in self.hidden {
            command.env_remove(name);
        }
        Some(command)
    }

    async fn run(
        &self,
        files: &[PathBuf],
        project: &str,
        arguments: &[&str],
    ) -> Result<(), RunError> {
        let Some(mut command) = self.command(files, project, arguments).await else {
            let reason = "neither `docker compose` nor `docker-compose` was found; see \
                          `wake.compose_command`";
            return Err(RunError::Failed(WakeError::Compose(reason.into())));
        };
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let failed = |reason: String| Err(RunError::Failed(WakeError::Compose(reason)));
        let run = async { wait_with_stderr(&mut self.start(command).await?).await };
        match timeout(LIMIT, run).await {
            Err(_) => failed(format!("not finished within {LIMIT:?}")),
            Ok(Err(error)) => failed(format!("{program}: {error}")),
            Ok(Ok((status, _))) if status.success() => Ok(()),
            Ok(Ok((_, message))) => {
                let message = String::from_utf8_lossy(&message);
                let mut error = RunError::from_message(&message);
                if let RunError::Failed(WakeError::ImageNotFetched { image, .. }) = &mut error
                    && image.is_empty()
                {
                    *image =
                        self.unfetched_image(files, project, &message).await.unwrap_or_default();
                }
                Err(error)
            }
        }
    }

    /// Starts a command on a thread that may block: starting one waits until it has
    /// entered its folder, which may be on a mount that hangs.
    async fn start(&self, mut command: Command) -> io::Result<Child> {
        self.calls.run(move || command.spawn()).await
    }

    /// Returns which of the file's images could not be fetched, for a message that does
    /// not name it.
    async fn unfetched_image(
        &self,
        files: &[PathBuf],
        project: &str,
        message: &str,
    ) -> Option<String> {
        let mut command = self.command(files, project, &["config"]).await?;
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let output = async { self.start(command).await?.wait_with_output().await };
        let output = timeout(CONFIG_LIMIT, output).await.ok()?.ok()?;
        image_in_config(&String::from_utf8_lossy(&output.stdout), message)
    }

    /// Finds Compose as a plugin of Docker's client, or else as the older program.
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

/// Makes a path absolute: Compose runs in the app's folder, where a relative path would
/// lead elsewhere.
fn absolute(path: &Path) -> PathBuf {
    // Fails only for an empty path, or if the working directory was removed.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Returns the exit status of a command and the end of its standard error.
async fn wait_with_stderr(child: &mut Child) -> io::Result<(ExitStatus, Vec<u8>)> {
    let (mut stderr, mut output) = (child.stderr.take(), Vec::new());
    let status = {
        let reading = read_tail(stderr.as_mut(), &mut output);
        let mut reading = std::pin::pin!(reading);
        tokio::select! {
            biased;
            () = &mut reading => child.wait().await?,
            status = child.wait() => {
                let _ = timeout(OUTPUT_GRACE, reading).await;
                status?
            }
        }
    };
    Ok((status, output))
}

/// Reads everything and keeps the end.
async fn read_tail(from: Option<&mut (impl AsyncRead + Unpin)>, kept: &mut Vec<u8>) {
    let Some(from) = from else { return };
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..count]);
        if kept.len() > 2 * MAX_OUTPUT {
            kept.drain(..kept.len() - MAX_OUTPUT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(failed, Err(WakeError::ImageMissing { image: "shop:7".into() }));
        let mut kept = Vec::new();
        let mut much = tokio::io::repeat(b'x').take(100 * MAX_OUTPUT as u64);
        read_tail(Some(&mut much), &mut kept).await;
        assert!(
            (MAX_OUTPUT..=3 * MAX_OUTPUT).contains(&kept.len())
                && kept.capacity() <= 8 * MAX_OUTPUT
        );
    }

    #[tokio::test]
    async fn what_compose_leaves_running_is_not_waited_for() {
        let folder = folder_with_app();
        let compose = scripted(folder.path(), "sleep 20 & echo no >&2; exit 1");
        let done = timeout(Duration::from_secs(10), compose.up("shop", "shop")).await;
        assert_eq!(done, Ok(Err(WakeError::Compose("no".into()))));
    }
}
