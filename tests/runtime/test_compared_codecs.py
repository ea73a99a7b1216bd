"""Classical codecs beside a bundle: the bitrate asked for, nothing shifted, and what is missing is said."""

import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import edgecodec
import numpy as np
import pytest
import soundfile
import soxr
from edgecodec.errors import EdgecodecError
from edgecodec.evaluation.compared_codecs import (
    SPEEX_BITRATES,
    BundleCodec,
    ComparedCodec,
    Opus,
    Speex,
    classical_codecs,
    ogg_packets,
)
from edgecodec.evaluation.measures import estoi, si_sdr

AUDIO = Path(__file__).parents[1] / "audio"
RATE = 24_000


@pytest.fixture(scope="module", params=["es", "ro"])
def speech(request: pytest.FixtureRequest) -> np.ndarray:
    """6.6 s and 4.6 s: more, and less, than one page of Ogg Speex."""
    audio, _ = soundfile.read(AUDIO / f"speech_{request.param}.flac", dtype="float32")
    return audio


@pytest.fixture(scope="module")
def speex(need: Callable[..., None]) -> type[Speex]:
    need(lambda: bool(shutil.which("speexenc") and shutil.which("speexdec")), "speex")
    return Speex


def lag(earlier: np.ndarray, later: np.ndarray) -> int:
    """Samples by which `later` is late: the peak of their cross-correlation."""
    size = 1 << math.ceil(math.log2(2 * len(earlier)))
    spectrum = np.fft.rfft(later, size) * np.conj(np.fft.rfft(earlier, size))
    peak = int(np.argmax(np.fft.irfft(spectrum, size)))
    return peak - size if peak > size // 2 else peak


def kbps(codec: ComparedCodec, audio: np.ndarray, rate: int = RATE) -> float:
    return codec(audio, rate).bits / (len(audio) / rate) / 1000


@pytest.mark.parametrize("asked", [6, 12, 24])
def test_opus(speech: np.ndarray, asked: int) -> None:
    coded = Opus(asked)(speech, RATE)
    assert 0.78 * asked < kbps(Opus(asked), speech) < 1.02 * asked  # variable: a pause costs little
    assert len(coded.audio) == len(speech)
    assert abs(lag(speech, coded.audio)) <= 1
    assert estoi(speech, coded.audio, RATE) > {6: 0.75, 12: 0.9, 24: 0.95}[asked]
    assert (coded.encode_seconds, coded.decode_seconds) == (None, None)


def test_opus_at_a_rate_that_it_does_not_have(speech: np.ndarray) -> None:
    audio = soxr.resample(speech, RATE, 22_050)
    coded = Opus(24)(audio, 22_050)
    assert len(coded.audio) == len(audio)
    assert si_sdr(audio, coded.audio) > 5


@pytest.mark.parametrize("quality", [2, 5, 8])
def test_speex(speech: np.ndarray, speex: type[Speex], quality: int) -> None:
    coded = speex(quality)(speech, RATE)
    assert kbps(speex(quality), speech) == pytest.approx(SPEEX_BITRATES[quality], rel=0.01)
    assert len(coded.audio) == len(speech)
    assert abs(lag(speech, coded.audio)) <= 0.0005 * RATE  # it shifts phases, by 7 samples of 16 kHz at most
    assert estoi(speech, coded.audio, RATE) > {2: 0.75, 5: 0.85, 8: 0.9}[quality]


def test_a_bundle(codec: edgecodec.Codec, speech: np.ndarray) -> None:
    audio = soxr.resample(speech, RATE, 8000)
    compared = BundleCodec(codec, 4)
    assert (compared.name, compared.label) == ("tiny", "tiny, 8 kbps")
    coded = compared(audio, 8000)
    assert kbps(compared, audio, 8000) == pytest.approx(8.0)
    assert len(coded.audio) == len(audio)
    assert coded.encode_seconds is not None and coded.encode_seconds > 0


def test_bitrates_reach_the_highest(speex: type[Speex]) -> None:
    codecs, missing = classical_codecs(6.0)
    assert not missing
    assert codecs == [Opus(6), speex(0), speex(1)]
    assert [codec.label for codec in codecs] == ["Opus, 6 kbps", "Speex, 4 kbps", "Speex, 6 kbps"]
    assert len(classical_codecs(1e3)[0]) == 15


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    codecs, missing = classical_codecs(6.0)
    assert codecs == [Opus(6)]
    assert missing == ["Speex is not scored: it needs speexenc and speexdec; apt-get install speex"]


def page(lacing: list[int]) -> bytes:
    head = b"OggS" + struct.pack("<BBqIIIB", 0, 0, 0, 1, 0, 0, len(lacing))
    return head + bytes(lacing) + bytes(sum(lacing))


def test_packets_of_ogg_pages() -> None:
    data = page([19]) + page([255, 255, 10, 255, 0, 0, 255]) + page([255, 1])
    assert ogg_packets(data) == [19, 520, 255, 0, 511]
    with pytest.raises(EdgecodecError, match="else than Ogg"):
        ogg_packets(b"RIFF" + bytes(40))
