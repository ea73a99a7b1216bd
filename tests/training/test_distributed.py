"""Several processes make the same run as one: real processes, started by torchrun, over gloo."""

import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from edgecodec.commands.main import app
from edgecodec_training.checkpoint import load_checkpoint
from edgecodec_training.config import Config, override
from edgecodec_training.distributed import Ranks
from edgecodec_training.training_loop import AGREE_EVERY
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

WriteConfig = Callable[[Config, Path], None]
State = dict[str, Tensor]
WORKER = Path(__file__).with_name("rank_worker.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
JOINED = ["run.batch_size=4", "model.quantizer.restart_below=0.9", "model.quantizer.decay=0.7"]
RUNS = {
    "full": JOINED,
    "projected": [*JOINED, "model.quantizer.code_dim=4"],
    "adversarial": [
        "run.batch_size=4",
        "loss.balanced=true",
        "discriminators.start_step=1",
        "discriminators.stft_windows=[256]",
        "discriminators.channels=4",
    ],
    "uneven": ["run.batch_size=3"],
}


def started(command: list[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def joined(
    tiny_config: Config, speech_folder: Path, write_config: WriteConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with what each of two processes holds after six steps of each of `RUNS` (see `rank_worker`)."""
    out = tmp_path_factory.mktemp("ranks")
    for name, changes in RUNS.items():
        write_config(override(tiny_config, changes), out / f"{name}.toml")
    call = [str(speech_folder), str(out), "6", *(str(out / f"{name}.toml") for name in RUNS)]
    with started([*TORCHRUN, str(WORKER), *call]) as process:
        _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return out


def both(joined: Path, name: str) -> tuple[State, State]:
    """What the two processes hold, which is the same."""
    first, second = (load_file(joined / f"{name}-{rank}-of-2.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), f"{key} differs between the ranks"
    return first, second


@pytest.mark.parametrize("name", ["full", "projected"])
def test_two_processes_train_as_one_with_the_joined_batch(
    name: str, joined: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = both(joined, name)
    monkeypatch.setattr(sys, "argv", ["", str(speech_folder), str(tmp_path), "6", str(joined / f"{name}.toml")])
    runpy.run_path(str(WORKER))
    alone = load_file(tmp_path / f"{name}-0-of-1.safetensors")
    assert first.keys() == alone.keys()
    for key, tensor in first.items():
        # where gradients are all but zero at first, Adam makes steps of rounding errors: of projections' neighbours too
        tolerance = 1e-4 if name == "full" or "quantizer" in key or key.startswith("start.") else 5e-3
        torch.testing.assert_close(tensor, alone[key], rtol=1e-3, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}")
    uses = [tensor for key, tensor in first.items() if key.startswith("trained.") and key.endswith(".use")]
    assert any((use == 1).any() for use in uses)  # entries have restarted, everywhere at the same vectors
    vectors = [key for key in first if key.endswith("vectors") and key.startswith("start.")]
    assert all(not torch.equal(first[key], first[key.replace("start.", "trained.quantizer.")]) for key in vectors)


def test_two_processes_share_discriminators_and_balancer(joined: Path) -> None:
    first, _ = both(joined, "adversarial")
    assert any(key.startswith("discriminators.") for key in first)


def test_a_batch_that_cannot_be_split_is_refused(joined: Path) -> None:
    for rank in (0, 1):
        text = (joined / f"uneven-{rank}.txt").read_text()
        assert text == "run.batch_size = 3 cannot be split evenly over 2 processes"


def test_the_command_under_torchrun_stops_at_one_step_and_goes_on(
    tiny_config: Config, speech_folder: Path, valid_folder: Path, tmp_path: Path, write_config: WriteConfig
) -> None:
    """One set of lines and checkpoints, and a ledger that counts the audio of both; the run also goes on alone."""
    out, config = tmp_path / "run", tmp_path / "config.toml"
    write_config(tiny_config, config)
    call = ["train", "--config", str(config), "--data", str(speech_folder), "--out", str(out)]
    command = [*TORCHRUN, "--no-python", str(Path(sys.executable).with_name("edgecodec")), *call]
    with started([*command, "--steps", "100000"]) as process:
        while not list(out.glob("step-*")) and process.poll() is None:
            time.sleep(0.05)
        process.terminate()  # torchrun hands it to both
        output, errors = process.communicate(timeout=120)
    assert errors.count("the run is saved") == 1, errors
    assert output.count("reading the data") == 1, output
    stopped = load_checkpoint(out).step
    assert stopped % AGREE_EVERY == 0
    with started([*command, "--resume", "--steps", str(stopped + 8), "--valid", str(valid_folder)]) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.count("checkpoint: ") == 1 and output.count("reading the data") == 1
    first, second = load_checkpoint(out).ledger
    assert (first.processes, first.last_step, len(first.validations)) == (2, stopped, 0)
    assert (second.processes, second.last_step) == (2, stopped + 8)
    assert second.validations[-1]["step"] == stopped + 8
    assert second.audio_seconds == pytest.approx(8 * 2 * 0.3)
    alone = CliRunner().invoke(app, [*call, "--resume", "--steps", str(stopped + 10)])
    assert alone.exit_code == 0, alone.output
    assert [leg.processes for leg in load_checkpoint(out).ledger] == [2, 2, 1]


def test_rows_are_those_of_all_ranks_in_a_row() -> None:
    """Three ranks of two rows each, whose sums are taken by hand."""
    parts = torch.arange(12.0).reshape(3, 2, 2)
    indices = torch.tensor([5, 0, 2, 2])
    mine = [Ranks(rank, 3, lambda x: x).rows(part, indices) for rank, part in enumerate(parts)]
    assert torch.equal(torch.stack(mine).sum(dim=0), parts.flatten(0, 1)[indices])
    assert torch.equal(Ranks().rows(parts[0], indices[1:2]), parts[0][:1])
