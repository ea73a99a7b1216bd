"""Adapted codecs at their real sizes beside the originals in torch, in one run: `make adapters`.

Weights are random, sizes those of the published configurations. Ours are the graphs in onnxruntime, in the middle of a
stream; theirs are the modules of transformers and snac. Both have one thread, flush denormal numbers to zero, and take
turns, so that what else the machine does meets both. Times are medians of the process's CPU time. Before that, latents
of a clip are compared, in standard deviations over its frames: a broken graph must not look fast.

A lost frame is concealed as the runtime does, and heard until what is decoded is within 40 dB of what it would have
been: how long a network remembers, which its weights decide too.

Blocks are 64 frames: one call of ours, as the runtime makes of long audio, or calls of `--call` frames; 64 calls where
every call is one frame (Mimi). Theirs are always whole clips, also where they are one frame, but for Mimi, which
transformers can stream.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soundfile
import soxr
import torch
from edgecodec.concealment import FADE_SECONDS, fade
from edgecodec_export.adapters import dac, encodec, mimi, snac
from edgecodec_export.adapters.adapted import AdaptedCodec
from edgecodec_export.adapters.encodec_config import STEREO_48_KHZ
from edgecodec_export.adapters.graphs import adapted_graphs
from edgecodec_export.adapters.int8_layers import use_int8
from edgecodec_export.adapters.weights import Weights
from numpy.typing import NDArray
from torch import Tensor

AUDIO = Path(__file__).parents[1] / "audio"
STAGES, BLOCK = 8, 64
Array = NDArray[np.float32]
Call = Callable[[], Any]


class Original:
    """A codec of another package in torch; latents are `[1, T, D]` as ours."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        for name, tensor in model.state_dict().items():
            if "codebook" in name and "embed" in name:  # zero where they are new
                tensor.normal_()

    def encode(self, audio: Tensor) -> Tensor:
        """Audio `[1, channels, N]` of whole frames to latents."""
        latents: Tensor = self.model.encoder(audio).transpose(1, 2)
        return latents

    def search(self, latents: Tensor, stages: int) -> Any:
        """Codes."""
        return self.model.quantizer(latents.transpose(1, 2), stages)

    def decode(self, latents: Tensor) -> Tensor:
        """Audio."""
        audio: Tensor = self.model.decoder(latents.transpose(1, 2))
        return audio

    def encode_frame(self, audio: Tensor) -> Call:
        """Encoding of one frame, as close to a stream as the package can."""
        return lambda: self.encode(audio)

    def decode_frame(self, latents: Tensor) -> Call:
        """Decoding of one frame."""
        return lambda: self.decode(latents)


class Encodec(Original):
    """transformers' EnCodec."""

    def search(self, latents: Tensor, stages: int) -> Any:
        c = self.model.config
        return self.model.quantizer.encode(latents.transpose(1, 2), stages * c.frame_rate * c.codebook_nbits / 1000)


class Lively(Encodec):
    """EnCodec of weights that sound gets through: of others, latents hardly vary, and 8 bits say little of that."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        for name, tensor in model.state_dict().items():
            if ".bias" in name:
                tensor.zero_()
            elif "original0" in name or "lstm.weight" in name:
                tensor *= 2


class Stereo(Encodec):
    """transformers' EnCodec of 48 kHz: chunks of a second, a frame and the overlap with the next, each by itself."""

    def encode(self, audio: Tensor) -> Tensor:
        """See `Original.encode`; the scale of a chunk is the last number of its latents."""
        c = self.model.config
        padded = torch.nn.functional.pad(audio, (0, c.chunk_length - c.chunk_stride))
        chunks = padded[0].unfold(1, c.chunk_length, c.chunk_stride).transpose(0, 1)  # [T, 2, samples]
        scale = chunks.mean(dim=1, keepdim=True).square().mean(dim=2, keepdim=True).sqrt() + 1e-8
        columns = self.model.encoder(chunks / scale).transpose(1, 2)
        return torch.cat([columns.flatten(1), scale.flatten(1)], dim=1)[None]

    def search(self, latents: Tensor, stages: int) -> Any:
        """See `Original.search`."""
        return super().search(self._columns(latents).transpose(1, 2), stages)

    def decode(self, latents: Tensor) -> Tensor:
        """See `Original.decode`."""
        chunks = self.model.decoder(self._columns(latents)) * latents[0, :, -1:, None]
        audio: Tensor = self.model._linear_overlap_add(list(chunks[:, None]), self.model.config.chunk_stride or 1)
        return audio

    def _columns(self, latents: Tensor) -> Tensor:
        return latents[0, :, :-1].reshape(latents.shape[1], -1, self.model.config.hidden_size).transpose(1, 2)


