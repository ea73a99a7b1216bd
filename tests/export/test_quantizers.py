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
from edgecodec_export.quantizer_graphs import max_paths, quantizer_decode_graph, quantizer_encode_graph
from edgecodec_training.codebook_search import search
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
        run = runner(quantizer_encode_graph(tables))
        as_exported = [0] if max_paths(tables) else []
        return lambda z, n: run(z, n, *as_exported), runner(quantizer_decode_graph(tables))

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


WIDE: dict[str, dict[str, Any]] = {
    "as trained": {},
    "one path after the first": {"paths": (3,)},
    "more stages than one step": {"max_stages": 13},
    "groups of four": {"codebook_size": 20},
    "no groups": {"codebook_size": 7},
    "fewer entries than paths": {"codebook_size": 3},
}


@pytest.mark.parametrize("name", WIDE)
def test_the_wide_search_gives_the_codes_of_torch(name: str, runner: Callable[..., Any]) -> None:
    quantizer = make(**WIDE[name])
    tables, wider = quantizer.tables(), 0
    run = runner(quantizer_encode_graph(tables))
    for z in (latents(1, 1), latents(1, 50), latents(3, 17)):
        for n in range(1, quantizer.max_stages + 1):
            narrow = run(z, n, 0)[0]
            assert np.array_equal(narrow, quantizer.encode(z, n).numpy())
            for paths in (1, 2, 4, 8, max_paths(tables)):
                codes = search(tables, z, tables.kept([paths] * n)).numpy()
                assert np.array_equal(run(z, n, paths)[0], codes)
                wider += int((codes != narrow).sum())
    assert wider


def test_of_equal_scores_the_first_entry_wins(runner: Callable[..., Any]) -> None:
    """Entries that are there three times, in groups of their own; every sum is a small whole number, and exact."""
    generator = torch.Generator().manual_seed(4)
    books = torch.randint(-3, 4, (3, 16, DIM), generator=generator).float().repeat(1, 3, 1)
    z = torch.randint(-9, 10, (2, 40, DIM), generator=generator).float()
    tables = with_codebooks(books).tables()._replace(paths=(2,))
    run = runner(quantizer_encode_graph(tables))
    for paths in (0, 1, 4, 8):
        assert run(z, 3, paths)[0].max() < 16
    assert np.array_equal(run(z, 3, 8)[0], search_with_ties(tables.table.numpy(), z.numpy(), 3, 8))


def search_with_ties(table: np.ndarray, z: np.ndarray, stages: int, paths: int) -> np.ndarray:
    """The search for one frame after the other, by a stable sort."""
    codes = np.zeros((len(z), stages, z.shape[1]), np.int64)
    for batch, frame in np.ndindex(z.shape[:2]):
        kept: list[tuple[float, list[int]]] = [(0.0, [])]
        for stage in range(stages):
            found = []
            for merit, path in kept:
                left = z[batch, frame] - sum((table[i, code] for i, code in enumerate(path)), np.zeros(DIM))
                scores = table[stage] @ left - 0.5 * (table[stage] ** 2).sum(axis=1)
                found += [(merit + float(score), [*path, code]) for code, score in enumerate(scores)]
            kept = sorted(found, key=lambda entry: -entry[0])[:paths]
        codes[batch, :, frame] = kept[0][1]
    return codes


def test_more_paths_leave_less_error(runner: Callable[..., Any]) -> None:
    quantizer = make(codebook_size=16, max_stages=8)
    run = runner(quantizer_encode_graph(quantizer.tables()))
    z = latents(2, 150)
    left = [float((quantizer.decode(torch.from_numpy(run(z, 8, n)[0])) - z).square().sum()) for n in (1, 0, 4, 8, 16)]
    assert all(later < before for before, later in pairwise(left))


@pytest.mark.parametrize("name", ["rvq, one path", "rvq projected", "rvq normalized", "vq", "pq", "gumbel"])
def test_other_kinds_have_no_wide_search(name: str) -> None:
    tables = make(**KINDS[name]).tables()
    assert not max_paths(tables)
    assert [value.name for value in quantizer_encode_graph(tables).graph.input] == ["latents", "n_stages"]


def test_no_more_paths_than_the_graph_was_made_for(runner: Callable[..., Any]) -> None:
    tables = make().tables()
    run = runner(quantizer_encode_graph(tables))
    with pytest.raises(Exception, match="out of data bounds"):
        run(latents(1, 1), 2, max_paths(tables) + 1)


def test_codebooks_are_stored_once() -> None:
    for paths in ((), (3,), (3, 3, 3, 3)):
        tables = make(64, codebook_size=512, paths=paths).tables()
        assert quantizer_encode_graph(tables).ByteSize() < 1.2 * 4 * (tables.table.numel() + tables.bias.numel())


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
        wide = {"paths": np.array(0)} if max_paths(tables) else {}
        session.run(None, {"latents": latents(1, 3).numpy(), "n_stages": np.array(n), **wide})
        events = json.loads(Path(session.end_profiling()).read_text())
        gemms = [event["args"] for event in events if event.get("args", {}).get("op_name") == "Gemm"]
        return sum(shape["float"][0] for args in gemms for shape in args["output_type_shape"])

    assert [scored(n) for n in range(1, len(rows) + 1)] == rows
