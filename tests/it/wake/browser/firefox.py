"""Walks through pages in Firefox, step by step, and reports what came of it.

Speaks Marionette, Firefox's own protocol: messages in JSON, each after its length and a
colon. The first line on standard input is a JSON object that says how:
  firefox     the browser's program
  seconds     how long each step may take

Each line after it is a walk, in a tab of its own:
  javascript  whether its pages may run scripts
  steps       a list of [what, argument]:
              goto URL        opens it
              see SELECTOR    waits until it is shown
              read TEXT       waits until the page holds it
              click SELECTOR
              follow SELECTOR clicks it, and waits for the document that comes of it
              eval SCRIPT     an expression, evaluated in the page
              frame SELECTOR  waits until it is there in the page's frame
              no-frame HOST   waits until that host's document was refused in a frame
              block HEADER    lets no request of this walk through that has it
              tell LINE       prints a line, and waits for one on standard input

One JSON object on standard output says what came of each walk, after each line that was
told:
  url         where the page is in the end
  history     how many entries its history has
  values      what each eval came to
  answers     [method, path, status], in order
  downloads   the names of files that were downloaded
  failure     the step that failed, and why, or null
  text        the document, where one failed
"""

import ctypes
import json
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

PREFERENCES = {
    # All names lead to this machine.
    "network.dns.forceResolve": "127.0.0.1",
    "network.trr.mode": 5,
    # A slow machine is sent round for longer than people are.
    "network.http.redirection-limit": 200,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "dom.security.https_first": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "app.update.enabled": False,
    "browser.download.folderList": 2,
    # JSON is a document like any other.
    "devtools.jsonview.enabled": False,
    "browser.safebrowsing.update.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "extensions.update.enabled": False,
    "services.settings.server": "",
}

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"

# Runs in the browser itself, and keeps what its pages ask and are answered.
WATCH = """
  this.answers = [];
  this.blocked = null;
  this.watch = {
    observe(channel, topic) {
      channel.QueryInterface(Ci.nsIHttpChannel);
      if (topic === "http-on-examine-response") {
        answers.push([channel.requestMethod, channel.URI.filePath, channel.responseStatus]);
      } else if (blocked) {
        try {
          channel.getRequestHeader(blocked);
        } catch {
          return;
        }
        channel.cancel(Cr.NS_BINDING_ABORTED);
      }
    },
  };
  Services.obs.addObserver(watch, "http-on-examine-response");
  Services.obs.addObserver(watch, "http-on-modify-request");
"""


class Refused(Exception):
    """The browser's answer is an error."""


class Marionette:
    def __init__(self, port, process, seconds):
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        # Longer than any step: a step that is late says so itself.
        self.socket.settimeout(seconds + 30)
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

    def find(self, selector):
        return self.ask("WebDriver:FindElement", using="css selector", value=selector)["value"]

    def run(self, script):
        """In the page."""
        return self.ask("WebDriver:ExecuteScript", script=script, args=[])["value"]

    def run_inside(self, script, *args):
        """In the browser."""
        self.ask("Marionette:SetContext", value="chrome")
        try:
            order = {"script": script, "args": args, "sandbox": "system", "newSandbox": False}
            return self.ask("WebDriver:ExecuteScript", **order)["value"]
        finally:
            self.ask("Marionette:SetContext", value="content")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def shown(browser, selector):
    element = browser.find(selector)[ELEMENT]
    if not browser.ask("WebDriver:IsElementDisplayed", id=element)["value"]:
        raise Refused("it is not shown")
    return element


def text(browser):
    return browser.ask("WebDriver:GetPageSource")["value"]


def held(browser, wanted):
    if wanted not in text(browser):
        raise Refused("it is not there")


def in_frame(browser, look):
    browser.ask("WebDriver:SwitchToFrame", id=None)
    browser.ask("WebDriver:SwitchToFrame", element=browser.find("iframe")[ELEMENT])
    try:
        return look()
    finally:
        browser.ask("WebDriver:SwitchToFrame", id=None)


def refused(browser):
    address = in_frame(browser, lambda: browser.run("return document.documentURI"))
    if not address.startswith("about:neterror?e=cspBlocked"):
        raise Refused(f"{address} is shown")


