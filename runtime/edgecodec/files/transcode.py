"""Audio files to .edgc files and back, in blocks: an hour takes no more memory than a minute."""

from __future__ import annotations

import math
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..bitstream import Header, Reader, Writable, Writer
from ..codebook_use import CodebookCounts
from ..codec import Codec
from ..errors import AudioError, BitstreamError
from ..manifest import Effort
from ..progress import Progress, silent
from ..sessions import Device
from .at_codec_rate import AtCodecRate
from .audio import AUDIO_SUFFIXES, AudioReader, AudioWriter, check_holds, open_audio
from .decoding import WHOLE, Part, decoded
from .edgc import check_header, checked_whole, chunk_coder, input_name, load_named, make_header, open_edgc
from .encoding import FILE_WINDOW, PIPE_WINDOW, ChunkStream, Rate
from .level import gain_of
from .output import Output, OutputFile, open_output


@dataclass(frozen=True)
class Report:
    """What encoding or decoding did."""

    seconds: float  # of audio
    sample_rate: int  # Hz, of the audio file
    channels: int  # in the .edgc file
    stages: int  # the most in a frame
    payload_kbps: float  # codes alone, all channels
    file_kbps: float  # the whole .edgc
    file_bytes: int
    speed: float  # seconds of audio per second of compute
    gain: int = 0  # dB, by which the audio was made louder in between
    damage: tuple[str, ...] = ()  # of the .edgc that was decoded, place by place
    use: CodebookCounts | None = None  # of what was encoded

    def as_data(self) -> dict[str, Any]:
        """The numbers, for JSON."""
        numbers = {name: value for name, value in vars(self).items() if name != "use"}
        return numbers if self.use is None else numbers | {"stage_use": self.use.as_data()}


