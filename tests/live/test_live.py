"""Live sound through a virtual microphone and loudspeaker: what comes out is what the codec makes of what went in.

The machine that runs this may be busy with other work, which no test controls. So timed runs may be repeated, at most
twice, and pass when one of the three does; every attempt's figures are printed. In six idle runs and six with both of
two cores taken by other programs, 99.3 to 100 % of the frames came out and there was no underrun; beside the training
of a model ten runs had 0 to 3: all hold what is asked for. Where more than two programs besides ours want each core
(`Crowd`), the sound server itself comes too late, and less is asked for: what was heard is still whole and no frame
late, but half of what was played may have slipped.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import edgecodec
import numpy as np
import pytest
import soundfile
import soxr
from edgecodec.commands.live import check_fitness
from edgecodec.commands.live_text import LIVE_KEYS
from edgecodec.live.fitness import Fitness, measure_fitness
from edgecodec.live.priority import realtime_priority
from rig import RATE, Crowd, Rig, Terminal, busy_cores, lag, matched, read_until, speech

WIDE = Path(__file__).parents[1] / "runtime" / "wide_bundle"
ATTEMPTS = 3
LEAST = 0.95  # of what is heard, and of what is played
LEAST_IN_A_CROWD = 0.5  # of what is played


def run_live(machine: Rig, bundle: str, folder: Path, seconds: float, *options: object) -> tuple[dict, int, Crowd]:
    """Speak into the microphone of a live run that records.

    Its summary, where in the rig's recording it began, and how busy the machine was meanwhile.
    """
    speech(folder / "speech.wav", seconds)
    begin = machine.position()
    words = ["live", "--bundle", bundle, "--duration", seconds + 3, "--json", "--record", folder / "both.wav", "-f"]
    process = machine.edgecodec(*words, *options)
    read_until(process)
    with Crowd() as crowd, machine.say(folder / "speech.wav"):
        out, errors = process.communicate(timeout=seconds + 60)
    assert process.returncode == 0, errors
    time.sleep(0.2)
    return json.loads(out), begin, crowd


def band_limited(audio: np.ndarray, rate: int) -> np.ndarray:
    """Sound at the rig's rate without what a codec of this rate cannot hear."""
    return soxr.resample(soxr.resample(audio, RATE, rate), rate, RATE)


def shares(machine: Rig, codec: edgecodec.Codec, folder: Path, summary: dict, begin: int) -> dict[str, float]:
    """How much of the sound survived each part of the way.

    The offline codec gets exactly what the pump heard (the left side of its recording); its output must be what the
    loudspeaker played, and what the pump heard must be what the microphone got.
    """
    heard, played = machine.recorded(begin)
    both, rate = soundfile.read(folder / "both.wav", dtype="float32")
    assert rate == codec.sample_rate
    # The recording begins with the codec's delay; a codec that makes noise makes the same only from the same frame on.
    left = np.ascontiguousarray(both[codec.decoder_stream(after_silence=True).delay :, 0])
    offline = codec.decode(codec.encode(left, stages=summary["stages"]), samples=len(left))[0, 0]
    return {
        "heard": matched(soxr.resample(left, rate, RATE), band_limited(heard, rate), RATE),
        "played": matched(soxr.resample(offline, rate, RATE), played, RATE),
        "round trip ms": 1000 * lag(heard, played) / RATE,
    }


@pytest.mark.parametrize("load", [0, 2], ids=["idle", "both cores busy"])
def test_ten_seconds_of_speech(machine: Rig, bundle: str, codec: edgecodec.Codec, tmp_path: Path, load: int) -> None:
    for attempt in range(ATTEMPTS):
        with busy_cores(load):
            summary, begin, crowd = run_live(machine, bundle, tmp_path, 10)
        found = shares(machine, codec, tmp_path, summary, begin)
        counts = {name: summary[name] for name in ("overruns", "underruns", "late", "skipped")}
        codec_ms = sum(summary["budget"][part] for part in ("buffering", "algorithmic", "encode", "decode"))
        told = f"{found}, {counts}, codec {codec_ms:.1f} ms, frame {summary['frame']}, {crowd}"
        print(f"\nattempt {attempt + 1}: {told}")
        # The lag depends on the sound server: 68 ms when idle, up to 150 ms after a stall, until frames were skipped.
        if not crowd.is_felt:
            good = found["played"] >= LEAST and counts["underruns"] <= 3 and codec_ms <= 32
            good = good and 20 < found["round trip ms"] < (250 if load else 120)
        else:
            good = found["played"] >= LEAST_IN_A_CROWD and counts["late"] <= 0.01 * summary["frames"]
        if good and found["heard"] >= LEAST:
            break
    else:
        pytest.fail(f"{ATTEMPTS} attempts, the last: {told}")
    assert summary["seconds"] == 13


