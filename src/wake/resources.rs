//! The box's free disk space and its memory.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use crate::store::file_calls::FileCalls;

/// Returns the free bytes on the volume of a folder that users other than root can use.
///
/// # Errors
/// The system's error.
pub(super) async fn free_disk(path: &Path) -> std::io::Result<u64> {
    static CALLS: LazyLock<FileCalls> = LazyLock::new(FileCalls::new);
    let path = path.to_owned();
    let statistics = CALLS.run(move || Ok(rustix::fs::statvfs(&path)?)).await?;
    Ok(statistics.f_bavail.saturating_mul(statistics.f_frsize))
}

/// Returns the share of the last ten seconds in which some task waited for memory, in
/// percent (Linux, Documentation/accounting/psi.rst); `None` if the kernel does not report
/// it.
pub(super) async fn memory_pressure() -> Option<f64> {
    let text = tokio::fs::read_to_string("/proc/pressure/memory").await.ok()?;
    some_avg10(&text)
}

fn some_avg10(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let word = line.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?;
    word.parse().ok()
}

/// Reclaims the memory of a paused container for the box, if cgroup v2 supports it
/// (Linux, Documentation/admin-guide/cgroup-v2.rst, `memory.reclaim`, since 5.19).
///
/// The kernel reclaims as much as it can; reclaiming less than all is not an error.
pub(super) async fn reclaim_memory(container: Arc<str>, pid: u32) {
    let Some(folder) = cgroup_of(&container, pid).await else { return };
    let Ok(current) = tokio::fs::read_to_string(folder.join("memory.current")).await else {
        return;
    };
    let result = tokio::fs::write(folder.join("memory.reclaim"), current.trim()).await;
    tracing::debug!(folder = %folder.display(), ?result, "memory of a paused container reclaimed");
}

/// Returns the folder of a container's cgroup in the unified hierarchy, found by one of the
/// container's processes.
///
/// The engine and nightporter may number processes differently, for example if nightporter
/// runs in a container, and the process may be gone. Its cgroup is then not the container's.
async fn cgroup_of(container: &str, pid: u32) -> Option<PathBuf> {
    let text = tokio::fs::read_to_string(format!("/proc/{pid}/cgroup")).await.ok()?;
    let path = unified_path(&text, container)?;
    let folder = Path::new("/sys/fs/cgroup").join(path);
    tokio::fs::try_exists(folder.join("memory.reclaim")).await.ok()?.then_some(folder)
}

fn unified_path<'a>(text: &'a str, container: &str) -> Option<&'a str> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // Every driver has the id in the last path segment or above: `docker-<id>.scope`, `<id>`.
    let is_the_containers = !container.is_empty() && path.contains(container);
    (is_the_containers && !path.split('/').any(|part| part == "..")).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_from_the_kernels_words() {
        let text = "some avg10=12.34 avg60=1.00 avg300=0.00 total=1\nfull avg10=0.00 total=0\n";
        assert_eq!(some_avg10(text), Some(12.34));
        assert_eq!(some_avg10("full avg10=1.0"), None);
        assert_eq!(some_avg10(""), None);
    }

    #[test]
    fn nothing_but_the_container_is_reclaimed() {
        assert_eq!(unified_path("0::/docker/ab\n", "ab"), Some("docker/ab"));
        let slice = "system.slice/docker-ab.scope";
        assert_eq!(unified_path(&format!("0::/{slice}\n"), "ab"), Some(slice));
        assert_eq!(unified_path("0::/\n", "ab"), None, "the whole box");
        assert_eq!(unified_path("0::/docker/cd\n", "ab"), None, "another process of that number");
        assert_eq!(unified_path("0::/../../ab\n", "ab"), None, "in a namespace of its own");
        assert_eq!(unified_path("4:memory:/docker/ab\n", "ab"), None);
    }

    #[tokio::test]
    async fn free_disk_is_told_of_a_folder_that_is_there() {
        assert!(free_disk(Path::new("/")).await.expect("its free bytes") > 0);
        assert!(free_disk(Path::new("/nonexistent")).await.is_err());
    }
}
