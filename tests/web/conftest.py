"""The live page as `edgecodec web` serves it, in Debian's Chromium with a microphone that speaks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "tests" / "audio" / "speech_ro.flac"
ORT = ROOT / "runtime" / "js" / "node_modules" / "onnxruntime-web"
EDGECODEC = Path(sys.executable).parent / "edgecodec"


@dataclass
class Opened:
    """A page, and what it said that it should not."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)  # addresses


    def wait(self, expression: str, seconds: float = 120) -> None:
        """Wait until an expression holds there. (The page forbids the evaluation by which Playwright's own waits work.)"""
        until = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < until, f"{expression}: {self.state()}"
            time.sleep(0.1)

    def state(self) -> str:
        """What the page says."""
        return f"{self.page.inner_text('#status')} {self.page.inner_text('#error')} {self.said}"


Open = Callable[..., Opened]


@pytest.fixture(scope="session")
def packages(need: Callable[..., None]) -> None:
    """Chromium and the npm packages."""
    need(lambda: shutil.which("chromium") is not None, "chromium")
    if not ORT.is_dir():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("npm packages are missing: make npm")


@pytest.fixture(scope="session")
def address(packages: None) -> Iterator[str]:
    """Where `edgecodec web --serve` serves the page."""
    command = [EDGECODEC, "web", "--serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as server:
        found = re.match(r"(http://127\.0\.0\.1:\d+/)  \(Ctrl-C ends\)", server.stdout.readline())
        yield found[1]
        server.terminate()


@pytest.fixture(scope="session")
def browser(packages: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium, whose microphone hears a clip over and over."""
    folder = tmp_path_factory.mktemp("microphone")
    audio, rate = soundfile.read(CLIP, dtype="float32")
    soundfile.write(folder / "speech.wav", np.repeat(audio, 2), 2 * rate)
    arguments = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={folder / 'speech.wav'}",
        "--autoplay-policy=no-user-gesture-required",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Open]:
    """`opened(hash, **options)`: the page in a window of its own."""
    contexts = []

    def open_page(fragment: str = "", path: str = "", **options: object) -> Opened:
        contexts.append(browser.new_context(permissions=["microphone"], **options))
        own = Opened(contexts[-1].new_page())
        own.page.on("console", lambda message: own.said.append(f"{message.type}: {message.text}"))
        own.page.on("pageerror", lambda error: own.said.append(f"error: {error}"))
        own.page.on("request", lambda request: own.asked.append(request.url.removeprefix(address)))
        own.page.goto(f"{address}{path}{fragment}")
        return own

    yield open_page
    for context in contexts:
        context.close()