@pytest.mark.parametrize("rate", [48000, 44100])
def test_devices_at_another_rate(machine: Rig, bundle: str, codec: edgecodec.Codec, tmp_path: Path, rate: int) -> None:
    for _ in range(ATTEMPTS):
        summary, begin, crowd = run_live(machine, bundle, tmp_path, 3, "--device-rate", rate)
        found = shares(machine, codec, tmp_path, summary, begin)
        if found["heard"] >= LEAST and found["played"] >= (LEAST_IN_A_CROWD if crowd.is_felt else LEAST):
            break
    else:
        pytest.fail(f"{ATTEMPTS} attempts, the last: {found}, {summary}, {crowd}")


def test_a_codec_that_looks_ahead(machine: Rig, tmp_path: Path) -> None:
    """Its sound comes through, and as late as was announced: both sides of a recording belong together."""
    codec = edgecodec.load(WIDE)
    assert codec.manifest.ahead > 0
    for _ in range(ATTEMPTS):
        summary, begin, crowd = run_live(machine, str(WIDE), tmp_path, 3, "--stages", codec.max_stages)
        found = shares(machine, codec, tmp_path, summary, begin)
        if found["heard"] >= LEAST and found["played"] >= (LEAST_IN_A_CROWD if crowd.is_felt else LEAST):
            break
    else:
        pytest.fail(f"{ATTEMPTS} attempts, the last: {found}, {summary}, {crowd}")
    both, rate = soundfile.read(tmp_path / "both.wav", dtype="float32")
    assert lag(*both.T) == 0
    late = summary["budget"]["algorithmic"]
    assert late == pytest.approx(1000 * codec.manifest.ahead / rate)
    assert lag(both[round(late * rate / 1000) :, 0], both[:, 1]) == round(late * rate / 1000)  # negative control


def test_a_microphone_that_stalls_leaves_no_stutter(machine: Rig, bundle: str) -> None:
    """A fifth of a second is missing; without making up for it, 136 and 153 underruns followed in the next 3 s."""
    for _ in range(ATTEMPTS):
        process = machine.edgecodec("live", "--bundle", bundle, "--duration", 6, "--json")
        read_until(process)
        with Crowd() as crowd:
            machine.suspend_microphone(0.2)
            out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        underruns = json.loads(out)["underruns"]
        if 1 <= underruns <= (40 if crowd.is_felt else 8):  # none: the microphone did not stall
            break
    else:
        pytest.fail(f"{ATTEMPTS} attempts, the last: {underruns} underruns, {crowd}")


def test_the_threads_of_live_sound_come_first(machine: Rig, bundle: str) -> None:
    """Ours, one that PulseAudio's client has for each stream, and that of the display, which may hold Python's lock."""
    before = os.sched_getscheduler(0)
    with realtime_priority():
        allowed = os.sched_getscheduler(0) == os.SCHED_RR
    assert os.sched_getscheduler(0) == before
    if not allowed:
        pytest.skip("this user may not have realtime threads")
    process = machine.edgecodec("live", "--bundle", bundle)
    read_until(process)
    policies = [os.sched_getscheduler(int(task.name)) for task in Path(f"/proc/{process.pid}/task").iterdir()]
    process.terminate()
    process.communicate(timeout=60)
    assert policies.count(os.SCHED_RR) == 4


