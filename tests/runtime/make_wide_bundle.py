"""Makes `wide_bundle/`: a small transform codec with all that format 2 has, so that runtime tests need no torch.

8 kHz, stereo, 16 samples a frame. The encoder transforms each frame with the one after it, so that it looks one frame
ahead; the decoder holds 5 samples back. A frame's loudness is a code line beside the stages, and the stages have 1, 2,
2 and 4 codes. Run `python tests/runtime/make_wide_bundle.py` to write it again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from edgecodec.manifest import (
    GraphFiles,
    Latency,
    Lookahead,
    PartSizes,
    QuantizerFacts,
    StartFrames,
    StateSizes,
)
from edgecodec_export.graph_builder import GraphBuilder
from edgecodec_export.onnx_model import OPSET
from make_tiny_bundle import FRAME, RATE, entry, mdct_basis, voice, write_manifest
from onnx import TensorProto, helper

FOLDER = Path(__file__).parent / "wide_bundle"
ENTRIES, WIDTHS, HELD, LOUDEST = 16, (1, 2, 2, 4), 5, 255
END = 2**62
STATES = {"encoder": 1 + 2 * FRAME, "decoder": 1 + 2 * FRAME + 2 * HELD}
SIZE = 2 * FRAME  # numbers a frame that are quantized


class Graph(GraphBuilder):
    """Nodes of a graph, with short names for what is needed often."""

    def numbers(self, *values: int) -> str:
        return self.constant("n" + "_".join(map(str, values)), list(values))

    def floats(self, value: object) -> str:
        return self.constant(f"f{len(self.constants)}", value, np.float32)

    def cut(self, x: str, start: str, end: str, axis: int, output: str) -> str:
        return self.add("Slice", [x, start, end, self.numbers(axis)], output)

    def first(self) -> str:
        """int64 [1]: 1 in the first call of a stream."""
        flag = self.cut(self.cut("state", self.numbers(0), self.numbers(1), 1, "flags"), *self.ends(1), 0, "flag")
        zero = self.add("Equal", [flag, self.floats(0.0)], "is_first")
        return self.add(
            "Reshape", [self.add("Cast", [zero], "first_2d", to=TensorProto.INT64), self.numbers(1)], "first"
        )

    def ends(self, count: int) -> tuple[str, str]:
        return self.numbers(0), self.numbers(count)

    def remembered(self, start: int, end: int, columns: int) -> str:
        """[B, 2, columns] of the state."""
        part = self.cut("state", self.numbers(start), self.numbers(end), 1, f"state_{start}")
        return self.add("Reshape", [part, self.numbers(0, 2, columns)], f"remembered_{start}")

    def next_state(self, *parts: str) -> None:
        flags = self.cut("state", *self.ends(1), 1, "old_flags")
        ones = self.add("Add", [self.add("Mul", [flags, self.floats(0.0)], "none"), self.floats(1.0)], "ones")
        flat = [self.add("Flatten", [part], f"flat_{part}", axis=1) for part in parts]
        self.add("Concat", [ones, *flat], "next_state", axis=1)

    def stateful(self, name: str, source: list[object], result: list[object]) -> onnx.ModelProto:
        state = ["B", STATES[name]]
        x, y = ("audio", "latents") if name == "encoder" else ("latents", "audio")

        def value(of: str, shape: list[object], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(of, kind, shape)

        inputs = [value(x, source), value("state", state), value("last", [], TensorProto.INT64)]
        return self.model(name, inputs, [value(y, result), value("next_state", state)])


def encoder_graph() -> onnx.ModelProto:
    """Frames from the held one on, each with the one after it, times the basis, over the loudness in 255 steps."""
    g = Graph()
    held = g.remembered(1, 1 + 2 * FRAME, FRAME)
    past = g.cut(held, g.add("Mul", [g.first(), g.numbers(FRAME)], "skip"), g.numbers(END), 2, "past")
    columns = g.add("Mul", [g.add("Reshape", ["last", g.numbers(1)], "last_1d"), g.numbers(FRAME)], "zeros")
    shape = g.add("Concat", [g.add("Shape", ["audio"], "batch_channels", end=2), columns], "zero_shape", axis=0)
    seen = g.add("Concat", [past, "audio", g.add("ConstantOfShape", [shape], "after")], "seen", axis=2)
    rows = g.add("Reshape", [seen, g.numbers(0, 2, -1, FRAME)], "rows")
    now = g.cut(rows, g.numbers(0), g.numbers(-1), 2, "now")
    pairs = g.add("Concat", [now, g.cut(rows, g.numbers(1), g.numbers(END), 2, "following")], "pairs", axis=3)
    mean = g.add("ReduceMean", [g.add("Abs", [now], "size"), g.numbers(1, 3)], "mean", keepdims=1)
    steps = g.add("Ceil", [g.add("Mul", [mean, g.floats(float(LOUDEST))], "scaled")], "steps")
    loudness = g.add("Clip", [steps, g.floats(1.0), g.floats(float(LOUDEST))], "loudness")  # [B, 1, T, 1]
    gain = g.add("Div", [loudness, g.floats(float(LOUDEST))], "gain")
    spectrum = g.add("Div", [g.add("MatMul", [pairs, g.floats(mdct_basis())], "spectra"), gain], "spectrum")
    flat = g.add("Transpose", [spectrum], "by_frame", perm=[0, 2, 1, 3])
    parts = [g.add("Reshape", [flat, g.numbers(0, 0, SIZE)], "numbers")]
    parts.append(
        g.add(
            "Reshape",
            [loudness, g.add("Concat", [g.add("Shape", [flat], "bt", end=2), g.numbers(1)], "bt1", axis=0)],
            "side",
        )
    )
    g.add("Concat", parts, "latents", axis=2)
    g.next_state(g.cut(g.add("Concat", [held, "audio"], "all", axis=2), g.numbers(-FRAME), g.numbers(END), 2, "kept"))
    return g.stateful("encoder", ["B", 2, "samples"], ["B", "T", SIZE + 1])


def decoder_graph() -> onnx.ModelProto:
    """Overlap and add, times the loudness, late by 5 samples."""
    g = Graph()
    side = g.cut("latents", g.numbers(SIZE), g.numbers(SIZE + 1), 2, "side")
    spectrum = g.cut("latents", *g.ends(SIZE), 2, "spectrum")
    loud = g.add("Mul", [spectrum, g.add("Div", [side, g.floats(float(LOUDEST))], "gain")], "loud")
    rows = g.add(
        "Transpose", [g.add("Reshape", [loud, g.numbers(0, 0, 2, FRAME)], "by_channel")], "rows", perm=[0, 2, 1, 3]
    )
    pairs = g.add("MatMul", [rows, g.floats(np.ascontiguousarray(mdct_basis().T))], "pairs")
    g.add("Split", [pairs, g.numbers(FRAME, FRAME)], "head", "tail", axis=3)
    carried = g.add("Unsqueeze", [g.remembered(1, 1 + 2 * FRAME, FRAME), g.numbers(2)], "carried")
    tails = g.add("Concat", [carried, "tail"], "tails", axis=2)
    both = g.add("Add", ["head", g.cut(tails, g.numbers(0), g.numbers(-1), 2, "overlap")], "both")
    frames = g.add("Mul", [g.add("Shape", ["latents"], "frames", start=1, end=2), g.numbers(FRAME)], "samples")
    batch = g.add("Shape", ["latents"], "batch", end=1)
    y = g.add("Reshape", [both, g.add("Concat", [batch, g.numbers(2), frames], "as_audio", axis=0)], "y")
    g.nodes[-1].attribute.append(helper.make_attribute("allowzero", 1))
    held = g.remembered(1 + 2 * FRAME, STATES["decoder"], HELD)
    past = g.cut(held, g.add("Mul", [g.first(), g.numbers(HELD)], "skip"), g.numbers(END), 2, "past")
    joined = g.add("Concat", [past, y], "joined", axis=2)
    last = g.add("Reshape", ["last", g.numbers(1)], "last_1d")
    end = g.add("Sub", [g.add("Mul", [last, g.numbers(END)], "far"), g.numbers(HELD)], "end")
    g.cut(joined, g.numbers(0), end, 2, "audio")
    kept = g.cut(g.add("Concat", [held, y], "all", axis=2), g.numbers(-HELD), g.numbers(END), 2, "kept")
    g.next_state(g.cut(tails, g.numbers(-1), g.numbers(END), 2, "last_tail"), kept)
    return g.stateful("decoder", ["B", "T", SIZE + 1], ["B", 2, "samples"])


def books() -> list[np.ndarray]:
    """A codebook [K, SIZE / width] for each stage; entry 0 is zero."""
    rng = np.random.default_rng(11)
    tables = [4.0 * 0.7**i * rng.standard_normal((ENTRIES, SIZE // w)).astype(np.float32) for i, w in enumerate(WIDTHS)]
    for table in tables:
        table[0] = 0
    return tables


def quantizer_encode() -> onnx.ModelProto:
    """Each stage cuts what is left into as many pieces as it has codes, and takes the entry nearest to each."""
    g, ends = Graph(), np.cumsum([1, *WIDTHS])
    side = g.add(
        "Cast", [g.cut("latents", g.numbers(SIZE), g.numbers(SIZE + 1), 2, "side")], "side_code", to=TensorProto.INT64
    )
    left, lines = g.cut("latents", *g.ends(SIZE), 2, "left"), [side]
    for i, (table, width) in enumerate(zip(books(), WIDTHS, strict=True)):
        pieces = g.add("Reshape", [left, g.numbers(0, 0, width, SIZE // width)], f"pieces_{i}")
        scores = g.add("MatMul", [pieces, g.floats(np.ascontiguousarray(table.T))], f"products_{i}")
        scores = g.add("Sub", [scores, g.floats(0.5 * (table**2).sum(axis=1))], f"scores_{i}")
        lines.append(g.add("ArgMax", [scores], f"code_{i}", axis=3, keepdims=0))  # [B, T, width]
        chosen = g.add("Gather", [g.floats(table), lines[-1]], f"entries_{i}", axis=0)
        chosen = g.add("Reshape", [chosen, g.numbers(0, 0, SIZE)], f"chosen_{i}")
        left = g.add("Sub", [left, chosen], f"left_{i}")
    every = g.add("Transpose", [g.add("Concat", lines, "every", axis=2)], "lines", perm=[0, 2, 1])
    end = g.add("Gather", [g.numbers(*map(int, ends)), "n_stages"], "end", axis=0)
    g.cut(every, g.numbers(0), g.add("Reshape", [end, g.numbers(1)], "end_1d"), 1, "codes")
    return g.quantizer_encode(SIZE + 1, "lines")


def quantizer_decode() -> onnx.ModelProto:
    """The sum of all entries; lines that are not there count as code 0, which is zero."""
    g = Graph()
    most = 1 + sum(WIDTHS)
    lacking = g.add("Sub", [g.numbers(most), g.add("Shape", ["codes"], "have", start=1, end=2)], "lacking")
    pads = g.add("Concat", [g.numbers(0, 0, 0, 0), lacking, g.numbers(0)], "pads", axis=0)
    every = g.add("Transpose", [g.add("Pad", ["codes", pads], "padded")], "every", perm=[0, 2, 1])
    side = g.add("Cast", [g.cut(every, *g.ends(1), 2, "side")], "loudness", to=TensorProto.FLOAT)
    total, at = "", 1
    for i, (table, width) in enumerate(zip(books(), WIDTHS, strict=True)):
        own = g.cut(every, g.numbers(at), g.numbers(at + width), 2, f"code_{i}")
        entries = g.add("Gather", [g.floats(table), own], f"entries_{i}", axis=0)
        entries = g.add("Reshape", [entries, g.numbers(0, 0, SIZE)], f"numbers_{i}")
        total, at = g.add("Add", [total, entries], f"total_{i}") if total else entries, at + width
    g.add("Concat", [total, side], "latents", axis=2)
    return g.quantizer_decode(SIZE + 1, "lines")


def make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    graphs = {
        "encoder": encoder_graph(),
        "quantizer_encode": quantizer_encode(),
        "quantizer_decode": quantizer_decode(),
        "decoder": decoder_graph(),
    }
    entries = {k: entry(folder, f"{k}.onnx", graph.SerializeToString()) for k, graph in graphs.items()}
    manifest = {
        "name": "wide",
        "architecture": "mdct",
        "sample_rate": RATE,
        "frame_size": FRAME,
        "latent_dim": SIZE + 1,
        "quantizer": QuantizerFacts("rvq", ENTRIES, len(WIDTHS)),
        "state": StateSizes(**STATES),
        "latency": Latency(FRAME, 3 * FRAME),
        "channels": 2,
        "lookahead": Lookahead(1, HELD),
        "start_frames": StartFrames(2, 3),
        "side": 1,
        "stage_widths": WIDTHS,
        "parameters": PartSizes(2 * FRAME * FRAME, 2 * FRAME * FRAME, sum(table.size for table in books())),
        "macs_per_second": PartSizes(4 * FRAME * RATE, 4 * FRAME * RATE, len(WIDTHS) * ENTRIES * SIZE * RATE // FRAME),
        "opset": OPSET,
        "precision": "fp32",
        "graphs": GraphFiles(**entries),
        "parity": {},
        "quality": [],
        "training": {"data": "none: a transform and random tables"},
        "tools": {},
    }
    write_manifest(folder, manifest, np.stack([voice(1001), voice(1001, seed=1)])[None], len(WIDTHS))


if __name__ == "__main__":
    make(FOLDER)
