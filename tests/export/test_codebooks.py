"""Codebooks by k-means: refitted stages, the classical kinds beside oracles, whole bundles, and the limits of VQ."""

import json
import shutil
from pathlib import Path
from typing import Any

import edgecodec
import numpy as np
import pytest
import soundfile
import torch
from edgecodec.bundle import read_bundle
from edgecodec.commands.main import app
from edgecodec.errors import DataError, ExportError
from edgecodec.evaluation import mos
from edgecodec.sessions import Sessions
from edgecodec_export import codebook_limits
from edgecodec_export.codebook_fitting import adapted, fresh, nearest, plane_of, refitted
from edgecodec_export.codebook_limits import Limits, Search, distortions_of, draw
from edgecodec_export.refit import latents_of, split_audio, stage_vectors, with_tables, write
from edgecodec_training.codebook_search import LookupTables, look_up, search
from edgecodec_training.quantizer import QuantizerConfig
from edgecodec_training.quantizers import build_quantizer
from typer.testing import CliRunner
from vector_quantize_pytorch import GroupedResidualVQ, ResidualVQ, VectorQuantize

AUDIO = Path(__file__).parents[1] / "audio"
RUNTIME = Path(__file__).parents[1] / "runtime"
TINY = RUNTIME / "tiny_bundle"
DIM, ENTRIES, STAGES = 8, 16, 4
KINDS: dict[str, dict[str, Any]] = {
    "rvq": {},
    "vq": {"max_stages": 1, "dropout_stages": (1,)},
    "pq": {},
    "gumbel": {},
}


