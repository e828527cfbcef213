"""Walks through pages in Chromium, step by step, and reports what came of it.

One JSON object on standard input says what to do:
  chromium    the browser's program
  javascript  whether pages may run scripts
  seconds     how long each step may take
  secure      an origin that is to be trusted as if it were encrypted, or null
  steps       a list of [what, argument]:
              goto URL        opens it, as far as the first answer
              see SELECTOR    waits until it is shown
              read TEXT       waits until the page holds it
              click SELECTOR
              follow SELECTOR clicks it, and waits for the document that comes of it
              eval SCRIPT     runs it in the page
              frame SELECTOR  waits until it is shown in the page's frame
              no-frame HOST   waits until that host's document was refused in a frame
              block HEADER    lets no request of a script through that has it
              init SCRIPT     runs it in each document, before any script of its own
              language TAG    asks for documents in it
              tell LINE       prints a line, and waits for one on standard input

One JSON object on standard output says, after each line that was told:
  url         where the page is in the end
  history     how many entries its history has
  values      what each eval came to
  answers     [method, path, status], in order
  downloads   the names of files that were downloaded
  failure     the step that failed, and why, or null
"""

import json
import sys
from urllib.parse import urlsplit

from playwright.sync_api import Error, sync_playwright


def refused(page, host, patience):
    """Whether the frame shows the browser's own error instead."""
    waited = 0
    while not page.frames[1:] or not page.frames[1].url.startswith("chrome-error:"):
        page.wait_for_timeout(50)
        waited += 50
        if waited > patience:
            raise Error(f"{host} is shown in {[frame.url for frame in page.frames]}")


def block(page, header):
    def decide(route):
        if header in route.request.headers:
            route.abort()
        else:
            route.continue_()

    page.route("**/*", decide)


def walk(page, order, values):
    patience = order["seconds"] * 1000
    page.set_default_timeout(patience)
    for what, argument in order["steps"]:
        try:
            match what:
                case "goto":
                    page.goto(argument, wait_until="commit", timeout=patience)
                case "see":
                    page.wait_for_selector(argument)
                case "read":
                    page.get_by_text(argument).first.wait_for()
                case "click":
                    page.click(argument)
                case "follow":
                    with page.expect_navigation():
                        page.click(argument)
                case "eval":
                    values.append(page.evaluate(argument))
                case "frame":
                    page.frame_locator("iframe").locator(argument).first.wait_for()
                case "no-frame":
                    refused(page, argument, patience)
                case "block":
                    block(page, argument)
                case "init":
                    page.add_init_script(argument)
                case "language":
                    page.set_extra_http_headers({"Accept-Language": argument})
                case "tell":
                    print(argument, flush=True)
                    sys.stdin.readline()
        except Error as error:
            return f"{what} {argument}: {error.message}"
    return None


def main():
    order = json.loads(sys.stdin.readline())
    arguments = ["--disable-gpu", "--no-first-run", "--host-resolver-rules=MAP * 127.0.0.1"]
    if order.get("secure"):
        arguments.append(f"--unsafely-treat-insecure-origin-as-secure={order['secure']}")
    values, answers, downloads = [], [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=order["chromium"], headless=True, chromium_sandbox=False, args=arguments
        )
        context = browser.new_context(java_script_enabled=order["javascript"])
        page = context.new_page()

        def answered(response):
            request = response.request
            answers.append([request.method, urlsplit(request.url).path, response.status])

        page.on("response", answered)
        page.on("download", lambda download: downloads.append(download.suggested_filename))
        failure = walk(page, order, values)
        report = {
            "url": page.url,
            "history": page.evaluate("history.length") if order["javascript"] else 0,
            "values": values,
            "answers": answers,
            "downloads": downloads,
            "failure": failure,
            "text": page.content() if failure else "",
        }
        browser.close()
    print(json.dumps(report))


main()
