"""Parity: the graphs in onnxruntime against the torch model they were exported from, and streams against whole clips.

torch and onnxruntime add in different orders, so latents and audio agree to a tolerance, and a code may differ where
two entries score equally well up to that rounding. A flipped code changes what all later stages see, so codes are
judged at every stage count by how many are torch's, and by how near they come to the latents: no farther than torch's.
Within onnxruntime nothing is tolerated: however the audio is cut or batched, the codes are the same.

In int8, rounding to 8 bits may send two numbers that differ in the last place of float32 one step of 255 apart. So
single numbers may differ more there; on the whole torch and onnxruntime must still agree, which is asked of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import edgecodec
import numpy as np
import torch
from edgecodec.bundle import read_bundle
from edgecodec.errors import ExportError
from edgecodec_training.model import CodecModel
from numpy.typing import NDArray

from .int8 import Int8Linear

Audio = NDArray[np.float32]
Codes = NDArray[np.int64]
Run = Callable[..., list[NDArray[Any]]]

LATENTS_TOLERANCE = 1e-4  # of the largest latent
AUDIO_TOLERANCE = 1e-4  # of the loudest sample
INT8_TOLERANCE = 1e-2  # of either, where single numbers may be a step apart
ENERGY_TOLERANCE = 1e-5  # of the differences in all clips together: 50 dB below that of latents or audio
EXCESS_TOLERANCE = 0.01  # of the squared error that torch's codes leave
LEAST_EQUAL_CODES = 0.99
FRAMES = (1, 2, 7, 40)
BATCHES = (1, 3)
CHUNKINGS = 3


@dataclass(frozen=True)
class Parity:
    """What was measured; `manifest.parity` holds these names."""

    latents_error: float  # largest difference of torch and onnxruntime, as a fraction of the largest latent
    audio_error: float  # largest difference of decoded audio, as a fraction of the loudest sample
    codes_equal: float  # fraction of codes that torch chooses too, from its own latents; the rest are near ties
    error_excess: float  # how much more squared error than torch's codes they leave, as a fraction
    streamed_audio_error: float  # largest difference of streamed and whole decoding; streamed codes are equal
    frames: Sequence[int] = FRAMES
    batches: Sequence[int] = BATCHES
    chunkings: int = CHUNKINGS

    def facts(self) -> dict[str, Any]:
        """As JSON has them."""
        return asdict(self) | {"frames": list(self.frames), "batches": list(self.batches)}


class _Agreement:
    """How far arrays of torch and of onnxruntime agree, of all that were compared."""

    def __init__(self) -> None:
        self.largest = self._lost = self._energy = 0.0

    def compare(self, ours: Audio, theirs: Audio) -> float:
        """The largest difference so far, as `_difference`."""
        self.largest = max(self.largest, _difference(ours, theirs))
        if np.isfinite(self.largest):
            self._lost += _energy(ours - theirs)
            self._energy += _energy(ours)
        return self.largest

    @property
    def lost(self) -> float:
        """Energy of the differences, as a fraction."""
        return self._lost / max(self._energy, 1e-12)


def verify(
    model: CodecModel,
    bundle: str,
    audio: Audio,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
    seed: int = 0,
) -> Parity:
    """Compare the bundle in a folder with its torch model, on `audio` [samples] and on noise.

    Raises:
        ExportError: a difference that rounding does not explain; the message says where.
    """
    rng = np.random.default_rng(seed)
    codec = edgecodec.load(bundle)
    graphs = _graphs(bundle)
    stepped = any(isinstance(layer, Int8Linear) for layer in model.modules())
    latents_tolerance = INT8_TOLERANCE if stepped else LATENTS_TOLERANCE
    audio_tolerance = INT8_TOLERANCE if stepped else AUDIO_TOLERANCE
    latents, decoded = _Agreement(), _Agreement()
    excess, equal = 0.0, []
    done, cases = 0, len(BATCHES) * len(FRAMES)
    for batch in BATCHES:
        for frames in FRAMES:
            clips = _clips(audio, batch, frames * model.config.frame_size, rng)
            ours, theirs = _latents(model, graphs, clips)
            error = latents.compare(ours, theirs)
            where = f"batch {batch}, {frames} frames"
            _require(error <= latents_tolerance, f"latents differ by {error:.1e} ({where})")
            for n in range(1, codec.max_stages + 1):
                here = f"{where}, {n} stages"
                codes = _codes(graphs, theirs, n, here)
                excess = max(excess, _error_excess(model, theirs, codes))
                _require(excess <= EXCESS_TOLERANCE, f"codes leave {excess:.1%} more error than torch's ({here})")
                equal.append(float((codes == _torch_codes(model, ours, n)).mean()))
                error = decoded.compare(*_decoded(model, graphs, codes))
                _require(error <= audio_tolerance, f"audio differs by {error:.1e} ({here})")
            done += 1
            progress(done, cases)
    for what, agreement in (("latents", latents), ("audio", decoded)):
        _require(agreement.lost <= ENERGY_TOLERANCE, f"{what}: {agreement.lost:.1e} of the energy differs from torch's")
    _require(float(np.mean(equal)) >= LEAST_EQUAL_CODES, f"only {np.mean(equal):.2%} of codes are torch's")
    streamed = max(_streamed_error(codec, audio, rng) for _ in range(CHUNKINGS))
    _require(streamed <= audio_tolerance, f"streamed audio differs from the whole clip's by {streamed:.1e}")
    return Parity(latents.largest, decoded.largest, float(np.mean(equal)), excess, streamed)


def _graphs(bundle: str) -> dict[str, Run]:
    """The four graphs, apart from the runtime: `run(*inputs) -> outputs`."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4

    def runner(graph: bytes) -> Run:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_inputs()]
        return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))

    return {name: runner(graph) for name, graph in read_bundle(bundle).graphs.items()}


