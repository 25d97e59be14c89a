"""A headless Chromium, driven over its own debugging protocol: needs no package that we don't have.

Nothing is installed: tests skip where there is no browser.
"""

import asyncio
import base64
import os
import shutil
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_TIMEOUT_SECONDS = 90


def find_chromium() -> str | None:
    """Return the browser's path."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page of a browser of its own; use it as a context manager.

    Args:
        browser: its path.
        profile: empty folder for it to write to.
        width: of the window, in pixels.
        dark: whether it asks for dark pages.
    """

    def __init__(self, browser: str, profile: Path, width: int = 1200, dark: bool = False) -> None:
        command = [browser, "--headless=new", "--remote-debugging-port=0", "--no-first-run"]
        command += ["--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
        command += [f"--user-data-dir={profile}", "--window-size=1200,1400", "about:blank"]
        if os.geteuid() == 0:
            command.insert(1, "--no-sandbox")
        self._command = command
        self._dark = dark
        self._width = width
        self._runner = asyncio.Runner()
        self._number = 0
        self.problems: list[str] = []
        """Errors of the console, of scripts and of the page's policy."""
        self.requests: list[str] = []
        """Every address that the page asked for."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr
        address = ""
        for line in self._process.stderr:
            if "DevTools listening on " in line:
                address = line.split("DevTools listening on ", 1)[1].strip()
                break
        assert address, "the browser didn't start"
        # Its later messages would fill the pipe and stop it.
        self._reader = threading.Thread(target=self._process.stderr.read, daemon=True)
        self._reader.start()
        self._runner.run(self._connect(address))
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(Exception):
            self._runner.run(self._session.close())
        self._runner.close()
        self._process.terminate()
        self._process.wait(30)
        self._reader.join(30)
        assert self._process.stderr
        self._process.stderr.close()

    def open(self, path: Path) -> None:
        """Open a file and wait until its script says that it is ready."""
        self._call("Page.navigate", url=path.resolve().as_uri())
        for _ in range(_TIMEOUT_SECONDS * 5):
            if self.evaluate("document.documentElement?.dataset.ready === 'yes'"):
                return
            self._runner.run(asyncio.sleep(0.2))
        raise AssertionError(f"the page wasn't ready: {self.problems}")

    def evaluate(self, expression: str) -> Any:
        """Return what a script's expression comes to, waiting for a promise."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        answer = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def print_pdf(self) -> bytes:
        """Return the page as it prints."""
        return base64.b64decode(self._call("Page.printToPDF")["data"])

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._runner.run(
            asyncio.wait_for(self._send(method, self._page, **params), _TIMEOUT_SECONDS)
        )

    async def _connect(self, address: str) -> None:
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(address, max_msg_size=0)
        target = await self._send("Target.createTarget", None, url="about:blank")
        attached = await self._send(
            "Target.attachToTarget", None, targetId=target["targetId"], flatten=True
        )
        self._page: str = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self._send(f"{domain}.enable", self._page)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self._dark else "light"}
        await self._send("Emulation.setEmulatedMedia", self._page, features=[scheme])
        size = {"width": self._width, "height": 1400, "deviceScaleFactor": 1, "mobile": False}
        await self._send("Emulation.setDeviceMetricsOverride", self._page, **size)

    async def _send(self, method: str, session: str | None, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        await self._socket.send_json(message | ({"sessionId": session} if session else {}))
        while True:
            answer = await self._socket.receive_json()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer.get("method", ""), answer.get("params", {}))

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"])[:2000])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(str(params["args"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
