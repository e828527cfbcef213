"""Shows every state of the waiting page in Chromium, as tests and people look at it.

One JSON object on standard input says what to do:
  chromium  the browser's program
  pages     [{name, html, policy}], as they would be sent
  sheet     a folder for pictures of all of them, or null
  views     names of VIEWS; all where there are none
  names     of the pages to show; all where there are none

One JSON object on standard output says what was found:
  violations  axe-core's, [page, view, rule, what]
  clipped     [page, view, what]: what does not fit where it is
  refreshes   pages whose own reload is still there, although their script runs
  passes      how many rules axe-core found to be kept, of all pages together
"""

import json
import sys
from importlib.resources import files
from pathlib import Path

from playwright.sync_api import sync_playwright

# Of a browser: what it is, and what people have set in it.
VIEWS = {
    "phone": {"viewport": {"width": 360, "height": 640}},
    "phone-dark": {"viewport": {"width": 360, "height": 640}, "color_scheme": "dark"},
    "landscape": {"viewport": {"width": 640, "height": 330}},
    "wide": {"viewport": {"width": 1200, "height": 800}},
    "wide-dark": {"viewport": {"width": 1200, "height": 800}, "color_scheme": "dark"},
    # What is left of 1200 x 800.
    "zoom-200": {"viewport": {"width": 600, "height": 400}, "device_scale_factor": 2},
    "forced-colors": {"viewport": {"width": 360, "height": 640}, "forced_colors": "active"},
    "more-contrast": {"viewport": {"width": 360, "height": 640}, "contrast": "more"},
    "reduced-motion": {"viewport": {"width": 360, "height": 640}, "reduced_motion": "reduce"},
    # What is left of 1280 x 1024 (WCAG 2.2, 1.4.10).
    "zoom-400": {"viewport": {"width": 320, "height": 256}},
    # A dark browser prints as well.
    "print": {"viewport": {"width": 700, "height": 600}, "color_scheme": "dark"},
}

# What is wider than its place, or under something else.
CLIPPED = """() => {
  const found = [];
  const root = document.documentElement, main = document.querySelector("main");
  if (root.scrollWidth > root.clientWidth) found.push(`the page is ${root.scrollWidth} wide`);
  for (const place of document.querySelectorAll("h1, #text, #detail, #clock, .foot a, .hint, summary")) {
    // What reaches into the padding at the end is followed by as much of it, and is shown.
    const style = getComputedStyle(place), shown = place.clientWidth + parseFloat(style.paddingRight);
    if (place.scrollWidth > shown + 1 && style.display !== "inline")
      found.push(`${place.id || place.className || place.localName} is clipped`);
  }
  // Whatever stands beside or under each other has as much space above as below.
  const card = main.getBoundingClientRect();
  const places = [...main.children].map((place) => place.getBoundingClientRect()).filter((box) => box.height);
  const above = Math.min(...places.map((box) => box.top)) - card.top;
  const below = card.bottom - Math.max(...places.map((box) => box.bottom));
  if (Math.abs(above - below) > 24) found.push(`${above} px are free above, and ${below} px below`);
  if (matchMedia("print").matches) {
    const paper = document.body.appendChild(document.createElement("i"));
    paper.style.color = "Canvas";
    const color = getComputedStyle(paper).color;
    if (color !== "rgb(255, 255, 255)") found.push(`the paper is ${color}`);
    paper.remove();
  }
  const shown = [...document.querySelectorAll(".foot p")].filter((p) => getComputedStyle(p).visibility === "visible");
  if (shown.length > 1) found.push("two things in one place");
  return found;
}"""

PLACE = "http://notes.box.example/"

# Chromium leaves blank what is lower in a picture than some 24,000 pixels.
ROWS_OF_A_PICTURE = 12