def test_fitness_is_measured_as_live_sound_runs(codec: edgecodec.Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its priority; else programs beside it make a codec that is quick enough look slow."""
    policies = []

    def watched(*args: object, **options: object) -> Fitness:
        policies.append(os.sched_getscheduler(0))
        return measure_fitness(*args, **options)

    monkeypatch.setattr("edgecodec.live.fitness.measure_fitness", watched)
    before = os.sched_getscheduler(0)
    with realtime_priority():
        expected = os.sched_getscheduler(0)
    check_fitness(codec, 1, anyway=True)
    assert policies == [expected]
    assert os.sched_getscheduler(0) == before


def test_ctrl_c_completes_the_recording(machine: Rig, bundle: str, codec: edgecodec.Codec, tmp_path: Path) -> None:
    process = machine.edgecodec("live", "--bundle", bundle, "--record", tmp_path / "both.wav", "--microphone", "pulse")
    said = read_until(process)
    assert not (tmp_path / "both.wav").exists()
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "counters" in out
    assert "it will howl: use headphones" in said
    assert "Traceback" not in errors
    info = soundfile.info(tmp_path / "both.wav")
    assert (info.channels, info.samplerate) == (2, codec.sample_rate)
    assert info.duration > 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["both.wav"]


def test_sigterm_completes_the_recording_too(machine: Rig, bundle: str, tmp_path: Path) -> None:
    process = machine.edgecodec("live", "--bundle", bundle, "--record", tmp_path / "both.wav")
    read_until(process)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in errors
    assert soundfile.info(tmp_path / "both.wav").frames > 0


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "sound server is gone"), (signal.SIGSTOP, "has not answered for 3 s")]
)
def test_the_sound_server_dies_or_hangs(fragile: Rig, bundle: str, tmp_path: Path, number: int, words: str) -> None:
    process = fragile.edgecodec("live", "--bundle", bundle, "--record", tmp_path / "both.wav")
    read_until(process)
    fragile.daemon.send_signal(number)
    _, errors = process.communicate(timeout=60)
    fragile.daemon.send_signal(signal.SIGCONT)
    assert process.returncode == 1, errors
    complaints = [line for line in errors.splitlines() if " kbps " not in line and "howl" not in line]
    assert len(complaints) == 1
    assert complaints[0].startswith("edgecodec: ")
    assert words in complaints[0]
    assert soundfile.info(tmp_path / "both.wav").frames > 0


def test_the_display_and_its_keys(machine: Rig, bundle: str, codec: edgecodec.Codec, tmp_path: Path) -> None:
    n = codec.stages()
    with Terminal(machine, tmp_path) as terminal:
        terminal.start("live", "--bundle", bundle)
        counts = f"{n} of {codec.max_stages} stages"
        terminal.see("edgecodec live: ", "heard", "played", counts, "codec", "underruns", "howl", LIVE_KEYS)
        terminal.press("Down")
        terminal.see(f"{n - 1} of {codec.max_stages} stages")
        terminal.press("Up", "b", "m", "r")
        screen = terminal.see(counts, "BYPASS", "MUTED", "RECORDING")
        print(f"\n{screen}")
        time.sleep(0.5)
        terminal.press("b", "m", "r")
        screen = terminal.see("recorded edgecodec-")
        assert "BYPASS" not in screen
        assert "MUTED" not in screen
        terminal.press("r")
        terminal.see("RECORDING")
        terminal.press("C-c")
        terminal.see("ended 0")
        assert terminal.is_as_before()
    recordings = list(tmp_path.glob("*.wav"))
    assert recordings
    assert all(soundfile.info(path).channels == 2 for path in recordings)


def test_a_file_through_the_loudspeaker(machine: Rig, bundle: str, codec: edgecodec.Codec, tmp_path: Path) -> None:
    audio = speech(tmp_path / "speech.wav", 3)
    begin, start = machine.position(), time.monotonic()
    process = machine.edgecodec("live", "--bundle", bundle, "--input", tmp_path / "speech.wav", "--json")
    with Crowd() as crowd:
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert time.monotonic() - start > 2.5  # in real time
    assert abs(json.loads(out)["seconds"] - 3) < 0.01
    time.sleep(0.3)
    _, played = machine.recorded(begin)
    audio = soxr.resample(audio, 24000, codec.sample_rate)
    offline = codec.decode(codec.encode(audio), samples=len(audio))[0, 0]
    share = matched(soxr.resample(offline, codec.sample_rate, RATE), played, RATE)
    assert share >= (LEAST_IN_A_CROWD if crowd.is_felt else LEAST)


def test_the_microphone_into_a_file(machine: Rig, bundle: str, codec: edgecodec.Codec, tmp_path: Path) -> None:
    words = ["live", "--bundle", bundle, "--output", tmp_path / "out.wav", "--duration", 1, "--speaker", "unused"]
    process = machine.edgecodec(*words)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert soundfile.info(tmp_path / "out.wav").frames == codec.sample_rate
    again = machine.edgecodec(*words)
    assert "exists; -f replaces it" in again.communicate(timeout=60)[1]
    assert again.returncode == 1


def test_devices_are_listed_and_found(machine: Rig) -> None:
    out, _ = machine.edgecodec("devices").communicate(timeout=60)
    assert "inputs" in out
    assert "outputs" in out
    assert "pulse" in out
    out, _ = machine.edgecodec("devices", "--json").communicate(timeout=60)
    listed = json.loads(out)
    assert any(device["default_input"] for device in listed)
    pulse = next(device for device in listed if device["name"] == "pulse")
    assert pulse["input_channels"] > 0
    for name, words in (("nothing", "is none of the inputs; choose an index: "), ("u", "fits several of the inputs")):
        process = machine.edgecodec("live", "--microphone", name, "--bundle", "speech")
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        if "no bundle" not in errors:
            assert words in errors
            assert len(errors.splitlines()) == 1
