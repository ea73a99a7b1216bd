"""`edgecodec study` in its smallest form, through the command; its rules, its files, and its page in a browser.

Networks do not learn here (codebooks do), so that all variants have those of their seed and one export of them serves.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import signal
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import edgecodec
import edgecodec_export.convert
import edgecodec_export.study.runs
import numpy as np
import pytest
import soundfile
import torch
from edgecodec.commands.main import app
from edgecodec.evaluation.noisy_input import NoiseBehind
from edgecodec.evaluation.quality import measure as evaluate
from edgecodec_export.study import table as tables
from edgecodec_export.study.code_lines import code_lines
from edgecodec_export.study.plan import load_study
from edgecodec_export.study.rows import Row, read_csv
from edgecodec_export.study.stability import stability
from edgecodec_training import quantizers as quantizer_kinds
from edgecodec_training.checkpoint import build_model, load_checkpoint
from edgecodec_training.trainer import Trainer
from playwright.sync_api import sync_playwright
from torch.utils.tensorboard import SummaryWriter
from typer.testing import CliRunner, Result

AUDIO = Path(__file__).parents[1] / "audio"
KINDS = ["rvq", "vq", "pq", "gumbel"]
STUDY = """
title = "Small"
steps = 12
seeds = [3]
scored = [1, 2, 4]
set.model.sample_rate = 16_000
set.model.frame_size = 160
set.model.latent_dim = 8
set.model.edge = { channels = 8, encoder_blocks = 1, decoder_blocks = 1, pitch_filter = 0.0 }
set.model.quantizer = { codebook_size = 16, max_stages = 4, dropout_stages = [1, 2, 4], paths = [] }
set.loss = { mel_windows = [256], mel_bands = [20], loudness_windows = [256], stft_windows = [256] }
set.optimizer.learning_rate = 0.0
set.run = { batch_size = 2, clip_seconds = 0.3, codebook_seconds = 6.0 }

[variants.rvq]
note = "the <first> of them"

[variants.vq]
set.model.quantizer = { kind = "vq", codebook_size = 256, max_stages = 1, dropout_stages = [1] }

[variants.pq]
set.model.quantizer.kind = "pq"

