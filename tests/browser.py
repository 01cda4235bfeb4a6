"""A headless Chromium, driven through its DevTools protocol: pages, keys, clicks, pictures, and every request it makes."""

import base64
import json
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import numpy as np

from stylemed.provenance import Provenance

FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-port=0 --remote-allow-origins=*""".split()
ROOT = Path(__file__).resolve().parents[1]
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "End": 35, "Home": 36, "Tab": 9, "Enter": 13, " ": 32}


def find() -> str | None:
    """The browser's command, None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def browser(profile: Path, *flags: str):
    """A Page of a browser of its own, whose profile folder is `profile`."""
    command = [find(), *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = profile / "DevToolsActivePort"
        until = time.monotonic() + 60
        while not (port.is_file() and port.read_text().count("\n")):
            assert process.poll() is None and time.monotonic() < until, "the browser does not start"
            time.sleep(0.1)
        number = port.read_text().splitlines()[0]
        with urlopen(f"http://127.0.0.1:{number}/json/list") as answer:
            targets = [target for target in json.load(answer) if target["type"] == "page"]
        yield Page(targets[0]["webSocketDebuggerUrl"])
    finally:
        process.terminate()
        process.wait(30)


class Page:
    """One tab. `requests`: addresses of all that was asked for since; `complaints`: errors of the console and of scripts."""

    def __init__(self, address: str):
        import websocket

        self.socket = websocket.create_connection(address, timeout=120)
        self.number, self.requests, self.complaints, self.loaded = 0, [], [], False
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters):
        """The answer to one command; events that come before it are kept."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while (message := self.receive()).get("id") != self.number:
            pass
        assert "error" not in message, message
        return message["result"]

    def receive(self) -> dict:
        message = json.loads(self.socket.recv())
        about, kind = message.get("params", {}), message.get("method")
        if kind == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif kind == "Runtime.exceptionThrown":
            self.complaints.append(str(about["exceptionDetails"].get("exception", about)))
        elif kind == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.complaints.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
        elif kind == "Runtime.consoleAPICalled" and about["type"] == "error":
            self.complaints.append(str(about["args"]))
        elif kind == "Page.loadEventFired":
            self.loaded = True
        return message

    def open(self, address: str, width: int = 1300, height: int = 900, mobile: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.requests.clear()
        self.complaints.clear()
        self.loaded = False
        self.send("Page.navigate", url=address)
        while not self.loaded:
            self.receive()

    def run(self, script: str):
        """The value of an expression, awaited where it is a promise."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = 60) -> None:
        """Wait till an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}; {self.complaints}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """One key, as from a keyboard."""
        code = KEYS.get(key) or ord(key.upper())
        about = {"key": key, "windowsVirtualKeyCode": code, "code": key if len(key) > 1 else f"Key{key.upper()}"}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        self.send("Input.dispatchKeyEvent", type="keyDown", **about, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def place(self, selector: str) -> tuple[float, float]:
        """The middle of an element, scrolled into view."""
        find = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{find}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.run(
            f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({find}.getBoundingClientRect())"
        )
        return tuple(box)

    def click(self, selector: str) -> None:
        x, y = self.place(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def tap(self, selector: str) -> None:
        x, y = self.place(selector)
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def give(self, selector: str, file: Path) -> None:
        """Choose a file in an input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def picture(self, file: Path, whole: bool = True) -> None:
        """The page as PNG."""
        data = self.send("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        file.write_bytes(base64.b64decode(data))


def play_page(site: Path) -> Path:
    """The page Play as the book has it, in a new folder, without the theme: its raw HTML beside what it reads."""
    static = ROOT / "book" / "_static"
    shutil.copytree(static / "play", site / "_static" / "play")
    (site / "_static" / "vendor" / "onnxruntime").mkdir(parents=True)
    shutil.copy(static / "vendor" / "onnxruntime" / "runtime.js", site / "_static" / "vendor" / "onnxruntime")
    (site / "book").mkdir()
    page = site / "book" / "play.html"
    page.write_text(raw_page("play.md"))
    return page


def ramps() -> SimpleNamespace:
    """What a player takes of a slice store: thirty slices, all of them one ramp from black to white."""
    return SimpleNamespace(
        path="store",
        provenance=Provenance(),
        select=lambda split=None: np.arange(30),
        learned_from=lambda rows: Provenance(),
        images=lambda rows: np.linspace(-1, 1, 64, dtype=np.float32) * np.ones((len(rows), 1, 64, 1), np.float32),
    )


def raw_page(source: str) -> str:
    """The raw HTML of a page or a chapter of the book, as a page of its own."""
    text = (ROOT / "book" / source).read_text()
    if source.endswith(".ipynb"):
        cells = ("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
        raw = [cell[cell.index("<link") :] for cell in cells if "data-figure" in cell]
    else:
        raw = re.findall(r"```\{raw\} html\n(.*?)```", text, re.S)
    head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
    return head + "".join(raw)
