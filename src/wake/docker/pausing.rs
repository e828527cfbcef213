//! Pausing, and whether an engine can pause containers at all.
//!
//! An engine without a freezer refuses every container, and so does a proxy that forbids
//! the call: apps on it can only be stopped. But an engine also refuses when the kernel of
//! a busy machine does not freeze the processes in time, and its error contains the same
//! words. So a refusal counts for all containers only if it is one that the sources of
//! moby, runc, Podman or crun give for the lack of a freezer.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::{ACT_TIMEOUT, Engine, EngineError, State, with_timeout};

/// Refused unpauses, with none that succeeded in between, after which containers are no
/// longer paused: each costs an app the state that it was paused with.
const MAX_UNPAUSE_REFUSALS: u32 = 2;

/// What is known of an engine's ability to pause containers, since the last connect.
#[derive(Debug, Default)]
pub(super) struct Pausing {
    cannot_pause: AtomicBool,
    /// A fact of its own: where only unpausing is forbidden, pausing succeeds.
    cannot_unpause: AtomicBool,
    unpause_refusals: AtomicU32,
}

impl Pausing {
    /// Forgets everything: it may be a different engine, or a proxy with more rights.
    pub(super) fn reset(&self) {
        self.cannot_pause.store(false, Ordering::Relaxed);
        self.note_unpaused();
    }

    fn note_paused(&self, cannot_pause: bool) {
        self.cannot_pause.store(cannot_pause, Ordering::Relaxed);
    }

    fn note_unpaused(&self) {
        self.cannot_unpause.store(false, Ordering::Relaxed);
        self.unpause_refusals.store(0, Ordering::Relaxed);
    }

    fn note_stuck(&self, status: u16) {
        let refusals = self.unpause_refusals.fetch_add(1, Ordering::Relaxed) + 1;
        if is_forbidden(status) || refusals >= MAX_UNPAUSE_REFUSALS {
            self.cannot_unpause.store(true, Ordering::Relaxed);
        }
    }

    fn is_impossible(&self) -> bool {
        self.cannot_pause.load(Ordering::Relaxed) || self.cannot_unpause.load(Ordering::Relaxed)
    }
}

impl Engine {
    pub async fn pause(&self, id: &str) -> Result<(), EngineError> {
        let paused = with_timeout(ACT_TIMEOUT, self.client()?.pause_container(id)).await;
        let cannot_pause = match &paused {
            Ok(()) => false,
            Err(EngineError::Refused { status, message }) => {
                is_forbidden(*status) || lacks_freezer(message) && self.is_running(id).await
            }
            Err(_) => return paused,
        };
        if paused.is_ok() || cannot_pause {
            self.pausing.note_paused(cannot_pause);
        }
        paused
    }

    /// The control group of a container that has just ended is missing, too.
    async fn is_running(&self, id: &str) -> bool {
        matches!(self.inspect(id).await, Ok(Some(container)) if container.state == State::Running)
    }

    /// Returns whether the engine is known to be unable to pause containers, or to unpause
    /// them, so that apps can only be stopped.
    pub fn cannot_pause(&self) -> bool {
        self.pausing.is_impossible()
    }

    pub async fn unpause(&self, id: &str) -> Result<(), EngineError> {
        let unpaused = with_timeout(ACT_TIMEOUT, self.client()?.unpause_container(id)).await;
        if unpaused.is_ok() {
            self.pausing.note_unpaused();
        }
        unpaused
    }

    /// Notes that a container stays paused although it was to be unpaused: nothing more is
    /// paused if the call is forbidden, or if this happens repeatedly.
    pub fn note_stuck(&self, status: u16) {
        self.pausing.note_stuck(status);
    }
}

/// Returns whether a proxy, or a plugin of the engine, forbids the call itself. Docker's
/// socket proxies answer 403 or 405, proxies with credentials 401, and engines without the
/// call 501.
fn is_forbidden(status: u16) -> bool {
    matches!(status, 401 | 403 | 405 | 501)
}