[variants.gumbel]
set.model.quantizer = { kind = "gumbel", temperature = [2.0, 0.5, 12] }
"""


@pytest.fixture(scope="module", autouse=True)
def one_export() -> Iterator[None]:
    """Networks of the same weights are exported once: that they give the same bytes, test_graphs says."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("encoder_graph", "decoder_graph"):
            made: dict[bytes, Any] = {}
            export = getattr(edgecodec_export.convert, name)

            def once(part: torch.nn.Module, *sizes: int, made: Any = made, export: Any = export) -> Any:
                key = b"".join(tensor.numpy().tobytes() for tensor in part.state_dict().values())
                if key not in made:
                    made[key] = export(part, *sizes)
                return made[key]

            patch.setattr(edgecodec_export.convert, name, once)
        yield


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report, which takes seconds to draw, is left out."""
    monkeypatch.setattr("edgecodec_export.study.report.Report.html", lambda report: "")


def study(*args: object) -> Result:
    return CliRunner().invoke(app, ["study", *map(str, args)])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study and clips to train and to measure on."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "small.toml").write_text(STUDY)
    speech, rate = soundfile.read(AUDIO / "speech_ro.flac")
    for name, part in (("train", speech[: 4 * rate]), ("valid", speech[-2 * rate :])):
        (folder / name).mkdir()
        soundfile.write(folder / name / "a.wav", part, rate)
    return folder


def call(files: Path, out: Path, *more: object) -> Result:
    return study(files / "small.toml", out, "--data", files / "train", "--valid", files / "valid", *more)


@pytest.fixture(scope="module")
def done(files: Path) -> tuple[Path, Result]:
    """OUT of the whole study, and what the command said."""
    return files / "out", call(files, files / "out")


@pytest.fixture(scope="module")
def rows(done: tuple[Path, Result]) -> list[Row]:
    return read_csv(done[0] / "study.csv")


def test_four_kinds_come_to_one_table(done: tuple[Path, Result], rows: list[Row]) -> None:
    out, said = done
    assert said.exit_code == 0, said.output
    lines = [line for line in said.stdout.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines] == ["| variant", "| rvq", "| vq", "| pq", "| gumbel"]
    assert lines[0].count(" | ") == 6
    for cell in lines[1].removeprefix("| rvq | ").removesuffix(" |").split(" | "):
        assert re.match(r"\*\*(high|medium|low|–)\*\*: .*\d", cell)
    assert re.search(r"^rvq: norm of the residual, .* after each stage:( \d+){4}$", said.stdout, re.MULTILINE)
    assert [(row.variant, row.stages) for row in rows] == [
        (name, n) for name in KINDS for n in ([1] if name == "vq" else [1, 2, 3, 4])
    ]
    assert not [path for path in out.rglob("*") if ".tmp" in path.name or path.name.startswith(".")]


def test_figures_are_those_of_the_bundle(done: tuple[Path, Result], rows: list[Row], files: Path) -> None:
    """Made another way, from the codes of the codec: entropy, and the distortion that the checkpoint says in torch."""
    clip = soundfile.read(files / "valid" / "a.wav", dtype="float32")[0]
    for name in KINDS:
        own = [row for row in rows if row.variant == name]
        codec = edgecodec.load(done[0] / "runs" / name / "seed-3" / "bundle")
        audio = torch.from_numpy(edgecodec_audio(clip, codec.sample_rate))
        trained = load_checkpoint(done[0] / "runs" / name / "seed-3" / "training")
        model = build_model(trained.config.model, trained.weights)
        padded = torch.nn.functional.pad(audio, (0, codec.frames(len(audio)) * 160 - len(audio)))
        z = model.encode_latents(padded[None, None])
        codes = codec.encode(audio.numpy(), stages=codec.max_stages)
        _, counts = np.unique(codes[0, -1], return_counts=True)
        shares = counts / counts.sum()
        assert own[-1].perplexity == pytest.approx(2 ** -(shares * np.log2(shares)).sum(), rel=1e-4)
        assert own[-1].entries_used == len(counts)
        left = z - model.quantizer.decode(torch.from_numpy(codes))
        assert own[-1].distortion == pytest.approx(float(left.square().mean() / z.square().mean()), rel=1e-3)
        assert own[-1].residual_norm == pytest.approx(float(left.norm(dim=2).mean()), rel=1e-3)
        assert own[-1].frames == codes.shape[2] and own[-1].steps == 12
        assert own[-1].bundle_bytes == sum(f.stat().st_size for f in codec.bundle.path.iterdir())
    assert {row.kind: row.bits for row in rows if row.stages == row.max_stages} == {
        "rvq": 16, "vq": 8, "pq": 16, "gumbel": 16
    }  # fmt: skip


def edgecodec_audio(clip: np.ndarray, rate: int) -> np.ndarray:
    import soxr

    return np.asarray(soxr.resample(clip, 24_000, rate), np.float32)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_goes_through_the_runtime(name: str, done: tuple[Path, Result], tmp_path: Path) -> None:
    """Codes as numpy finds them from the trained tables; files; streams, which give the codes of whole clips."""
    home = done[0] / "runs" / name / "seed-3"
    trained = load_checkpoint(home / "training")
    model = build_model(trained.config.model, trained.weights)
    codec = edgecodec.load(home / "bundle")
    audio = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    codes = codec.encode(audio, stages=codec.max_stages)
    padded = np.pad(audio, (0, codec.frames(len(audio)) * 160 - len(audio)))
    left = model.encode_latents(torch.from_numpy(padded)[None, None])[0].numpy().astype(np.float64)
    for stage in range(codec.max_stages):
        chosen = numpy_choice(model.quantizer, stage, left)
        assert (codes[0, stage] == chosen[0]).mean() > 0.995  # float32 may decide ties otherwise
        left = left - chosen[1][codes[0, stage]]
    stream = codec.encoder_stream(stages=codec.max_stages)
    packets = [packet for block in np.array_split(padded, 7) for packet in stream.push(block)]
    assert np.array_equal(np.concatenate([p.codes for p in packets], axis=2), codes[:, :, : len(packets)])
    soundfile.write(tmp_path / "a.wav", audio[:8000], 16_000)
    for line in ("encode a.wav a.edgc", "decode a.edgc b.wav", "live --input a.wav --output c.wav"):
        paths = [str(tmp_path / word) if "." in word else word for word in line.split()]
        said = CliRunner().invoke(
            app, [*paths, "--bundle", str(home / "bundle"), *(["-q", "1"] if "live" in line else [])]
        )
        assert said.exit_code == 0, said.output
    assert [len(soundfile.read(tmp_path / file)[0]) for file in ("b.wav", "c.wav")] == [8000, 8000]


def test_evaluate_says_the_same(done: tuple[Path, Result], rows: list[Row], files: Path) -> None:
    for row in rows:
        if row.stages == row.max_stages:
            codec = edgecodec.load(done[0] / "runs" / row.variant / "seed-3" / "bundle")
            [found] = evaluate(codec, files / "valid", [row.stages], effort="live").rows
            assert found.kbps == row.kbps
            for name, estimate in found.measures.items():
                assert getattr(row, name) == pytest.approx(estimate.mean, abs=2e-4), (row.variant, name)


def test_the_runtime_does_not_ask_for_the_kind() -> None:
    asking = [p.name for p in Path(edgecodec.__file__).parent.rglob("*.py") if "quantizer.kind" in p.read_text()]
    assert asking == ["info.py"]  # which prints it


def numpy_choice(quantizer: Any, stage: int, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of a stage by the definition of its kind, and the vectors that its entries add to the latents."""
    if quantizer.config.kind == "gumbel":
        logits = left @ quantizer.score[stage].numpy() + quantizer.bias[stage].numpy()
        return logits.argmax(axis=1), quantizer.table[stage].numpy()
    vectors = quantizer.codebooks[stage].vectors.numpy()
    if quantizer.config.kind == "pq":
        width = vectors.shape[1]
        part = slice(stage * width, (stage + 1) * width)
        whole = np.zeros((len(vectors), left.shape[1]))
        whole[:, part] = vectors
        return np.square(left[:, None, part] - vectors).sum(axis=2).argmin(axis=1), whole
    return np.square(left[:, None] - vectors).sum(axis=2).argmin(axis=1), vectors


