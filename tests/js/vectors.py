"""What the Python runtime does, written down for the tests of the JavaScript one: codes, bytes, sound, and verdicts.

Numbers are JSON; bytes and samples are files beside it, named there.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import edgecodec
import numpy as np
from edgecodec.code_coder import CodeCoder
from edgecodec.entropy_model import Predictor
from edgecodec.layout import Layout
from edgecodec.live.resampler import LiveResampler
from edgecodec.onnx_fields import keeps_data_elsewhere
from edgecodec.packet_coder import PacketCoder
from edgecodec.packets import Packet, PacketFormat, crc16
from file_vectors import damage_vectors, file_vectors, refused_headers
from numpy.typing import NDArray
from repacked_vectors import repacked_vectors
from store import BUNDLES, TESTS, Store, clip, codes_json, flipped, random_codes, said
from test_hostile_bundles import strange_models

UNPRINTABLE = ("\x1b[2J", "\n", "\x07", "\u202egnp", "\u2028", "\x9b31m", "\x00", "\xa0", "\u3000")
_LOST = (3, 9, 10, 20, 21, 22)


def write_vectors(folder: Path) -> None:
    """All vectors, as `vectors.json` and files in a folder."""
    store = Store(folder)
    sections = {
        "bundles": {name: str(path) for name, path in BUNDLES.items()},
        "codecs": {name: codec_vectors(name, store) for name in BUNDLES},
        "packets": packet_vectors(),
        "codedPackets": coded_packet_vectors(),
        "coded": coded_vectors(),
        "files": file_vectors(store),
        "damaged": damage_vectors(store),
        "refused": refused_headers(),
        "manifests": manifest_vectors(),
        "resampled": resampler_vectors(store),
        "models": model_vectors(),
        "stranger": str(TESTS / "fuzz" / "corpus" / "bundle_external_swapped"),
        "sums": sum_vectors(store),
        "repacked": repacked_vectors(folder, store),
    }
    (folder / "vectors.json").write_text(json.dumps(sections))


def codec_vectors(name: str, store: Store) -> dict[str, Any]:
    """A clip of one and of two channels, encoded and decoded, and streams of them with packets that are lost."""
    codec = edgecodec.load(BUNDLES[name])
    samples = 24_000 if name == "speech" else 4000
    audio = 3 * np.stack([clip(samples), clip(2 * samples)[samples:]])
    made: dict[str, Any] = {"fingerprint": codec.fingerprint.hex(), "audio": [store.put(row) for row in audio]}
    made["facts"] = [codec.sample_rate, codec.frame_size, codec.delay, codec.channels, codec.max_stages]
    made["bitrates"] = list(codec.bitrates)
    made["clips"] = []
    for stages in sorted({1, 2, codec.max_stages // 2, codec.max_stages}):
        for effort in ("live", "best"):
            codes = codec.encode(audio, stages=stages, effort=effort)
            row = {"stages": stages, "effort": effort, "codes": codes_json(codes)}
            if effort == "live":
                decoded = codec.decode(codes, samples=samples)
                row["decoded"] = store.put(decoded.reshape(-1, samples))
            made["clips"].append(row)
    made["streams"] = [
        stream_vectors(codec, audio, store, frames, redundancy, after_silence=after_silence, variable=variable)
        for frames, redundancy, after_silence, variable in (
            (1, 0, False, False),
            (4, 2, False, False),
            (1, 1, True, False),
            (70, 0, False, False),
            (4, 2, False, True),
            (1, 0, True, True),
        )
    ]
    return made


def stream_vectors(
    codec: edgecodec.Codec,
    audio: NDArray[np.float32],
    store: Store,
    frames: int,
    redundancy: int,
    *,
    after_silence: bool,
    variable: bool,
) -> dict[str, Any]:
    """Packets of audio [2, samples], whose stage count changes, and what comes out where some are lost."""
    options = {"channels": 2, "after_silence": after_silence}
    encoder = codec.encoder_stream(
        stages=codec.max_stages, frames_per_packet=frames, redundancy=redundancy, variable=variable, **options
    )
    blocks, packets = np.array_split(audio, 7, axis=1), []
    for i, block in enumerate(blocks):
        encoder.stages = codec.max_stages - i % codec.max_stages
        packets += encoder.push(block)
    packets += encoder.flush()
    form = codec.packet_format(channels=2)
    arrived = [packet for packet in packets if packet.sequence not in _LOST]
    pushed, asked = (codec.decoder_stream(**options) for _ in range(2))
    first = arrived[:5]
    late = [*first, first[-1], first[0], *arrived[5:]]  # one twice, one late
    sound = [*(pushed.push(packet) for packet in late), pushed.flush()]
    by_sequence = {packet.sequence: packet for packet in arrived}
    turns = [
        asked.push(by_sequence[i]) if i in by_sequence else asked.conceal(by_sequence.get(i + 1))
        for i in range(len(packets))
    ]
    return {
        "frames": frames,
        "redundancy": redundancy,
        "afterSilence": after_silence,
        "variable": variable,
        "delay": pushed.delay,
        "blocks": [block.shape[1] for block in blocks],
        "packets": [form.to_bytes(packet).hex() for packet in packets],
        "order": [packet.sequence for packet in late],
        "pushed": store.put(np.concatenate(sound, axis=1)),
        "asked": store.put(np.concatenate(turns, axis=1)),
        "statistics": [vars_of(codec, late, options), list(vars(asked.statistics).values())],
    }


def vars_of(codec: edgecodec.Codec, packets: list[Packet], options: dict[str, Any]) -> list[int]:
    """The counts of a stream of these packets: `flush` has reset the one that made the sound."""
    stream = codec.decoder_stream(**options)
    for packet in packets:
        stream.push(packet)
    return list(vars(stream.statistics).values())


def packet_vectors() -> list[dict[str, Any]]:
    """Random packets of several forms as bytes, cut, and bytes that are none."""
    rng, made = np.random.default_rng(0), []
    for bits, streams, layout, stages in (
        (10, 1, Layout(), 8),
        (1, 2, Layout(), 3),
        (16, 3, Layout(), 2),
        (10, 255, Layout(), 1),
        (5, 2, Layout(1, (1, 2, 2, 4)), 3),
    ):
        form = PacketFormat(streams, bits, layout)
        codes = random_codes(rng, layout, streams, stages, 5, bits)
        previous = random_codes(rng, layout, streams, 1, 2, bits)
        for packet in (Packet(65535, codes, None, layout), Packet(300, codes, previous, layout)):
            data = form.to_bytes(packet)
            bad = [data[:-1], data + b"\0", b"", b"P", *(flipped(data, i) for i in range(len(data)))]
            made.append(
                {
                    "form": [bits, streams, layout.side, list(layout.widths)],
                    "sequence": packet.sequence,
                    "codes": codes_json(codes),
                    "previous": None if packet.previous is None else codes_json(previous),
                    "bytes": data.hex(),
                    "cut": form.truncate(data, 1).hex(),
                    "bad": [[spoilt.hex(), said(form.from_bytes, spoilt)] for spoilt in bad[:99]],
                }
            )
    return made


def coded_vectors() -> list[dict[str, Any]]:
    """Codes with a stage count for each frame, in bytes at even frequencies and by the shipped model."""
    rng, made = np.random.default_rng(1), []
    speech = edgecodec.load(BUNDLES["speech"])
    for model, layout, streams, stages, bits in (
        (None, Layout(), 1, 3, 10),
        (None, Layout(2, (1, 2, 4)), 2, 3, 7),
        ("speech", Layout(), 1, 16, 10),
        ("speech", Layout(), 3, 5, 10),
    ):
        coder = CodeCoder(layout, speech.bundle.predictor if model else Predictor(1 << bits), streams)
        whole = random_codes(rng, layout, streams, stages, 9, bits)
        counts = rng.integers(1, stages + 1, (streams, 9))
        counts[0, 4] = stages
        for codes in (whole, layout.cut(whole, counts)):
            coded = coder.encode(codes, stages + 1)
            made.append(
                {
                    "model": model,
                    "form": [bits, streams, layout.side, list(layout.widths)],
                    "codes": codes_json(codes),
                    "most": stages + 1,
                    "bytes": coded.data.hex(),
                    "ends": list(coded.ends),
                    "bits": coder.bits(codes).sum(),
                }
            )
    return made


def coded_packet_vectors() -> list[dict[str, Any]]:
    """Coded packets, with and without what they repeat and frames that lack stages, cut, and bytes that are none."""
    rng, made = np.random.default_rng(4), []
    speech = edgecodec.load(BUNDLES["speech"])
    sound = speech.encode(np.stack([clip(4000), clip(8000)[4000:]]), stages=16)
    for model, layout, bits, most in ((None, Layout(2, (1, 2, 4)), 7, 3), ("speech", Layout(), 10, 16)):
        predictor = speech.bundle.predictor if model else Predictor(1 << bits)
        form = PacketFormat(2, bits, layout, PacketCoder(CodeCoder(layout, predictor, 2), most))
        for stages, repeated, frames, mixed in (
            (most, 0, 5, False),
            (2, 1, 3, False),
            (1, most, 2, True),
            (most, 2, 4, True),
            (3, 0, 1, False),
            (3, 0, 1, True),
        ):
            whole = random_codes(rng, layout, 2, most, 10, bits) if model is None else sound[:, :, :10]
            codes = whole[:, : layout.lines(stages), 4 : 4 + frames]
            previous = whole[:, : layout.lines(repeated), 2:4] if repeated else None
            if mixed:
                codes = layout.cut(codes, rng.integers(1, stages + 1, (2, frames)))
                previous = None if previous is None else layout.cut(previous, rng.integers(1, repeated + 1, (2, 2)))
            packet = Packet(65_534, codes, previous, layout)
            data, body = form.to_bytes(packet), form.coded(packet)
            bad = [data[:4], data[:-1], data + b"\0", *(flipped(data, i) for i in range(len(data)))]
            bad += [sealed(data[:1] + b"\0" + data[2:-2]), sealed(data[:-2] + b"\1\1\1\1\1")]
            bad += [sealed(data[:4] + bytes(pair) + data[6:-2]) for pair in ((0, 1), (1, 0), (most + 1, 1))]
            made.append(
                {
                    "model": model,
                    "form": [bits, 2, layout.side, list(layout.widths)],
                    "most": most,
                    "codes": codes_json(codes),
                    "previous": None if previous is None else codes_json(previous),
                    "coded": None if body is None else body.hex(),
                    "bytes": data.hex(),
                    "read": None if body is None else codes_json(form.from_bytes(data).codes),
                    "cut": form.truncate(data, 1).hex(),
                    "bad": [[spoilt.hex(), said(form.from_bytes, spoilt)] for spoilt in bad],
                }
            )
    return made


def sealed(body: bytes) -> bytes:
    """Bytes and the checksum that packets end with."""
    return body + crc16(body)


def manifest_vectors() -> list[list[Any]]:
    """Manifests changed in one place, and whether they are refused."""
    made = []
    for name in ("tiny", "wide"):
        facts = json.loads((BUNDLES[name] / "manifest.json").read_text())
        changes: list[dict[str, Any]] = [{}, {"format_version": 3}, {"format_version": "1"}, {"extra": 1}]
        changes += [{key: value} for key in facts for value in (None, True, -1, "", 10**9, 1.5, [], {})]
        changes += [{"stage_widths": [1, 2]}, {"start_frames": {"encoder": 1, "decoder": 1}}, {"call_frames": 1}]
        changes += [{"latency": {"buffering": 16, "algorithmic": 1}}, {"channels": 2}, {"name": "x" * 201}]
        changes += [{key: "a" + text} for key in ("name", "architecture", "precision") for text in UNPRINTABLE]
        changes += [{"name": "é" * 32}, {"name": "é" * 33}, {"name": "a b"}]
        changes += [
            {"fingerprint": text} for text in ("0" * 15, "0" * 16, "0" * 17, "G" * 16, "A" * 16, "0" * 16 + "\n")
        ]
        changes += [{"fingerprint": value} for value in ("", 3, None)]
        changes += [{"format_version": 2, "fingerprint": "0123456789abcdef"}]
        changes += [{"format_version": 2, "call_frames": frames} for frames in (1, 64, 65)]
        changes += [{"lookahead": {"encoder": 1}}, {"format_version": 1}, {"format_version": 2}]
        for change in changes:
            text = json.dumps(facts | change)
            made.append([text, said(edgecodec.Manifest.from_json, text) is not None])
        for key in facts:
            text = json.dumps({name: value for name, value in facts.items() if name != key})
            made.append([text, said(edgecodec.Manifest.from_json, text) is not None])
    return made


def model_vectors() -> list[list[Any]]:
    """Models with a tensor wherever one can be, of strangers and whole, and bytes that are none; and the verdicts."""
    return [[m.hex(), said(keeps_data_elsewhere, m) or keeps_data_elsewhere(m)] for m in strange_models()]


def sum_vectors(store: Store) -> dict[str, Any]:
    """Sums of floats of many lengths as numpy rounds them here; `exact` where that is what the ports do."""
    rng, made = np.random.default_rng(6), []
    for size in (*range(1, 41), 63, 64, 80, 127, 128, 129, 200, 300, 1030):
        one, other = (rng.standard_normal((7, size)).astype(np.float32) for _ in range(2))
        apart = one - other
        doubles = rng.standard_normal(size) ** 3
        made.append(
            {
                "size": size,
                "rows": [store.put(one), store.put(other)],
                "norms": np.einsum("td,td->t", apart, apart).astype(float).tolist(),
                "spread": float(one.var(axis=0).sum()),
                "doubles": doubles.tolist(),
                "sum": float(doubles.sum()),
            }
        )
    return {"exact": platform.machine() in ("x86_64", "AMD64"), "rows": made}


def resampler_vectors(store: Store) -> list[dict[str, Any]]:
    """The live resampler between usual rates, block by block."""
    made, audio = [], clip(3000)
    for source, target in ((48_000, 24_000), (24_000, 48_000), (44_100, 24_000), (24_000, 44_100), (24_000, 24_000)):
        resampler, blocks = LiveResampler(source, target), np.array_split(audio, 11)
        output = np.concatenate([resampler.push(block) for block in blocks])
        made.append(
            {
                "rates": [source, target],
                "delay": resampler.delay,
                "input": store.put(audio),
                "blocks": [len(block) for block in blocks],
                "output": store.put(output),
            }
        )
    return made
