"""The pump between files, its bypass and recording, the resampler, and devices that are not there; no sound server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import edgecodec
import numpy as np
import pytest
import rig
import soundfile
from edgecodec.live.endpoints import FileSink, FileSource
from edgecodec.live.meters import Level, Timings
from edgecodec.live.pump import LivePump
from edgecodec.live.recording import Recorder, new_path
from edgecodec.live.resampler import LiveResampler
from rig import EDGECODEC, speech

ROUNDING = 1 / 20000  # of 16-bit files


def command(*words: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run([EDGECODEC, *map(str, words)], capture_output=True, text=True, check=False, **options)


@pytest.fixture
def clip(tmp_path: Path, codec: edgecodec.Codec) -> np.ndarray:
    """Three seconds of speech in speech.wav, as 16-bit samples have them."""
    speech(tmp_path / "speech.wav", 3, codec.sample_rate)
    return soundfile.read(tmp_path / "speech.wav", dtype="float32")[0]


def test_file_to_file_is_the_whole_clip_roundtrip(
    bundle: str, codec: edgecodec.Codec, tmp_path: Path, clip: np.ndarray
) -> None:
    words = ["--bundle", bundle, "--input", "speech.wav", "--output", "out.wav", "--json"]
    done = command("live", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["seconds"] == 3
    assert summary["underruns"] == summary["overruns"] == summary["skipped"] == 0
    out, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
    offline = codec.decode(codec.encode(clip), samples=len(clip))[0, 0]
    assert len(out) == len(clip)
    np.testing.assert_allclose(out, np.clip(offline, -1, 1), atol=ROUNDING)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


def test_a_duration_ends_a_file_early(bundle: str, codec: edgecodec.Codec, tmp_path: Path, clip: np.ndarray) -> None:
    words = ["--bundle", bundle, "--input", "speech.wav", "--output", "out.flac", "--duration", "0.5"]
    assert command("live", *words, cwd=tmp_path).returncode == 0
    assert soundfile.info(tmp_path / "out.flac").frames == codec.sample_rate // 2


def test_pipes(bundle: str, codec: edgecodec.Codec, tmp_path: Path, clip: np.ndarray) -> None:
    line = f"cat speech.wav | {EDGECODEC} live --bundle {bundle} --input - --output - > out.wav"
    subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=tmp_path, check=True, capture_output=True)
    assert len(soundfile.read(tmp_path / "out.wav")[0]) == len(clip)


class Cue(FileSource):
    """A file that does something to the pump when it comes to certain blocks."""

    cues: dict[int, object]
    blocks = 0

    def read(self) -> np.ndarray | None:
        self.cues.get(self.blocks, lambda: None)()
        self.blocks += 1
        return super().read()


def test_bypass_neither_clicks_nor_shifts(codec: edgecodec.Codec, tmp_path: Path, clip: np.ndarray) -> None:
    size = codec.frame_size
    source = Cue(str(tmp_path / "speech.wav"), codec.sample_rate, size)
    sink = FileSink(str(tmp_path / "out.wav"), codec.sample_rate)
    pump = LivePump(codec, source, sink, stages=codec.max_stages)
    blocks = len(clip) // size
    on, off = blocks // 3, 2 * blocks // 3
    source.cues = {on: lambda: setattr(pump, "bypass", True), off: lambda: setattr(pump, "bypass", False)}
    pump.run(threading.Event())
    source.close()
    sink.close()
    out, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
    offline = np.clip(codec.decode(codec.encode(clip, stages=codec.max_stages), samples=len(clip))[0, 0], -1, 1)
    # Output frame k holds the input from k frames less the delay on; the file has the delay removed.
    start, end = (on + 1) * size - codec.delay, off * size - codec.delay
    np.testing.assert_allclose(out[start:end], clip[start:end], atol=ROUNDING)
    before, after = on * size - codec.delay, (off + 1) * size - codec.delay
    np.testing.assert_allclose(out[:before], offline[:before], atol=ROUNDING)
    np.testing.assert_allclose(out[after:], offline[after:], atol=ROUNDING)
    jump = max(np.abs(np.diff(clip)).max(), np.abs(np.diff(offline)).max())
    assert np.abs(np.diff(out)).max() <= jump + 0.01


@pytest.mark.usefixtures("clip")
def test_a_watchdog_sees_every_call_of_a_device(codec: edgecodec.Codec, tmp_path: Path) -> None:
    """A sound server may hang between reads, too, when it is asked how much waits: for ever, if nobody watched."""
    seen = []

    class Device(FileSource):
        is_device = True

        def waiting(self) -> float:
            seen.append(pump.calling)
            return super().waiting()

    source = Device(str(tmp_path / "speech.wav"), codec.sample_rate, codec.frame_size)
    sink = FileSink(str(tmp_path / "out.wav"), codec.sample_rate)
    pump = LivePump(codec, source, sink, stages=1, seconds=0.1)
    pump.run(threading.Event())
    source.close()
    sink.close()
    assert seen and all(call is not None and call[0] == source.name for call in seen)


def test_muting_and_stages_hold_from_the_next_block(codec: edgecodec.Codec, tmp_path: Path, clip: np.ndarray) -> None:
    size = codec.frame_size
    source = Cue(str(tmp_path / "speech.wav"), codec.sample_rate, size)
    recorder = Recorder(tmp_path / "both.wav", codec.sample_rate)
    sink = FileSink(str(tmp_path / "out.wav"), codec.sample_rate)
    pump = LivePump(codec, source, sink, stages=codec.max_stages)
    pump.recorder = recorder
    blocks = len(clip) // size
    source.cues = {2: lambda: setattr(pump, "stages", 1), blocks // 2: lambda: setattr(pump, "muted", True)}
    pump.run(threading.Event())
    source.close()
    sink.close()
    recorder.close()
    assert pump.snapshot().stages == 1
    assert pump.snapshot().kbps == codec.manifest.bitrate(1)
    both, rate = soundfile.read(tmp_path / "both.wav", dtype="float32")
    assert rate == codec.sample_rate
    heard = both[codec.delay :, 0]  # the recording begins with the codec's delay, on both sides
    assert np.abs(heard[(blocks // 2 + 2) * size :]).max() == 0
    np.testing.assert_allclose(heard[: blocks // 2 * size], clip[: blocks // 2 * size], atol=ROUNDING)


def test_stages_out_of_range_become_the_nearest_within(
    codec: edgecodec.Codec, tmp_path: Path, clip: np.ndarray
) -> None:
    source = FileSource(str(tmp_path / "speech.wav"), codec.sample_rate, codec.frame_size)
    pump = LivePump(codec, source, FileSink("/dev/null", codec.sample_rate), stages=2)
    found = []
    for stages in (3, 1000, -5, 0):
        pump.stages = stages
        found.append(pump.stages)
    assert found == [3, codec.max_stages, 1, 1]
    source.close()


@pytest.mark.parametrize("name", ["both.wav", "both.flac"])
def test_the_codec_makes_the_same_codes_of_a_recording(
    codec: edgecodec.Codec, tmp_path: Path, clip: np.ndarray, name: str
) -> None:
    """Of one that is rounded to 16 bits it would make others."""
    heard = (clip + 1e-5 * np.random.default_rng(0).standard_normal(len(clip))).astype(np.float32)
    recorder = Recorder(tmp_path / name, codec.sample_rate)
    recorder.put(heard, clip)
    recorder.close()
    both, _ = soundfile.read(tmp_path / name, dtype="float32")
    np.testing.assert_allclose(both, np.stack([heard, clip], axis=1), atol=2.5e-7)
    least = 0.9 if codec.manifest.precision == "int8" else 0.999  # steps of 8 bits make more of small differences
    assert (codec.encode(both[:, 0]) == codec.encode(heard)).mean() > least


def test_recordings_of_one_second_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(5):
        new_path().touch(exist_ok=False)
    assert len(list(tmp_path.glob("edgecodec-*.wav"))) == 5


def test_a_full_disk_ends_the_recording_with_an_error(codec: edgecodec.Codec, tmp_path: Path) -> None:
    with pytest.raises(edgecodec.EdgecodecError, match="no-such-folder"):
        Recorder(tmp_path / "no-such-folder" / "both.wav", codec.sample_rate)
    recorder = Recorder("/dev/full", codec.sample_rate)
    for _ in range(200):
        recorder.put(np.zeros(1000, np.float32), np.zeros(1000, np.float32))
    with pytest.raises(edgecodec.EdgecodecError, match="/dev/full: cannot write"):
        recorder.close()


@pytest.mark.parametrize(("source", "target"), [(48000, 24000), (24000, 48000), (44100, 24000), (24000, 44100)])
def test_the_live_resampler(source: int, target: int) -> None:
    rng = np.random.default_rng(0)
    t = np.arange(source) / source
    for frequency in (300, 0.42 * min(source, target)):
        tone = np.sin(2 * np.pi * frequency * t).astype(np.float32)
        whole = LiveResampler(source, target)
        output = whole.push(tone)
        cut = LiveResampler(source, target)
        pieces = np.split(tone, np.sort(rng.integers(0, source, 50)))
        assert np.array_equal(np.concatenate([cut.push(piece) for piece in pieces]), output)
        assert whole.delay < 0.0015
        assert abs(len(output) - target) <= 1
        expected = np.sin(2 * np.pi * frequency * (np.arange(len(output)) / target - whole.delay))
        error = (output - expected)[2000:-2000]
        assert (error**2).mean() < 1e-6 * 0.5  # 60 dB
    above = np.sin(2 * np.pi * 0.49 * source * t).astype(np.float32)
    if source > target:
        assert np.abs(LiveResampler(source, target).push(above)[2000:]).max() < 0.002


def test_meters() -> None:
    timings = Timings()
    assert timings.percentiles().p99 == 0
    for milliseconds in range(1, 101):
        timings.add(milliseconds / 1000)
    found = timings.percentiles()
    assert (round(found.p50), round(found.p95), round(found.p99), round(found.longest)) == (50, 95, 99, 100)
    for _ in range(5000):
        timings.add(0.001)
    assert timings.percentiles().p99 == pytest.approx(1)  # of the last frames
    assert timings.percentiles().longest == pytest.approx(100)  # since the start
    level = Level()
    level.add(np.array([0.5, -1.0], np.float32))
    assert level.db == 0
    level.add(np.zeros(10, np.float32))
    assert -2 < level.db < 0
    for _ in range(100):
        level.add(np.zeros(0, np.float32))
    assert level.db == -90


def test_without_portaudio_one_line_says_what_to_install() -> None:
    code = "import ctypes.util, sys; ctypes.util.find_library = lambda name: None\n"
    code += "from edgecodec.commands.main import main; sys.argv[1:] = ['devices']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("edgecodec: PortAudio library not found: install it")
    assert "apt-get install libportaudio2" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_a_device_one_line_says_what_to_plug_in(bundle: str, tmp_path: Path, need) -> None:
    need(rig.complete, *rig.PACKAGES)  # for PortAudio
    cards = Path("/proc/asound/cards")
    if cards.exists() and "[" in cards.read_text():
        pytest.skip("this machine has a sound card")
    environment = {**os.environ, "HOME": str(tmp_path), "PULSE_SERVER": f"unix:{tmp_path}/none"}
    for words in (["devices"], ["live", "--bundle", bundle]):
        done = command(*words, env=environment)
        assert done.returncode == 1
        assert done.stderr == (
            "edgecodec: no sound device: plug one in, or start the sound server (PulseAudio, PipeWire)\n"
        )


def test_the_measure_of_the_live_tests_sees_lost_sound(tmp_path: Path) -> None:
    from rig import lag, matched

    audio = speech(tmp_path / "speech.wav", 5)
    late = np.concatenate([np.zeros(1700, np.float32), audio])
    assert lag(audio, late) == 1700
    assert matched(audio, late, 24000) == 1
    broken = late.copy()
    for start in range(0, len(broken), 4800):  # 20 ms in 200 ms are gone
        broken[start : start + 480] = 0
    assert matched(audio, broken, 24000) < 0.92
    slipped = np.concatenate([late[:60000], np.zeros(240, np.float32), late[60000:]])  # an underrun
    assert matched(audio, slipped, 24000) > 0.97
    assert matched(audio, np.roll(audio[::-1], 100), 24000) < 0.3
