"""A real Chromium without a window, over the pipe of its DevTools protocol: no network, no driver.

`.tools/bin` is looked at first, then PATH. Tests that need it are skipped where there is none.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT

DEADLINE = 60.0
TOOLS = ROOT / ".tools" / "bin"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium() -> str:
    """Its command; skips the test where there is none."""
    path = f"{TOOLS}{os.pathsep}{os.environ.get('PATH', '')}"
    for name in _NAMES:
        if found := shutil.which(name, path=path):
            return found
    pytest.skip("Chromium is not here: `apt-get install chromium`, or put it into PATH")


class Tab:
    """One page. requests: every address it asked for. problems: what its console said, scripts
    that failed, and what its policy refused. Everything raises AssertionError after DEADLINE."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._rest, self._id = b"", 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.problems: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Go there, and wait until it is loaded."""
        answer = self._ask("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        self.until("location.href !== 'about:blank' && document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str, holds: Callable[[Any], bool] = bool) -> Any:
        """Wait until a JavaScript expression has a value for which it holds; returns that."""
        deadline = time.monotonic() + DEADLINE
        while not holds(value := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"{expression} is {value!r}"
            self._pump(0.05)
        return value

    def show_as(self, *, width: int, scheme: str = "light", height: int = 900) -> None:
        """The size of the window in pixels, and the colour scheme that the user prefers."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._ask("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        answer = self._ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._id += 1
        message = {"id": self._id, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + DEADLINE
        while True:
            assert time.monotonic() < deadline, f"no answer to {method}"
            for answer in self._pump(1.0):
                if answer.get("id") == self._id:
                    assert "error" not in answer, answer
                    result: dict[str, Any] = answer["result"]
                    return result

    def _pump(self, timeout: float) -> list[dict[str, Any]]:
        """What has come; events are noted down."""
        if select.select([self._receive], [], [], timeout)[0]:
            self._rest += os.read(self._receive, 1 << 20)
        *whole, self._rest = self._rest.split(b"\0")
        messages = [json.loads(message) for message in whole]
        for message in messages:
            self._note(message.get("method"), message.get("params", {}))
        return messages

    def _note(self, event: str | None, values: dict[str, Any]) -> None:
        match event:
            case "Network.requestWillBeSent":
                self.requests.append(values["request"]["url"])
            case "Runtime.consoleAPICalled":
                self.problems.append(json.dumps(values["args"]))
            case "Runtime.exceptionThrown":
                self.problems.append(json.dumps(values["exceptionDetails"]))
            case "Log.entryAdded":
                self.problems.append(json.dumps(values["entry"]))


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """profile: an empty directory for it to write to."""
    command = [
        chromium(),
        "--headless",
        "--no-sandbox",  # which root, in a container, can't have; it only sees our own page
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        f"--user-data-dir={profile}",
        "--remote-debugging-pipe",
    ]
    (near_read, send), (receive, near_write) = os.pipe(), os.pipe()
    # It reads from descriptor 3 and writes to 4: ours must be neither.
    to_read, to_write = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (near_read, near_write))
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "bash", *command],
        pass_fds=(to_read, to_write),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    for end in (near_read, near_write, to_read, to_write):
        os.close(end)
    try:
        yield Tab(send, receive)
    finally:
        process.kill()
        process.wait()
        os.close(send)
        os.close(receive)