def test_what_is_done_is_not_done_again(
    done: tuple[Path, Result], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in done[0].glob("study.*")}
    monkeypatch.setattr(edgecodec_export.study.runs, "train_leg", None)
    monkeypatch.setattr(edgecodec_export.study.runs, "measure", None)
    monkeypatch.setattr("edgecodec_export.study.costs.costs", None)
    again = call(files, done[0])
    assert again.exit_code == 0, again.output
    assert again.stdout == done[1].stdout
    assert {path: path.read_bytes() for path in done[0].glob("study.*")} == before
    said = call(files, done[0], "--steps", 13)
    assert said.exit_code == 2
    assert re.fullmatch(r"edgecodec: \S+seed-3: of other settings than the study has now: .*\n", said.stderr)


@pytest.mark.usefixtures("no_page")
def test_ctrl_c_and_on(files: Path, done: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study that is stopped within a run goes on with it, and comes to the same weights as one that is not."""
    step = Trainer.train_step

    def stopped(trainer: Trainer) -> Any:
        if trainer.step == 5:
            signal.raise_signal(signal.SIGINT)
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stopped)
        said = call(files, tmp_path, "--only", "gumbel")
    assert said.exit_code == 130
    assert (
        said.stderr.splitlines()[-1]
        == f"edgecodec: stopped; what is done stays in {tmp_path}: the same command goes on"
    )
    training = tmp_path / "runs" / "gumbel" / "seed-3" / "training"
    assert [path.name for path in training.glob("step-*")] == ["step-00000006"]
    said = call(files, tmp_path, "--only", "gumbel", "--json")
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert list(found["table"]) == ["gumbel"] and len(found["rows"]) == 4 and found["failed"] == {}
    uninterrupted = load_checkpoint(done[0] / "runs" / "gumbel" / "seed-3" / "training")
    for name, tensor in load_checkpoint(training).weights.items():
        assert torch.equal(tensor, uninterrupted.weights[name]), name
    assert len(json.loads((training.parent / "figures.json").read_text())["training"]["norms"]) == 12


@pytest.mark.usefixtures("no_page")
def test_a_finished_checkpoint_is_only_measured(files: Path, done: tuple[Path, Result], tmp_path: Path) -> None:
    plan = tmp_path / "finished.toml"
    shutil.copytree(done[0] / "runs" / "rvq" / "seed-3" / "training", tmp_path / "run")
    plan.write_text('seeds = [0, 1]\nclips = 1\nvariants.mine.checkpoint = "run"\n')
    said = study(plan, tmp_path / "out", "--data", "nowhere", "--valid", files / "valid")
    assert said.exit_code == 0, said.output
    [first, *_] = rows = read_csv(tmp_path / "out" / "study.csv")
    assert [row.stages for row in rows] == [1, 2, 3, 4] and first.gradient_norm is None
    assert "**–**: not trained here" in said.stdout
    beside = [row for row in read_csv(done[0] / "study.csv") if row.variant == "rvq"]
    assert [row.distortion for row in rows] == [row.distortion for row in beside]


@pytest.mark.usefixtures("no_page")
def test_a_variant_that_cannot_be_exported_stands_beside_the_others(
    files: Path, done: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    (out / "runs" / "pq" / "seed-3" / "figures.json").unlink()

    def fails(request: object) -> None:
        raise edgecodec.errors.ExportError("verification failed")

    monkeypatch.setattr(edgecodec_export.study.runs, "export_bundle", fails)
    said = call(files, out)
    assert said.exit_code == 1
    assert "pq, seed 3: failed: verification failed" in said.stderr
    assert {row.variant for row in read_csv(out / "study.csv")} == {"rvq", "vq", "gumbel"}


def test_the_table_follows_from_the_csv(done: tuple[Path, Result], tmp_path: Path) -> None:
    written = (done[0] / "study.md").read_text()
    assert study(done[0] / "study.csv", "--table", "--picture", tmp_path / "curves.svg").stdout == written
    drawn = ElementTree.parse(tmp_path / "curves.svg").getroot()
    assert len(drawn.findall("{http://www.w3.org/2000/svg}svg")) == 3
    assert "var(--line0)" in (tmp_path / "curves.svg").read_text() and "--line0: #" in drawn[0].text
    assert done[1].stdout.startswith(written)
    with (done[0] / "study.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    column = lines[0].index("effective_bits")
    for line in lines[1:]:
        line[column] = "70"
    with (tmp_path / "other.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    assert "| rvq | **high**: 70.0 of 16 bits a frame |" in study(tmp_path / "other.csv", "--table").stdout
    assert "| rvq | **high**" not in written


def with_changes(rows: list[Row], variant: str, **changes: Any) -> list[Row]:
    return [dataclasses.replace(row, **(changes if row.variant == variant else {})) for row in rows]


@pytest.mark.parametrize(
    ("column", "even", "changes", "word"),
    [
        ("capacity", {"effective_bits": 14.9}, {"effective_bits": 15.0}, "medium"),
        ("capacity", {"effective_bits": 14.9}, {"effective_bits": 40.0}, "high"),
        ("bitrate control", {}, {"mel_distance": 9.0}, "low"),
        ("training stability", {}, {"gradient_spread": 2.6}, "medium"),
        ("training stability", {}, {"gradient_spread": 2.6, "dead_entries": 0.2}, "low"),
        ("training stability", {}, {"loss_variation": 0.26}, "medium"),
        ("inference cost", {}, {"cost_ratio": 0.86}, "low"),
        ("inference cost", {}, {"cost_ratio": 1.15}, "high"),
        ("perceptual quality", {}, {"pesq_wb": 1.9}, "medium"),
        ("perceptual quality", {}, {"estoi": 0.4}, "low"),
        ("code complexity", {}, {"lines_own": 29}, "low"),
        ("code complexity", {}, {"lines_own": 60}, "high"),
    ],
)
def test_words_follow_the_rules(
    rows: list[Row], column: str, even: dict[str, Any], changes: dict[str, Any], word: str
) -> None:
    """One variant is changed: its word becomes this one, and was another while all were alike."""
    alike = {"gradient_spread": 2.0, "loss_variation": 0.2, "dead_entries": 0.0, "cost_ratio": 1.0, "lines_own": 40}
    alike |= {"pesq_wb": 2.0, "estoi": 0.5} | even
    usual = [dataclasses.replace(row, **alike) for row in rows]
    number = [c.heading for c in tables.COLUMNS].index(column)
    before = tables.table(usual)["pq"][number].word
    assert tables.table(with_changes(usual, "pq", **changes))["pq"][number].word == word != before


def test_stage_counts_that_add_nothing_are_not_usable(rows: list[Row]) -> None:
    own = [row for row in rows if row.variant == "rvq"]
    mel = {1: 0.5, 2: 0.3, 3: 0.31, 4: 0.2}
    assert tables.usable([dataclasses.replace(r, mel_distance=mel[r.stages], silent_mel=0.6) for r in own]) == [1, 2, 4]
    assert tables.usable([dataclasses.replace(r, mel_distance=mel[r.stages], silent_mel=0.1) for r in own]) == []


def test_seeds_that_differ_are_less_stable(rows: list[Row]) -> None:
    own = [dataclasses.replace(row, gradient_spread=2.0, loss_variation=0.1, dead_entries=0.0) for row in rows]
    number = [c.heading for c in tables.COLUMNS].index("training stability")
    for factor, word in ((1.02, "high"), (1.1, "medium")):
        other = [dataclasses.replace(row, seed=4, mel_distance=row.mel_distance * factor) for row in own]
        cell = tables.table([*own, *other])["rvq"][number]
        assert cell.word == word and "apart" in cell.numbers


def test_lines_of_code_are_counted_in_the_source() -> None:
    """As the tokenizer counts them, which knows no syntax trees."""
    source = Path(quantizer_kinds.__file__)
    lines = source.read_text().splitlines()
    for kind, name in (("rvq", "ResidualVQ"), ("pq", "ProductVQ"), ("gumbel", "GumbelRVQ")):
        begin = next(i for i, line in enumerate(lines, start=1) if line.startswith(f"class {name}"))
        end = next((i for i, x in enumerate(lines[begin:], start=begin + 1) if re.match(r"\S", x)), len(lines) + 1)
        with source.open("rb") as file:
            tokens = [t for t in tokenize.tokenize(file.readline) if begin - 1 <= t.start[0] < end]
        skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        code = {t.start[0] for t in tokens if t.type not in skipped and not t.string.startswith('"""')}
        counted = code_lines(kind).own
        assert counted == len({n for n in code if n >= begin}), kind
    rvq, gumbel = code_lines("rvq"), code_lines("gumbel")
    assert rvq.all > rvq.own > gumbel.own


def test_stability_tells_even_runs_from_uneven_ones(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for name, noise in (("even", 0.01), ("uneven", 1.0)):
        with SummaryWriter(str(tmp_path / name / "tensorboard")) as board:
            for step in range(1, 41):
                board.add_scalar("optimizer/gradient_norm", 2 * np.exp(noise * random.normal()), step)
                board.add_scalar("loss/mel", 2 - step / 40 + noise * 0.1 * random.normal(), step)
                board.add_scalar("loss/commitment", 1000.0 * step, step)
    even, uneven = stability(tmp_path / "even"), stability(tmp_path / "uneven")
    assert even.gradient_spread == pytest.approx(1.0, abs=0.05) and uneven.gradient_spread > 2
    assert even.loss == pytest.approx(1.12, abs=0.02) and uneven.loss_variation > 10 * even.loss_variation
    assert len(even.norms) == 40 and stability(tmp_path / "none").gradient_norm is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 5", "no variants: give one table [variants.NAME] for each"),
        ("variants.a.sett.run.seed = 1", "variant a: unknown key sett; known here: checkpoint, note, set"),
        ("step = 5\nvariants.a.note = ''", "unknown key step; known here: "),
        ("variants.a.set.model.quantizer.size = 1", "variant a: unknown key model.quantizer.size; known here: "),
        ("variants.a.set.model.quantizer.kind = 'best'", "variant a: model.quantizer.kind: must be one of rvq, "),
        ("steps = 0\nvariants.a.note = ''", "steps: expected int >= 1"),
        ("reference = 'b'\nvariants.a.note = ''", "reference: no variant is called 'b'"),
        ("variants.a = { checkpoint = 'x', set = { run = {} } }", "variant a: a finished checkpoint has its own"),
        ("variants.'A B'.note = ''", "a variant is named by up to 40 of a-z 0-9 _ -, not 'A B'"),
        ("variants = [", "not valid TOML: "),
    ],
)
def test_studies_that_are_none_get_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(text)
    said = study(tmp_path / "s.toml", tmp_path / "out", "--data", AUDIO, "--valid", AUDIO)
    assert said.exit_code == 2
    assert said.stderr.startswith(f"edgecodec: {tmp_path}/s.toml: {message}")
    assert said.stderr.count("\n") == 1 and not (tmp_path / "out").exists()


