"""A real headless Chromium for the tests, driven over a pipe by the DevTools protocol."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

SECONDS = 60  # until a test gives up waiting: a busy machine is slow
SCREEN = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


class Page:
    """One page; collects what goes wrong in it."""

    def __init__(self, read: BinaryIO, write: BinaryIO):
        self._read, self._write = read, write
        self._next, self._buffer, self._session = 0, b"", None
        self.errors: list[str] = []  # of the console, uncaught, refused by the policy
        self.requests: list[str] = []  # addresses
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", **SCREEN)

    def call(self, method: str, **params) -> dict[str, Any]:
        """Send a command and return its result."""
        self._next += 1
        message = {"id": self._next, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while True:
            answer = self._receive()
            if answer.get("id") == self._next:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = self._read.read1(1 << 20)
            assert part, "Chromium has gone"
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        event = json.loads(message)
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.errors.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.errors.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
        return event

    def open(self, url: str):
        """Go to an address; returns when the new page is there."""
        self.run("window.left = true")
        self.call("Page.navigate", url=url)
        self.wait("!window.left && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression, awaited."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script: str) -> Any:
        """Wait until the expression is true and return its value."""
        deadline = time.monotonic() + SECONDS
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"not within {SECONDS} s: {script}; {self.errors}"
            time.sleep(0.02)
        return value

    def key(self, key: str):
        """Press and release a key, given by its name or character."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def mouse(self, kind: str, x: float, y: float, **more):
        """Send a mouse event at a place of the page."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def screenshot(self, path: Path):
        """Write what a person sees as a PNG file."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def open_browser(profile: Path, *options: str) -> Iterator[Page]:
    """Start Chromium and yield a page of 1280 x 800 pixels.

    Args:
        profile: an empty folder.
        options: more of Chromium's.
    """
    ours, theirs = os.pipe(), os.pipe()
    pipes = f'exec "$@" 3</dev/fd/{ours[0]} 4>/dev/fd/{theirs[1]}'  # where Chromium expects them
    arguments = ["--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run"]
    arguments += ["--disable-dev-shm-usage", f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        ["sh", "-c", pipes, "sh", PROGRAM, *arguments, *options],
        pass_fds=(ours[0], theirs[1]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(ours[0])
    os.close(theirs[1])
    try:
        with os.fdopen(theirs[0], "rb") as read, os.fdopen(ours[1], "wb") as write:
            yield Page(read, write)
    finally:
        process.kill()
        process.wait()