def _clips(audio: Audio, batch: int, samples: int, rng: np.random.Generator) -> Audio:
    """[batch, 1, samples]: crops of the clip, the last one noise at full scale."""
    looped = np.resize(audio, max(len(audio), 2 * samples))
    starts = rng.integers(0, len(looped) - samples + 1, batch)
    clips = np.stack([looped[s : s + samples] for s in starts])
    clips[-1] = rng.uniform(-1, 1, samples)
    return clips[:, None].astype(np.float32)


@torch.no_grad()
def _latents(model: CodecModel, graphs: dict[str, Run], clips: Audio) -> tuple[Audio, Audio]:
    """Of torch and of onnxruntime, [B, T, D]."""
    state = np.zeros((len(clips), model.encoder.state_size), np.float32)
    return model.encode_latents(torch.from_numpy(clips)).numpy(), graphs["encoder"](clips, state)[0]


def _codes(graphs: dict[str, Run], latents: Audio, n_stages: int, where: str) -> Codes:
    """Codes [B, n_stages, T] of onnxruntime, which must not depend on the rest of the batch."""
    count = np.array(n_stages)
    codes: Codes = graphs["quantizer_encode"](latents, count)[0]
    alone = [graphs["quantizer_encode"](latents[i : i + 1], count)[0] for i in range(len(latents))]
    _require(np.array_equal(np.concatenate(alone), codes), f"codes depend on the rest of the batch ({where})")
    return codes


def _torch_codes(model: CodecModel, latents: Audio, n_stages: int) -> Codes:
    codes: Codes = model.quantizer.encode(torch.from_numpy(latents), n_stages).numpy()
    return codes


def _error_excess(model: CodecModel, latents: Audio, codes: Codes) -> float:
    """How much more squared error codes leave than those that torch chooses for the same latents, as a fraction."""

    def error(chosen: Codes) -> float:
        decoded = model.quantizer.decode(torch.from_numpy(np.ascontiguousarray(chosen))).numpy()
        return _energy(decoded - latents)

    best = error(_torch_codes(model, latents, codes.shape[1]))
    return max(0.0, error(codes) - best) / max(best, 1e-12)


@torch.no_grad()
def _decoded(model: CodecModel, graphs: dict[str, Run], codes: Codes) -> tuple[Audio, Audio]:
    """Of torch and of onnxruntime, [B, 1, samples]."""
    ours = model.decode_latents(model.quantizer.decode(torch.from_numpy(np.ascontiguousarray(codes)))).numpy()
    state = np.zeros((len(codes), model.decoder.state_size), np.float32)
    return ours, graphs["decoder"](*graphs["quantizer_decode"](codes), state)[0]


def _streamed_error(codec: edgecodec.Codec, audio: Audio, rng: np.random.Generator) -> float:
    """Largest difference of streamed and whole decoding, audio cut at random samples; their codes must be equal."""
    stages = codec.max_stages
    cuts = np.sort(rng.integers(0, len(audio) + 1, rng.integers(1, 40)))
    encoder = codec.encoder_stream(stages=stages, frames_per_packet=int(rng.integers(1, 5)))
    decoder = codec.decoder_stream()
    packets = [packet for block in np.split(audio, cuts) for packet in encoder.push(block)] + encoder.flush()
    streamed = np.concatenate([packet.codes for packet in packets], axis=2)
    whole = codec.encode(audio, stages=stages)
    _require(np.array_equal(streamed, whole), "streamed codes differ from the whole clip's")
    decoded = np.concatenate([decoder.push(packet) for packet in packets], axis=-1)
    decoded = decoded[..., codec.delay : codec.delay + len(audio)].reshape(-1)
    return _difference(codec.decode(whole, samples=len(audio)).reshape(-1), decoded)


def _energy(x: Audio) -> float:
    return float(np.square(x, dtype=np.float64).sum())


def _difference(a: Audio, b: Audio) -> float:
    """Largest difference as a fraction of the largest absolute value; infinite for other shapes and for NaN."""
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a - b).max() / max(float(np.abs(a).max()), 1e-6))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ExportError(f"verification failed, no bundle was written: {message}")
