//! Pages for people: one self-contained file each, nothing fetched.

use std::fmt::Write;
use std::path::{Component, Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::CONTENT_SECURITY_POLICY;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::{Response, answer};
use crate::gate::PageApp;
use crate::gate::verdict::Asleep;
use crate::store::regular;

const TEMPLATE: &str = include_str!("pages/app_error.html");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// The page brings all it needs; whatever an app's name or icon may hold, it
/// runs no script and fetches nothing. An SVG in an `img` runs none either.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'self'",
);

/// Largest icon shown, in bytes; it travels with every page.
const MAX_ICON: u64 = 512 * 1024;

/// Statuses that have no body (RFC 9110 section 6.4.1); their pages are sent as 200.
fn sendable(status: StatusCode) -> StatusCode {
    let bodiless = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT)
        || status == StatusCode::NOT_MODIFIED;
    if bodiless { StatusCode::OK } else { status }
}

/// Renders pages; reads icons from the folder of installed apps.
#[derive(Debug)]
pub(crate) struct Pages {
    installed_apps_dir: PathBuf,
}

impl Pages {
    pub(crate) fn new(installed_apps_dir: PathBuf) -> Self {
        Self { installed_apps_dir }
    }

    /// What a visitor sees in place of an app that answered with an error.
    pub(crate) async fn app_error(
        &self,
        status: Option<u16>,
        app: Option<PageApp>,
        _headers: &HeaderMap,
    ) -> Response {
        let status = status
            .filter(|status| (100..=599).contains(status))
            .and_then(|status| StatusCode::from_u16(status).ok());
        let (Some(status), Some(app)) = (status, app) else {
            return answer::not_found();
        };
        let icon = match self.icon_file(&app) {
            Some((folder, icon)) => data_uri(&folder, &icon).await,
            None => None,
        };
        let html = render(status, &app, icon.as_deref());
        let mut response = answer::typed(sendable(status), HTML, html.into());
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY);
        response
    }

    /// What is answered in place of an app that is not awake.
    pub(crate) async fn asleep(&self, asleep: &Asleep, headers: &HeaderMap) -> Response {
        self.app_error(Some(503), Some(asleep.app.clone()), headers).await
    }

    /// The app's own folder and the icon's path in it.
    fn icon_file(&self, app: &PageApp) -> Option<(PathBuf, PathBuf)> {
        let inside = |text: &str| {
            let mut parts = Path::new(text).components();
            !text.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
        };
        let (name, icon): (&str, &str) = (&app.name, &app.icon);
        (inside(name) && inside(icon)).then(|| {
            let folder = self.installed_apps_dir.join(name);
            let icon = folder.join(icon);
            (folder, icon)
        })
    }
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
    let path = tokio::fs::canonicalize(path).await.ok()?;
    if !path.starts_with(tokio::fs::canonicalize(folder).await.ok()?) {
        return None;
    }
    let bytes = regular::read(path, MAX_ICON).await.ok()?;
    Some(format!("data:image/{kind};base64,{}", BASE64_STANDARD.encode(bytes)))
}

/// The state in words, and whether the page should try again by itself.
fn state(status: StatusCode, app: &PageApp) -> (&str, bool) {
    match (status, app.status.as_str()) {
        (StatusCode::UNAUTHORIZED, _) => ("Access Denied", false),
        (StatusCode::INTERNAL_SERVER_ERROR, _) => ("Error", true),
        (_, "running") => ("Starting...", true),
        (_, "unknown") => ("Initializing...", true),
        (_, word) => (word, true),
    }
}

fn render(status: StatusCode, app: &PageApp, icon: Option<&str>) -> String {
    let (state, reloads) = state(status, app);
    let name: &str = if app.pretty_name.is_empty() { &app.name } else { &app.pretty_name };
    let picture = match icon {
        Some(uri) => format!(r#"<img class="icon" src="{}" alt="">"#, escaped(uri)),
        None => {
            format!(r#"<div class="icon" aria-hidden="true">{}</div>"#, escaped(&initials(name)))
        }
    };
    fill(TEMPLATE, |hole| match hole {
        "reload" if reloads => r#"<meta http-equiv="refresh" content="5">"#.into(),
        "icon" => picture.clone(),
        "name" => escaped(name),
        "state" => escaped(state),
        "code" => status.as_str().into(),
        "container" => escaped(&app.status),
        _ => String::new(),
    })
}

/// Fills the holes `{{name}}` of a template; what is filled in is not read again.
fn fill(template: &str, value: impl Fn(&str) -> String) -> String {
    let mut parts = template.split("{{");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once("}}") {
            Some((hole, rest)) => {
                filled.push_str(&value(hole));
                filled.push_str(rest);
            }
            None => filled.push_str(part),
        }
    }
    filled
}

/// Text as HTML content or a quoted attribute.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' | '<' | '>' | '"' | '\'' => {
                // Writing to a String does not fail.
                write!(escaped, "&#{};", u32::from(character)).ok();
            }
            _ => escaped.push(character),
        }
    }
    escaped
}

