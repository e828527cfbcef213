"""Opens a page in Chromium as a user would, and reports what was shown.

One JSON object on standard input describes the visit:
  url        the page to open
  until      a selector; the visit ends when it appears
  seconds    how long to wait for that
  resolve    the address of all host names, such as "127.0.0.1"
  cookies    [{name, value, url}], optional
  chromium   the path of the browser

One JSON object on standard output reports the result, times in Unix nanoseconds:
  asked      when the navigation began
  documents  one for each document of the page, in order:
             {url, began, painted, loaded, title, text}
  found      when the selector appeared in the page, or null
  console    errors and warnings of the console, and uncaught exceptions
  requests   [{method, url, status, navigation, poll, answered}], the last by the browser's
             own clock, or null
  failure    why the page could not be opened, or null
"""

import json
import sys
import time

from playwright.sync_api import Error, sync_playwright

# Runs in every document before its own scripts, unaffected by its policy.
WATCH = """(() => {
  if (window !== window.top) return;
  const unix = (at) => performance.timeOrigin + at;
  const report = (what, at) => nightporterSaw({
    what, at: unix(at), began: performance.timeOrigin, url: location.href,
    title: document.title, text: document.body ? document.body.innerText : "",
  });
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries())
      if (entry.name === "first-contentful-paint") report("painted", entry.startTime);
  }).observe({type: "paint", buffered: true});
  document.addEventListener("DOMContentLoaded", () => report("loaded", performance.now()));
  const found = () => document.querySelector(SELECTOR);
  const look = () => { if (found()) { report("found", performance.now()); return true; } };
  new MutationObserver((_, self) => { if (look()) self.disconnect(); })
    .observe(document, {childList: true, subtree: true});
})();"""


def nanoseconds(milliseconds):
    return int(milliseconds * 1_000_000)


def answer_came(timing):
    """Returns when the first byte of a response arrived; None if that is not known yet."""
    known = timing["startTime"] > 0 and timing["responseStart"] >= 0
    return nanoseconds(timing["startTime"] + timing["responseStart"]) if known else None


def main():
    order = json.loads(sys.stdin.readline())
    documents, console, requests = {}, [], []
    found = None

    def saw(event):
        nonlocal found
        document = documents.setdefault(
            event["began"],
            {"began": nanoseconds(event["began"]), "painted": None, "loaded": None},
        )
        # The text when it was first shown, without later changes.
        if not document["painted"]:
            document.update(url=event["url"], title=event["title"], text=event["text"])
        if event["what"] == "found":
            found = found or nanoseconds(event["at"])
        else:
            document[event["what"]] = nanoseconds(event["at"])

    def answered(response):
        request = response.request
        requests.append({
            "method": request.method,
            "url": request.url,
            "status": response.status,
            "navigation": request.is_navigation_request(),
            "poll": request.headers.get("x-nightporter-poll"),
            "answered": answer_came(request.timing),
        })

    def said(message):
        if message.type in ("error", "warning"):
            console.append(message.text)

    arguments = [
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        f"--host-resolver-rules=MAP * {order.get('resolve', '127.0.0.1')}",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=order["chromium"], headless=True, chromium_sandbox=False, args=arguments
        )
        context = browser.new_context()
        context.add_cookies(order.get("cookies", []))
        context.expose_function("nightporterSaw", saw)
        context.add_init_script(WATCH.replace("SELECTOR", json.dumps(order["until"])))
        page = context.new_page()
        page.on("response", answered)
        page.on("console", said)
        page.on("pageerror", lambda error: console.append(str(error)))
        deadline = time.monotonic() + order["seconds"]
        asked = time.time_ns()
        failure = None
        try:
            page.goto(order["url"], wait_until="commit", timeout=order["seconds"] * 1000)
        except Error as error:
            failure = error.message
        while not failure and time.monotonic() < deadline:
            # Handles what the page reports; the last paint comes after the selector is found.
            page.wait_for_timeout(20)
            last = max(documents.values(), key=lambda document: document["began"], default=None)
            if found and last["painted"] and last["loaded"]:
                break
        browser.close()

    report = {
        "asked": asked,
        "documents": sorted(documents.values(), key=lambda document: document["began"]),
        "found": found,
        "console": console,
        "requests": requests,
        "failure": failure,
    }
    print(json.dumps(report))


main()
