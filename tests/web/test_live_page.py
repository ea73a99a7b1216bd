"""The live page: what the microphone delivered is coded as Python codes it, and all its controls do what they say."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import edgecodec
import numpy as np
import pytest
import rig
import soundfile
from cost import Cost, first_of
from edgecodec.bitstream import Reader
from edgecodec.files.in_memory import decode_clip
from edgecodec.sessions import Sessions
from observed import OBSERVED, SECONDS, SIZE, STAGES, codes_of_file, codes_of_page, holds
from opened_page import CLIP, Opened

Open = Callable[..., Opened]


@pytest.mark.timeout(600)
def test_live(opened: Open, tmp_path: Path) -> None:
    own = opened("#observe", viewport={"width": 1200, "height": 1000})
    page = own.page
    own.wait("!document.getElementById('start').disabled")
    page.click("#start")
    own.wait("document.getElementById('status').textContent === 'Live.'", 250)
    own.wait("window.observed.figures !== null")
    assert page.input_value("#size") == str(SIZE) and page.is_disabled("#size")
    page.click("#record")
    with Cost(first_of("chromium")) as cost, rig.Crowd() as crowd:
        for i, count in enumerate(STAGES):
            page.fill("#stages", str(count))
            assert f"({count} of 16 stages)" in page.inner_text("#stages-text")
            page.fill("#loss", str(5 * i))
            page.click("#bypass")
            before = page.evaluate("window.observed.figures.frames")
            page.wait_for_timeout(1000 * SECONDS / len(STAGES))
            own.wait(f"window.observed.figures.frames >= {before + 20}", 60)
    page.click("#record")
    own.wait("!document.getElementById('recording').hidden", 250)
    with page.expect_download() as download:
        page.click("#recording")
    report, figures = (page.evaluate(f"window.observed.{name}") for name in ("report", "figures"))
    observed = page.evaluate(OBSERVED)
    page.click("#start")
    own.wait("document.getElementById('status').textContent === 'Stopped.'")
    print(f"\n{report}\n{figures}\n{cost}; {crowd}")
    assert own.said == []

    codes = codes_of_page(observed, STAGES)
    assert abs(figures["lost"] / figures["frames"] - 0.1) < 0.05
    assert report["peaks"][1] >= 0 and report["underruns"] >= 0  # said, not judged

    assert holds(codes, Path(download.value.path()).read_bytes())


def with_gain(data: bytes, gain: int) -> bytes:
    """A file whose header says that its audio was made louder by so many dB."""
    header = Reader(io.BytesIO(data)).header
    return replace(header, gain=gain).to_bytes() + data[len(header.to_bytes()) :]


def error_of(codec: edgecodec.Codec, audio: np.ndarray, codes: np.ndarray) -> float:
    """Squared error of codes [1, stages, T], in the latents."""
    stream, sessions = codec.latent_stream(), Sessions(codec.bundle, "cpu", 1)
    latents = np.concatenate([stream.push(audio[None]), stream.flush()], axis=1)
    return float(np.square(sessions.latents(codes) - latents).sum())


@pytest.mark.timeout(600)
def test_a_file(opened: Open, tmp_path: Path) -> None:
    own = opened()
    page = own.page
    audio, rate = soundfile.read(CLIP, dtype="float32")
    soundfile.write(tmp_path / "speech.wav", audio[rate : 3 * rate], rate)
    own.wait("!document.getElementById('start').disabled")
    page.set_input_files("#file", tmp_path / "speech.wav")
    own.wait("!document.getElementById('versions').hidden")
    page.get_by_label("3 kbps", exact=True).check()
    own.wait("!document.getElementById('download').hidden", 250)
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "speech-4.edgc"
    data = Path(download.value.path()).read_bytes()
    codec = edgecodec.load("speech")
    frames = codes_of_file(data)
    audio = soundfile.read(tmp_path / "speech.wav", dtype="float32")[0]
    expected, found = codec.encode(audio, stages=4, effort="fast"), np.array(frames).T[None]
    assert np.mean(found == expected) >= 0.9  # several paths are followed along near ties, which wasm rounds otherwise
    assert error_of(codec, audio, found) < 1.01 * error_of(codec, audio, expected)
    assert len(decode_clip(codec, data)[0]) == 2 * rate
    page.click("#play")
    own.wait("document.getElementById('play').textContent === 'Stop'")
    page.get_by_label("Original").check()
    own.wait("document.getElementById('play').textContent === 'Play'")

    (tmp_path / "again.edgc").write_bytes(with_gain(data, 20))
    page.set_input_files("#file", tmp_path / "again.edgc")
    own.wait("document.getElementById('file-status').textContent === 'again.edgc: 2.0 s.'")
    page.get_by_label("0.75 kbps", exact=True).check()
    own.wait("!document.getElementById('download').hidden", 250)
    with page.expect_download() as download:
        page.click("#download")
    quieter = decode_clip(codec, Path(download.value.path()).read_bytes())
    assert 0.05 < np.std(quieter) / np.std(decode_clip(codec, data)) < 0.2  # that is 20 dB
    (tmp_path / "none.wav").write_bytes(b"no sound at all")
    page.set_input_files("#file", tmp_path / "none.wav")
    own.wait("!document.getElementById('error').hidden")
    assert page.inner_text("#error") == "none.wav: no audio that this browser reads, and no .edgc file"
    assert own.said == []


@pytest.mark.timeout(600)
def test_only_what_runs_is_fetched(opened: Open) -> None:
    own = opened()
    own.wait("!document.getElementById('start').disabled")
    assert not [name for name in own.asked if name.startswith("ort/") or name.endswith((".onnx", ".npz"))]
    own.page.click("#start")
    own.wait("document.getElementById('status').textContent === 'Live.'", 250)
    heavy = {name for name in own.asked if name.startswith(("ort/", "bundle/"))}
    assert "bundle/entropy.npz" not in heavy and "ort/ort-wasm-simd-threaded.wasm" in heavy
    assert len([name for name in heavy if name.endswith(".onnx")]) == 4
    assert not [name for name in own.asked if name.startswith("http") and "127.0.0.1" not in name]


@pytest.mark.timeout(600)
def test_what_goes_wrong_is_said(opened: Open) -> None:
    own = opened()
    own.wait("!document.getElementById('start').disabled")
    own.page.route("**/encoder.onnx", lambda route: route.fulfill(body=b"another"))
    own.page.click("#start")
    own.wait("!document.getElementById('error').hidden")
    assert "encoder.onnx: altered" in own.page.inner_text("#error")
    assert own.page.inner_text("#status") == "Stopped." and own.page.is_enabled("#start")
    own.page.unroute("**/encoder.onnx")
    own.page.click("#start")  # it can be tried again
    own.wait("document.getElementById('status').textContent === 'Live.'", 250)
    assert own.page.is_hidden("#error")


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_every_control_is_named_and_reached_by_keys(opened: Open, width: int, scheme: str) -> None:
    own = opened(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = own.page
    own.wait("!document.getElementById('start').disabled")
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing is cut off on a phone
    tree: list[str] = page.locator("body").aria_snapshot().splitlines()
    named_ones = ('button "Start"', 'slider "Bitrate"', 'slider "Lost packets"', 'combobox "One packet"')
    for named in (*named_ones, 'meter "Microphone"', "status"):
        assert any(named in line for line in tree), named
    controls, reached = ["start", "stages", "loss", "size", "file"], []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert list(dict.fromkeys(name for name in reached if name in controls)) == controls
    page.focus("#stages")
    page.keyboard.press("ArrowRight")
    assert "(9 of 16 stages)" in page.inner_text("#stages-text")
    assert page.get_attribute("#stages", "aria-valuetext") == "6.75 kbps (9 of 16 stages)"
