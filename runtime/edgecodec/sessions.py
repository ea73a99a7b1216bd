"""onnxruntime sessions of a bundle's graphs: device, options, and the check that graphs and manifest agree.

Where they run, and what of it is there, `providers` says. onnxruntime is imported when the first session is made, so
that `import edgecodec` stays light.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle
from .errors import BitstreamError, BundleError, DeviceError, EdgecodecError, one_line
from .manifest import GRAPHS, Manifest
from .providers import PROVIDERS, Device, choose, nodes_taken, onnxruntime_here

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["Device", "Sessions", "graph_failed"]

_Floats = NDArray[np.float32]
_Value = tuple[str, tuple[int | None, ...]]  # type and shape of an input or output, None for any length

_OUTPUTS = {
    "encoder": ["latents", "next_state"],
    "quantizer_encode": ["codes"],
    "quantizer_decode": ["latents"],
    "decoder": ["audio", "next_state"],
}
# Frames times streams, and samples of each, in one call: bounds memory, and is long enough to be fast.
_BLOCK_FRAMES, _BLOCK_SAMPLES = 64, 1 << 16
_BLOCKS = 3  # of these, in one call of the encoder or decoder for whole clips: a tenth faster
_SEARCH_PATHS = 512  # frames times paths in one call of the search: all scores of them stay in the caches
_USUAL_PATHS = 2  # of the search that a bundle was made for

_NO_START = "{} was asked for, but onnxruntime could not start it"


class Sessions:
    """The four graphs of a bundle, ready to run on one device. Immutable; any number of threads may run it.

    Raises:
        BundleError: a graph that onnxruntime refuses, or that contradicts the manifest.
        DeviceError: a device that is not there.
    """

    def __init__(self, bundle: Bundle, device: Device, threads: int) -> None:
        if threads < 1:
            raise DeviceError(f"threads must be 1 or more, not {threads}")
        self.manifest, self.threads = bundle.manifest, threads
        self.device: Device = choose(device)
        try:
            self._start(bundle, threads)
        except EdgecodecError:  # onnxruntime lists CUDA wherever it was built with it
            if device != "auto" or self.device == "cpu":
                raise
            self.device = "cpu"
            self._start(bundle, threads)

    def encode(
        self, audio: _Floats, state: _Floats, n_stages: int, *, paths: int = 0, last: bool = False
    ) -> tuple[NDArray[np.int64], _Floats]:
        """Audio [B, C, frame_size * T] after what `state` [B, Se] remembers, to codes [B, lines, T] and the next state.

        Where the encoder looks ahead, the first call holds that many frames of codes back, and the `last` one gives
        them. Long audio passes in blocks, so that memory stays bounded; how it is cut does not change a code.
        `paths` are those of the search, see `quantize`.
        """
        size, codes = self.manifest.frame_size, []
        for first, end, is_last in self._blocks("encoder", len(audio), audio.shape[2] // size, last):
            latents, state = self.analyze(audio[:, :, first * size : end * size], state, last=is_last)
            codes.append(self.quantize(latents, n_stages, paths))
        return codes[0] if len(codes) == 1 else np.concatenate(codes, axis=2), state

    def decode(self, codes: NDArray[np.int64], state: _Floats, *, last: bool = False) -> tuple[_Floats, _Floats]:
        """Codes [B, lines, T], already checked, to audio [B, C, frame_size * T] and the next state, as `encode`."""
        audio = []
        for first, end, is_last in self._blocks("decoder", len(codes), codes.shape[2], last):
            block, state = self.synthesize(self.latents(codes[:, :, first:end]), state, last=is_last)
            audio.append(block)
        return audio[0] if len(audio) == 1 else np.concatenate(audio, axis=2), state

    def analyze(self, audio: _Floats, state: _Floats, *, last: bool = False) -> tuple[_Floats, _Floats]:
        """Audio [B, C, frame_size * T] to latents [B, T, D] and the next state, as `encode`."""
        size, latents = self.manifest.frame_size, []
        for first, end, is_last in self._blocks("encoder", len(audio), audio.shape[2] // size, last):
            block, state = self._step("encoder", "audio", audio[:, :, first * size : end * size], state, is_last)
            latents.append(block)
        if not latents:
            return np.zeros((len(audio), 0, self.manifest.latent_dim), np.float32), state
        return latents[0] if len(latents) == 1 else np.concatenate(latents, axis=1), state

    def quantize(self, latents: _Floats, n_stages: int, paths: int = 0) -> NDArray[np.int64]:
        """Codes [B, lines, T] of latents [B, T, D].

        The search follows `paths` after every stage, 1..max_paths; 0: those that the bundle was made for.
        """
        counts = self.search_inputs(n_stages, paths)
        rows = latents.shape[0] * latents.shape[1] * (paths or _USUAL_PATHS)
        parts = np.array_split(
            latents, max(1, -(-rows // _SEARCH_PATHS)), axis=1
        )  # even: short calls cost more a frame
        codes = [self._run("quantizer_encode", latents=part, **counts)[0] for part in parts]
        return codes[0] if len(codes) == 1 else np.concatenate(codes, axis=2)

    def search_inputs(self, n_stages: int, paths: int) -> dict[str, NDArray[np.int64]]:
        """What the search for codes takes besides latents."""
        counts = {"n_stages": np.array(n_stages, np.int64)}
        if self.manifest.max_paths:
            counts["paths"] = np.array(paths, np.int64)
        return counts

    def latents(self, codes: NDArray[np.int64]) -> _Floats:
        """Latents [B, T, D] of codes [B, lines, T], already checked; frames of as many stages go together."""
        if not (codes[:, -1] < 0).any():
            latents: _Floats = self._run("quantizer_decode", codes=codes)[0]
            return latents
        layout = self.manifest.layout
        counts = layout.counts(codes)
        latents = np.empty((*counts.shape, self.manifest.latent_dim), np.float32)
        for stages in np.unique(counts).tolist():
            lines = codes.swapaxes(1, 2)[counts == stages][:, : layout.lines(stages)]  # [N, lines]
            latents[counts == stages] = self._run("quantizer_decode", codes=np.ascontiguousarray(lines.T[None]))[0][0]
        return latents

    def synthesize(self, latents: _Floats, state: _Floats, *, last: bool = False) -> tuple[_Floats, _Floats]:
        """Latents [B, T, D] to audio [B, C, frame_size * T] and the next state, as `encode`."""
        audio = []
        for first, end, is_last in self._blocks("decoder", len(latents), latents.shape[1], last):
            block, state = self._step("decoder", "latents", latents[:, first:end], state, is_last)
            audio.append(block)
        if not audio:
            return np.zeros((len(latents), self.manifest.channels, 0), np.float32), state
        return audio[0] if len(audio) == 1 else np.concatenate(audio, axis=2), state

    def zero_state(self, graph: Literal["encoder", "decoder"], batch: int) -> _Floats:
        """The state before the first frame."""
        return np.zeros((batch, getattr(self.manifest.state, graph)), np.float32)

    def block_frames(self, batch: int) -> int:
        """Frames of each of `batch` streams that one call takes at most: also enough for a first call."""
        m = self.manifest
        fitting = min(_BLOCK_FRAMES, _BLOCK_SAMPLES // m.frame_size) // batch
        return m.call_frames or max(m.start_frames.encoder, m.start_frames.decoder, fitting)

    def longest_call(self, batch: int) -> int:
        """Frames of each of `batch` streams that one call for whole clips takes at most."""
        return self.manifest.call_frames or _BLOCKS * self.block_frames(batch)

    def looks_ahead(self, graph: Literal["encoder", "decoder"]) -> bool:
        """Whether a graph holds something back, and is told which call is the last of a stream."""
        return bool(getattr(self.manifest.lookahead, graph))

    @property
    def one_stream(self) -> bool:
        """Whether a call takes one stream only, as graphs of fixed shapes may: several then take a call each."""
        return bool(self._one_stream)

    def session(self, graph: str) -> onnxruntime.InferenceSession:
        """The session of a graph, for calls that are bound to memory."""
        return self._sessions[graph]

    def _blocks(
        self, graph: Literal["encoder", "decoder"], batch: int, frames: int, last: bool
    ) -> Iterator[tuple[int, int, bool]]:
        """The calls for so many frames: the first of each, the one after it, and whether a stream ends with the call.

        The end of a stream may bring no more frames, and yet what was held back.
        """
        size = self.longest_call(batch)
        calls = max(-(-frames // size), 1 if last and self.looks_ahead(graph) else 0)
        for i in range(calls):
            yield i * size, min((i + 1) * size, frames), last and i + 1 == calls

    def _step(
        self, graph: Literal["encoder", "decoder"], source: str, x: _Floats, state: _Floats, last: bool
    ) -> tuple[_Floats, _Floats]:
        """One call of a graph with a state. Where it takes several frames and no fewer, zeros follow a clip's end."""
        m = self.manifest
        axis, size = (2, m.frame_size) if source == "audio" else (1, 1)
        frames = x.shape[axis] // size
        missing = m.call_frames - frames if m.call_frames > 1 else 0
        if missing and not last:
            raise BundleError(
                f"{graph}: takes {m.call_frames} frames a call, not {frames}: whole clips, and no streams"
            )
        if missing:
            x = np.pad(x, [(0, missing * size if i == axis else 0) for i in range(3)])
        inputs: dict[str, NDArray[Any]] = {source: x, "state": state}
        if self.looks_ahead(graph):
            inputs["last"] = np.array(last, np.int64)
        y, state = self._run(graph, **inputs)
        if missing:
            y = y[:, :frames] if graph == "encoder" else y[:, :, : frames * m.frame_size]
        return y, state

    def _run(self, graph: str, **inputs: NDArray[Any]) -> list[Any]:
        streams = len(next(iter(inputs.values()))) if graph in self._one_stream else 1
        if streams > 1:
            calls = [{name: x[i : i + 1] if x.ndim else x for name, x in inputs.items()} for i in range(streams)]
            each = [self._run(graph, **call) for call in calls]
            return [np.concatenate(outputs) for outputs in zip(*each, strict=True)]
        try:
            outputs: list[Any] = self._sessions[graph].run(_OUTPUTS[graph], inputs, None)
        except Exception as error:  # onnxruntime's errors share no base of their own
            raise graph_failed(graph, error) from None
        return outputs

    def _start(self, bundle: Bundle, threads: int) -> None:
        """Make the sessions on the device that was chosen, and try them."""
        self._sessions = {name: self._session(bundle, name, threads, self.device) for name in GRAPHS}
        provider = PROVIDERS[self.device]
        taken = [nodes_taken(self._sessions[name], provider.name) for name in provider.graphs]
        if self.device != "cpu" and not any(count is None or count for count in taken):
            raise DeviceError(
                f"{provider.name} takes no part of these graphs: all would run on the CPU, so ask for that"
            )
        self._one_stream = {
            name
            for name, session in self._sessions.items()
            if any(node.shape[:1] == [1] for node in session.get_inputs())
        }
        # What the codec makes of silence: latents [1, 1, D] of the last of several silent frames, at all stages.
        self.silence = self._checked_run(bundle)[:, -1:]

    def _session(self, bundle: Bundle, name: str, threads: int, device: Device) -> Any:
        ort, provider = onnxruntime_here(), PROVIDERS[device]
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.enable_mem_pattern = provider.plans_memory
        options.log_severity_level = 4  # what goes wrong is raised, or checked below
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        chain = provider.chain(name, threads)
        if len(chain) > 1:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        where = bundle.path / getattr(bundle.manifest.graphs, name).file
        try:
            # Its own fallback to the CPU prints to standard output.
            session = ort.InferenceSession(bundle.graphs[name], options, providers=chain, enable_fallback=0)
        except Exception as error:  # onnxruntime's errors share no base of their own
            if device != "cpu":
                self._session(bundle, name, threads, "cpu")  # refuses the graph, if that is what is wrong
                raise DeviceError(f"{_NO_START.format(provider.name)}: {one_line(error)}") from None
            raise BundleError(f"{where}: onnxruntime refuses the graph: {one_line(error)}") from None
        if len(chain) > 1 and session.get_providers()[0] != provider.name:
            raise DeviceError(f"{_NO_START.format(provider.name)}; check the libraries that it needs")
        _check_signature(session, name, bundle.manifest, str(where))
        return session

    def _checked_run(self, bundle: Bundle) -> _Floats:
        """The least stream through the whole chain: shapes that no declaration shows, and codes in range.

        Returns the decoded latents [1, T, D] of silence.
        """
        m, ahead = self.manifest, self.manifest.lookahead
        stages = m.quantizer.max_stages
        frames = max(2, m.start_frames.encoder, m.start_frames.decoder, m.call_frames)
        audio = np.zeros((1, m.channels, frames * m.frame_size), np.float32)
        try:
            first, state = self.analyze(audio, self.zero_state("encoder", 1))
            rest, encoder_state = self.analyze(audio[:, :, :0], state, last=True)
            latents = np.concatenate([first, rest], axis=1)
            codes = self.quantize(latents, stages)
            widest = self.quantize(latents, stages, m.max_paths) if m.max_paths else codes
            quantized = self.latents(codes)
            decoded, state = self.synthesize(quantized, self.zero_state("decoder", 1))
            tail, decoder_state = self.synthesize(quantized[:, :0], state, last=True)
        except Exception as error:
            raise BundleError(f"{bundle.path}: the graphs contradict the manifest: {one_line(error)}") from None
        samples = audio.shape[2] - ahead.decoder
        expected: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {
            "latents": (first, (1, frames - ahead.encoder, m.latent_dim)),
            "last latents": (rest, (1, ahead.encoder, m.latent_dim)),
            "decoded latents": (quantized, latents.shape),
            "encoder state": (encoder_state, (1, m.state.encoder)),
            "codes": (codes, (1, m.layout.lines(stages), frames)),
            "codes of most paths": (widest, (1, m.layout.lines(stages), frames)),
            "decoded audio": (decoded, (1, m.channels, samples)),
            "last audio": (tail, (1, m.channels, ahead.decoder)),
            "decoder state": (decoder_state, (1, m.state.decoder)),
        }
        for what, (array, shape) in expected.items():
            if array.shape != shape:
                raise BundleError(
                    f"{bundle.path}: the graphs contradict the manifest: {what} {array.shape}, expected {shape}"
                )
        try:
            m.check_codes(np.concatenate([codes, widest]))
        except BitstreamError as error:
            raise BundleError(f"{bundle.path}: the graphs contradict the manifest: {error}") from None
        return quantized


