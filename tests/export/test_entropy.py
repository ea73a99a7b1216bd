"""Entropy models: learned from codes, put into bundles and beside checkpoints, and what they save."""

import json
import shutil
from pathlib import Path

import edgecodec
import numpy as np
import pytest
from edgecodec.commands.main import app
from edgecodec.entropy_model import read_entropy_model
from edgecodec.errors import ExportError
from edgecodec.layout import PLAIN, Layout
from edgecodec_export.entropy_bundle import kept_with, put_in
from edgecodec_export.entropy_network import EntropyConfig, tree_order
from edgecodec_export.entropy_training import Lesson, learn
from typer.testing import CliRunner

AUDIO = Path(__file__).parents[1] / "audio"
CONFIG = EntropyConfig(width=8, hidden=16, query=8, chunk_frames=20, batch_frames=400, steps=120)
ENTRIES, STAGES = 16, 2


def walk(layout: Layout, frames: int, seed: int) -> np.ndarray:
    """Codes [lines, frames], each near the one before it in its line, and the later stages near the first."""
    rng = np.random.default_rng(seed)
    lines = layout.lines(STAGES)
    first = np.abs(np.cumsum(rng.integers(-1, 2, frames))) % ENTRIES
    return ((first + rng.integers(0, 3, (lines, frames))) % ENTRIES).astype(np.uint16)


def lesson(layout: Layout = PLAIN) -> Lesson:
    codebooks = np.stack([np.eye(ENTRIES, 6, k=-s, dtype=np.float32) for s in range(STAGES)])
    angle = 2 * np.pi * np.arange(ENTRIES) / ENTRIES
    codebooks[:, :, 0], codebooks[:, :, 1] = np.cos(angle), np.sin(angle)
    return learn([walk(layout, 300, seed) for seed in range(22)], layout, codebooks, CONFIG)


@pytest.mark.parametrize("layout", [PLAIN, Layout(0, (1, 2)), Layout(1, (2, 2))])
def test_what_follows_from_the_past_is_saved(layout: Layout) -> None:
    """A code has one of nine values, and three of them mostly: 4 bits become less than 3."""
    learned = lesson(layout)
    assert learned.saved[1] > 0.2 and learned.saved[2] > 0.25
    read_entropy_model(learned.npz(), STAGES, ENTRIES)


def test_what_follows_from_nothing_costs_nothing() -> None:
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, ENTRIES, (STAGES, 300)).astype(np.uint16) for _ in range(22)]
    codebooks = rng.standard_normal((STAGES, ENTRIES, 6)).astype(np.float32)
    assert -0.03 < learn(clips, PLAIN, codebooks, CONFIG).saved[2] < 0.01


def test_learning_refuses_what_it_cannot_learn_from() -> None:
    codebooks = np.zeros((2, ENTRIES, 6), np.float32)
    with pytest.raises(ExportError, match=r"no entropy model for stages of \[2, 3\] codes a frame"):
        learn([walk(Layout(0, (2, 3)), 300, 0)] * 3, Layout(0, (2, 3)), codebooks, CONFIG)
    with pytest.raises(ExportError, match="60 frames of codes are too few"):
        learn([walk(PLAIN, 30, 0)] * 3, PLAIN, codebooks, CONFIG)


@pytest.mark.parametrize(("entries", "members"), [(1, 1), (16, 4), (20, 5), (37, 6), (64, 8)])
def test_groups_hold_what_is_alike(entries: int, members: int) -> None:
    import torch

    vectors = torch.randn(entries, 2, generator=torch.Generator().manual_seed(0))
    order = tree_order(vectors, members)
    assert sorted(order.tolist()) == list(range(entries))
    if entries > 1:
        groups = [vectors[order[i : i + members]] for i in range(0, entries, members)]
        within = torch.cat([group - group.mean(dim=0) for group in groups]).square().mean()
        assert within < 0.6 * vectors.var(dim=0, correction=0).mean()


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Path(__file__).parents[1] / "runtime" / "tiny_bundle", tmp_path / "tiny"))


def test_a_bundle_gets_a_model(tiny_bundle: Path) -> None:
    """Through the command; the codec is the same, its files are smaller, and what changes a byte is noticed."""
    before = edgecodec.load(tiny_bundle)
    call = ["train-entropy", str(tiny_bundle), "--data", str(AUDIO), "--steps", "30", "--json"]
    result = CliRunner().invoke(app, [*call, "--width", "8", "--hidden", "8", "--query", "4"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["bytes"] == (tiny_bundle / "entropy.npz").stat().st_size
    codec = edgecodec.load(tiny_bundle)
    assert codec.fingerprint == before.fingerprint
    assert codec.manifest.training["entropy"]["saved"] == report["saved"]
    assert codec.manifest.format_version == 2
    assert CliRunner().invoke(app, ["verify", str(tiny_bundle)]).exit_code == 0
    codes = codec.encode(np.random.default_rng(0).normal(0, 0.1, 9000).astype(np.float32), stages=codec.max_stages)
    coder = codec.code_coder()
    body = coder.encode(codes)
    assert np.array_equal(coder.decode([body.data], codec.max_stages, codes.shape[2], mixed=False)[0], codes)
    with (tiny_bundle / "entropy.npz").open("ab") as file:
        file.write(b"\0")
    assert "altered" in CliRunner().invoke(app, ["verify", str(tiny_bundle)]).output


def test_a_model_of_another_codec_is_refused(tiny_bundle: Path) -> None:
    before = {file.name: file.read_bytes() for file in tiny_bundle.iterdir()}
    with pytest.raises(edgecodec.BundleError, match="expected"):
        put_in(tiny_bundle, Lesson(lesson().arrays, {}, 0, 0.0))
    assert {file.name: file.read_bytes() for file in tiny_bundle.iterdir()} == before


def test_a_checkpoint_takes_a_model_along(checkpoint: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    sizes = ["--width", "8", "--hidden", "8", "--query", "4", "--steps", "20"]
    result = CliRunner().invoke(app, ["train-entropy", str(own), "--data", str(AUDIO), *sizes])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, ["export", str(own), str(tmp_path / "bundle")])
    assert result.exit_code == 0, result.output
    codec = edgecodec.load(tmp_path / "bundle")
    kept = kept_with(own)
    assert kept is not None and codec.manifest.training["entropy"] == kept[1]
    assert (tmp_path / "bundle" / "entropy.npz").read_bytes() == kept[0]
    with np.load(tmp_path / "bundle" / "golden.npz") as golden:
        assert {"coded_1", "intervals_1", "ends_1"} <= set(golden.files)
    weights = next(own.rglob("weights*.safetensors"))
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(ExportError, match="of other weights"):
        kept_with(own)
