"""The live page in Debian's Firefox, whose microphone is a rig of PulseAudio that speaks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rig
import soundfile
from cost import Cost
from firefox import Firefox
from observed import OBSERVED, SECONDS, STAGES, codes_of_page, holds
from opened_page import CLIP


@pytest.mark.timeout(600)
def test_live(need: Callable[..., None], address: str, tmp_path: Path) -> None:
    need(lambda: shutil.which("firefox-esr") is not None, "firefox-esr")
    need(rig.complete, *rig.PACKAGES)
    audio, rate = soundfile.read(CLIP, dtype="float32")
    soundfile.write(tmp_path / "speech.wav", np.tile(audio, 600 * rate // len(audio)), rate)  # longer than the test
    with rig.rig() as machine, Firefox(tmp_path, machine.environment) as browser:
        speaker = machine.say(tmp_path / "speech.wav")
        browser.open(f"{address}#observe")
        browser.wait("!document.getElementById('start').disabled")
        browser.click("#start")
        browser.wait("document.getElementById('status').textContent === 'Live.'", 250)
        browser.wait("window.observed.figures !== null")
        browser.click("#record")
        with Cost(browser.process.pid) as cost, rig.Crowd() as crowd:
            for i, count in enumerate(STAGES):
                browser.slide("#stages", count)
                browser.slide("#loss", 5 * i)
                browser.click("#bypass")
                before = browser.evaluate("window.observed.figures.frames")
                time.sleep(SECONDS / len(STAGES))
                browser.wait(f"window.observed.figures.frames >= {before + 20}", 60)
        browser.click("#record")
        browser.wait("!document.getElementById('recording').hidden", 250)
        browser.click("#recording")
        report, figures = (browser.evaluate(f"window.observed.{name}") for name in ("report", "figures"))
        observed = browser.evaluate(f"({OBSERVED})()")
        (tmp_path / "page.png").write_bytes(browser.picture())
        browser.click("#start")
        browser.wait("document.getElementById('status').textContent === 'Stopped.'")
        said = browser.said(address)
        browser.evaluate("setTimeout(() => { console.warn('one'); throw new Error('two'); })")
        until = time.monotonic() + 60
        while len(browser.said(address)) < len(said) + 2:  # what a page says is heard here
            assert time.monotonic() < until
            time.sleep(0.1)
        speaker.kill()
        speaker.wait()
    print(f"\n{report}\n{figures}\n{cost}; {crowd}")
    assert said == []
    codes = codes_of_page(observed, STAGES)
    assert abs(figures["lost"] / figures["frames"] - 0.1) < 0.05
    assert report["peaks"][1] >= 0 and report["underruns"] >= 0  # said, not judged
    assert holds(codes, (tmp_path / "downloads" / "live.edgc").read_bytes())
