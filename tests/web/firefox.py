"""Debian's Firefox without a window, driven by its own protocol, Marionette: JSON over TCP on this machine alone."""

from __future__ import annotations

import base64
import json
import re
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

# A microphone and sound without questions; what is said on the console goes to stdout, and downloads to a folder.
_SETTINGS = {
    "browser.download.folderList": 2,
    "browser.download.useDownloadDir": True,
    "devtools.console.stdout.content": True,
    "marionette.port": 0,  # any that is free: the profile then says which
    "media.autoplay.default": 0,
    "media.cubeb.backend": "pulse-rust",
    "media.navigator.permission.disabled": True,
}
# Errors and warnings of pages and of their workers, which the browser's own process collects.
_ERRORS = """return Services.console.getMessageArray()
  .filter((own) => own instanceof Ci.nsIScriptError && own.sourceName.startsWith(arguments[0]))
  .map((own) => `${own.sourceName}:${own.lineNumber}: ${own.errorMessage}`);"""
# What a page says on its console: text is quoted there, while the browser's own parts put their name before theirs.
_BY_A_PAGE = re.compile(r"console\.\w+: (?![\w.-]+: )")


class Firefox:
    """A browser with one window, while it is entered. It keeps its profile, downloads and output in a folder."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.downloads = folder / "downloads"
        self._folder, self._environment = folder, environment
        self._output = folder / "firefox.log"
        self._calls = 0

    def __enter__(self) -> Firefox:
        profile = self._folder / "profile"
        profile.mkdir()
        self.downloads.mkdir()
        settings = _SETTINGS | {"browser.download.dir": str(self.downloads)}
        lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in settings.items())
        (profile / "user.js").write_text("".join(lines))
        command = ["firefox-esr", "--headless", "--no-remote", "--marionette", "--remote-allow-system-access"]
        with self._output.open("w") as output:
            command += ["--profile", str(profile)]
            self.process = subprocess.Popen(command, env=self._environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            self._connect(profile / "MarionetteActivePort")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._end()

    def call(self, command: str, **parameters: object) -> object:
        """Run a command, and give what it answers."""
        self._calls += 1
        message = json.dumps([0, self._calls, command, parameters]).encode()
        self._socket.sendall(b"%d:%s" % (len(message), message))
        try:
            _, call, error, answer = self._read()
        except TimeoutError as silence:
            raise AssertionError(f"{command} {parameters}: no answer; {self._output.read_text()}") from silence
        assert call == self._calls and error is None, f"{command}: {error}"
        return answer["value"] if isinstance(answer, dict) and list(answer) == ["value"] else answer

    def open(self, address: str) -> None:
        self.call("WebDriver:Navigate", url=address)

    def evaluate(self, expression: str) -> object:
        """The value of an expression of the page, a promise's too."""
        return self.call("WebDriver:ExecuteScript", script=f"return {expression};", args=[])

    def click(self, selector: str) -> None:
        """Click as a hand does: sound begins after no less."""
        found = self.call("WebDriver:FindElement", using="css selector", value=selector)
        self.call("WebDriver:ElementClick", id=next(iter(found.values())))

    def slide(self, selector: str, value: int) -> None:
        """Move a slider."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"({element}.value = {value}, {element}.dispatchEvent(new Event('input')))")

    def wait(self, expression: str, seconds: float = 120) -> None:
        """Wait until an expression holds there."""
        until = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < until, f"{expression}: {self.evaluate('document.body.innerText')}"
            time.sleep(0.1)

    def said(self, address: str) -> list[str]:
        """What pages at an address complained of, and all that was said on a console."""
        self.call("Marionette:SetContext", value="chrome")
        errors = self.call("WebDriver:ExecuteScript", script=_ERRORS, args=[address])
        self.call("Marionette:SetContext", value="content")
        return errors + [line for line in self._output.read_text().splitlines() if _BY_A_PAGE.match(line)]

    def picture(self) -> bytes:
        """The whole page as PNG."""
        return base64.b64decode(self.call("WebDriver:TakeScreenshot", full=True))

    def _connect(self, port: Path) -> None:
        until = time.monotonic() + 120
        while not (port.exists() and port.read_text().strip()):
            assert self.process.poll() is None and time.monotonic() < until, self._output.read_text()
            time.sleep(0.1)
        self._socket = socket.create_connection(("127.0.0.1", int(port.read_text())), timeout=120)
        self._stream = self._socket.makefile("rb")
        self._read()  # who it is
        self.call("WebDriver:NewSession", capabilities={"alwaysMatch": {"acceptInsecureCerts": False}})
        self.call("WebDriver:SetTimeouts", script=120_000, pageLoad=120_000)

    def _read(self) -> object:
        length = b""
        while not length.endswith(b":"):
            byte = self._stream.read(1)
            assert byte, self._output.read_text()
            length += byte
        return json.loads(self._stream.read(int(length[:-1])))

    def _end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
