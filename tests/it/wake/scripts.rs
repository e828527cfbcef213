//! What an app's own pages do in a browser: expressions that run in them.

/// The first event of the app's stream.
pub const STREAM: &str = "new Promise((done, failed) => {
    const source = new EventSource('/events');
    source.onmessage = (event) => { source.close(); done(event.data); };
    source.onerror = () => { if (source.readyState === 2) failed('closed for good'); };
})";

/// Whether the page's visitor clicks "Try again" whenever that is shown.
pub const IMPATIENCE: &str = "void setInterval(() => {
    const failed = document.querySelector('main[data-state=failed] .again a');
    if (failed) failed.click();
}, 300)";

/// A script's POST of a megabyte: its method, and how much of it has arrived.
pub fn upload(path: &str) -> String {
    format!(
        "fetch('{path}', {{ method: 'POST', body: 'x'.repeat(1 << 20) }})
            .then((response) => response.json())
            .then((echo) => [echo.method, echo.body.length])"
    )
}

/// A form's POST of a megabyte.
pub fn submit(path: &str) -> String {
    format!(
        "(() => {{
            const form = document.createElement('form');
            form.method = 'POST';
            form.action = '{path}';
            const input = form.appendChild(document.createElement('input'));
            [input.name, input.value] = ['letter', 'x'.repeat(1 << 20)];
            document.body.append(form);
            form.submit();
        }})()"
    )
}

/// A click on a link.
pub fn follow_link(path: &str) -> String {
    format!(
        "(() => {{
            const link = document.body.appendChild(document.createElement('a'));
            link.href = '{path}';
            link.click();
        }})()"
    )
}

/// Another page in a frame of this one.
pub fn show_frame(url: &str) -> String {
    format!(
        "(() => {{
            const frame = document.body.appendChild(document.createElement('iframe'));
            frame.src = '{url}';
        }})()"
    )
}