class Browser:
    """Pages that are sent by nobody, in one browser."""

    def __init__(self, playwright, order):
        self.pages = {page["name"]: page for page in order["pages"]}
        self.wanted = order.get("names") or [*self.pages, "delivered", "no-news"]
        self.waiting = []
        self.contexts = {}
        arguments = ["--disable-gpu", "--no-first-run"]
        self.browser = playwright.chromium.launch(
            executable_path=order["chromium"], headless=True, chromium_sandbox=False, args=arguments
        )

    def open(self, view, name):
        """The page, as it is when nothing happens. Two states come of what does: a
        download, and questions that nobody answers."""
        if view not in self.contexts:
            self.contexts[view] = self.browser.new_context(**VIEWS[view])
        page = self.contexts[view].new_page()
        if view == "print":
            page.emulate_media(media="print")
        sent = self.pages[{"delivered": "awake-en", "no-news": "starting-usual-en"}.get(name, name)]
        opened = False

        def answer(route):
            nonlocal opened
            if route.request.headers.get("x-nightporter-poll"):
                if name == "no-news":
                    route.abort()
                elif name == "delivered":
                    route.fulfill(status=300, json=news(sent))
                else:
                    self.waiting.append(route)
            elif opened:
                # As where a download has begun.
                route.fulfill(status=204)
            else:
                opened = True
                headers = {"Content-Security-Policy": sent["policy"]}
                kind = "text/html; charset=utf-8"
                route.fulfill(status=503, content_type=kind, headers=headers, body=sent["html"])

        page.route("**/*", answer)
        page.goto(PLACE + name, wait_until="load")
        if name == "delivered":
            page.wait_for_selector("main[data-state=delivered]", timeout=60_000)
        if name == "no-news":
            # By a selector: the page's policy has no script evaluated.
            page.locator("#clock", has_text="loaded again").wait_for(timeout=60_000)
        return page

    def close(self, page):
        while self.waiting:
            self.waiting.pop().abort()
        page.close()


def news(sent):
    """That the app is awake."""
    return {
        "state": "awake", "version": 8, "text": "Ready", "detail": "Opening it now.",
        "clock": None, "final": False, "tone": "ready", "sign": "check", "step": 4, "rows": [],
        "retry_after": 1,
    }


def examine(browser, views, axe, report):
    for name in browser.wanted:
        for view in views:
            page = browser.open(view, name)
            page.evaluate(axe)
            result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            report["passes"] += len(result["passes"])
            for violation in result["violations"]:
                for node in violation["nodes"]:
                    what = f"{node['target']}: {node['failureSummary']}"
                    report["violations"].append([name, view, violation["id"], what])
            report["clipped"] += [[name, view, what] for what in page.evaluate(CLIPPED)]
            if page.query_selector("meta[http-equiv=refresh]"):
                report["refreshes"].append(name)
            browser.close(page)


def pictures(browser, views, folder):
    """All pages under each other, a row each, in every view."""
    names = browser.wanted
    for first in range(0, len(names), ROWS_OF_A_PICTURE):
        path = Path(folder, f"{first // ROWS_OF_A_PICTURE + 1:02}.png")
        picture(browser, views, names[first : first + ROWS_OF_A_PICTURE], path)


def picture(browser, views, names, path):
    rows = []
    for name in names:
        cells = []
        for view in views:
            shown = browser.open(view, name)
            uri = "data:image/png;base64," + encoded(shown.screenshot(animations="disabled"))
            browser.close(shown)
            width = VIEWS[view]["viewport"]["width"]
            cells.append(f'<td><img src="{uri}" width="{width}"></td>')
        rows.append(f"<tr><th>{name}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>{view}</th>" for view in views)
    style = "body{font:14px sans-serif;margin:16px;width:max-content}td,th{padding:4px;vertical-align:top}img{display:block;outline:1px solid #888}"
    html = f"<!doctype html><style>{style}</style><table><tr><th></th>{head}</tr>{''.join(rows)}</table>"
    page = browser.browser.new_page(viewport={"width": 5000, "height": 1000})
    page.set_content(html, wait_until="load")
    page.locator("table").screenshot(path=path)
    page.close()


def encoded(png):
    from base64 import b64encode

    return b64encode(png).decode()


def main():
    order = json.loads(sys.stdin.readline())
    views = order.get("views") or list(VIEWS)
    report = {"violations": [], "clipped": [], "refreshes": [], "passes": 0}
    with sync_playwright() as playwright:
        browser = Browser(playwright, order)
        if order.get("sheet"):
            pictures(browser, views, order["sheet"])
        else:
            axe = files("axe_playwright_python").joinpath("axe.min.js").read_text()
            examine(browser, views, axe, report)
        browser.browser.close()
    print(json.dumps(report))


main()
