//! The picture of an app.

use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use tokio::time::timeout;

use crate::gate::PageApp;
use crate::store::file_calls::FileCalls;
use crate::store::regular;

/// Largest icon shown, in bytes; it travels with every page.
const MAX_ICON: u64 = 512 * 1024;

static CALLS: LazyLock<FileCalls> = LazyLock::new(FileCalls::new);

/// A page does not wait longer for its picture.
const LIMIT: Duration = Duration::from_secs(1);

/// An app's icon as a `data:` address, where it has one that may be shown.
pub(super) async fn of(installed_apps_dir: &Path, app: &PageApp) -> Option<String> {
    let (folder, icon) = file(installed_apps_dir, app)?;
    data_uri(&folder, &icon).await
}

/// The app's own folder and the icon's path in it.
fn file(installed_apps_dir: &Path, app: &PageApp) -> Option<(PathBuf, PathBuf)> {
    let inside = |text: &str| {
        let mut parts = Path::new(text).components();
        !text.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    let (name, icon): (&str, &str) = (&app.name, &app.icon);
    (inside(name) && inside(icon)).then(|| {
        let folder = installed_apps_dir.join(name);
        let icon = folder.join(icon);
        (folder, icon)
    })
}

/// The page is shown to anyone, so a link out of the folder is not followed.
async fn data_uri(folder: &Path, path: &Path) -> Option<String> {
    let kind = match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "svg" => "svg+xml",
        "jpg" | "jpeg" => "jpeg",
        "ico" => "x-icon",
        "png" => "png",
        "gif" => "gif",
        "webp" => "webp",
        "avif" => "avif",
        _ => return None,
    };
    let (folder, path) = (folder.to_owned(), path.to_owned());
    let inside = CALLS.run(move || {
        let path = path.canonicalize()?;
        Ok(path.starts_with(folder.canonicalize()?).then_some(path))
    });
    let read = async { regular::read(&CALLS, inside.await.ok()??, MAX_ICON).await.ok() };
    let bytes = timeout(LIMIT, read).await.ok()??;
    Some(format!("data:image/{kind};base64,{}", BASE64_STANDARD.encode(bytes)))
}

/// Up to two letters that stand for a name without an icon.
pub(super) fn initials(name: &str) -> String {
    let words = name.split(|character: char| !character.is_alphanumeric());
    words.filter_map(|word| word.chars().next()).take(2).flat_map(char::to_uppercase).collect()
}
