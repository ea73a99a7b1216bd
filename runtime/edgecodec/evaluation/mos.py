"""Models that predict the mean opinion score (MOS) of listeners: DNSMOS (extra `eval`), ViSQOL (extra `visqol`).

Both are used where they are installed. Their packages bring the models along; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soxr
from numpy.typing import NDArray

from ..live.stderr import quiet_libraries
from .measures import SCORING_RATE, Measure

VISQOL_AUDIO_RATE = 48_000  # Hz
DNSMOS_WINDOW = 144_160  # samples at 16 kHz: 9.01 s
DNSMOS_OVERALL = (-0.06766283, 1.11546468, 0.04602535)  # the raw overall score's calibration, as published with it


def mos_measures(kind: str) -> dict[str, Measure]:
    """The measures of this module that are installed and made for a kind of clip (speech, music, noise)."""
    speech = kind == "speech"
    found = {}
    if all(map(importlib.util.find_spec, ("visqol", "ai_edge_litert", "numba"))):
        found["visqol"] = Measure("ViSQOL", 2, True, visqol_speech if speech else visqol_audio)
    if speech and importlib.util.find_spec("speechmos"):
        found["dnsmos"] = Measure("DNSMOS", 2, True, dnsmos)
    return found


def visqol_speech(reference: NDArray[Any], decoded: NDArray[Any], sample_rate: int) -> float:
    """ViSQOL v3 in speech mode (Chinen et al. 2020, arXiv:2004.09584) with the lattice model, scored at 16 kHz."""
    return _visqol("speech", SCORING_RATE, reference, decoded, sample_rate)


def visqol_audio(reference: NDArray[Any], decoded: NDArray[Any], sample_rate: int) -> float:
    """ViSQOL v3 in audio mode, scored at 48 kHz."""
    return _visqol("audio", VISQOL_AUDIO_RATE, reference, decoded, sample_rate)


def dnsmos(reference: NDArray[Any], decoded: NDArray[Any], sample_rate: int) -> float:
    """Overall score by DNSMOS P.835 (Reddy et al. 2022, arXiv:2110.01763), which hears the decoded clip alone.

    The clip is repeated to whole windows of 9.01 s, which are scored one after another; the package itself lets them
    overlap by 8 s, which takes several times as long.
    """
    audio = np.clip(soxr.resample(decoded, sample_rate, SCORING_RATE), -1, 1).astype(np.float32)
    windows = np.resize(audio, (-(-len(audio) // DNSMOS_WINDOW), 1, DNSMOS_WINDOW))
    raw = [_dnsmos_session().run(None, {"input_1": window})[0][0, 2] for window in windows]
    return float(np.mean(np.polyval(DNSMOS_OVERALL, raw)))


def _visqol(mode: str, rate: int, reference: NDArray[Any], decoded: NDArray[Any], sample_rate: int) -> float:
    """NaN for a clip in which it finds nothing to compare."""
    if not (reference.any() and decoded.any()):
        return float("nan")
    x, y = (soxr.resample(audio.astype(np.float64), sample_rate, rate) for audio in (reference, decoded))
    try:
        return float(_visqol_api(mode).measure_from_arrays(x, y, rate).moslqo)
    except (ValueError, RuntimeError):
        return float("nan")


@cache
def _visqol_api(mode: str) -> Any:
    from visqol import VisqolApi

    api = VisqolApi()
    with quiet_libraries():  # LiteRT says that it was created
        api.create(mode=mode, use_lattice_model=mode == "speech")
    return api


@cache
def _dnsmos_session() -> onnxruntime.InferenceSession:
    """The model of the package `speechmos`, whose own code needs packages that it does not declare."""
    spec = importlib.util.find_spec("speechmos")
    assert spec is not None and spec.origin is not None  # see `mos_measures`
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = Path(spec.origin).parent / "dnsmos_models" / "sig_bak_ovr.onnx"
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
