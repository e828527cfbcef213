"""Opens a private page as a stranger, pairs, and says where that led.

One JSON object on standard input: chromium (the program), base (where the app is), codes. One JSON
object on standard output: ends, traces, framed, cookies.
"""

import json
import sys

from playwright.sync_api import sync_playwright

PHONE = {"viewport": {"width": 360, "height": 640}, "is_mobile": True, "has_touch": True, "locale": "en"}
PAGE = "/private?page=1"


def journey(browser, base, code, traces, **settings):
    """By keyboard alone: the denying page, its link, the form, and back."""
    context = browser.new_context(**PHONE, **settings)
    page = context.new_page()
    page.on("request", lambda request: traces.extend([request.url, request.headers.get("referer", "")]))
    assert page.goto(base + PAGE).status == 401
    page.get_by_role("link", name="Pair this device").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(base + "/.nightporter/pair**")
    page.get_by_label("Code").focus()
    page.keyboard.type(code.lower().replace("-", " "))
    page.keyboard.press("Enter")
    page.wait_for_url(base + PAGE)
    return context, page


def main():
    order = json.loads(sys.stdin.readline())
    base, codes = order["base"], order["codes"]
    traces, ends = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=order["chromium"], headless=True, chromium_sandbox=False,
            args=["--disable-gpu", "--no-first-run"],
        )
        context, page = journey(browser, base, codes[0], traces)
        ends.append([page.url, page.content()])
        cookies = [
            " ".join([cookie["name"], cookie["domain"], str(cookie["httpOnly"]).lower(),
                      str(cookie["secure"]).lower(), cookie["sameSite"]])
            for cookie in context.cookies()
        ]
        _, page = journey(browser, base, codes[1], traces, java_script_enabled=False)
        ends.append([page.url, page.content()])

        # The link of the picture: what is behind its "#" goes into the form, and nowhere else.
        page = browser.new_context(**PHONE).new_page()
        page.on("request", lambda request: traces.extend([request.url, request.headers.get("referer", "")]))
        page.goto(f"{base}/.nightporter/pair?to=/private?page=1#{codes[2]}/Kitchen%20phone")
        assert page.get_by_label("Code").input_value() == codes[2]
        assert page.get_by_label("Name").input_value() == "Kitchen phone"
        traces.append(page.url)
        page.keyboard.press("Enter")
        page.wait_for_url(base + PAGE)
        ends.append([page.url, page.content()])
        page.go_back()
        traces.append(page.url)

        # In a frame of another site there is nothing to click on.
        page = browser.new_context(**PHONE).new_page()
        page.route("http://other.example/", lambda route: route.fulfill(
            content_type="text/html", body=f'<iframe src="{base}/.nightporter/pair"></iframe>'))
        page.goto("http://other.example/")
        page.wait_for_load_state("load")
        framed = ""
        for frame in page.frames[1:]:
            try:
                framed += frame.content()
            except Exception:  # An error page of the browser has no content for scripts.
                pass
        print(json.dumps({"ends": ends, "traces": traces, "framed": framed, "cookies": cookies}))
        browser.close()


main()
