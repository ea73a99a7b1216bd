"""A machine's sound, without a sound card: PulseAudio with a virtual microphone and a virtual loudspeaker.

    paplay -> micfeed -> left  of a null sink -> mic ......... what the program under test hears
              speaker -> right of a null sink ................ what it plays
    parec  <- both, in one recording: left and right share one clock, so their lag is the true round trip

The daemon has its own folder, socket and configuration, and is stopped by its process id. As on a desktop, where rtkit
grants it, its priority is high and its thread of sound realtime, where the system allows that (root).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import soundfile
import soxr

PACKAGES = ("libportaudio2", "pulseaudio", "pulseaudio-utils", "libasound2-plugins", "tmux")
EDGECODEC = str(Path(sys.executable).parent / "edgecodec")
RATE = 48000  # Hz, of the rig
CROWDED = 3.0  # programs that want each core
LATE = 0.02  # seconds; what waits to be played is 50 ms long
LOOK = 0.05  # seconds between looks at the crowd
SPEECH = Path(__file__).parents[1] / "audio"
_MODULES = """\
.fail
load-module module-null-sink sink_name=rig rate=48000 format=s16le channels=2 channel_map=front-left,front-right
load-module module-remap-sink sink_name=micfeed master=rig channels=1 channel_map=mono master_channel_map=front-left remix=no
load-module module-remap-sink sink_name=speaker master=rig channels=1 channel_map=mono master_channel_map=front-right remix=no
load-module module-remap-source source_name=mic master=rig.monitor channels=1 channel_map=mono master_channel_map=front-left remix=no
set-default-sink speaker
set-default-source mic
"""  # noqa: E501


def complete() -> bool:
    """Whether the programs and libraries of the rig are there."""
    tools = all(shutil.which(tool) for tool in ("pulseaudio", "parec", "paplay", "pactl", "tmux"))
    return tools and find_library("portaudio") is not None


class Rig:
    """A running daemon; `environment` leads programs to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "HOME": str(folder),
            "PULSE_SERVER": f"unix:{folder}/native",
            "PULSE_RUNTIME_PATH": str(folder),
            "PULSE_STATE_PATH": str(folder),
            "OMP_NUM_THREADS": "1",
        }
        self.daemon: subprocess.Popen | None = None
        self._recorder: subprocess.Popen | None = None

    def start(self) -> None:
        script = self.folder / "rig.pa"
        script.write_text(_MODULES)
        options = "-n --daemonize=no --use-pid-file=no --exit-idle-time=-1 --disable-shm=yes --realtime=yes"
        options += " --high-priority=yes --log-level=error"
        protocol = f"module-native-protocol-unix socket={self.folder}/native auth-anonymous=1 auth-cookie-enabled=0"
        command = ["pulseaudio", *options.split(), "-L", protocol, "-F", str(script)]
        with (self.folder / "pulse.log").open("w") as log:
            self.daemon = subprocess.Popen(command, env=self.environment, stderr=log)
        until = time.monotonic() + 60
        while self._pactl("info").returncode:
            assert time.monotonic() < until, (self.folder / "pulse.log").read_text()
            time.sleep(0.05)
        record = f"parec -d rig.monitor --rate={RATE} --channels=2 --format=s16le --raw --latency-msec=10"
        with self.recording.open("wb") as raw:
            self._recorder = subprocess.Popen(record.split(), env=self.environment, stdout=raw)
        time.sleep(2.2)  # a null sink renders two seconds at once until a client wants less

    def kill(self) -> None:
        """The sound server dies."""
        self.daemon.kill()
        self.daemon.wait()

    def stop(self) -> None:
        for process in (self._recorder, self.daemon):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    @property
    def recording(self) -> Path:
        """Raw 16-bit stereo: what the microphone heard, what the loudspeaker played."""
        return self.folder / "recording.raw"

    def position(self) -> int:
        """Sample frames recorded up to now."""
        return self.recording.stat().st_size // 4

    def recorded(self, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Heard and played since a position, float32 at `RATE`."""
        data = self.recording.read_bytes()
        stereo = np.frombuffer(data[: len(data) // 4 * 4], "<i2").reshape(-1, 2)[start:]
        return tuple((stereo / np.float32(32768)).T)

    def say(self, path: Path) -> subprocess.Popen:
        """Play a file into the microphone."""
        return subprocess.Popen(["paplay", "-d", "micfeed", str(path)], env=self.environment)

    def suspend_microphone(self, seconds: float) -> None:
        """Let the microphone deliver nothing for a while, as a wireless one may."""
        for state in ("1", "0"):
            assert self._pactl("suspend-source", "mic", state).returncode == 0
            time.sleep(seconds)

    def edgecodec(self, *args: object, **options) -> subprocess.Popen:
        """The command, in the rig."""
        options = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "env": self.environment,
        } | options
        return subprocess.Popen([EDGECODEC, *map(str, args)], **options)

    def _pactl(self, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(["pactl", *words], env=self.environment, capture_output=True, check=False)


@contextmanager
def rig():
    """A fresh rig, in a folder of a short path (sockets allow 108 bytes)."""
    with tempfile.TemporaryDirectory(prefix="rig") as folder:
        machine = Rig(Path(folder))
        try:
            machine.start()
            yield machine
        finally:
            machine.stop()


class Terminal:
    """A terminal with a shell in a folder, by tmux, while it is entered."""

    def __init__(self, machine: Rig, folder: Path, name: str = "tmux") -> None:
        self._socket, self._folder = machine.folder / name, folder
        self._environment = {**machine.environment, "TERM": "xterm-256color", "PS1": "$ ", "LC_ALL": "C.UTF-8"}

    def __enter__(self) -> Terminal:
        self._tmux("new-session", "-d", "-x", "130", "-y", "30", "-c", str(self._folder), "sh")
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")

    def start(self, *words: object) -> None:
        """Start the command edgecodec."""
        before, after = (f"stty -a > {self._socket}.{when}" for when in ("before", "after"))
        line = f"{before}; {EDGECODEC} {' '.join(map(str, words))}; echo ended $?; {after}"
        self.press(line, "Enter")

    def press(self, *keys: str) -> None:
        """Press keys, as tmux names them, or write a text."""
        for key in keys:
            self._tmux("send-keys", key)

    def see(self, *words: str) -> str:
        """The screen, once all of these are on it."""
        until = time.monotonic() + 60
        while not all(word in (screen := self._tmux("capture-pane", "-p")) for word in words):
            assert time.monotonic() < until, f"no {words} in\n{screen}"
            time.sleep(0.1)
        return screen

    def is_as_before(self) -> bool:
        """Whether the command, which has ended, left the terminal as it was: settings, and echo of what is typed."""
        self.press("echo still here", "Enter")
        self.see(" echo still here\n", "\nstill here\n")
        before, after = (Path(f"{self._socket}.{when}").read_text() for when in ("before", "after"))
        return before == after

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-S", str(self._socket), "-f", "/dev/null", *words]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=True).stdout


@contextmanager
def busy_cores(count: int):
    """Processes that compute as fast as they can, at normal priority."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def read_until(process: subprocess.Popen, words: str = " kbps  ") -> str:
    """Read what a process says until it says this, which may take long on a busy machine; all lines up to there.

    A live stream that shows its first line has been running for a second.
    """
    lines = []
    while words not in "".join(lines[-1:]):
        lines.append(process.stderr.readline())
        assert lines[-1], lines
    return "".join(lines)


class Crowd:
    """How many programs want each core while it is entered, in the mean, the tests' own ones too; and how late it woke.

    Where a thread that wants nothing wakes late, the cores were taken, by programs or by other guests of the machine:
    then live sound comes late as well, and not by its own fault.
    """

    def __init__(self) -> None:
        self._done = threading.Event()
        self._counts: list[int] = []
        self._late = 0.0  # seconds, the most
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Crowd:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def per_core(self) -> float:
        return float(np.mean(self._counts or [0])) / len(os.sched_getaffinity(0))

    @property
    def is_felt(self) -> bool:
        """Whether the machine was too busy for sound without gaps."""
        return self.per_core >= CROWDED or self._late >= LATE

    def __str__(self) -> str:
        return f"{self.per_core:.1f} programs wanted each core, one woke {1000 * self._late:.0f} ms late"

    def _look(self) -> None:
        due = time.monotonic() + LOOK
        while not self._done.wait(LOOK):
            self._late = max(self._late, time.monotonic() - due)
            words = Path("/proc/stat").read_text().split()
            self._counts.append(int(words[words.index("procs_running") + 1]) - 1)  # this thread runs, too
            due = time.monotonic() + LOOK


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for_port(port: int) -> None:
    """Until somebody listens there."""
    until = time.monotonic() + 60
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        refused = True
        while refused:
            assert time.monotonic() < until
            sock.send(b"anyone?")
            time.sleep(0.1)
            try:
                sock.send(b"")
                refused = False
            except ConnectionRefusedError:
                continue


def is_audio(data: bytes) -> bool:
    return not 192 <= data[1] <= 223


def speech(path: Path, seconds: float, sample_rate: int = 24000) -> np.ndarray:
    """Real speech of a length, also written to `path`; silence before and after, so that nothing is cut off."""
    clips = [soundfile.read(SPEECH / name, dtype="float32")[0] for name in ("speech_es.flac", "speech_ro.flac")]
    audio = np.tile(np.concatenate(clips), 3)[: int(seconds * 24000)]
    audio = soxr.resample(audio, 24000, sample_rate) if sample_rate != 24000 else audio
    soundfile.write(path, audio, sample_rate)
    return audio


def lag(earlier: np.ndarray, later: np.ndarray) -> int:
    """Samples by which `later` must be moved forward to fit `earlier`: the peak of their cross-correlation."""
    size = 1 << int(np.ceil(np.log2(len(earlier) + len(later))))
    spectrum = np.fft.rfft(later, size) * np.conj(np.fft.rfft(earlier, size))
    peak = int(np.argmax(np.fft.irfft(spectrum, size)))
    return peak - size if peak > size // 2 else peak


def matched(reference: np.ndarray, got: np.ndarray, sample_rate: int) -> float:
    """Share of the non-silent 20 ms frames of `reference` that are in `got`: correlation 0.9 or more.

    An underrun moves what follows it, so every half second may have its own lag; a frame that is nowhere at one of
    these few lags is lost.
    """
    whole = lag(reference, got)
    size, second = sample_rate // 50, sample_rate
    got = np.pad(got, (second, second))
    lags = {whole}
    for start in range(0, len(reference) - second // 2, second // 2):
        near = got[max(0, start + whole + second // 2) : start + whole + 5 * second // 2]
        if np.abs(reference[start : start + second]).max() > 0.02 and len(near) > second:
            lags.add(
                lag(reference[start : start + second], near) + max(0, start + whole + second // 2) - second - start
            )
    frames = reference[: len(reference) // size * size].reshape(-1, size)
    best = np.full(len(frames), -1.0)
    for shift in lags:
        begin = second + shift
        if begin < 0:
            continue
        there = got[begin : begin + frames.size]
        there = np.pad(there, (0, frames.size - len(there))).reshape(-1, size)
        power = (frames**2).sum(axis=1) * (there**2).sum(axis=1)
        best = np.maximum(best, (frames * there).sum(axis=1) / np.sqrt(power + 1e-12))
    loud = (frames**2).mean(axis=1) > 10**-4.5
    assert loud.sum() > 50, "too little sound to compare"
    return float((best[loud] >= 0.9).mean())