def _check_signature(session: onnxruntime.InferenceSession, name: str, m: Manifest, where: str) -> None:
    """Refuse a graph whose declared inputs and outputs contradict the manifest; a dimension may stay symbolic."""
    audio: _Value = ("tensor(float)", (None, m.channels, None))
    latents: _Value = ("tensor(float)", (None, None, m.latent_dim))
    codes: _Value = ("tensor(int64)", (None, None, None))
    count: _Value = ("tensor(int64)", ())
    memory: dict[str, _Value] = {g: ("tensor(float)", (None, getattr(m.state, g))) for g in ("encoder", "decoder")}
    paths = {"paths": count} if m.max_paths else {}
    last = {g: {"last": count} if getattr(m.lookahead, g) else {} for g in ("encoder", "decoder")}
    signatures: dict[str, tuple[dict[str, _Value], dict[str, _Value]]] = {
        "encoder": (
            {"audio": audio, "state": memory["encoder"], **last["encoder"]},
            {"latents": latents, "next_state": memory["encoder"]},
        ),
        "quantizer_encode": ({"latents": latents, "n_stages": count, **paths}, {"codes": codes}),
        "quantizer_decode": ({"codes": codes}, {"latents": latents}),
        "decoder": (
            {"latents": latents, "state": memory["decoder"], **last["decoder"]},
            {"audio": audio, "next_state": memory["decoder"]},
        ),
    }
    inputs, outputs = signatures[name]
    for what, nodes, expected in (("input", session.get_inputs(), inputs), ("output", session.get_outputs(), outputs)):
        if [node.name for node in nodes] != list(expected):
            found = ", ".join(node.name for node in nodes)
            raise BundleError(f"{where}: has {what}s {found[:200]}, expected {', '.join(expected)}")
        for node in nodes:
            kind, shape = expected[node.name]
            fits = len(node.shape) == len(shape) and all(
                want is None or not isinstance(have, int) or have == want
                for have, want in zip(node.shape, shape, strict=True)
            )
            if node.type != kind or not fits:
                raise BundleError(
                    f"{where}: {what} {node.name} is {node.type} {node.shape}, the manifest says {kind} {list(shape)}"
                )


def graph_failed(graph: str, error: Exception) -> BundleError:
    """What to raise where onnxruntime cannot run a graph."""
    return BundleError(f"{graph}.onnx: onnxruntime cannot run the graph: {one_line(error)}")
