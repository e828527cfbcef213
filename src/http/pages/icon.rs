//! The icon of an app.

use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::timeout;

use crate::gate::PageApp;
use crate::store::file_calls::FileCalls;
use crate::store::regular_file;

/// The maximum size of an icon in bytes; it is embedded in every page.
const MAX_ICON: u64 = 512 * 1024;

static CALLS: LazyLock<FileCalls> = LazyLock::new(FileCalls::new);

/// The longest time that a page waits for its icon.
const LIMIT: Duration = Duration::from_secs(1);

/// Returns an app's icon as a `data:` URL, if it has one that may be shown.
pub(super) async fn load(installed_apps_dir: &Path, app: &PageApp) -> Option<String> {
    let (folder, icon) = file(installed_apps_dir, app)?;
    data_uri(&folder, &icon).await
}

/// Returns the app's own folder and the path of the icon in it.
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

/// Reads the icon. Since anyone can see the page, a symbolic link that leads out of the
/// folder is not followed.
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
    let read = async { regular_file::read(&CALLS, inside.await.ok()??, MAX_ICON).await.ok() };
    let bytes = timeout(LIMIT, read).await.ok()?.filter(|bytes| !bytes.is_empty())?;
    Some(format!("data:image/{kind};base64,{}", BASE64_STANDARD.encode(bytes)))
}

/// Words that do not contribute to the initials of a name.
const STOP_WORDS: [&str; 22] = [
    "a", "an", "the", "and", "of", "for", "in", "on", "to", "with", "by", "der", "die", "das",
    "den", "dem", "des", "und", "von", "für", "im", "mit",
];

/// Returns up to two letters of a name, which are shown if the app has no icon.
pub(super) fn initials(name: &str) -> String {
    let words = || name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let is_stop_word = |word: &&str| STOP_WORDS.contains(&&*word.to_lowercase());
    let first = |word: &str| word.chars().next();
    let mut letters: Vec<_> =
        words().filter(|w| !is_stop_word(w)).filter_map(first).take(2).collect();
    if letters.is_empty() {
        letters = words().filter_map(first).take(2).collect();
    }
    if letters.is_empty() {
        // The name has no letters or digits; it may be a single emoji.
        letters.extend(name.chars().find(|c| is_visible(*c)));
    }
    letters.into_iter().flat_map(char::to_uppercase).collect()
}

/// Whether a character is visible: a name that consists of spaces, control characters and
/// direction marks only cannot be shown.
pub(super) fn is_visible(character: char) -> bool {
    let is_mark = matches!(
        character,
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    );
    !character.is_whitespace() && !character.is_control() && !is_mark
}

/// Returns a picture of the initials as a `data:` URL.
pub(super) fn favicon(name: &str) -> String {
    let letters = initials(name);
    let letters = utf8_percent_encode(&letters, NON_ALPHANUMERIC);
    format!(
        "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 64 64'%3E\
         %3Crect width='64' height='64' rx='16' fill='%232f4a7d'/%3E%3Ctext x='32' y='42' \
         fill='%23fff' font-family='sans-serif' font-size='28' font-weight='600' \
         text-anchor='middle'%3E{letters}%3C/text%3E%3C/svg%3E"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initials_are_those_of_the_words_that_count() {
        for (name, letters) in [
            ("Notes", "N"),
            ("My Notes", "MN"),
            ("The Lord of the Rings", "LR"),
            ("Die Sendung mit der Maus", "SM"),
            ("paperless-ngx", "PN"),
            ("über uns", "ÜU"),
            ("the", "T"),
            ("Of And", "OA"),
            ("  ", ""),
            ("\u{200b}\u{202e}", ""),
            ("🎉", "🎉"),
            ("🎉 Party", "P"),
            ("--", "-"),
            ("שלום עולם", "שע"),
            ("東京 2020", "東2"),
        ] {
            assert_eq!(initials(name), letters, "{name}");
        }
    }
}
