"""The quantizers of the literature: by hand, through an independent oracle, and through exported graphs."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from edgecodec_export.quantizer_graphs import quantizer_decode_graph, quantizer_encode_graph
from edgecodec_training.quantizer import Quantizer, QuantizerConfig
from edgecodec_training.quantizers import build_quantizer
from vector_quantize_pytorch import ResidualVQ as OracleRVQ

Graphs = Callable[[Quantizer], tuple[Callable[..., Any], Callable[..., Any]]]
DIM, ENTRIES, STAGES = 8, 32, 4
KINDS: dict[str, dict[str, Any]] = {
    "rvq": {},
    "rvq, one path": {"paths": ()},
    "rvq, stages in fours": {"max_stages": 13},
    "rvq, paths to the end": {"paths": (2, 5, 5, 5)},
    "rvq projected": {"code_dim": 3},
    "rvq projected, normalized": {"code_dim": 3, "normalized": True, "learning": "gradient"},
    "rvq normalized": {"normalized": True},
    "vq": {"kind": "vq", "max_stages": 1, "dropout_stages": (1,)},
    "pq": {"kind": "pq"},
    "gumbel": {"kind": "gumbel"},
}


def make(dim: int = DIM, **changes: Any) -> Quantizer:
    torch.manual_seed(0)
    settings = {"codebook_size": ENTRIES, "max_stages": STAGES, "dropout_stages": (1,)} | changes
    quantizer = build_quantizer(QuantizerConfig(**settings), dim).eval().requires_grad_(False)
    quantizer.initialise(torch.randn(500, dim))
    return quantizer


def with_codebooks(codebooks: torch.Tensor) -> Quantizer:
    """A plain RVQ with codebooks [S, K, D]."""
    stages, entries, dim = codebooks.shape
    quantizer = make(dim, codebook_size=entries, max_stages=stages, paths=())
    for book, vectors in zip(quantizer.codebooks, codebooks, strict=True):
        book.vectors.copy_(vectors)
    return quantizer


def latents(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def graphs(runner: Callable[..., Any]) -> Graphs:
    """`encode, decode = graphs(quantizer)`: its exported graphs."""

    def export(quantizer: Quantizer) -> tuple[Callable[..., Any], Callable[..., Any]]:
        tables = quantizer.tables()
        return runner(quantizer_encode_graph(tables)), runner(quantizer_decode_graph(tables))

    return export


def test_the_worked_example_of_the_literature(graphs: Graphs) -> None:
    z = torch.tensor([[[5.8, 2.4]]])
    quantizer = with_codebooks(torch.tensor([[[5.0, 2.0], [6.0, 3.0]], [[-0.2, -0.6], [0.9, 0.5]]]))
    encode, decode = graphs(quantizer)
    for codes in (quantizer.encode(z, 2).numpy(), encode(z, 2)[0]):
        assert codes.tolist() == [[[1], [0]]]
    first = np.array([[[1]]])
    for decoded in (quantizer.decode(torch.from_numpy(first)).numpy(), decode(first)[0]):
        np.testing.assert_allclose(z.numpy() - decoded, [[[-0.2, -0.6]]], atol=1e-6)
    both = np.array([[[1], [0]]])
    for decoded in (quantizer.decode(torch.from_numpy(both)).numpy(), decode(both)[0]):
        np.testing.assert_allclose(decoded, z.numpy(), atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_gives_the_same_codes_in_torch_and_onnx(name: str, graphs: Graphs) -> None:
    quantizer = make(**KINDS[name])
    encode, decode = graphs(quantizer)
    for z in (latents(1, 1), latents(1, 50), latents(3, 17)):
        for n in range(1, quantizer.max_stages + 1):
            codes = quantizer.encode(z, n)
            assert codes.shape == (len(z), n, z.shape[1])
            assert np.array_equal(encode(z, n)[0], codes.numpy())
            np.testing.assert_allclose(decode(codes)[0], quantizer.decode(codes).numpy(), atol=1e-6)


def distortions(quantizer: Quantizer, graphs: Graphs) -> list[float]:
    """Energy left of latents after 0, 1, 2 … stages."""
    encode, decode = graphs(quantizer)
    z = latents(2, 150).numpy()
    counts = range(1, quantizer.max_stages + 1)
    return [float(np.square(left).mean()) for left in (z, *(z - decode(encode(z, n)[0])[0] for n in counts))]


@pytest.mark.parametrize("name", ["rvq", "rvq projected", "pq", "gumbel"])
def test_distortion_falls_with_every_stage(name: str, graphs: Graphs) -> None:
    left = distortions(make(**KINDS[name]), graphs)
    assert all(later < before for before, later in pairwise(left))


def test_distortion_falls_on_random_codebooks(graphs: Graphs) -> None:
    generator = torch.Generator().manual_seed(2)
    scales = 0.7 ** torch.arange(6.0)[:, None, None]
    codebooks = scales * torch.randn(6, ENTRIES, DIM, generator=generator)
    codebooks[:, 0] = 0  # "nothing to add" is a choice, so no stage can make it worse
    left = distortions(with_codebooks(codebooks), graphs)
    assert all(later < before for before, later in pairwise(left))


def test_agrees_with_an_independent_implementation(graphs: Graphs) -> None:
    torch.manual_seed(3)
    codebooks = torch.randn(STAGES, ENTRIES, DIM) * 0.6 ** torch.arange(float(STAGES))[:, None, None]
    oracle = OracleRVQ(dim=DIM, num_quantizers=STAGES, codebook_size=ENTRIES).eval()
    for layer, vectors in zip(oracle.layers, codebooks, strict=True):
        layer._codebook.embed.data.copy_(vectors[None])  # [heads, K, D]
    z = latents(2, 200)
    with torch.no_grad():
        quantized, indices, _ = oracle(z)
    expected = indices.transpose(1, 2)  # theirs is [B, T, n]
    quantizer = with_codebooks(codebooks)
    encode, decode = graphs(quantizer)
    for codes in (quantizer.encode(z, STAGES).numpy(), encode(z, STAGES)[0]):
        assert np.array_equal(codes, expected.numpy())
    for decoded in (quantizer.decode(expected).numpy(), decode(expected)[0]):
        np.testing.assert_allclose(decoded, quantized.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("paths", "rows"),
    [
        ((), [3, 6, 12, 12, 24, 24, 24, 24, 30, 30]),
        ((3, 2), [3, 12, 21, 21, 33, 33, 33, 33, 39, 39]),
        ((3,) * 10, [3, 12, 21, 30, 39, 48, 57, 66, 75, 84]),
    ],
)
def test_executed_work_falls_with_the_stage_count(paths: tuple[int, ...], rows: list[int], tmp_path: Path) -> None:
    """Rows that are scored against a codebook, for three frames: those of each path that reaches a stage.

    While there are several paths each stage is a branch; later ones come in fours, but the first two.
    """
    tables = make(paths=paths, max_stages=len(rows)).tables()
    graph = quantizer_encode_graph(tables).SerializeToString()

    def scored(n: int) -> int:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(tmp_path / f"stages{n}")
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        session.run(None, {"latents": latents(1, 3).numpy(), "n_stages": np.array(n)})
        events = json.loads(Path(session.end_profiling()).read_text())
        gemms = [event["args"] for event in events if event.get("args", {}).get("op_name") == "Gemm"]
        return sum(shape["float"][0] for args in gemms for shape in args["output_type_shape"])

    assert [scored(n) for n in range(1, len(rows) + 1)] == rows
