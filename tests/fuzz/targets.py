"""The parsers that read what strangers made: how each is called, and sound inputs of it to begin with."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parents[1]
TINY = TESTS / "runtime" / "tiny_bundle"
WIDE = TESTS / "runtime" / "wide_bundle"
RATE = 8000


@dataclass(frozen=True)
class Target:
    """Sound inputs, what parses one, and what makes a mutated one pass its checksum."""

    seeds: list[bytes]
    parse: Callable[[bytes], object]
    seal: Callable[[bytes], bytes] | None = None


def edgc(folder: Path) -> Target:
    """Files, decoded for a while: with their checksums, and without, so that mutations come through."""
    import edgecodec
    from edgecodec.bitstream import Reader
    from edgecodec.errors import BitstreamError
    from edgecodec.files.decoding import WHOLE, decoded
    from edgecodec.files.edgc import check_header, chunk_coder
    from edgecodec.files.encoding import Rate
    from edgecodec.files.in_memory import encode_clip

    real, zlib.crc32 = zlib.crc32, lambda data, value=0: 0
    none = zlib.crc32
    codecs = [edgecodec.load(bundle) for bundle in (TINY, WIDE)]
    audio = np.random.default_rng(0).uniform(-0.3, 0.3, (2, RATE // 4)).astype(np.float32)
    seeds = [encode_clip(codec, audio, Rate(stages=2)) for codec in codecs]
    seeds += [
        encode_clip(codecs[0], audio[:1], Rate(stages=4)),
        encode_clip(codecs[0], audio[:1], Rate(stages=2), gain=20),
        (TESTS / "runtime" / "version1.edgc").read_bytes(),
    ]

    def parse(data: bytes) -> None:
        for zlib.crc32 in (real, none):
            try:
                read(data)
                return
            except BitstreamError as error:
                refusal = error
        raise refusal

    def read(data: bytes) -> None:
        reader = Reader(io.BytesIO(data))
        codec = next((c for c in codecs if c.fingerprint == reader.header.fingerprint), codecs[0])
        check_header(codec, reader.header)
        for number, _ in enumerate(decoded(codec, reader, chunk_coder(codec, reader.header), WHOLE)):
            if number > 20:  # long silence is no fault
                break

    return Target(seeds, parse)


def packet(folder: Path) -> Target:
    """Packets of all kinds: plain and coded, with and without what they repeat, of stages of several lines."""
    from edgecodec.errors import BitstreamError
    from edgecodec.layout import PLAIN, Layout
    from edgecodec.packets import Packet, crc16
    from test_code_coder import random_codes
    from test_coded_packets import format_of

    layouts = [PLAIN, Layout(0, (1, 2, 4)), Layout(2, (3, 3, 3))]
    forms = [format_of(layout, 2, 3, 16, taught=taught) for layout in layouts for taught in (False, True)]
    seeds = []
    for form in forms:
        codes = random_codes(form.layout, 2, 3, 6, 16, mixed=False, seed=1)
        for previous in (None, codes[:, : form.layout.lines(2)]):
            seeds.append(form.to_bytes(Packet(7, codes, previous, form.layout)))

    def parse(data: bytes) -> None:
        read = 0
        for form in forms:
            try:
                found = form.from_bytes(data)
            except BitstreamError as error:
                refusal = error
            else:
                form.truncate(form.to_bytes(found), 1)
                read += 1
        if not read:
            raise refusal

    return Target(seeds, parse, lambda data: data[:-2] + crc16(data[:-2]))


def rtp(folder: Path) -> Target:
    """Datagrams: announcements, reports, goodbyes, and audio of a stream that a model codes."""
    import edgecodec
    from edgecodec.network.rtp import Announcement, AudioDatagram, Goodbye, Report, parse
    from edgecodec.packets import Packet

    streams = [Announcement.of(edgecodec.load(bundle), 7, 6) for bundle in (TINY, WIDE)]
    seeds = [Report(7, 0.5, 3, 9, 11).to_bytes(), Goodbye(7).to_bytes()]
    for stream in streams:
        codes = np.ones((1, stream.layout.lines(2), 6), np.int64)
        seeds += [stream.to_bytes(), stream.datagram(Packet(1, codes, None, stream.layout), 1)]
        seeds += [stream.datagram(Packet(2, codes, codes, stream.layout), 2)]

    def hear(data: bytes) -> None:
        found = parse(data)
        if isinstance(found, AudioDatagram):
            streams[len(data) % len(streams)].packet(found)

    return Target(seeds, hear)


def wav(folder: Path) -> Target:
    """WAV from a pipe and from a file."""
    import soundfile
    from edgecodec.errors import AudioError
    from edgecodec.files.wav_stream import WavStream

    seeds = []
    for kind in ("PCM_16", "PCM_24", "FLOAT", "PCM_U8"):
        for form in ("WAV", "WAVEX", "RF64"):
            file = io.BytesIO()
            soundfile.write(file, np.zeros((50, 2)), RATE, kind, format=form)
            seeds.append(file.getvalue())

    def parse(data: bytes) -> None:
        for size in (None, len(data)):
            stream = WavStream(io.BytesIO(data), size)
            if not stream.header.supported:  # whoever reads one asks
                raise AudioError("another encoding")
            while stream.read(4096).size:
                pass

    return Target(seeds, parse)


def joined(folder: Path) -> Target:
    """What of a file is one recording, in all containers; without libsndfile, which reads the parts."""
    import soundfile
    from edgecodec.files.joined import parts_of
    from edgecodec.files.ogg import page_checksum
    from edgecodec.files.slices import Slices

    seeds, sound = [], np.random.default_rng(0).uniform(-0.1, 0.1, 4000)
    for form in ("FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64"):
        file = io.BytesIO()
        soundfile.write(file, sound[: 4000 if form in ("OGG", "MP3") else 60], 16_000, format=form)
        seeds += [file.getvalue(), 2 * file.getvalue()]
    seeds.append(b"ID3\4\0\0\0\0\0\5title" + seeds[4])

    def parse(data: bytes) -> None:
        file = io.BytesIO(data)
        parts, read = parts_of(file), 0
        for part in parts:
            read += len(Slices(file, part.pieces).read())
        assert read <= 2 * len(data) + 2048 * len(parts)  # nothing of it twice, but for a frame that tells how many

    def seal(data: bytes) -> bytes:
        """Right checksums of the pages of Ogg."""
        sealed, at = bytearray(data), data.find(b"OggS")
        while 0 <= at < len(sealed) - 27:
            size = 27 + sealed[at + 26]
            size += sum(sealed[at + 27 : at + size])
            sealed[at + 22 : at + 26] = bytes(4)
            sealed[at + 22 : at + 26] = page_checksum(bytes(sealed[at : at + size])).to_bytes(4, "little")
            at = sealed.find(b"OggS", at + 27)
        return bytes(sealed)

    return Target(seeds, parse, seal)


def manifest(folder: Path) -> Target:
    """Manifests, and what commands print of them."""
    from edgecodec.manifest import Manifest

    def parse(data: bytes) -> None:
        found = Manifest.from_json(data)
        assert "".join((found.name, found.architecture, found.precision)).isprintable()
        found.to_json()

    return Target([(bundle / "manifest.json").read_bytes() for bundle in (TINY, WIDE)], parse)


def onnx(folder: Path) -> Target:
    """Graphs, before onnxruntime reads them."""
    from edgecodec.onnx_fields import keeps_data_elsewhere

    graphs = [path.read_bytes() for bundle in (TINY, WIDE) for path in sorted(bundle.glob("*.onnx"))]
    return Target(graphs, keeps_data_elsewhere)


def npz(folder: Path) -> Target:
    """Arrays, golden vectors and entropy models."""
    import shutil

    from edgecodec.bundle import read_bundle
    from edgecodec.entropy_model import read_entropy_model
    from edgecodec.golden import read_golden
    from edgecodec.npz import read_npz
    from test_code_coder import npz as zipped
    from test_code_coder import random_arrays

    zipfile.ZipExtFile._update_crc = lambda self, data: None  # so that mutations come through
    copy = Path(shutil.copytree(TINY, folder / "bundle"))
    bundle = read_bundle(copy)
    golden: list[bytes] = []
    type(bundle).golden = lambda self: golden[-1]  # in place of bytes that its manifest vouches for

    def parse(data: bytes) -> None:
        golden[:] = [data]
        arrays = read_npz(data, lambda name: True, 64 << 20)
        if "order" in arrays:
            read_entropy_model(data, 4, 16)
        else:
            read_golden(bundle)

    stored = io.BytesIO()
    np.savez(stored, audio=np.zeros((1, 1, 160), np.float32), codes_1=np.zeros((1, 1, 11), np.int64))
    seeds = [(TINY / "golden.npz").read_bytes(), zipped(random_arrays(4, 16, 0)), stored.getvalue()]
    return Target(seeds, parse)


def _checkpoint(folder: Path) -> Path:
    from edgecodec_training.checkpoint import Checkpoint, contiguous_state
    from edgecodec_training.config import Config, from_dict
    from edgecodec_training.ledger import LegEntry
    from edgecodec_training.model import CodecModel

    sizes = {"channels": 8, "encoder_blocks": 1, "decoder_blocks": 1, "waveform_bins": 8, "noise_bands": 4}
    quantizer = {"codebook_size": 4, "max_stages": 2, "dropout_stages": [1]}
    model = {"frame_size": 16, "latent_dim": 8, "edge": sizes, "quantizer": quantizer}
    config = from_dict(Config, {"model": model})
    weights = contiguous_state(CodecModel(config.model))
    return Checkpoint(7, config, [LegEntry(0, "x")], weights, None).save(folder / "run")


def checkpoint(folder: Path) -> Target:
    """The JSON of a checkpoint, loaded with its weights."""
    from edgecodec_training.checkpoint import load_checkpoint

    found = _checkpoint(folder)

    def parse(data: bytes) -> None:
        (found / "checkpoint.json").write_bytes(data)
        load_checkpoint(found)

    return Target([(found / "checkpoint.json").read_bytes()], parse)


def weights(folder: Path) -> Target:
    """The weights of a checkpoint; its JSON, which stays the same, is parsed once."""
    import functools

    from edgecodec_training import checkpoint
    from edgecodec_training.checkpoint import load_checkpoint

    checkpoint.parse_facts = functools.cache(checkpoint.parse_facts)
    found = _checkpoint(folder)

    def parse(data: bytes) -> None:
        (found / "weights.safetensors").write_bytes(data)
        load_checkpoint(found)

    return Target([(found / "weights.safetensors").read_bytes()], parse)


def shard(folder: Path) -> Target:
    """Tar archives, as they are streamed and as they are indexed, and the notes in them."""
    from edgecodec.corpus.shards import read_samples
    from edgecodec.evaluation.clips import Note, find_clips

    seeds = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as tar:
            for name, content in (("a.wav", b"x" * 700), ("a.json", b'{"seconds": 3}'), ("d/" * 60 + "b.flac", b"y")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        seeds.append(file.getvalue())

    def parse(data: bytes) -> None:
        path = folder / "shard.tar"
        path.write_bytes(data)
        find_clips([path], RATE)
        for sample in read_samples(io.BytesIO(data)):
            if sample.note is not None:
                Note.parse(sample.note)

    def seal(data: bytes) -> bytes:
        """Right checksums in whatever stands at the places of the first headers."""
        sealed = bytearray(data)
        for start in range(0, min(len(data) - 511, 16 * 512), 512):
            head = sealed[start : start + 512]
            if head[257:262] == b"ustar" or head[:2] in (b"a.", b"d/", b"./"):
                sealed[start + 148 : start + 156] = b"%06o\0 " % (sum(head[:148]) + 256 + sum(head[156:]))
        return bytes(sealed)

    return Target(seeds, parse, seal)


def toml(folder: Path) -> Target:
    """Configurations, and settings of the command line."""
    import edgecodec_training
    from edgecodec.errors import ConfigError
    from edgecodec_training.config import Config, override, parse_config

    shipped = Path(edgecodec_training.__file__).parent / "configs"
    seeds = [path.read_bytes() for path in sorted(shipped.glob("*.toml"))]
    seeds += [
        b"run.steps=7",
        b"loss.mel_windows=[256, 512]",
        b"data.kind_weights={speech = 1.0}",
        b"model.edge.kernel=5",
    ]

    def parse(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        try:
            override(Config(), [text])
        except ConfigError as error:
            assert str(error).isprintable() and len(str(error)) < 5000
        parse_config(text, "c.toml")

    return Target(seeds, parse)


def codes(folder: Path) -> Target:
    """Arrays of codes, as language models hand them back."""
    from edgecodec.files.code_arrays import read_arrays
    from safetensors.numpy import save

    zipfile.ZipExtFile._update_crc = lambda self, data: None
    array = np.arange(24, dtype=np.uint16).reshape(1, 4, 6)
    file = io.BytesIO()
    np.savez_compressed(file, codes=array, codec=np.array("tiny"), samples=np.array(90), channels=np.array(1))
    seeds = [file.getvalue(), save({"codes": array}, {"samples": "90", "channels": "1", "codec": json.dumps("x")})]

    def parse(data: bytes) -> None:
        path = folder / "codes.bin"
        path.write_bytes(data)
        read_arrays(str(path))

    return Target(seeds, parse)


TARGETS: dict[str, Callable[[Path], Target]] = {
    target.__name__: target
    for target in (
        rtp,
        manifest,
        wav,
        joined,
        onnx,
        npz,
        codes,
        shard,
        toml,
        checkpoint,
        packet,
        edgc,
        weights,
    )  # the fast first
}