def points(count: int = 600, seed: int = 0, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def tables_of(kind: str, dim: int = DIM, z: np.ndarray | None = None, **changes: Any) -> LookupTables:
    """A quantizer of `edgecodec_training`, fitted."""
    torch.manual_seed(0)
    values = {"codebook_size": ENTRIES, "max_stages": STAGES, "dropout_stages": (1,), "paths": ()}
    quantizer = build_quantizer(QuantizerConfig(kind=kind, **(values | KINDS[kind] | changes)), dim)  # type: ignore[arg-type]
    quantizer.eval().requires_grad_(False).initialise(torch.from_numpy(points(dim=dim) if z is None else z))
    return quantizer.tables()


def by_definition(kind: str, tables: LookupTables, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes [S, N] and reconstruction [N, D] of latents [N, D], in float64, as papers write them."""
    table, residual, codes = tables.table.double().numpy(), z.astype(np.float64), []
    for stage, entries in enumerate(table):
        if kind == "gumbel":
            logits = residual @ tables.score[stage].double().numpy() + tables.bias[stage].double().numpy()
            code = logits.argmax(axis=1)
        elif kind == "pq":
            part = slice(stage * DIM // STAGES, (stage + 1) * DIM // STAGES)
            code = np.square(residual[:, None, part] - entries[:, part]).sum(axis=2).argmin(axis=1)
        else:
            code = np.square(residual[:, None] - entries).sum(axis=2).argmin(axis=1)
        codes.append(code)
        residual = residual - entries[code]
    return np.stack(codes), z - residual


@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_reconstructions_are_those_of_the_definition(kind: str) -> None:
    tables, z = tables_of(kind), points(300, seed=1)
    codes = search(tables, torch.from_numpy(z)[None], tables.kept())
    expected, decoded = by_definition(kind, tables, z)
    assert np.array_equal(codes[0].numpy(), expected)
    np.testing.assert_allclose(look_up(tables, codes)[0].numpy(), decoded, atol=1e-5)


@pytest.mark.parametrize("kind", ["vq", "rvq", "pq"])
def test_fresh_codebooks_agree_with_an_independent_implementation(kind: str) -> None:
    """The codebooks of k-means, handed to vector-quantize-pytorch: it must choose the same codes."""
    stages = 1 if kind == "vq" else STAGES
    tables, z = fresh(points(), kind, ENTRIES, stages), torch.from_numpy(points(200, seed=1))[None]  # type: ignore[arg-type]
    codes = search(tables, z, tables.kept())
    width = DIM // STAGES
    if kind == "vq":
        oracle: Any = VectorQuantize(dim=DIM, codebook_size=ENTRIES).eval()
        oracle._codebook.embed.data.copy_(tables.table)
    elif kind == "rvq":
        oracle = ResidualVQ(dim=DIM, num_quantizers=STAGES, codebook_size=ENTRIES).eval()
        for layer, entries in zip(oracle.layers, tables.table, strict=True):
            layer._codebook.embed.data.copy_(entries[None])
    else:
        oracle = GroupedResidualVQ(dim=DIM, groups=STAGES, num_quantizers=1, codebook_size=ENTRIES).eval()
        for i, (group, entries) in enumerate(zip(oracle.rvqs, tables.table, strict=True)):
            assert not entries[:, : i * width].any() and not entries[:, (i + 1) * width :].any()
            group.layers[0]._codebook.embed.data.copy_(entries[None, :, i * width : (i + 1) * width])
    quantized, theirs = oracle(z)[:2]
    theirs = theirs[..., 0].permute(1, 0, 2) if kind == "pq" else theirs.reshape(1, -1, stages).transpose(1, 2)
    assert torch.equal(codes, theirs)
    torch.testing.assert_close(look_up(tables, codes), quantized, atol=1e-5, rtol=0)
    left = float((z - quantized).square().sum() / z.square().sum())
    assert left < {"vq": 0.75, "rvq": 0.35, "pq": 0.35}[kind]


@pytest.mark.parametrize("name", ["rvq", "rvq projected", "vq", "pq"])
def test_refitted_stages_begin_as_they_were_and_come_nearer(name: str) -> None:
    """With a prior that nothing moves, all codes stay; without, less is left, and entries stay in their planes."""
    kind = name.partition(" ")[0]
    changes = {"code_dim": 3} if "projected" in name else {}
    tables = tables_of(kind, **changes)
    z = 0.7 * points(2000, seed=2) + np.float32(0.3)
    batch = torch.from_numpy(z)[None]
    before = search(tables, batch, tables.kept())
    kept = refitted(z, tables.table.numpy(), prior=1e9)
    assert (search(kept, batch, kept.kept()) == before).float().mean() > 0.999  # near ties
    after = refitted(z, tables.table.numpy(), prior=0.0)
    if name in ("rvq projected", "pq"):
        assert after.project is not None and after.project.shape[2] == (3 if "projected" in name else DIM // STAGES)
        was, now = (torch.linalg.svdvals(t[0] - t[0].mean(0)) for t in (tables.table, after.table))
        assert int((now > 1e-3 * was[0]).sum()) == after.project.shape[2]
    lefts = [
        float((batch - look_up(t, search(t, batch, t.kept()))).square().sum() / batch.square().sum())
        for t in (tables, after)
    ]
    assert lefts[1] < 0.97 * lefts[0]


def test_where_points_are_few_centres_stay() -> None:
    start = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 99.0]], np.float32)
    near = np.array([[1.0, 0.0]] * 30 + [[10.0, 3.0]] * 3, np.float32)
    moved = adapted(near, start, prior=10.0)
    np.testing.assert_allclose(moved, [[30 / 40, 0], [10, 9 / 13], [0, 99]], atol=1e-5)
    np.testing.assert_allclose(adapted(near, start, prior=0.0), [[1, 0], [10, 3], [0, 99]], atol=1e-5)
    assert nearest(near, start).tolist() == [0] * 30 + [1] * 3
    assert plane_of(points(ENTRIES)).directions.shape == (DIM, DIM)


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of a second."""
    folder = tmp_path_factory.mktemp("audio")
    speech, rate = soundfile.read(AUDIO / "speech_es.flac")
    for i in range(6):
        soundfile.write(folder / f"{i}.wav", speech[i * rate // 2 :][:rate], rate)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def kind_bundle(request: pytest.FixtureRequest, audio: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with a quantizer of each kind."""
    folder = tmp_path_factory.mktemp("kinds") / request.param
    folder.mkdir()
    codec = edgecodec.load(TINY, trust=True)
    latents = latents_of(codec, split_audio([audio], codec.sample_rate, 1.0)[0])
    tables = tables_of(request.param, codec.manifest.latent_dim, latents)
    write(folder, codec.bundle, with_tables(codec, tables, request.param, request.param, folder), {}, {})
    return folder


def test_every_kind_goes_through_the_commands(
    kind_bundle: Path, audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mos, "mos_measures", lambda kind: {})  # which take seconds

    def run(*args: object) -> str:
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        assert result.exit_code == 0, result.output
        return result.stdout

    codec = edgecodec.load(kind_bundle, trust=True)
    assert codec.manifest.quantizer.kind == kind_bundle.name
    run("encode", audio / "0.wav", tmp_path / "a.edgc", "--bundle", kind_bundle, "-q", codec.max_stages)
    run("decode", tmp_path / "a.edgc", tmp_path / "a.wav", "--bundle", kind_bundle)
    decoded, _ = soundfile.read(tmp_path / "a.wav")
    assert np.isfinite(decoded).all() and decoded.any()
    run(
        "live",
        "--bundle",
        kind_bundle,
        "-q",
        codec.max_stages,
        "--input",
        audio / "0.wav",
        "--output",
        tmp_path / "b.wav",
    )
    live, _ = soundfile.read(tmp_path / "b.wav")
    assert np.isfinite(live).all() and live.any()
    text = run("evaluate", kind_bundle, "--data", audio, "--limit", 1, "-q", codec.max_stages, "--fixed", "--json")
    [row] = json.loads(text)["rows"]
    assert row["measures"]["si_sdr"]["mean"] > 0
    clip, n = points(800, dim=1)[:, 0], codec.max_stages
    encoder, decoder = codec.encoder_stream(stages=n), codec.decoder_stream()
    packets = [packet for block in np.split(clip, 8) for packet in encoder.push(block)] + list(encoder.flush())
    streamed = np.concatenate([decoder.push(packet) for packet in packets], axis=-1).ravel()
    whole = codec.decode(codec.encode(clip, stages=n), samples=len(clip)).ravel()
    assert np.abs(streamed[codec.delay :][: len(whole)] - whole).max() < 1e-5


def test_the_runtime_does_not_ask_for_the_kind() -> None:
    """A manifest tells it, for people; nothing else reads it."""
    runtime = Path(edgecodec.__file__).parent
    asking = {path.name for path in runtime.rglob("*.py") if "quantizer.kind" in path.read_text(encoding="utf-8")}
    assert asking == {"info.py"}


def test_a_bundle_is_refitted(audio: Path, tmp_path: Path) -> None:
    """Through the command: networks stay, codes do not, and files of the old one are refused by name."""
    target = tmp_path / "mine"
    call = ["fit-codebooks", str(TINY), str(target), "--data", str(audio), "--json", "--prior", "2"]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    before, after = edgecodec.load(TINY), edgecodec.load(target)
    for name in ("encoder", "decoder"):
        assert getattr(after.manifest.graphs, name).sha256 == getattr(before.manifest.graphs, name).sha256
    assert after.fingerprint.hex() == found["fingerprint"] != before.fingerprint.hex()
    assert after.manifest.quantizer == before.manifest.quantizer
    lefts = [[stage["left"] for stage in found[side]["stages"]] for side in ("before", "after")]
    assert len(lefts[0]) == 4 and all(new < old for old, new in zip(*lefts, strict=True))
    assert after.manifest.training["codebooks"]["left"] == lefts[1]
    assert after.manifest.parity["codes_equal"] == 1.0
    assert CliRunner().invoke(app, ["verify", str(target)]).exit_code == 0
    coded = tmp_path / "old.edgc"
    assert CliRunner().invoke(app, ["encode", str(audio / "0.wav"), str(coded), "--bundle", str(TINY)]).exit_code == 0
    refused = CliRunner().invoke(app, ["decode", str(coded), str(tmp_path / "x.wav"), "--bundle", str(target)])
    assert refused.exit_code == 1 and before.fingerprint.hex() in refused.output
    again = CliRunner().invoke(app, call)
    assert again.exit_code == 1 and "exists" in again.output


def test_a_table_and_what_is_lost_are_told(audio: Path, tmp_path: Path) -> None:
    """Fresh stages of other sizes; an entropy model does not fit them."""
    source = tmp_path / "source"
    shutil.copytree(TINY, source)
    sizes = ["--width", "8", "--hidden", "8", "--query", "4", "--steps", "5"]
    assert CliRunner().invoke(app, ["train-entropy", str(source), "--data", str(AUDIO), *sizes]).exit_code == 0
    call = ["fit-codebooks", str(source), str(tmp_path / "pq"), "--data", str(audio)]
    result = CliRunner().invoke(app, [*call, "--kind", "pq", "--size", "8", "--stages", "8"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("| stage | kbps | % left before |") and len(lines) == 19
    assert "edgecodec train-entropy" in lines[-1]
    manifest = read_bundle(tmp_path / "pq").manifest
    assert manifest.entropy is None and "entropy" not in manifest.training
    assert (manifest.quantizer.kind, manifest.quantizer.codebook_size, manifest.quantizer.max_stages) == ("pq", 8, 8)
    assert "fitted to other audio" in (tmp_path / "pq" / "MODEL_CARD.md").read_text()


def test_vectors_of_stages_are_their_own() -> None:
    """Not those of the sum with the first entries of the others."""
    codec = edgecodec.load(TINY, trust=True)
    vectors, codes = stage_vectors(codec), np.array([[[3], [0], [9], [15]]])
    total = sum(vectors[stage, code] for stage, code in enumerate(codes[0, :, 0]))
    np.testing.assert_allclose(total, Sessions(codec.bundle, "cpu", 1).latents(codes)[0, 0], atol=1e-5)


def test_what_cannot_be_fitted_is_said(audio: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="3 frames of audio cannot fit 16 entries"):
        fresh(points(3), "rvq", 16, 2)
    with pytest.raises(ExportError, match="pq splits the 8 numbers of latents into equal slices: 3 stages"):
        fresh(points(), "pq", 4, 3)
    with pytest.raises(ExportError, match="vq has one stage, not 2"):
        fresh(points(), "vq", 4, 2)
    soundfile.write(tmp_path / "silence.wav", np.zeros(800), 8000)
    with pytest.raises(DataError, match="no sound under"):
        split_audio([tmp_path], 8000, 1.0)
    wide = CliRunner().invoke(app, ["fit-codebooks", str(RUNTIME / "wide_bundle"), str(tmp_path / "x"), "--data", "x"])
    assert wide.exit_code == 1 and "other frame rates" in wide.output
    learned, scored = split_audio([audio], 8000, 1.0)
    assert (len(learned), len(scored)) == (4, 2)
    alone = split_audio([audio / "0.wav"], 8000, 1.0)
    assert [len(part[0]) for part in alone] == [6400, 1600]


def test_the_limits_of_theory_are_found_where_it_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Distortion of even noise in one and two dimensions falls by K^-2 and K^-1; the picture tells both exponents."""
    monkeypatch.setattr(codebook_limits, "SIZES", (32, 64))
    monkeypatch.setattr(codebook_limits, "DIMENSIONS", (1,))
    noise = np.random.default_rng(0).uniform(-1, 1, (2500, 2)).astype(np.float32)
    one, two = distortions_of(noise[:1500], noise[1500:])
    assert (one.dimensions, one.theory, two.theory) == (1, -2.0, -1.0)
    assert one.exponent == pytest.approx(-2.0, abs=0.35) and two.exponent == pytest.approx(-1.0, abs=0.15)
    limits = Limits([one, two], [Search(64, 2, 0.5), Search(128, 2, 1.0)], 1.0, 1500)
    draw(limits, tmp_path / "limits.svg")
    assert f"{two.exponent:.2f} (theory -1.00)" in (tmp_path / "limits.svg").read_text().replace("−", "-")
    with pytest.raises(ExportError, match="300 frames of audio are too few"):
        distortions_of(noise[:300], noise[1500:])
    with pytest.raises(ExportError, match=r"no/limits\.png: No such file"):
        draw(limits, tmp_path / "no" / "limits.png")


def test_the_command_draws_the_limits(audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SIZES", (32, 64)), ("DIMENSIONS", (2,)), ("SEARCHED", ((16, 4), (64, 4)))):
        monkeypatch.setattr(codebook_limits, name, value)
    call = ["fit-codebooks", str(TINY), str(tmp_path / "vq"), "--data", str(audio), "--kind", "vq", "--size", "8"]
    result = CliRunner().invoke(app, [*call, "--limits", str(tmp_path / "limits.png")])
    assert result.exit_code == 0, result.output
    dim = edgecodec.load(TINY, trust=True).manifest.latent_dim
    assert f"d = {dim}: distortion ∝ K^-" in result.stdout and "search ∝ K^" in result.stdout
    assert (tmp_path / "limits.png").read_bytes().startswith(b"\x89PNG")
    wrong = CliRunner().invoke(app, [*call, "--limits", "limits.jpg"])
    assert wrong.exit_code == 2 and "must end in .svg or .png" in wrong.output