class Mimi(Original):
    """transformers' Mimi, which streams: the encoder all of it, the decoder its transformer only."""

    filled = 130  # frames before the one that is timed: the window holds 125

    def encode(self, audio: Tensor) -> Tensor:
        latents: Tensor = self.model.encoder(audio).latents.transpose(1, 2)
        return latents

    def search(self, latents: Tensor, stages: int) -> Any:
        return self.model.quantizer.encode(latents.transpose(1, 2), stages)

    def decode(self, latents: Tensor) -> Tensor:
        audio: Tensor = self.model.decoder(latents.transpose(1, 2)).audio_values
        return audio

    def encode_frame(self, audio: Tensor) -> Call:
        before = self.model.encoder(audio.repeat(1, 1, self.filled), use_streaming=True)
        kept = {"cache": before.cache, "padding_cache": before.padding_cache, "use_streaming": True}
        return lambda: self.model.encoder(audio, **kept)

    def decode_frame(self, latents: Tensor) -> Call:
        columns = latents.transpose(1, 2)
        cache = self.model.decoder(columns.repeat(1, 1, self.filled), use_cache=True).decoder_cache
        return lambda: self.model.decoder(columns, cache=cache, use_cache=True)


@dataclass(frozen=True)
class Entry:
    """A model to measure."""

    name: str
    original: Callable[[], Original]
    adapted: Callable[[Any], AdaptedCodec]
    settled: int = 0  # frames at a clip's start that are not the original's
    apart: float = 0.01  # how far latents may be, in standard deviations; random ones of EnCodec hardly vary
    block: int = BLOCK  # frames, at most


def _transformers(name: str, wrap: Callable[[Any], Original] = Original, **sizes: Any) -> Callable[[], Original]:
    """A model of transformers, of its default configuration but for these sizes."""

    def make() -> Original:
        import transformers

        return wrap(getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**sizes)))

    return make


_ENCODEC_32: dict[str, Any] = {
    "sampling_rate": 32_000,
    "num_filters": 64,
    "upsampling_ratios": [8, 5, 4, 4],
    "codebook_size": 2048,
    "use_causal_conv": False,
    "pad_mode": "constant",
    "target_bandwidths": [2.2],
}
_DAC_44: dict[str, Any] = {"sampling_rate": 44_100, "downsampling_ratios": [2, 4, 8, 8], "n_codebooks": 9}
_DAC_24: dict[str, Any] = {"sampling_rate": 24_000, "downsampling_ratios": [2, 4, 5, 8], "n_codebooks": 32}
_SNAC_24 = {
    "sampling_rate": 24_000,
    "encoder_dim": 48,
    "encoder_rates": [2, 4, 8, 8],
    "decoder_dim": 1024,
    "decoder_rates": [8, 8, 4, 2],
    "attn_window_size": None,
    "vq_strides": [4, 2, 1],
}
_SNAC_32 = {
    "sampling_rate": 32_000,
    "encoder_dim": 64,
    "encoder_rates": [2, 3, 8, 8],
    "decoder_dim": 1536,
    "decoder_rates": [8, 8, 3, 2],
    "attn_window_size": 32,
    "vq_strides": [8, 4, 2, 1],
}


