"""`edgecodec evaluate --noise` and `--noisy`: what is heard, what it is scored against, and what is refused."""

import json
from pathlib import Path
from typing import Any

import edgecodec
import numpy as np
import pytest
import soundfile
from edgecodec.commands.main import app
from edgecodec.errors import DataError
from edgecodec.evaluation import mos
from edgecodec.evaluation.charts import rate_distortion
from edgecodec.evaluation.compared_codecs import UNCODED
from edgecodec.evaluation.measures import MEASURES, si_sdr
from edgecodec.evaluation.noisy_input import NoiseBehind, NoisyRecordings
from edgecodec.evaluation.quality import measure
from typer.testing import CliRunner

AUDIO = Path(__file__).parents[1] / "audio"
RATE = 8_000  # of the tiny bundle


def invoke(*args: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", "--fixed", *(str(arg) for arg in args)])


def write(path: Path, audio: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype="FLOAT")
    return path


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    audio, _ = soundfile.read(AUDIO / "speech_ro.flac", dtype="float32")
    return np.asarray(audio[: 6 * RATE : 3])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, speech: np.ndarray) -> Path:
    """A clip in `clean`, noise of half its length in `noise`, and the clip upside down in `noisy`."""
    folder = tmp_path_factory.mktemp("noisy")
    write(folder / "clean" / "deep" / "a.wav", speech)
    write(folder / "noise" / "hum.wav", np.random.default_rng(0).normal(0, 0.01, RATE).astype(np.float32))
    write(folder / "noisy" / "deep" / "a.wav", -speech)
    return folder


@pytest.mark.parametrize("wanted", [-5.0, 5.0, 20.0])
def test_noise_lies_as_far_below_as_asked(folders: Path, speech: np.ndarray, wanted: float) -> None:
    behind = NoiseBehind.of(folders / "noise", wanted, RATE)
    clean, heard = behind("a.wav", speech)
    assert 10 * np.log10((clean**2).mean() / ((heard - clean) ** 2).mean()) == pytest.approx(wanted, abs=0.01)
    assert np.abs(heard).max() <= 0.9901 and heard.dtype == np.float32
    assert np.array_equal(heard, behind("a.wav", speech).heard)
    assert not np.array_equal(heard, behind("b.wav", speech).heard)  # from another place of the noise


def test_scores_compare_with_the_clean_clip(
    tiny: Path, folders: Path, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line of what is heard has the SNR asked for; that of the codec compares with the clip, not with the noise."""
    monkeypatch.setattr(mos, "mos_measures", lambda kind: {})  # which take seconds
    result = invoke(tiny, "--data", folders / "clean", "-q", 4, "--noise", folders / "noise", "--snr", "0", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    coded, heard = found["rows"]
    assert (heard["codec"], heard["stages"], heard["kbps"]) == (UNCODED, None, 128.0)
    assert heard["measures"]["si_sdr"]["mean"] == pytest.approx(0.0, abs=0.2)
    assert "noise of noise lies 0 dB below the clips, by mean power" in found["notes"]
    codec = edgecodec.load(tiny)
    clean, noisy = NoiseBehind.of(folders / "noise", 0.0, RATE)("deep/a.wav", speech)
    decoded = codec.decode(codec.encode(noisy, stages=4), samples=len(noisy))[0, 0]
    assert coded["measures"]["si_sdr"]["mean"] == pytest.approx(si_sdr(clean, decoded), abs=0.01)


def test_recordings_of_the_same_names_are_heard(tiny: Path, folders: Path) -> None:
    codec = edgecodec.load(tiny)
    found = measure(
        codec, folders / "clean", [4], hear=NoisyRecordings(folders / "noisy", RATE), kinds=("speech",), examples=1
    )
    assert [row.codec for row in found.rows] == ["tiny", UNCODED]
    [example] = found.examples
    assert np.array_equal(example.decoded[UNCODED], -example.original)
    chart = rate_distortion(found.rows, "si_sdr", MEASURES["si_sdr"])
    assert UNCODED in chart and "stroke-dasharray" in chart


def test_what_cannot_be_heard_is_named(tiny: Path, folders: Path, speech: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.wav: No such file"):
        NoisyRecordings(tmp_path, RATE)("a.wav", speech)
    write(tmp_path / "a.wav", speech[:-1])
    with pytest.raises(DataError, match=r"a\.wav: 15999 samples, and 16000 of the clean recording"):
        NoisyRecordings(tmp_path, RATE)("a.wav", speech)
    (tmp_path / "b.wav").write_text("no audio")
    with pytest.raises(DataError, match=r"b\.wav: "):
        NoisyRecordings(tmp_path, RATE)("b.wav", speech)
    silence = write(tmp_path / "c" / "silence.wav", np.zeros(100))
    with pytest.raises(DataError, match=r"silence\.wav: silence is no noise"):
        NoiseBehind.of(silence.parent, 5.0, RATE)
    both = invoke(tiny, "--data", folders / "clean", "--noise", tmp_path, "--noisy", tmp_path)
    assert both.exit_code == 2 and "goes not with --noisy" in both.output