def step(browser, what, argument, values, until):
    """Does one; `until` repeats what fails for as long as a step may take."""
    match what:
        case "goto" | "follow":
            before = browser.find("html")
            if what == "goto":
                browser.ask("WebDriver:Navigate", url=argument)
            else:
                until(lambda: browser.ask("WebDriver:ElementClick", id=shown(browser, argument)))

            def another():
                if browser.find("html") == before:
                    raise Refused("the document is the same")

            until(another)
        case "see":
            until(lambda: shown(browser, argument))
        case "read":
            until(lambda: held(browser, argument))
        case "click":
            until(lambda: browser.ask("WebDriver:ElementClick", id=shown(browser, argument)))
        case "eval":
            values.append(browser.run(f"return ({argument})"))
        case "frame":
            until(lambda: in_frame(browser, lambda: browser.find(argument)))
        case "no-frame":
            until(lambda: refused(browser))
        case "block":
            browser.run_inside("blocked = arguments[0]", argument)
        case "tell":
            print(argument, flush=True)
            sys.stdin.readline()
        case _:
            raise ValueError(what)


def walk(browser, steps, seconds, values):
    for what, argument in steps:
        deadline = time.monotonic() + seconds

        def until(attempt):
            while True:
                try:
                    return attempt()
                except Refused:
                    # Not there yet, or the document has just been replaced.
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)

        try:
            step(browser, what, argument, values, until)
        except Refused as error:
            return f"{what} {argument}: {error}"
    return None


def report(browser, order, seconds, downloads):
    for file in downloads.iterdir():
        file.unlink()
    home = browser.ask("WebDriver:GetWindowHandle")["value"]
    tab = browser.ask("WebDriver:NewWindow", type="tab")["handle"]
    browser.ask("WebDriver:SwitchToWindow", handle=tab)
    javascript = order["javascript"]
    allow = "gBrowser.selectedBrowser.browsingContext.allowJavascript = arguments[0]"
    browser.run_inside(f"answers.length = 0; blocked = null; {allow}", javascript)
    values = []
    failure = walk(browser, order["steps"], seconds, values)
    walked = {
        "url": browser.ask("WebDriver:GetCurrentURL")["value"],
        "history": browser.run("return history.length") if javascript else 0,
        "values": values,
        "answers": browser.run_inside("return answers"),
        "downloads": sorted(file.name for file in downloads.iterdir()),
        "failure": failure,
        "text": text(browser) if failure else "",
    }
    browser.ask("WebDriver:CloseWindow")
    browser.ask("WebDriver:SwitchToWindow", handle=home)
    return walked


def ends_with_this():
    """Has the kernel end a child when this process ends, however it does."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main():
    first = json.loads(sys.stdin.readline())
    seconds = first["seconds"]
    port = free_port()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        profile = pathlib.Path(folder, "profile")
        downloads = pathlib.Path(folder, "downloads")
        profile.mkdir()
        downloads.mkdir()
        preferences = PREFERENCES | {
            "marionette.port": port,
            "browser.download.dir": str(downloads),
        }
        lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});" for k, v in preferences.items()]
        (profile / "user.js").write_text("\n".join(lines))
        arguments = ["--headless", "--no-remote", "--profile", str(profile)]
        # Without the second one, what its pages ask could not be seen.
        arguments += ["--marionette", "--remote-allow-system-access"]
        process = subprocess.Popen(
            [first["firefox"], *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"HOME": folder, "PATH": "/usr/bin:/bin", "MOZ_DISABLE_CONTENT_SANDBOX": "1"},
            preexec_fn=ends_with_this,
        )
        try:
            browser = Marionette(port, process, seconds)
            browser.ask("WebDriver:NewSession", pageLoadStrategy="none")
            limits = {"script": seconds * 1000, "pageLoad": seconds * 1000, "implicit": 0}
            browser.ask("WebDriver:SetTimeouts", **limits)
            browser.run_inside(WATCH)
            for line in sys.stdin:
                walked = report(browser, json.loads(line), seconds, downloads)
                print(json.dumps(walked), flush=True)
        finally:
            process.kill()
            process.wait()


main()
