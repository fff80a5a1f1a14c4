"""A real browser that opens pages: Chromium, driven by chromedriver over its HTTP protocol (W3C WebDriver)."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_DRIVERS = ("chromedriver", "/usr/lib/chromium/chromedriver")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_TIMEOUT = 60  # s, of each request
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name of an element's id


class Browser:
    """A session of chromedriver."""

    def __init__(self, address: str) -> None:
        self.address = address

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, method=method)
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path, fragment: str = "") -> None:
        self.call(
            "POST", "/url", {"url": "about:blank"}
        )  # else another fragment loads nothing anew
        self.call("POST", "/url", {"url": page.resolve().as_uri() + fragment})

    def run(self, script: str) -> Any:
        """What a function body returns; it is no script of the page, which forbids all but its own."""
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def text(self, selector: str) -> str:
        return self.run(f"return document.querySelector({json.dumps(selector)}).textContent")

    def press(self, key: str) -> None:
        body = self._find("body")
        self.call("POST", f"/element/{body}/value", {"text": key})

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """A click at a place within an element, in shares of its width and height."""
        self.run(
            f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center', behavior: 'instant'}})"
        )
        box = self.run(
            f"return document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()"
        )
        point = {
            "x": round(box["x"] + x * box["width"]),
            "y": round(box["y"] + y * box["height"]),
        }
        steps = [
            {"type": "pointerMove", "duration": 0, **point},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}}
        self.call("POST", "/actions", {"actions": [{**mouse, "actions": steps}]})

    def errors(self) -> list[str]:
        """What the browser complained of since it was asked last: scripts, policy, requests."""
        found = self.call("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in found if entry["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))

    def _find(self, selector: str) -> str:
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})
        return found[_ELEMENT]


@contextmanager
def browser(width: int = 1300, height: int = 1100) -> Iterator[Browser]:
    """A browser without a window; the test is skipped where there is none."""
    driver = next(filter(None, map(shutil.which, _DRIVERS)), None)
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if driver is None or program is None:
        pytest.skip("no Chromium with chromedriver; e.g. apt-get install chromium-driver")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([driver, f"--port={port}"], stdout=quiet, stderr=quiet)
    try:
        session = _session(f"http://127.0.0.1:{port}", program, width, height)
        yield session
        session.call("DELETE", "")
    finally:
        process.terminate()
        process.wait(timeout=_TIMEOUT)


def _session(address: str, program: str, width: int, height: int) -> Browser:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}"]
    asked = {
        "goog:chromeOptions": {"binary": program, "args": flags},
        "goog:loggingPrefs": {"browser": "ALL"},
    }
    body = {"capabilities": {"alwaysMatch": asked}}
    driver = Browser(address)
    limit = time.monotonic() + _TIMEOUT
    while True:
        try:
            found = driver.call("POST", "/session", body)
            return Browser(f"{address}/session/{found['sessionId']}")
        except urllib.error.HTTPError:
            raise
        except OSError:  # it does not listen yet
            if time.monotonic() > limit:
                raise
            time.sleep(0.1)