class Snac(Original):
    """The snac package's model; its decoder adds noise, ours does not. A frame holds several columns of latents."""

    def encode(self, audio: Tensor) -> Tensor:
        columns = super().encode(audio)
        of_frame = math.lcm(self.model.vq_strides[0], self.model.attn_window_size or 1)
        return columns.reshape(1, -1, columns.shape[2] * of_frame)

    def search(self, latents: Tensor, stages: int) -> Any:
        return self.model.quantizer(self._columns(latents))

    def decode(self, latents: Tensor) -> Tensor:
        audio: Tensor = self.model.decoder(self._columns(latents))
        return audio

    def _columns(self, latents: Tensor) -> Tensor:
        return latents.reshape(1, -1, self.model.latent_dim).transpose(1, 2)


def _snac(config: dict[str, Any]) -> tuple[Callable[[], Original], Callable[[Any], AdaptedCodec]]:
    """The original of a configuration, and how it is adapted."""

    def make() -> Original:
        from snac import SNAC  # type: ignore[import-untyped,unused-ignore]

        return Snac(SNAC(**config))

    return make, lambda model: snac.from_original(config, Weights(model.state_dict(), "snac"))


def _from(module: Any) -> Callable[[Any], AdaptedCodec]:
    return lambda model: module.from_transformers(model.config.to_dict(), Weights(model.state_dict(), "transformers"))


def _int8_from(module: Any) -> Callable[[Any], AdaptedCodec]:
    def adapted(model: Any) -> AdaptedCodec:
        codec = _from(module)(model)
        rate, frame = codec.contract.sample_rate, codec.contract.frame_size
        use_int8(codec, [speech(path, rate, 40 * frame)[0] for path in sorted(AUDIO.glob("*.flac"))])
        return codec

    return adapted


ENTRIES = (  # another model is a line here, and where its package has other calls, a subclass of Original
    Entry("EnCodec 24 kHz", _transformers("Encodec", Encodec), _from(encodec), settled=30, apart=0.1),
    Entry("EnCodec 24 kHz int8", _transformers("Encodec", Lively), _int8_from(encodec), settled=30, apart=0.2),
    Entry("EnCodec 32 kHz", _transformers("Encodec", Encodec, **_ENCODEC_32), _from(encodec), apart=0.1),
    Entry("EnCodec 48 kHz", _transformers("Encodec", Stereo, **STEREO_48_KHZ), _from(encodec), apart=0.1, block=4),
    Entry("DAC 44.1 kHz", _transformers("Dac", **_DAC_44), _from(dac)),
    Entry("DAC 24 kHz", _transformers("Dac", **_DAC_24), _from(dac)),
    Entry("Mimi", _transformers("Mimi", Mimi), _from(mimi)),
    Entry("Mimi int8", _transformers("Mimi", Mimi), _int8_from(mimi), apart=0.1),
    Entry("SNAC 24 kHz", *_snac(_SNAC_24)),
    Entry("SNAC 32 kHz", *_snac(_SNAC_32), block=8),
)


class Graphs:
    """The graphs of a codec in onnxruntime, one thread, with the options of the runtime."""

    def __init__(self, codec: AdaptedCodec, call: int) -> None:
        self.contract, self.codec = codec.contract, codec
        self.call = codec.contract.call_frames or call
        self.sessions = {name: _session(graph.SerializeToString()) for name, graph in adapted_graphs(codec).items()}

    def search(self, latents: Array, stages: int) -> Any:
        """Codes of latents `[1, T, D]`."""
        return self._run("quantizer_encode", latents, np.array(stages))[0]

    def stream(self, part: str, x: Array, state: Array | None = None, last: int = 0) -> tuple[Array, Array]:
        """x in calls of so many frames as were asked for, or that the contract fixes; with the next state."""
        if state is None:
            state = np.zeros((1, getattr(self.codec, part).state_size), np.float32)
        looks = bool(getattr(self.contract, f"{part}_lookahead"))
        axis, size = (2, self.call * self.contract.frame_size) if part == "encoder" else (1, self.call)
        first = size // self.call * max(self.call, getattr(self.contract, f"{part}_start"))
        pieces = np.split(x, range(first, x.shape[axis], size), axis=axis)
        out = []
        for i, piece in enumerate(pieces):
            ends = (np.array(last if i + 1 == len(pieces) else 0),) if looks else ()
            y, state = self._run(part, piece, state, *ends)
            out.append(y)
        return np.concatenate(out, axis=3 - axis), state

    def _run(self, name: str, *inputs: NDArray[Any]) -> Any:
        session = self.sessions[name]
        return session.run(None, {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)})