def test_bad_calls_get_one_line(files: Path, tmp_path: Path) -> None:
    for args, code, message in (
        ([files / "small.toml"], 2, "Invalid value for OUT: is missing"),
        ([files / "small.toml", tmp_path], 2, "names no audio: give --data and --valid"),
        (
            ["nothing", tmp_path],
            2,
            "no configuration 'nothing': give a .toml file, or one of ablations, denoising, quantizers",
        ),
        ([tmp_path / "none.csv", "--table"], 1, "none.csv: "),
        ([files / "small.toml", "--table"], 1, "no figures of a study: no column bits"),
    ):
        said = study(*args)
        assert said.exit_code == code and message in said.stderr, said.stderr
    said = call(files, tmp_path / "out", "--only", "rvx")
    assert said.exit_code == 2 and "no variant is called 'rvx'; there are rvq, vq, pq, gumbel" in said.stderr
    said = call(files, tmp_path / "out", "--no-train")
    assert said.exit_code == 1 and "nothing is measured" in said.stderr


def test_the_page_says_what_its_csv_says() -> None:
    docs = Path(__file__).parents[2] / "training" / "docs"
    for name in ("quantizers", "ablations"):
        words = tables.markdown(read_csv(docs / f"{name}.csv"))
        assert words.partition("\n\n")[0] in (docs / f"{name}.md").read_text()
    above = tables.markdown(read_csv(docs / "denoising.csv"))
    told = [line for line in (docs / "denoising.md").read_text().splitlines() if re.match(r"\| +\w+-\d\d \|", line)]
    assert len(told) == 11 and all(line in above.splitlines() for line in told)