def encode_file(
    codec: Codec,
    source: str,
    target: str,
    *,
    rate: Rate,
    effort: Effort = "fast",
    mono: bool = False,
    gain: int | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Report:
    """Encode an audio file, `-` for WAV on standard input, to an .edgc file, `-` for standard output.

    `gain`: dB by which the audio is made louder before it is encoded, and quieter when it is decoded: by default what a
    quiet file wants, which is read twice for that, and nothing for a pipe.

    Raises:
        AudioError: audio that cannot be read. EdgecodecError: output that exists or cannot be written.
    """
    window = PIPE_WINDOW if source == "-" else FILE_WINDOW
    if gain is None:
        gain = _gain_of_file(source)
    with open_audio(source) as audio, open_output(target, force=force, source=source) as output:
        return encode_audio(
            codec, audio, output.file, rate=rate, effort=effort, mono=mono, gain=gain, window=window, progress=progress
        )


def decode_file(
    source: str,
    target: str,
    *,
    codec: Codec | None = None,
    device: Device = "cpu",
    threads: int = 1,
    strict: bool = False,
    force: bool = False,
    start: float = 0.0,
    duration: float | None = None,
    progress: Progress = silent,
) -> Report:
    """Decode an .edgc file, `-` for standard input, to an audio file, `-` for WAV on standard output.

    Without a codec, the shipped bundle that the file names is loaded. Chunks that are damaged are concealed, and named
    in the report; a file of version 1 decodes up to the damage. With `strict` a damaged file is refused, and nothing is
    written. `start` and `duration`, in seconds, ask for a part: what comes before is passed over, not decoded.

    Raises:
        BitstreamError: no .edgc file, another bundle's, one that cannot be read, or nothing to decode.
        EdgecodecError: output as in `encode_file`.
    """
    if not 0 <= start < math.inf or (duration is not None and not 0 < duration < math.inf):
        raise AudioError(f"a part begins at 0 s or later and lasts more than 0 s, not {start} s and {duration} s")
    with (
        open_edgc(source) as file,
        open_output(target, force=force, suffixes=AUDIO_SUFFIXES, source=source) as output,
    ):
        try:
            if strict:
                file = checked_whole(file)
            reader = Reader(file)
            first, rate = round(start * reader.header.sample_rate), reader.header.sample_rate
            part = Part(first, None if duration is None else first + max(1, round(duration * rate)))
            codec = codec or load_named(reader.header, device, threads)
            return decode_packets(codec, reader, output, part=part, progress=progress)
        except BitstreamError as error:
            raise BitstreamError(f"{input_name(source)}: {error}") from None


def roundtrip_file(
    codec: Codec,
    source: str,
    target: str,
    *,
    rate: Rate,
    effort: Effort = "fast",
    mono: bool = False,
    gain: int | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> tuple[Report, Report]:
    """Encode and decode a file; the .edgc between them is temporary. `gain` and errors as in `encode_file`."""
    if gain is None:
        gain = _gain_of_file(source)
    with (
        open_audio(source) as audio,
        open_output(target, force=force, suffixes=AUDIO_SUFFIXES, source=source) as output,
        tempfile.TemporaryFile() as file,
    ):
        if not output.in_place:
            check_holds(target, audio.sample_rate, 1 if mono else audio.channels)
        edgc = OutputFile("the temporary .edgc file", file)
        encoded = encode_audio(codec, audio, edgc, rate=rate, effort=effort, mono=mono, gain=gain, progress=progress)
        edgc.seek(0)
        return encoded, decode_packets(codec, Reader(file), output, progress=progress)


def encode_audio(
    codec: Codec,
    audio: AudioReader,
    file: Writable,
    *,
    rate: Rate,
    effort: Effort = "fast",
    mono: bool = False,
    gain: int = 0,
    window: float = FILE_WINDOW,
    progress: Progress = silent,
) -> Report:
    """Encode all blocks of `audio` into `file`, to which nothing is written before there is audio."""
    start = time.perf_counter()
    source = AtCodecRate(audio, codec.sample_rate, mono=mono)
    header = make_header(codec, audio.sample_rate, source.channels, rate.stages or codec.max_stages, gain)
    stream = ChunkStream(codec, header, chunk_coder(codec, header), rate, effort=effort, window=window)
    total = None if audio.samples is None else audio.samples / audio.sample_rate
    with Writer(file, header) as writer:
        for block in source.blocks(header.amplitude):
            for chunk in stream.push(block):
                writer.write(chunk)
            progress("seconds encoded", source.samples / audio.sample_rate, total)
        for chunk in stream.flush():
            writer.write(chunk)
        writer.samples = source.samples
    return replace(_report(header, source.samples, writer, time.perf_counter() - start), use=stream.use)


def decode_packets(
    codec: Codec, reader: Reader, output: Output, *, part: Part = WHOLE, progress: Progress = silent
) -> Report:
    """Decode what `reader` gives, or a part, into `output`, at the rate and length of the audio that was encoded."""
    start = time.perf_counter()
    header = reader.header
    check_header(codec, header)
    at = part.first
    spare = -(-header.frames_per_packet * header.frame_size * header.sample_rate // header.codec_rate)
    # A chunk more than was asked for: behind the last one stands where the audio ends.
    ahead = Part(part.first, None if part.end is None else part.end + spare)
    with AudioWriter(output, header.sample_rate, header.channels) as writer:
        for block in decoded(codec, reader, chunk_coder(codec, header), ahead):
            end = _end(reader, part)
            kept = block if end is None else block[:, : max(0, end - at)]
            writer.write(kept)
            at += kept.shape[1]
            progress("seconds decoded", (at - part.first) / header.sample_rate, None)
        lacking = _lacking(at, reader, part)
        samples = at + lacking - part.first
        if not samples:
            raise BitstreamError(reader.damage[0] if reader.damage else "holds no audio")
        writer.write(np.zeros((header.channels, lacking), np.float32))
    return _report(header, samples, reader, time.perf_counter() - start, part)


def _gain_of_file(source: str) -> int:
    """What a file wants; of a pipe nobody knows what comes."""
    if source == "-" or not Path(source).is_file():
        return 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to say is said when the file is encoded
        with open_audio(source) as audio:
            return gain_of(audio.blocks(), audio.sample_rate)


def _end(reader: Reader, part: Part) -> int | None:
    """The sample before which the audio ends, or the part of it, as far as that is known."""
    ends = [end for end in (part.end, reader.samples) if end is not None]
    return min(ends, default=None)


def _lacking(at: int, reader: Reader, part: Part) -> int:
    """Samples that lack at the end, where `at` are there; whether what was decoded is what the file says."""
    header, end = reader.header, _end(reader, part)
    if reader.samples is None or end is None:
        return 0
    if part.first >= reader.samples > 0:
        raise BitstreamError(f"ends at {reader.samples / header.sample_rate:.2f} s, before the part that was asked for")
    # Two resamplers may round their lengths against each other by a sample or two.
    slack = 2 + 2 * header.sample_rate // header.codec_rate
    if not 0 <= end - at <= slack:
        reader.damage.append(f"the end record contradicts the {'packets' if header.version == 1 else 'chunks'}")
        return 0
    return end - at


def _report(header: Header, samples: int, file: Reader | Writer, elapsed: float, part: Part = WHOLE) -> Report:
    seconds = of_payload = of_file = samples / header.sample_rate
    if isinstance(file, Reader) and part != WHOLE:  # of which chunks before and behind were read
        of_payload, of_file = header.seconds(file.frames), header.seconds(file.passed)
    return Report(
        seconds=seconds,
        sample_rate=header.sample_rate,
        channels=header.channels,
        stages=header.stages,
        payload_kbps=file.payload_bytes * 8 / of_payload / 1000,
        file_kbps=file.bytes * 8 / of_file / 1000,
        file_bytes=file.bytes,
        speed=seconds / elapsed,
        gain=header.gain,
        damage=tuple(file.damage) if isinstance(file, Reader) else (),
    )
