"""The live page as `edgecodec web` serves it, in Debian's Chromium with a microphone that speaks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, sync_playwright

sys.path.append(str(Path(__file__).parent))

from opened_page import CLIP, Opened

ROOT = Path(__file__).parents[2]
ORT = ROOT / "runtime" / "js" / "node_modules" / "onnxruntime-web"
EDGECODEC = Path(sys.executable).parent / "edgecodec"


Open = Callable[..., Opened]


@pytest.fixture(scope="session")
def packages() -> None:
    """The npm packages."""
    if not ORT.is_dir():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("npm packages are missing: make npm")


@pytest.fixture(scope="session")
def address(packages: None) -> Iterator[str]:
    """Where `edgecodec web --serve` serves the page."""
    command = [EDGECODEC, "web", "--serve", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as server:
        found = re.match(r"(http://127\.0\.0\.1:\d+/)  \(Ctrl-C ends\)", server.stdout.readline())
        yield found[1]
        server.terminate()


@pytest.fixture(scope="session")
def browser(need: Callable[..., None], packages: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium, whose microphone hears a clip over and over."""
    need(lambda: shutil.which("chromium") is not None, "chromium")
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
        own.page.set_default_timeout(120_000)  # ms: the machine may be busy
        own.page.on("console", lambda message: own.said.append(f"{message.type}: {message.text}"))
        own.page.on("pageerror", lambda error: own.said.append(f"error: {error}"))
        own.page.on("request", lambda request: own.asked.append(request.url.removeprefix(address)))
        own.page.goto(f"{address}{path}{fragment}")
        return own

    yield open_page
    for context in contexts:
        context.close()