@pytest.mark.usefixtures("no_page")
def test_in_noise(files: Path, done: tuple[Path, Result], tmp_path: Path) -> None:
    """Networks that stand already; scores are those of `evaluate` with the same noise, gains those over the noise."""
    old = done[0] / "runs" / "rvq" / "seed-3" / "training"
    more = ("--networks", old, "--noise", AUDIO / "speech_es.flac", "--snr", 3, "--only", "pq")
    said = call(files, tmp_path, *more)
    assert said.exit_code == 0, said.output
    [*_, last] = read_csv(tmp_path / "study.csv")
    home = tmp_path / "runs" / "pq" / "seed-3"
    before, after = load_checkpoint(old).weights, load_checkpoint(home / "training").weights
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("encoder."))
    codec = edgecodec.load(home / "bundle")
    hear = NoiseBehind.of(AUDIO / "speech_es.flac", 3, codec.sample_rate)
    coded, heard = evaluate(codec, files / "valid", [4], effort="live", hear=hear).rows
    assert last.snr_db == 3 and last.estoi == pytest.approx(coded.measures["estoi"].mean, abs=1e-4)
    assert last.noisy_si_sdr == pytest.approx(
        3, abs=0.3
    )  # what of the noise is in phase with the speech counts as speech
    gain = (coded.measures["estoi"].mean or 0) - (heard.measures["estoi"].mean or 0)
    assert float(tables.gains([last])[1][4]) == pytest.approx(gain, abs=1e-3)
    assert "Over what was heard, speech in noise at 3 dB:" in said.stdout
    again = call(files, tmp_path, *more[:4], "--snr", 5, "--only", "pq")
    assert again.exit_code == 2 and "of other settings than the study has now" in again.stderr


