"""The HTML report, opened in a browser: it needs nothing from outside, and everything in it can be seen and heard."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

AUDIO = Path(__file__).parents[1] / "audio"
EDGECODEC = str(Path(sys.executable).parent / "edgecodec")
DECODED_SECONDS = """async player => {
    const data = Uint8Array.from(atob(player.src.split(",")[1]), c => c.charCodeAt(0));
    const audio = await new OfflineAudioContext(1, 1, 24000).decodeAudioData(data.buffer);
    return [audio.duration, Math.max(...audio.getChannelData(0).map(Math.abs))];
}"""
COLOURS = "() => [getComputedStyle(document.body).color, getComputedStyle(document.querySelector('svg text')).fill]"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The page, and the JSON of the same run."""
    page = tmp_path_factory.mktemp("report") / "report.html"
    command = [EDGECODEC, "evaluate", "speech", "--data", AUDIO, "-b", "3", "-b", "6", "--report", page, "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [file.name for file in page.parent.iterdir()] == ["report.html"]
    return page, json.loads(done.stdout)


@pytest.fixture(scope="module")
def opened(report: tuple[Path, dict[str, Any]], need: Callable[..., None]) -> Iterator[tuple[Page, list[str]]]:
    """The page in a browser, and its complaints and requests."""
    need(lambda: shutil.which("chromium") is not None, "chromium")
    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
        )
        page = browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: request.url.startswith("data:") or said.append(request.url))
        page.goto(report[0].as_uri())
        page.wait_for_function("[...document.querySelectorAll('audio')].every(player => player.readyState >= 1)")
        yield page, said
        browser.close()


def test_it_asks_for_nothing_and_complains_of_nothing(
    opened: tuple[Page, list[str]], report: tuple[Path, dict[str, Any]]
) -> None:
    assert opened[1] == [report[0].as_uri()]
    assert report[0].stat().st_size < 6e6


def test_every_player_plays(opened: tuple[Page, list[str]], report: tuple[Path, dict[str, Any]]) -> None:
    players = opened[0].query_selector_all("audio")
    assert len(players) == 2 * (1 + len(report[1]["rows"]))  # the original, and every codec at every bitrate
    for player in players:
        seconds, peak = player.evaluate(DECODED_SECONDS)
        assert 4 < seconds <= 5.01 and 0.05 < peak <= 1
        assert player.evaluate("player => player.duration") == pytest.approx(seconds, abs=0.1)


def test_every_picture_is_there(opened: tuple[Page, list[str]], report: tuple[Path, dict[str, Any]]) -> None:
    page = opened[0]
    assert page.eval_on_selector_all("img", "all => all.map(p => p.naturalWidth)") == [400] * len(
        page.query_selector_all("audio")
    )
    widths = page.eval_on_selector_all("svg", "all => all.map(p => p.getBoundingClientRect().width)")
    measures = report[1]["rows"][0]["measures"]
    assert len(widths) == len(measures) + 1  # and the codebooks
    assert min(widths) > 200


def test_the_table_says_what_the_json_says(opened: tuple[Page, list[str]], report: tuple[Path, dict[str, Any]]) -> None:
    rows, table = report[1]["rows"], opened[0].query_selector("table")
    assert table is not None
    lines = [line.split("\t") for line in table.inner_text().splitlines() if "\t" in line]
    assert {row["codec"] for row in rows} >= {"speech", "Opus"}
    assert lines[0][:4] == ["codec", "kbps", "stages", "PESQ-WB"]
    text = table.inner_text()
    for row in rows:
        assert f"{row['measures']['estoi']['mean']:.3f}" in text
        assert f"[{row['measures']['estoi']['low']:.3f}, {row['measures']['estoi']['high']:.3f}]" in text


def test_it_follows_light_and_dark(opened: tuple[Page, list[str]]) -> None:
    page = opened[0]
    page.emulate_media(color_scheme="light")
    light = page.evaluate(COLOURS)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(COLOURS)
    assert light[0] == light[1] != dark[0] == dark[1]  # text, and text in charts


def test_one_player_at_a_time(opened: tuple[Page, list[str]]) -> None:
    first, second, *_ = opened[0].query_selector_all("audio")
    first.evaluate("async player => { player.currentTime = 2; await player.play(); }")
    second.evaluate("player => player.play()")
    opened[0].wait_for_function("document.querySelector('audio').paused")
    assert second.evaluate("player => player.currentTime") >= 2  # goes on where the other was
    second.evaluate("player => player.pause()")