/// Up to two letters that stand for a name without an icon.
fn initials(name: &str) -> String {
    let words = name.split(|character: char| !character.is_alphanumeric());
    words.filter_map(|word| word.chars().next()).take(2).flat_map(char::to_uppercase).collect()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::domain::lifecycle::Phase;
    use crate::wake::Shown;

    fn app(status: &str) -> PageApp {
        PageApp {
            name: "notes".into(),
            pretty_name: "My <b>Notes</b>".into(),
            icon: "icon.svg".into(),
            status: status.into(),
            shown: Shown { version: 0, phase: Phase::Awake, containers: [].into() },
        }
    }

    async fn page(pages: &Pages, code: u16, app: PageApp) -> (Response, String) {
        let mut response = pages.app_error(Some(code), Some(app), &HeaderMap::new()).await;
        let body = response.body_mut().collect().await.expect("a body in memory");
        let text = String::from_utf8(body.to_bytes().to_vec()).expect("UTF-8");
        (response, text)
    }

    fn no_icons() -> Pages {
        Pages::new("/nonexistent".into())
    }

    #[tokio::test]
    async fn the_state_is_the_contracts() {
        for (code, status, text, reloads) in [
            (401, "running", "Access Denied", false),
            (500, "running", ">Error<", true),
            (502, "running", "Starting...", true),
            (502, "unknown", "Initializing...", true),
            (503, "stopped", "stopped", true),
            (404, "running", "Starting...", true),
        ] {
            let (response, html) = page(&no_icons(), code, app(status)).await;
            assert_eq!(response.status(), code);
            assert!(html.contains(text), "{code} {status}: {html}");
            assert_eq!(html.contains("http-equiv=\"refresh\""), reloads, "{code} {status}");
            assert!(html.contains(&code.to_string()));
        }
    }

    #[tokio::test]
    async fn nothing_of_an_app_becomes_markup() {
        let mut hostile = app("<script>x</script>");
        hostile.name = "\"><script>".into();
        let (response, html) = page(&no_icons(), 502, hostile).await;
        assert!(!html.contains("<script>") && !html.contains("<b>"), "{html}");
        assert!(html.contains("My &#60;b&#62;Notes&#60;/b&#62;"), "{html}");
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().expect("ASCII");
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
    }

    #[tokio::test]
    async fn a_name_that_looks_like_a_hole_stays_text() {
        let mut odd = app("stopped");
        odd.pretty_name = "{{code}}".into();
        let (_, html) = page(&no_icons(), 502, odd).await;
        assert!(html.contains("{{code}}"), "{html}");
    }

    #[tokio::test]
    async fn an_icon_is_embedded_and_never_read_from_elsewhere() {
        let directory = tempfile::tempdir().expect("a directory");
        let folder = directory.path().join("notes");
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join("icon.svg"), "<svg/>").expect("an icon");
        std::fs::write(directory.path().join("secret.png"), "secret").expect("a file");
        let pages = Pages::new(directory.path().into());

        let (_, html) = page(&pages, 502, app("stopped")).await;
        assert!(html.contains("data:image/svg+xml;base64,PHN2Zy8+"), "{html}");

        let link = folder.join("link.png");
        std::os::unix::fs::symlink("../secret.png", link).expect("a link");
        for elsewhere in
            ["link.png", "../secret.png", "/etc/hostname.png", "icon.txt", "", "missing.png"]
        {
            let mut app = app("stopped");
            app.icon = elsewhere.into();
            let (_, html) = page(&pages, 502, app).await;
            assert!(!html.contains("data:image"), "{elsewhere}");
            assert!(html.contains(">MB<"), "initials instead: {html}");
        }
    }

    #[tokio::test]
    async fn what_is_no_status_is_not_found() {
        for status in [None, Some(0), Some(99), Some(600), Some(u16::MAX)] {
            let response =
                no_icons().app_error(status, Some(app("running")), &HeaderMap::new()).await;
            assert_eq!(response.status(), 404, "{status:?}");
        }
        assert_eq!(no_icons().app_error(Some(502), None, &HeaderMap::new()).await.status(), 404);
        for status in [100, 204, 304] {
            let (response, html) = page(&no_icons(), status, app("running")).await;
            assert_eq!(response.status(), 200);
            assert!(html.contains(&status.to_string()));
        }
    }
}
