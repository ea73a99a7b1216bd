"""The two directions of a stream, each with its state and bound to memory that stays (IO binding).

A packet of the size that the stream is used to passes from graph to graph in arrays that were bound once. That costs
less than handing arrays over in every call, most of all at the pace of live audio, where each frame finds the caches
cold. Anything else goes the way of whole clips. Codes and samples are the same.

All that concerns bound memory is here, also the two private members of onnxruntime that edgecodec uses.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .sessions import Sessions, graph_failed

_Arrays = dict[str, NDArray[Any]]


class BoundEncoder:
    """Encoder and quantizer of one stream, after the audio it has seen; for packets of `frames` above all."""

    def __init__(self, sessions: Sessions, streams: int, frames: int, paths: int = 0) -> None:
        m, frames = sessions.manifest, min(frames, sessions.block_frames(streams))
        self._sessions, self._paths = sessions, paths
        self._audio = np.zeros((streams, m.channels, frames * m.frame_size), np.float32)
        self._latents = np.zeros((streams, frames, m.latent_dim), np.float32)
        self._codes: NDArray[np.int64] = np.zeros((streams, 0, frames), np.int64)
        inputs = {"audio": self._audio, **_in_mid_stream(sessions, "encoder")}
        state = sessions.zero_state("encoder", streams)
        self._encoder = _Stateful(sessions, "encoder", inputs, {"latents": self._latents}, state)
        self._starts = sessions.looks_ahead("encoder")  # with a call that gives less than it gets
        self._one_by_one = sessions.one_stream and streams > 1
        self._stages = 0

    def encode(self, audio: NDArray[np.float32], n_stages: int, *, last: bool = False) -> NDArray[np.int64]:
        """The next audio [streams, C, frame_size * T] to codes [streams, lines, T], as `Sessions.encode`."""
        if audio.shape[2] != self._audio.shape[2] or self._starts or self._one_by_one or last:
            codes, state = self._sessions.encode(audio, self._encoder.state, n_stages, paths=self._paths, last=last)
            self._encoder.state[:] = state
            self._starts = False
            return codes
        if n_stages != self._stages:
            self._bind_quantizer(n_stages)
        self._audio[:] = audio
        self._encoder.run()
        self._quantizer.run()
        self._encoder.advance()
        own: NDArray[np.int64] = self._codes.copy()
        return own

    def _bind_quantizer(self, n_stages: int) -> None:
        streams, _, frames = self._codes.shape
        self._codes = np.zeros((streams, self._sessions.manifest.layout.lines(n_stages), frames), np.int64)
        inputs: _Arrays = {"latents": self._latents, **self._sessions.search_inputs(n_stages, self._paths)}
        self._quantizer = BoundGraph(self._sessions, "quantizer_encode", inputs, {"codes": self._codes})
        self._stages = n_stages


class BoundDecoder:
    """Codebooks and decoder of one stream, after the codes it has seen; for packets as the last one above all."""

    def __init__(self, sessions: Sessions, streams: int) -> None:
        m = sessions.manifest
        self._sessions, self._most_frames = sessions, sessions.block_frames(streams)
        self._one_by_one = sessions.one_stream and streams > 1
        self._bind((streams, 1, 1), sessions.zero_state("decoder", streams))
        self._start_frames = m.start_frames.decoder
        starts = self._start_frames > 1 or sessions.looks_ahead("decoder")
        nothing = np.zeros((streams, 0, m.latent_dim), np.float32)
        # Latents [streams, T, D] too few for a first call; None once that was made. Never written in place.
        self.held: NDArray[np.float32] | None = nothing if starts else None

    @property
    def state(self) -> NDArray[np.float32]:
        """[streams, size]: what the decoder remembers. It may be written, to go back to an earlier one."""
        return self._decoder.state

    def decode(self, codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """The next codes [streams, lines, T], already checked, to audio [streams, C, frame_size * T].

        The first frames give no audio before there are `start_frames` of them, then that of all but what a decoder
        that looks ahead holds back.
        """
        if self.held is not None or self._one_by_one or (codes[:, -1] < 0).any():
            return self.synthesize(self._sessions.latents(codes))
        if codes.shape != self._codes.shape:
            if codes.shape[2] > self._most_frames:
                audio, state = self._sessions.decode(codes, self._decoder.state)
                self._decoder.state[:] = state
                return audio
            self._bind(codes.shape, self._decoder.state)
        self._codes[:] = codes
        self._codebooks.run()
        self._decoder.run()
        self._decoder.advance()
        own: NDArray[np.float32] = self._audio.copy()
        return own

    def synthesize(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """The next latents [streams, T, D], whatever they come from, to audio as `decode`."""
        if self.held is not None:
            latents = np.concatenate([self.held, latents], axis=1)
            if latents.shape[1] < self._start_frames:
                self.held = latents
                return self._synthesized(latents[:, :0])
        audio = self._synthesized(latents)
        self.held = None
        return audio

    def flush(self) -> NDArray[np.float32]:
        """The audio that was held back, [streams, C, samples]: the stream is over."""
        held = self.held
        if held is None:
            nothing = np.zeros((len(self.state), 0, self._sessions.manifest.latent_dim), np.float32)
            return self._synthesized(nothing, last=True)
        return self._synthesized(held, last=bool(held.shape[1]))

    def _synthesized(self, latents: NDArray[np.float32], last: bool = False) -> NDArray[np.float32]:
        audio, state = self._sessions.synthesize(latents, self._decoder.state, last=last)
        self._decoder.state[:] = state
        return audio

    def _bind(self, shape: tuple[int, ...], state: NDArray[np.float32]) -> None:
        sessions, m, (streams, _, frames) = self._sessions, self._sessions.manifest, shape
        latents = np.zeros((streams, frames, m.latent_dim), np.float32)
        self._codes = np.zeros(shape, np.int64)
        self._audio = np.zeros((streams, m.channels, frames * m.frame_size), np.float32)
        inputs = {"latents": latents, **_in_mid_stream(sessions, "decoder")}
        self._codebooks = BoundGraph(sessions, "quantizer_decode", {"codes": self._codes}, {"latents": latents})
        self._decoder = _Stateful(sessions, "decoder", inputs, {"audio": self._audio}, state)


def _in_mid_stream(sessions: Sessions, graph: Literal["encoder", "decoder"]) -> _Arrays:
    """The further input of a graph that looks ahead: this call is not the last."""
    return {"last": np.array(0, np.int64)} if sessions.looks_ahead(graph) else {}


class _Stateful:
    """A graph that leaves its state for its next call: two arrays take turns as input and output."""

    def __init__(
        self,
        sessions: Sessions,
        graph: Literal["encoder", "decoder"],
        inputs: _Arrays,
        outputs: _Arrays,
        state: NDArray[np.float32],
    ) -> None:
        here, there = state, np.zeros_like(state)
        self._now, self._next = (
            (before, BoundGraph(sessions, graph, inputs | {"state": before}, outputs | {"next_state": after}))
            for before, after in ((here, there), (there, here))
        )

    @property
    def state(self) -> NDArray[np.float32]:
        """[channels, size], of the call to come."""
        return self._now[0]

    def run(self) -> None:
        """The call to come, again and again until `advance`: a graph after it may fail, and the call be given up."""
        self._now[1].run()

    def advance(self) -> None:
        """Go on to the next call, which begins with the state that this one left."""
        self._now, self._next = self._next, self._now


class BoundGraph:
    """A graph that reads and writes the same arrays in each call, C-contiguous and of its types (IO binding)."""

    def __init__(self, sessions: Sessions, graph: str, inputs: _Arrays, outputs: _Arrays) -> None:
        session = sessions.session(graph)
        binding = session.io_binding()
        for value, array in inputs.items():
            binding.bind_cpu_input(value, array)
        for value, array in outputs.items():
            binding.bind_output(value, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._graph = graph
        self._arrays = inputs, outputs  # they live as long as the binding, which knows their addresses only
        # The session inside does all the work. The wrapper's checks take 25 µs a call with cold caches.
        self._session, self._binding = getattr(session, "_sess", session), getattr(binding, "_iobinding", binding)

    def run(self) -> None:
        """Read the inputs, write the outputs."""
        try:
            self._session.run_with_iobinding(self._binding, None)
        except Exception as error:
            raise graph_failed(self._graph, error) from None
