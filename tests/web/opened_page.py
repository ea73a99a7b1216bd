"""A page that a test has opened, and what it said."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Page

CLIP = Path(__file__).parents[1] / "audio" / "speech_ro.flac"


@dataclass
class Opened:
    """A page, and what it said that it should not."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)  # addresses

    def wait(self, expression: str, seconds: float = 120) -> None:
        """Wait until an expression holds there; the page forbids the evaluation by which Playwright itself waits."""
        until = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < until, f"{expression}: {self.state()}"
            time.sleep(0.1)

    def state(self) -> str:
        """What the page says."""
        return f"{self.page.inner_text('#status')} {self.page.inner_text('#error')} {self.said}"