def test_gains_are_means_over_seeds_above_what_was_heard() -> None:
    [row, *_] = read_csv(Path(__file__).parents[2] / "training" / "docs" / "quantizers.csv")
    assert tables.gains([row]) == []
    noisy = {"snr_db": 5.0, "noisy_pesq_wb": 1.2, "noisy_estoi": 0.5, "noisy_si_sdr": 5.0, "noisy_dnsmos": None}
    rows = [
        dataclasses.replace(row, seed=seed, pesq_wb=pesq, estoi=0.6, si_sdr=1.0, dnsmos=2.0, **noisy)  # type: ignore[arg-type]
        for seed, pesq in ((0, 1.5), (1, 1.6))
    ]
    other = dataclasses.replace(row, stages=2, pesq_wb=None, **noisy)  # type: ignore[arg-type]  # not scored there
    head, found = tables.gains([*rows, other])
    assert head == ["variant", "stages", "kbps", "PESQ-WB", "ESTOI", "SI-SDR, dB", "DNSMOS"]
    assert found == [row.variant, str(row.stages), f"{row.kbps:.3g}", "+0.350", "+0.100", "-4.000", "–"]
    assert "speech in noise at 5 dB" in tables.markdown(rows) and "in noise" not in tables.markdown([row])


@pytest.mark.parametrize("name", ["quantizers", "ablations", "denoising"])
def test_shipped_studies_are_fair(name: str) -> None:
    """Of one study all variants have the same networks, data, losses, optimizer and run."""
    plan = load_study(name)
    configs = {own: dataclasses.asdict(plan.config_of(own, 0)) for own in plan.variants}
    for config in configs.values():
        quantizer = config["model"].pop("quantizer")
        assert max(quantizer["dropout_stages"]) == quantizer["max_stages"]
    assert all(config == configs[plan.measured_beside] for config in configs.values())
    if name != "ablations":
        for own in plan.variants:
            config = plan.config_of(own, 0)
            bits = config.model.bitrate(config.model.quantizer.max_stages) * 1000 / config.model.frame_rate
            assert own.removesuffix("-sharp") == f"{config.model.quantizer.kind}-{bits:g}"


def test_the_page_in_a_browser(done: tuple[Path, Result], need: Callable[..., None]) -> None:
    need(lambda: shutil.which("chromium") is not None, "chromium")
    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: request.url.startswith("data:") or said.append(request.url))
        page.goto((done[0] / "study.html").as_uri())
        page.wait_for_function("[...document.querySelectorAll('audio')].every(player => player.readyState >= 1)")
        assert said == [(done[0] / "study.html").as_uri()]
        lengths = page.eval_on_selector_all("audio", "all => all.map(player => player.duration)")
        assert lengths == pytest.approx([2.0] * 5, abs=0.1)  # the original, and each variant at all of its stages
        widths = page.eval_on_selector_all("svg", "all => all.map(p => p.getBoundingClientRect().width)")
        assert len(widths) == 9 and min(widths) > 200
        shown = page.inner_text("table.words")
        lines = [line for line in (done[0] / "study.md").read_text().splitlines() if line.startswith("| ")][1:]
        for cell in (cell for line in lines for cell in line.strip("| ").split(" | ")):
            assert all(part in shown for part in cell.replace("**", "").split(": ", 1)), cell
        assert "the <first> of them" in page.inner_text("ul")
        browser.close()
