"""Live sound through the codec: microphone, encoder, packets, decoder, loudspeaker, in one thread.

    source.read -> mute -> encoder -> packet -> decoder -> bypass? -> sink.write
                        `------- delayed as the codec delays ---------'

One thread that blocks on both devices loses nothing where callbacks did. Codec and bypass always run side by side, so
that switching between them neither clicks nor changes the delay. After a stall the loudspeaker has played silence
while sound piled up behind it; frames are then skipped, blended into the next, until the delay is what it was. Where
the microphone itself stalled, too little sound is left between them and the loudspeaker would run dry frame after
frame; then a frame of silence is put in.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..codec import Codec
from .endpoints import Sink, Source
from .meters import Budget, Level, Percentiles, Timings
from .recording import Recorder
from .worker import EncodingWorker, Fader, crossfade

_SLACK = 0.008  # seconds of sound in both devices' buffers, beyond what was put ahead, that count as normal
_PATIENCE = 2.0  # seconds for which there was never less, before a frame is skipped


@dataclass(frozen=True)
class LiveSnapshot:
    """A live stream at one moment."""

    source: str
    sink: str
    bundle: str
    seconds: float  # of sound
    stages: int
    max_stages: int
    kbps: float
    bypass: bool
    muted: bool
    recording: str | None
    notice: str | None
    heard_db: float
    played_db: float
    budget: Budget
    frame: Percentiles  # encode and decode together
    frame_ms: float  # how long a frame lasts
    frames: int
    overruns: int  # times that the microphone's sound was lost
    underruns: int  # times that the loudspeaker had nothing to play
    late: int  # frames that took longer than they last
    skipped: int  # frames left out to bring the delay down again


class LivePump(EncodingWorker):
    """Moves sound from a source through the codec to a sink.

    `run` works in one thread; `stages`, `bypass`, `muted`, `recorder` and `notice` may be set from others.

    Args:
        codec: of any bundle.
        source: mono sound at the codec's rate.
        sink: likewise.
        stages: at the start.
        variable: frames get as many stages as their sound needs; their mean bitrate is that of `stages`.
        seconds: of sound, after which it ends; None for no end.
    """

    def __init__(
        self,
        codec: Codec,
        source: Source,
        sink: Sink,
        *,
        stages: int,
        variable: bool = False,
        seconds: float | None = None,
    ) -> None:
        super().__init__(codec, seconds, stages, codec.max_stages)
        self._source, self._sink = source, sink
        self.bypass = False
        self.recorder: Recorder | None = None
        self._encoder, self._decoder = (
            codec.encoder_stream(stages=stages, after_silence=True, variable=variable),
            codec.decoder_stream(after_silence=True),
        )
        self._dry = np.zeros(self._decoder.delay, np.float32)  # the input, as late as the codec's output
        self._bypass = Fader()
        self._held: NDArray[np.float32] | None = None
        self._heard_level, self._played_level = Level(), Level()
        self._encode, self._decode, self._frame = Timings(), Timings(), Timings()
        self._capture, self._playback = Timings(), Timings()
        self._written = self._frames = self._late = self._skipped = 0
        self._underruns = 0  # that were seen
        self._least, self._since = np.inf, time.monotonic()

    @property
    def sample_rate(self) -> int:
        """Hz, of recordings."""
        return self._codec.sample_rate

    def run(self, stop: threading.Event) -> None:
        """Until the source ends, the time is over, or `stop` is set.

        Raises:
            DeviceError: a device that failed. EdgecodecError: a file that cannot be read or written.
        """
        self._call(self._source, self._source.start)
        self._call(self._sink, self._sink.start)
        while not (stop.is_set() or self._time_is_over):
            block = self._call(self._source, self._source.read)
            if block is None:
                break
            self._process(self._count(block))
        if not (self._source.is_device and self._sink.is_device):
            self._finish()
        self._call(self._sink, self._sink.drain)

    def snapshot(self) -> LiveSnapshot:
        """How it stands; from any thread."""
        m, recorder = self._codec.manifest, self.recorder
        stages = self._encoder.stages
        budget = Budget(
            capture=self._capture.percentiles().p50 + 1000 * self._source.resampling,
            buffering=1000 * m.latency.buffering / m.sample_rate,
            algorithmic=1000 * self._decoder.delay / m.sample_rate,
            encode=self._encode.percentiles().p50,
            decode=self._decode.percentiles().p50,
            playback=self._playback.percentiles().p50 + 1000 * self._sink.resampling,
        )
        return LiveSnapshot(
            source=self._source.name,
            sink=self._sink.name,
            bundle=m.name,
            seconds=self._samples / m.sample_rate,
            stages=stages,
            max_stages=self._codec.max_stages,
            kbps=m.bitrate(stages),
            bypass=self.bypass,
            muted=self.muted,
            recording=None if recorder is None else recorder.path,
            notice=self.notice,
            heard_db=self._heard_level.db,
            played_db=self._played_level.db,
            budget=budget,
            frame=self._frame.percentiles(),
            frame_ms=1000 * m.frame_size / m.sample_rate,
            frames=self._frames,
            overruns=self._source.overruns,
            underruns=self._sink.underruns,
            late=self._late,
            skipped=self._skipped,
        )

    def _process(self, block: NDArray[np.float32]) -> None:
        waiting = self._call(self._source, self._source.waiting)
        block = self._heard(block)
        self._heard_level.add(block)
        self._dry = np.concatenate([self._dry, block])
        self._encoder.stages = self.stages
        start = time.perf_counter()
        packets = self._encoder.push(block)
        encoded = time.perf_counter()
        for packet in packets:
            begin = time.perf_counter()
            audio = self._decoder.push(packet)
            end = time.perf_counter()
            took = (encoded - start) / len(packets) + end - begin
            self._encode.add((encoded - start) / len(packets))
            self._decode.add(end - begin)
            self._frame.add(took)
            self._frames += 1
            self._late += took > self._codec.frame_size / self._codec.sample_rate
            self._capture.add(waiting)
            self._play(audio, waiting)

    def _play(self, audio: NDArray[np.float32], waiting: float) -> None:
        """One frame of decoded audio, or the input of the same moment, to the sink."""
        heard, self._dry = self._dry[: len(audio)], self._dry[len(audio) :]
        audio = self._bypass.mix(heard, audio, 0.0 if self.bypass else 1.0)
        self._played_level.add(audio)
        if (recorder := self.recorder) is not None:
            recorder.put(heard, audio)
        if self._held is not None:
            audio = crossfade(self._held, audio)
            self._held = None
        ahead = self._call(self._sink, self._sink.waiting)
        self._playback.add(ahead)
        if self._thinned_out(waiting + ahead):
            self._write(np.zeros_like(audio))
        elif self._piled_up(waiting + ahead):
            self._skipped += 1
            self._held = audio
            return
        self._write(audio)

    def _thinned_out(self, waiting: float) -> bool:
        """Whether there was an underrun, and both devices' buffers hold less than is needed to prevent the next."""
        seen, self._underruns = self._underruns, self._sink.underruns
        least = self._sink.ahead - self._codec.frame_size / self._codec.sample_rate
        return self._underruns > seen and self._source.is_device and waiting < least

    def _piled_up(self, waiting: float) -> bool:
        """Whether both devices' buffers have held more than they should for a while."""
        if not (self._source.is_device and self._sink.is_device):
            return False
        self._least = min(self._least, waiting)
        now = time.monotonic()
        if now - self._since < _PATIENCE:
            return False
        too_much = self._least > self._sink.ahead + _SLACK
        self._least, self._since = np.inf, now
        return too_much

    def _write(self, audio: NDArray[np.float32]) -> None:
        if self._sink.is_device:
            self._call(self._sink, self._sink.write, audio)
            return
        # A file gets neither the codec's delay nor more than was heard.
        delay = self._decoder.delay
        first, end = delay - self._written, delay + self._samples - self._written
        self._written += len(audio)
        self._sink.write(audio[max(0, first) : max(0, end)])

    def _finish(self) -> None:
        """What is still in the encoder; a file gets exactly as many samples as were heard."""
        blocks = [self._decoder.push(packet) for packet in self._encoder.flush()]
        for audio in (*blocks, self._decoder.flush()):
            if not len(audio):
                continue
            self._dry = np.pad(self._dry, (0, max(0, len(audio) - len(self._dry))))
            self._play(audio, 0.0)