/// Returns whether an error means that the engine has no freezer, or no right to use it.
fn lacks_freezer(message: &str) -> bool {
    /// Each is a reason by itself.
    const REASONS: [&str; 5] = [
        // runc, cgroup v1: no freezer is mounted or delegated.
        "cannot toggle freezer: cgroups not configured for container",
        "no such directory for freezer.state",
        // crun, rootless without systemd.
        "cannot pause the container without a cgroup",
        // Podman, rootless.
        "can not pause containers on rootless containers with cgroup v1",
        // hcsshim, containers with process isolation on Windows.
        "encountered an error during pause: failure in a windows system call: the request is \
         not supported",
    ];
    /// Errors about a file of the freezer, and those that do not pass. runc calls every one
    /// "freezer not supported".
    const FILES: [&str; 2] = ["/cgroup.freeze", "/freezer.state"];
    const LASTING: [&str; 3] =
        ["no such file or directory", "permission denied", "read-only file system"];
    let message = message.to_lowercase();
    let contains_any = |words: &[&str]| words.iter().any(|word| message.contains(word));
    contains_any(&REASONS) || contains_any(&FILES) && contains_any(&LASTING)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of the engines' sources and of reports by their users.
    const LACKING: [&str; 11] = [
        "cannot pause container f909: OCI runtime pause failed: freezer not supported: openat2 \
         /sys/fs/cgroup/user.slice/user-1000.slice/f909/cgroup.freeze: no such file or directory",
        "Cannot pause container f909: OCI runtime pause failed: freezer not supported: open \
         /sys/fs/cgroup/docker/f909/cgroup.freeze: permission denied: unknown",
        "Cannot pause container 0de8: OCI runtime pause failed: cannot toggle freezer: cgroups \
         not configured for container: unknown",
        "Cannot pause container 99b2: OCI runtime pause failed: no such directory for \
         freezer.state: unknown",
        "Cannot pause container 99b2: OCI runtime pause failed: open \
         /sys/fs/cgroup/freezer/docker/99b2/freezer.state: read-only file system: unknown",
        "Cannot pause container 99b2: OCI runtime pause failed: openat2 \
         /sys/fs/cgroup/freezer/docker/99b2/freezer.state: no such file or directory: unknown",
        "crun: cannot pause the container without a cgroup: OCI runtime error",
        "open `/sys/fs/cgroup/user.slice/libpod-b4e7.scope/cgroup.freeze`: Permission denied: OCI \
         permission denied",
        "can not pause containers on rootless containers with cgroup V1",
        "can not pause containers on rootless containers with cgroup V1: this container does not \
         have a cgroup",
        "Cannot pause container 484b: container 484b encountered an error during Pause: failure \
         in a Windows system call: The request is not supported. (0x32)",
    ];

    const OF_ONE: [&str; 12] = [
        // runc on cgroup v1, and on v2: processes that appear or do not freeze in time.
        "Cannot pause container 8e6b: OCI runtime pause failed: unable to freeze: unknown",
        "OCI runtime pause failed: expected \"cgroup.freeze\" to be in state \"FROZEN\" but was in \
         \"THAWED\": unknown",
        "OCI runtime pause failed: timeout of 10s reached waiting for the cgroup to freeze",
        "OCI runtime pause failed: unexpected state THAWED while freezing: unknown",
        "OCI runtime pause failed: write /sys/fs/cgroup/freezer/docker/8e6b/freezer.state: device \
         or resource busy: unknown",
        "OCI runtime pause failed: freezer not supported: openat2 \
         /sys/fs/cgroup/docker/8e6b/cgroup.freeze: too many open files in system: unknown",
        "OCI runtime pause failed: read /sys/fs/cgroup/docker/8e6b/cgroup.events: no such device",
        // The container ends meanwhile.
        "OCI runtime pause failed: container not running: unknown",
        "ttrpc: closed",
        // A container that was made with `--cgroups=disabled`.
        "cannot pause without using Cgroups: this container does not have a cgroup",
        // A runtime of one container.
        "OCI runtime pause failed: failed to notify pause to sysbox-mgr: failed to invoke Pause \
         via grpc: rpc error: code = DeadlineExceeded desc = context deadline exceeded: unknown",
        "",
    ];

    #[test]
    fn only_the_lack_of_a_freezer_applies_to_all_containers() {
        for message in LACKING {
            assert!(lacks_freezer(message), "{message}");
        }
        for message in OF_ONE {
            assert!(!lacks_freezer(message), "{message}");
        }
    }

    #[test]
    fn a_pause_says_nothing_of_unpausing() {
        let pausing = Pausing::default();
        pausing.note_stuck(403);
        pausing.note_paused(false);
        assert!(pausing.is_impossible(), "unpausing is still forbidden");
        pausing.note_unpaused();
        assert!(!pausing.is_impossible());
        pausing.note_paused(true);
        pausing.note_unpaused();
        assert!(pausing.is_impossible(), "pausing is still forbidden");
        pausing.note_paused(false);
        assert!(!pausing.is_impossible());
    }

    #[test]
    fn unpausing_is_given_up_after_repeated_refusals() {
        let pausing = Pausing::default();
        for _ in 0..MAX_UNPAUSE_REFUSALS {
            assert!(!pausing.is_impossible());
            pausing.note_stuck(500);
        }
        pausing.note_paused(false);
        assert!(pausing.is_impossible());
        pausing.reset();
        assert!(!pausing.is_impossible());
    }

    #[test]
    fn a_forbidden_call_applies_to_all_containers() {
        let forbidden: Vec<u16> = (200..600).filter(|status| is_forbidden(*status)).collect();
        assert_eq!(forbidden, [401, 403, 405, 501]);
    }
}
