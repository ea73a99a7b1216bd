"""Runs: resumed equals uninterrupted, checkpoints hold or refuse, and the command says what it did."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import pytest
import torch
from edgecodec.commands.main import app
from edgecodec.errors import CheckpointError
from edgecodec_training import checkpoint as checkpoint_module
from edgecodec_training.checkpoint import Checkpoint, build_model, load_checkpoint
from edgecodec_training.config import Config, override
from edgecodec_training.discriminators import DiscriminatorConfig
from edgecodec_training.run_scalars import read_scalars
from edgecodec_training.trainer import Trainer, learning_rate, stage_counts
from edgecodec_training.training_loop import Leg, train_leg
from typer.testing import CliRunner

WriteConfig = Callable[[Config, Path], None]


@pytest.fixture
def adversarial(tiny_config: Config) -> Config:
    """The tiny configuration with a discriminator from step 3 on, and balanced losses."""
    discriminators = DiscriminatorConfig(start_step=3, stft_windows=(256,), periods=(3,), channels=4)
    loss = dataclasses.replace(tiny_config.loss, balanced=True)
    return dataclasses.replace(tiny_config, discriminators=discriminators, loss=loss)


@pytest.mark.parametrize("kind", ["tiny_config", "adversarial"])
def test_resumed_equals_uninterrupted_to_the_bit(
    kind: str, request: pytest.FixtureRequest, speech_folder: Path, tmp_path: Path
) -> None:
    tiny_config = request.getfixturevalue(kind)
    whole = Trainer(tiny_config, [speech_folder])
    for _ in range(8):
        whole.train_step()
    first = Trainer(tiny_config, [speech_folder])
    for _ in range(5):
        first.train_step()
    first.checkpoint().save(tmp_path)
    second = Trainer(tiny_config, [speech_folder], start=load_checkpoint(tmp_path))
    assert second.step == 5
    for _ in range(3):
        second.train_step()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    for name, tensor in whole.average.state_dict().items():
        assert torch.equal(tensor, second.average.state_dict()[name]), name


def test_reconstruction_first_then_adversarial(adversarial: Config, speech_folder: Path) -> None:
    trainer = Trainer(adversarial, [speech_folder])
    measures = [trainer.train_step() for _ in range(5)]
    assert ["loss/adversarial" in m for m in measures] == [False, False, False, True, True]
    assert all(torch.isfinite(value) for m in measures for value in m.values())


def test_mixed_precision_trains(tiny_config: Config, speech_folder: Path) -> None:
    config = dataclasses.replace(tiny_config, run=dataclasses.replace(tiny_config.run, mixed_precision=True))
    trainer = Trainer(config, [speech_folder])
    for _ in range(3):
        assert all(torch.isfinite(value) for value in trainer.train_step().values())
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


def test_training_lowers_the_loss(tiny_config: Config, speech_folder: Path) -> None:
    config = dataclasses.replace(
        tiny_config, optimizer=dataclasses.replace(tiny_config.optimizer, warmup_steps=5, decay_steps=0)
    )
    trainer = Trainer(config, [speech_folder])
    losses = [float(trainer.train_step()["loss/mel"]) for _ in range(60)]
    trainer.step = 0  # the first crops once more
    again = [float(trainer.train_step()["loss/mel"]) for _ in range(15)]
    assert sum(again) < 0.95 * sum(losses[:15])


def test_codebooks_start_as_k_means_unless_that_is_off(tiny_config: Config, speech_folder: Path) -> None:
    off = override(tiny_config, ["model.quantizer.kmeans=false"])
    left = [float(Trainer(c, [speech_folder]).train_step()["distortion/stage_04"]) for c in (tiny_config, off)]
    assert left[0] < 0.5 < left[1]


def test_networks_of_another_codec_get_codebooks_of_their_own(
    tiny_config: Config, speech_folder: Path, tmp_path: Path, write_config: WriteConfig
) -> None:
    trained = Trainer(override(tiny_config, ["optimizer.warmup_steps=0"]), [speech_folder])
    for _ in range(3):
        trained.train_step()
    trained.checkpoint().save(tmp_path / "old")
    other = override(tiny_config, ['model.quantizer.kind="pq"', "model.quantizer.codebook_size=8"])
    trainer = Trainer(other, [speech_folder], start=load_checkpoint(tmp_path / "old").networks())
    assert trainer.step == 0
    for name, tensor in trainer.model.encoder.state_dict().items():
        assert torch.equal(tensor, trained.average.encoder.state_dict()[name]), name
    fresh = Trainer(other, [speech_folder]).model.quantizer.state_dict()
    assert any(not torch.equal(fresh[name], own) for name, own in trainer.model.quantizer.state_dict().items())
    assert float(trainer.train_step()["distortion/stage_04"]) < 0.5  # k-means on the latents of these networks

    write_config(other, tmp_path / "pq.toml")
    call = [
        "train",
        "--config",
        str(tmp_path / "pq.toml"),
        "--data",
        str(speech_folder),
        "--out",
        str(tmp_path / "new"),
    ]
    said = CliRunner().invoke(app, [*call, "--networks", str(tmp_path / "old"), "--steps", "2"])
    assert said.exit_code == 0, said.output
    made = load_checkpoint(tmp_path / "new")
    assert (made.step, made.config.model.quantizer.kind) == (2, "pq")
    both = CliRunner().invoke(app, [*call, "--networks", str(tmp_path / "old"), "--start", str(tmp_path / "old")])
    assert both.exit_code == 2 and "Invalid value for --start, --networks, --resume: choose one" in both.stderr


def test_a_run_leaves_checkpoint_ledger_and_log(
    tiny_config: Config, speech_folder: Path, valid_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    last = train_leg(tiny_config, Leg([speech_folder], out, valid=valid_folder))
    assert last.name == "step-00000012"
    assert [path.name for path in out.glob("step-*")] == [last.name]  # older ones are gone, nothing half-written
    assert not list(out.glob(".*"))
    description = json.loads((last / "checkpoint.json").read_text())
    [leg] = description["ledger"]
    assert (leg["first_step"], leg["last_step"]) == (0, 12)
    assert leg["audio_seconds"] == pytest.approx(12 * 2 * 0.3)
    [validation] = leg["validations"]
    assert validation["step"] == 12 and {row["stages"] for row in validation["scores"]} == {2, 4}
    assert all(-1 < row["estoi"] < 1 for row in validation["scores"])
    assert [row["step"] for row in leg["losses"]] == [3, 6, 9, 12] and all(row["mel"] > 0 for row in leg["losses"])
    assert list((out / "tensorboard").iterdir())
    scalars = read_scalars(out)
    assert list(scalars["loss/mel"]) == [3, 6, 9, 12] and read_scalars(last) == {}
    assert scalars["loss/mel"][12] == pytest.approx(leg["losses"][-1]["mel"], rel=1e-4)
    picture = matplotlib.image.imread(out / "ledger.png")
    assert picture.std() > 0.05  # something is drawn
    checkpoint = load_checkpoint(out)
    model = build_model(checkpoint.config.model, checkpoint.weights)
    assert model.reconstruct(torch.zeros(1, 1, 1000), 2).shape == (1, 1, 1000)


def test_the_command_trains_stops_and_resumes(
    speech_folder: Path, tmp_path: Path, tiny_config: Config, write_config: WriteConfig
) -> None:
    config, out = tmp_path / "tiny.toml", tmp_path / "run"
    write_config(tiny_config, config)
    call = ["--config", str(config), "--data", str(speech_folder), "--out", str(out)]
    result = CliRunner().invoke(app, ["train", *call, "--steps", "6"])
    assert result.exit_code == 0, result.output
    assert "step-00000006" in result.output
    again = CliRunner().invoke(app, ["train", *call])
    assert again.exit_code == 2 and "holds a run: go on with --resume" in again.output
    resumed = CliRunner().invoke(app, ["train", *call, "--resume", "--steps", "9"])
    assert resumed.exit_code == 0, resumed.output
    assert [leg.last_step for leg in load_checkpoint(out).ledger] == [6, 9]
    done = CliRunner().invoke(app, ["train", *call, "--resume", "--steps", "9"])
    assert done.exit_code == 2 and "nothing to train: at step 9 of 9; give --steps beyond it" in done.output
    slim = tmp_path / "slim"
    checkpoint = load_checkpoint(out)
    checkpoint.training = None
    checkpoint.save(slim)
    refused = CliRunner().invoke(app, ["train", *call[:-1], str(slim), "--resume"])
    assert refused.exit_code == 2 and "without optimizer state cannot be resumed" in refused.output
    onward = CliRunner().invoke(
        app, ["train", *call[:-1], str(tmp_path / "next"), "--start", str(slim), "--steps", "11"]
    )
    assert onward.exit_code == 0, onward.output
    assert load_checkpoint(tmp_path / "next").step == 11


def test_the_command_trains_on_streamed_shards(
    shard: Path, tmp_path: Path, tiny_config: Config, write_config: WriteConfig
) -> None:
    config, out = tmp_path / "tiny.toml", tmp_path / "run"
    write_config(tiny_config, config)
    url = shard.as_uri().replace("shard-000", "shard-{000..000}")
    call = ["--config", str(config), "--data", url, "--out", str(out), "--steps", "3"]
    result = CliRunner().invoke(app, ["train", *call])
    assert result.exit_code == 0, result.output
    missing = CliRunner().invoke(
        app, ["train", *call[:3], url.replace("shard-{", "chard-{"), "--out", str(tmp_path / "other")]
    )
    assert missing.exit_code == 1 and len(missing.output.strip().splitlines()) == 2, missing.output  # a note, an error


def test_stopped_before_the_first_step_claims_nothing(
    monkeypatch: pytest.MonkeyPatch, speech_folder: Path, tmp_path: Path
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_fit_codebooks", stop)
    call = ["--config", "edge", "--data", str(speech_folder), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["train", *call])
    assert result.exit_code == 130
    assert "nothing to save" in result.output and "is saved" not in result.output


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--config": "wavenet"}, 2, "no configuration 'wavenet'"),
        ({"--set": "run.steps=0"}, 2, "run.steps: expected int >= 1"),
        ({"--set": "model.frame_size=321"}, 2, "an even frame_size, not 321"),
        ({"--data": "missing"}, 1, "no such file or folder: missing"),
        ({"--data": __file__}, 1, f"{__file__}: "),
        ({"--out": __file__}, 2, f"{__file__} is no folder: choose another --out"),
        ({"--start": "missing"}, 1, "no checkpoint in missing"),
        ({"--device": "cuda"}, 1, "no CUDA device"),
        ({"--device": "tpu"}, 1, "no device 'tpu': cpu, cuda or cuda:N"),
    ],
)
def test_bad_calls_get_one_line(
    changes: dict[str, str], code: int, message: str, speech_folder: Path, tmp_path: Path
) -> None:
    if changes.get("--device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    options = {"--config": "edge", "--data": str(speech_folder), "--out": str(tmp_path / "run")} | changes
    result = CliRunner().invoke(app, ["train", *(word for pair in options.items() for word in pair)])
    assert result.exit_code == code, result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("edgecodec: ") and message in line
    assert not (tmp_path / "run").exists()


def test_damaged_checkpoints_are_refused(tiny_config: Config, speech_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        load_checkpoint(tmp_path)
    folder = Trainer(tiny_config, [speech_folder]).checkpoint().save(tmp_path)
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="not a usable checkpoint"):
        load_checkpoint(tmp_path)
    weights.write_bytes(whole)
    checkpoint = load_checkpoint(tmp_path)
    model = dataclasses.replace(checkpoint.config.model, latent_dim=9)
    checkpoint.config = dataclasses.replace(checkpoint.config, model=model)
    description = folder / "checkpoint.json"
    description.write_text(description.read_text().replace('"latent_dim": 8', '"latent_dim": 9'))
    with pytest.raises(CheckpointError, match="not a usable checkpoint: weights do not fit the configuration: decoder"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="weights do not fit the configuration: size mismatch") as refusal:
        build_model(checkpoint.config.model, checkpoint.weights)
    assert "\n" not in str(refusal.value)
    with pytest.raises(CheckpointError, match="weights do not fit"):
        Trainer(checkpoint.config, [speech_folder], start=checkpoint)
    for text in (
        "{}",
        '{"step": 1, "config": 3, "ledger": []}',
        "[]",
        '{"step": 1, "config": {"models": {}}, "ledger": []}',
    ):
        description.write_text(text)
        with pytest.raises(CheckpointError, match="not a usable checkpoint") as refusal:
            load_checkpoint(tmp_path)
        assert "\n" not in str(refusal.value)


def test_training_state_that_nothing_would_take_up_is_refused(adversarial: Config, speech_folder: Path) -> None:
    checkpoint = Trainer(adversarial, [speech_folder]).checkpoint()
    assert checkpoint.training is not None
    checkpoint.training["judges.0.last.bias"] = checkpoint.training.pop("discriminators.0.last.bias")
    with pytest.raises(CheckpointError, match=r"of another version: judges\.0\.last\.bias"):
        Trainer(adversarial, [speech_folder], start=checkpoint)


def test_a_checkpoint_that_cannot_be_written_says_where(tiny_config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write .*file/step-00000001"):
        Checkpoint(1, tiny_config, [], {"x": torch.zeros(1)}, None).save(tmp_path / "file")


def test_checkpoints_come_in_files_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch, tiny_config: Config, speech_folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(checkpoint_module, "PART_BYTES", 20_000)
    trainer = Trainer(tiny_config, [speech_folder])
    trainer.train_step()
    folder = trainer.checkpoint().save(tmp_path)
    names = sorted(path.name for path in folder.glob("training*"))
    assert len(names) > 2 and names[0] == f"training-1-of-{len(names)}.safetensors"
    largest = max(tensor.nbytes for tensor in (trainer.checkpoint().training or {}).values())
    assert all(path.stat().st_size < max(20_000, largest) + 10_000 for path in folder.iterdir())
    again = Trainer(tiny_config, [speech_folder], start=load_checkpoint(tmp_path))
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    (folder / names[1]).unlink()
    with pytest.raises(CheckpointError, match=f"not a usable checkpoint: .*{names[1]}"):
        load_checkpoint(tmp_path)


def test_stage_counts_are_one_a_clip_or_come_in_runs(tiny_config: Config) -> None:
    def drawn(mixed: float) -> torch.Tensor:
        quantizer = dataclasses.replace(tiny_config.model.quantizer, dropout_mixed=mixed)
        model = dataclasses.replace(tiny_config.model, quantizer=quantizer)
        config = dataclasses.replace(tiny_config, model=model)
        return torch.cat([stage_counts(config, step, frames=60) for step in range(50)])

    assert {len(set(clip)) for clip in drawn(0.0).tolist()} == {1}
    mixed = drawn(1.0)
    assert set(mixed.unique().tolist()) == {1, 2, 3, 4}
    changes = (mixed.diff(dim=1) != 0).double().mean()
    assert 0.03 < changes < 1 / 6  # of six frames one begins a run, and not every run changes the count
    assert 0.3 < sum(len(set(clip)) == 1 for clip in drawn(0.5).tolist()) / len(mixed) < 0.75
    assert torch.equal(drawn(0.5), drawn(0.5))


def test_learning_rate_warms_up_and_decays(tiny_config: Config) -> None:
    optimizer = tiny_config.optimizer  # 5 steps up, 10 down
    rates = [learning_rate(optimizer, step, 40, step) / optimizer.learning_rate for step in range(40)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(rates[5:31]) == {1.0}
    assert rates[31:] == pytest.approx([n / 10 for n in range(9, 0, -1)])


def test_a_run_stopped_by_ctrl_c_is_saved_and_goes_on(
    tiny_config: Config, write_config: WriteConfig, speech_folder: Path, tmp_path: Path
) -> None:
    """The real command, stopped in the middle of a long run (SIGTERM comes from torchrun, in test_distributed)."""
    config, out = tmp_path / "tiny.toml", tmp_path / "run"
    write_config(tiny_config, config)
    call = ["train", "--config", str(config), "--data", str(speech_folder), "--out", str(out)]
    command = [str(Path(sys.executable).with_name("edgecodec")), *call, "--steps", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not list(out.glob("step-*")) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines() == [f"edgecodec: stopped; the run is saved in {out}: go on with --resume"]
    step = load_checkpoint(out).step
    resumed = CliRunner().invoke(app, [*call, "--resume", "--steps", str(step + 2)])
    assert resumed.exit_code == 0, resumed.output
    assert load_checkpoint(out).step == step + 2
