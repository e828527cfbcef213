"""Walks through pages in Firefox, step by step, and reports what came of it.

Speaks Marionette, Firefox's own protocol: messages in JSON, each after its length and a
colon. One JSON object on standard input says what to do:
  firefox     the browser's program
  javascript  whether pages may run scripts
  seconds     how long each step may take
  steps       a list of [what, argument]:
              goto URL      opens it
              see SELECTOR  waits until it is there

One JSON object on standard output says what came of it:
  url         where the page is in the end
  seen        the title of the page after each `see`
  failure     the step that failed, and why, or null
"""

import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

PREFERENCES = {
    # All names lead to this machine.
    "network.dns.forceResolve": "127.0.0.1",
    "network.trr.mode": 5,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "dom.security.https_first": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "app.update.enabled": False,
    "browser.safebrowsing.update.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "extensions.update.enabled": False,
    "services.settings.server": "",
}


class Refused(Exception):
    """The browser's answer is an error."""


class Marionette:
    def __init__(self, port, process, deadline):
        while True:
            try:
                self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        self.socket.settimeout(max(1, deadline - time.monotonic()))
        self.file = self.socket.makefile("rb")
        self.count = 0
        self.read()

    def read(self):
        length = b""
        while (byte := self.file.read(1)) != b":":
            if not byte:
                raise EOFError("the browser is gone")
            length += byte
        return json.loads(self.file.read(int(length)))

    def ask(self, command, **parameters):
        self.count += 1
        message = json.dumps([0, self.count, command, parameters]).encode()
        self.socket.sendall(b"%d:%s" % (len(message), message))
        _, _, error, result = self.read()
        if error:
            raise Refused(f"{error['error']}: {error['message']}")
        return result


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def walk(browser, order, seen):
    for what, argument in order["steps"]:
        deadline = time.monotonic() + order["seconds"]
        browser.socket.settimeout(order["seconds"])
        last = None
        if what == "goto":
            browser.ask("WebDriver:Navigate", url=argument)
            continue
        while time.monotonic() < deadline:
            try:
                browser.ask("WebDriver:FindElement", using="css selector", value=argument)
                seen.append(browser.ask("WebDriver:GetTitle")["value"])
                last = None
                break
            except Refused as error:
                # Not there yet, or the document has just been replaced.
                last = str(error)
                time.sleep(0.05)
        else:
            return f"{what} {argument}: {last}"
    return None


def main():
    order = json.loads(sys.stdin.readline())
    port = free_port()
    preferences = PREFERENCES | {
        "marionette.port": port,
        "javascript.enabled": order["javascript"],
    }
    with tempfile.TemporaryDirectory() as folder:
        profile = pathlib.Path(folder)
        lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});" for k, v in preferences.items()]
        (profile / "user.js").write_text("\n".join(lines))
        arguments = ["--headless", "--no-remote", "--marionette", "--profile", folder]
        process = subprocess.Popen(
            [order["firefox"], *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"HOME": folder, "PATH": "/usr/bin:/bin", "MOZ_DISABLE_CONTENT_SANDBOX": "1"},
        )
        try:
            browser = Marionette(port, process, time.monotonic() + order["seconds"])
            browser.ask("WebDriver:NewSession", pageLoadStrategy="none")
            seen = []
            failure = walk(browser, order, seen)
            url = browser.ask("WebDriver:GetCurrentURL")["value"]
            print(json.dumps({"url": url, "seen": seen, "failure": failure}))
        finally:
            process.kill()
            process.wait()


main()