@dataclass(frozen=True)
class Row:
    """Medians of one kind of call, in seconds of CPU time, and the seconds of sound that it takes or gives."""

    model: str
    what: str
    frames: int
    audio: float
    ours: float
    theirs: float


@dataclass(frozen=True)
class Check:
    """How far latents are from the original's, in standard deviations; how long a lost frame is heard, in ms."""

    apart: float
    lost_frame: float
    heard: float


def measure(
    entry: Entry, *, block: int, call: int, repeats: int, say: Callable[[str], None]
) -> tuple[list[Row], Check]:
    """All rows of a model, and what is checked beside them."""
    say(f"{entry.name}: making both")
    torch.manual_seed(0)
    theirs = entry.original()
    ours = Graphs(entry.adapted(theirs.model), call)
    c = ours.contract
    audio = speech(AUDIO / "speech_es.flac", c.sample_rate, block * c.frame_size, c.channels)
    sound = torch.from_numpy(audio)
    say(f"{entry.name}: comparing latents of {block} frames")
    expected = theirs.encode(sound).numpy()
    found = ours.stream("encoder", audio, last=1)[0]
    assert found.shape == expected.shape, (found.shape, expected.shape)
    settled = slice(min(entry.settled, block // 2), None)
    spread = float(expected[:, settled].std(axis=1).mean())
    apart = float(np.abs(found - expected)[:, settled].max()) / spread
    stages, seconds = min(STAGES, c.max_stages), c.frame_size / c.sample_rate
    begun_encoder = ours.stream("encoder", audio[..., : c.encoder_start * c.frame_size])[1]
    begun_decoder = ours.stream("decoder", expected[:, : c.decoder_start])[1]
    size, latents = c.frame_size, expected[:, :1]
    frame = audio[..., :size]
    columns, all_columns = torch.from_numpy(latents), torch.from_numpy(expected)
    calls: list[tuple[str, int, Call, Call]] = [
        ("encode", 1, lambda: ours.stream("encoder", frame, begun_encoder), theirs.encode_frame(sound[..., :size])),
        ("search", 1, lambda: ours.search(latents, stages), lambda: theirs.search(columns, stages)),
        ("decode", 1, lambda: ours.stream("decoder", latents, begun_decoder), theirs.decode_frame(columns)),
        ("encode", block, lambda: ours.stream("encoder", audio, begun_encoder), lambda: theirs.encode(sound)),
        ("decode", block, lambda: ours.stream("decoder", expected, begun_decoder), lambda: theirs.decode(all_columns)),
    ]
    rows = []
    for what, frames, a, b in calls:
        say(f"{entry.name}: {what}, {frames} {'frames' if frames > 1 else 'frame'}")
        times = medians(a, b, repeats if frames > 1 else 5 * repeats)
        rows.append(Row(entry.name, what, frames, frames * seconds, *times))
    noise = np.random.default_rng(0).standard_normal(expected.shape, np.float32)  # random latents hardly vary
    return rows, Check(apart, 1000 * seconds, 1000 * _heard(ours, noise, block // 3))


def _heard(graphs: Graphs, latents: Array, lost: int) -> float:
    """Seconds from the begin of a lost frame until what is decoded is as if it had come, to -40 dB."""
    c = graphs.contract
    zeros = np.zeros((1, c.channels, 2 * c.frame_size), np.float32)
    silence = graphs.stream("encoder", zeros, last=1)[0][:, -1:]
    before, after = latents[:, lost - 1 : lost], latents[:, lost + 1 : lost + 2]
    concealed = latents.copy()
    concealed[:, lost : lost + 1] = fade(before, silence, 0, 1, FADE_SECONDS * c.sample_rate / c.frame_size, after)
    whole, bridged = (graphs.stream("decoder", x, last=1)[0] for x in (latents, concealed))
    middle = whole[..., c.frame_size * (lost // 2) : c.frame_size * lost]
    audible = np.abs(whole - bridged).max(axis=(0, 1)) > 0.01 * middle.std()
    end = int(np.flatnonzero(audible)[-1]) + 1 if audible.any() else lost * c.frame_size
    return float(end - lost * c.frame_size) / c.sample_rate


def medians(a: Call, b: Call, repeats: int) -> tuple[float, float]:
    """Median CPU seconds of two calls that take turns, after two of each that do not count."""
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(repeats + 2):
        for call, kept in zip((a, b), times, strict=True):
            begin = time.process_time()
            call()
            if i >= 2:
                kept.append(time.process_time() - begin)
    return statistics.median(times[0]), statistics.median(times[1])


def speech(path: Path, rate: int, samples: int, channels: int = 1) -> Array:
    """`[1, channels, samples]` of a clip, resampled, and repeated where it is too short."""
    audio, own = soundfile.read(path, dtype="float32")
    return np.resize(soxr.resample(audio, own, rate), (1, 1, samples)).repeat(channels, axis=1)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _session(graph: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of a table: milliseconds and times real time of both, and ours over theirs."""
    yield f"{'':19} {'':7} {'frames':>6} {'ours':>10} {'':>9} {'torch':>10} {'':>9} {'ours/torch':>10}"
    for row in rows:
        times = " ".join(
            f"{1000 * t:7.2f} ms {row.audio / t:7.2f} ×" if row.what != "search" else f"{1000 * t:7.2f} ms {'':9}"
            for t in (row.ours, row.theirs)
        )
        yield f"{row.model:19} {row.what:7} {row.frames:6} {times} {row.ours / row.theirs:10.2f}"


def main(arguments: Sequence[str] | None = None, entries: Sequence[Entry] = ENTRIES) -> int:
    """Measure the models that are asked for; 1 if the latents of one are not the original's."""
    parser = argparse.ArgumentParser(description="Adapted codecs beside the originals in torch, random weights.")
    parser.add_argument("--only", metavar="NAME", help="models with this in their names")
    parser.add_argument("--quick", action="store_true", help="few repeats of short blocks: to try it, not to quote it")
    parser.add_argument("--call", metavar="FRAMES", type=int, default=BLOCK, help="of a call of ours in blocks")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    chosen = [entry for entry in entries if options.only is None or options.only.lower() in entry.name.lower()]
    if not chosen:
        parser.error(f"--only {options.only}: none of {', '.join(entry.name for entry in entries)}")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as the sessions do
    sizes = {"block": 40, "repeats": 2} if options.quick else {"block": BLOCK, "repeats": 7}
    rows: list[Row] = []
    checks: dict[str, Check] = {}
    with torch.no_grad():
        for entry in chosen:
            block = min(sizes["block"], entry.block)
            found, checks[entry.name] = measure(
                entry, block=block, call=options.call, repeats=sizes["repeats"], say=_say
            )
            rows += found
    if options.json:
        told = {
            "rows": [asdict(row) for row in rows],
            "checks": {name: asdict(check) for name, check in checks.items()},
        }
        print(json.dumps(told, indent=2))
    else:
        print(*table(rows), sep="\n")
        for name, check in checks.items():
            print(
                f"{name}: latents at most {check.apart:.1e} standard deviations apart; "
                f"a lost frame of {check.lost_frame:.0f} ms is heard for {check.heard:.0f} ms"
            )
    wrong = [entry.name for entry in chosen if not checks[entry.name].apart <= entry.apart]
    for name in wrong:
        print(f"{name}: these are not the original's latents, so its speed says nothing", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
