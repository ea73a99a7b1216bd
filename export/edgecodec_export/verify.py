"""Parity: the graphs in onnxruntime against the torch model they were exported from, and streams against whole clips.

torch and onnxruntime add in different orders, so latents and audio agree to a tolerance, and a code may differ where
two entries score equally well up to that rounding. A flipped code changes what all later stages see, so codes are
judged at every stage count by how many are torch's, and by how near they come to the latents: no farther than torch's.
So are those of the most paths, where a wide search can be asked for, at the stage counts that are decoded.
Within onnxruntime nothing is tolerated: however the audio is cut or batched, the codes are the same.

In int8, rounding to 8 bits may send two numbers that differ in the last place of float32 one step of 255 apart. So
single numbers may differ more there; on the whole torch and onnxruntime must still agree, which is asked of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch
from edgecodec.codec import Codec
from edgecodec.errors import ExportError
from edgecodec.progress import Progress, silent
from edgecodec_training.codebook_search import search
from edgecodec_training.model import CodecModel
from numpy.typing import NDArray

from .adapters.adapted import AdaptedCodec
from .audio import channels_of
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
FRAMES, MOST_SECONDS = (1, 2, 7, 40), 2.0  # of clips; of long frames, only the first two
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
    frames: Sequence[int]
    batches: Sequence[int] = BATCHES
    chunkings: int = CHUNKINGS

    def facts(self) -> dict[str, Any]:
        """As JSON has them."""
        return asdict(self) | {"frames": list(self.frames), "batches": list(self.batches)}


def verify(
    model: CodecModel | AdaptedCodec, codec: Codec, audio: Audio, progress: Progress = silent, seed: int = 0
) -> Parity:
    """Compare a codec with the torch model that its graphs were made of, on `audio` [samples] and on noise.

    Raises:
        ExportError: a difference that rounding does not explain; the message says where.
    """
    rng = np.random.default_rng(seed)
    comparison = _Comparison(model, codec)
    lengths = [n for n in FRAMES if n <= FRAMES[1] or n * codec.frame_size <= MOST_SECONDS * codec.sample_rate]
    cases = [(batch, frames) for batch in BATCHES for frames in lengths]
    for done, (batch, frames) in enumerate(cases, start=1):
        clips = _clips(audio, batch, codec.channels, frames * codec.frame_size, rng)
        comparison.compare(clips, f"batch {batch}, {frames} frames")
        progress("verified", done, len(cases))
    comparison.require_agreement()
    streamed = max(_streamed_error(codec, audio, rng) for _ in range(CHUNKINGS))
    _require(streamed <= comparison.audio_tolerance, f"streamed audio differs from the whole clip's by {streamed:.1e}")
    return Parity(
        latents_error=comparison.latents.largest,
        audio_error=comparison.audio.largest,
        codes_equal=comparison.codes_equal,
        error_excess=comparison.error_excess,
        streamed_audio_error=streamed,
        frames=lengths,
    )


class _Comparison:
    """The torch model and the four graphs, side by side on the same clips."""

    def __init__(self, model: CodecModel | AdaptedCodec, codec: Codec) -> None:
        self._model, self._max_stages, self._manifest = model, codec.max_stages, codec.manifest
        self._graphs = {name: _runner(graph) for name, graph in codec.bundle.graphs.items()}
        stepped = any(isinstance(layer, Int8Linear) for layer in model.modules())
        self.latents_tolerance = INT8_TOLERANCE if stepped else LATENTS_TOLERANCE
        self.audio_tolerance = INT8_TOLERANCE if stepped else AUDIO_TOLERANCE
        self.latents, self.audio = _Agreement(), _Agreement()
        self.error_excess = 0.0
        self._equal: list[float] = []  # fraction of codes that both choose, of each comparison

    def compare(self, clips: Audio, where: str) -> None:
        """Encode clips [B, C, samples] on both sides, quantize them at every stage count, decode them at some."""
        ours, theirs = self._encoded(clips)
        error = self.latents.add(ours, theirs)
        _require(error <= self.latents_tolerance, f"latents differ by {error:.1e} ({where})")
        for n in range(1, self._max_stages + 1):
            here = f"{where}, {n} stages"
            codes = self._compare_codes(ours, theirs, n, 0, here)
            if n & (n - 1) and n < self._max_stages:  # what it decodes from is all the same to a decoder
                continue
            if self._manifest.max_paths:
                most = self._manifest.max_paths
                self._compare_codes(ours, theirs, n, most, f"{here}, {most} paths")
            error = self.audio.add(*self._decoded(codes))
            _require(error <= self.audio_tolerance, f"audio differs by {error:.1e} ({here})")

    def _compare_codes(self, ours: Audio, theirs: Audio, n_stages: int, paths: int, where: str) -> Codes:
        """Codes of onnxruntime, compared with those of torch: of the same latents, and of its own."""
        codes = self._codes(theirs, n_stages, paths, where)
        self.error_excess = max(self.error_excess, self._excess(theirs, codes, paths))
        _require(
            self.error_excess <= EXCESS_TOLERANCE,
            f"codes leave {self.error_excess:.1%} more error than torch's ({where})",
        )
        self._equal.append(float((codes == self._torch_codes(ours, n_stages, paths)).mean()))
        return codes

    def require_agreement(self) -> None:
        """What is asked of all clips together."""
        for what, agreement in (("latents", self.latents), ("audio", self.audio)):
            lost = agreement.lost
            _require(lost <= ENERGY_TOLERANCE, f"{what}: {lost:.1e} of the energy differs from torch's")
        _require(self.codes_equal >= LEAST_EQUAL_CODES, f"only {self.codes_equal:.2%} of codes are torch's")

    @property
    def codes_equal(self) -> float:
        """Fraction of codes that both sides choose."""
        return float(np.mean(self._equal))

    @torch.no_grad()
    def _encoded(self, clips: Audio) -> tuple[Audio, Audio]:
        """Latents of torch and of onnxruntime, [B, T, D]."""
        m = self._manifest
        theirs = self._whole("encoder", clips, m.state.encoder, m.call_frames * m.frame_size, m.lookahead.encoder)
        return self._model.encode_latents(torch.from_numpy(clips)).numpy(), theirs

    def _codes(self, latents: Audio, n_stages: int, paths: int, where: str) -> Codes:
        """Codes [B, lines, T] of onnxruntime, which must not depend on the rest of the batch."""
        run, counts = self._graphs["quantizer_encode"], [np.array(n_stages)]
        if self._manifest.max_paths:
            counts.append(np.array(paths))
        codes: Codes = run(latents, *counts)[0]
        alone = [run(latents[i : i + 1], *counts)[0] for i in range(len(latents))]
        _require(np.array_equal(np.concatenate(alone), codes), f"codes depend on the rest of the batch ({where})")
        return codes

    def _torch_codes(self, latents: Audio, n_stages: int, paths: int) -> Codes:
        x = torch.from_numpy(latents)
        if not paths:
            return np.asarray(self._model.quantizer.encode(x, n_stages))
        assert isinstance(self._model, CodecModel)
        tables = self._model.quantizer.tables()
        return np.asarray(search(tables, x, tables.kept((paths,) * n_stages)))

    def _excess(self, latents: Audio, codes: Codes, paths: int) -> float:
        """How much more squared error codes leave than those that torch chooses for the same latents, as a fraction."""

        def error(chosen: Codes) -> float:
            decoded = self._model.quantizer.decode(torch.from_numpy(np.ascontiguousarray(chosen))).numpy()
            return _energy(decoded - latents)

        best = error(self._torch_codes(latents, self._manifest.layout.stages(codes.shape[1]), paths))
        return max(0.0, error(codes) - best) / max(best, 1e-12)

    @torch.no_grad()
    def _decoded(self, codes: Codes) -> tuple[Audio, Audio]:
        """Audio of torch and of onnxruntime, [B, C, samples]."""
        m = self._manifest
        quantized = self._model.quantizer.decode(torch.from_numpy(np.ascontiguousarray(codes)))
        latents = self._graphs["quantizer_decode"](codes)[0]
        theirs = self._whole("decoder", latents, m.state.decoder, m.call_frames, m.lookahead.decoder)
        return self._model.decode_latents(quantized).numpy(), theirs

    def _whole(self, graph: str, x: Audio, state_size: int, call: int, lookahead: int) -> Audio:
        """What a graph makes of whole clips, in calls of `call` columns where that is not 0."""
        run, axis = self._graphs[graph], 2 if graph == "encoder" else 1
        last = [np.array(1)] if lookahead else []
        state, results = np.zeros((len(x), state_size), np.float32), []
        for part in np.split(x, range(call, x.shape[axis], call), axis) if call else [x]:
            y, state = run(part, state, *last)
            results.append(y)
        return np.concatenate(results, axis=3 - axis)


class _Agreement:
    """How far arrays of torch and of onnxruntime agree, of all that were compared."""

    def __init__(self) -> None:
        self.largest = self._lost = self._energy = 0.0

    def add(self, ours: Audio, theirs: Audio) -> float:
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


def _runner(graph: bytes) -> Run:
    """`run(*inputs) -> outputs` of a graph, apart from the runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def _clips(audio: Audio, batch: int, channels: int, samples: int, rng: np.random.Generator) -> Audio:
    """[batch, channels, samples]: crops of the clip, the last one noise at full scale."""
    looped = np.resize(audio, max(len(audio), 2 * samples))
    starts = rng.integers(0, len(looped) - samples + 1, batch)
    clips = np.stack([channels_of(looped[s : s + samples], channels) for s in starts])
    clips[-1] = rng.uniform(-1, 1, (channels, samples))
    return clips.astype(np.float32)


def _streamed_error(codec: Codec, audio: Audio, rng: np.random.Generator) -> float:
    """Largest difference of streamed and whole decoding, audio cut at random samples; their codes must be equal."""
    stages, both = codec.max_stages, channels_of(audio, codec.channels)
    cuts = np.sort(rng.integers(0, len(audio) + 1, rng.integers(1, 40)))
    size = int(rng.integers(1, 5))
    encoder = codec.encoder_stream(stages=stages, channels=codec.channels, frames_per_packet=size)
    decoder = codec.decoder_stream(channels=codec.channels)
    packets = [packet for block in np.split(both, cuts, axis=1) for packet in encoder.push(block)] + encoder.flush()
    streamed = np.concatenate([packet.codes for packet in packets], axis=2)
    whole = codec.encode(both, stages=stages)
    _require(np.array_equal(streamed, whole), "streamed codes differ from the whole clip's")
    decoded = np.concatenate([*(decoder.push(packet) for packet in packets), decoder.flush()], axis=-1)
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
