"""Several processes make the same run as one: real processes, started by torchrun, over gloo."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from edgecodec_training.checkpoint import load_checkpoint
from edgecodec_training.config import Config, override
from edgecodec_training.distributed import Ranks
from edgecodec_training.training_loop import AGREE_EVERY
from safetensors.torch import load_file
from torch import Tensor

WriteConfig = Callable[[Config, Path], None]
Call = Callable[..., list[str]]
States = Callable[[Config, int], tuple[dict[str, Tensor], list[dict[str, Tensor]]]]
WORKER = Path(__file__).with_name("rank_worker.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def started(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def call(tiny_config: Config, speech_folder: Path, tmp_path: Path, write_config: WriteConfig) -> Call:
    """`call(changes)`: `edgecodec train` of the tiny configuration with changes, into the folder `run`."""

    def call(*changes: str) -> list[str]:
        write_config(override(tiny_config, list(changes)), tmp_path / "config.toml")
        command = str(Path(sys.executable).with_name("edgecodec"))
        out = str(tmp_path / "run")
        return [command, "train", "--config", str(tmp_path / "config.toml"), "--data", str(speech_folder), "--out", out]

    return call


@pytest.fixture
def states(speech_folder: Path, tmp_path: Path, write_config: WriteConfig) -> States:
    """`states(config, steps)`: what one process holds after some steps, and what each of two holds."""

    def states(config: Config, steps: int) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        write_config(config, tmp_path / "config.toml")
        job = [str(tmp_path / "config.toml"), str(speech_folder), str(tmp_path), str(steps)]
        for command in ([sys.executable, str(WORKER), *job], [*TORCHRUN, str(WORKER), *job]):
            done = started(command)
            assert done.returncode == 0, done.stderr
        alone = load_file(tmp_path / "rank-0-of-1.safetensors")
        return alone, [load_file(tmp_path / f"rank-{rank}-of-2.safetensors") for rank in (0, 1)]

    return states


@pytest.mark.parametrize("code_dim", [0, 4])
def test_two_processes_train_as_one_with_the_joined_batch(code_dim: int, tiny_config: Config, states: States) -> None:
    changes = ["run.batch_size=4", "model.quantizer.restart_below=0.9", "model.quantizer.decay=0.7"]
    config = override(tiny_config, [*changes, f"model.quantizer.code_dim={code_dim}"])
    alone, (first, second) = states(config, 6)
    assert first.keys() == second.keys() == alone.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), f"{name} differs between the ranks"
        # where gradients are all but zero at first, Adam makes steps of rounding errors: of projections' neighbours too
        tolerance = 1e-4 if code_dim == 0 or "quantizer" in name or name.startswith("start.") else 5e-3
        torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
    uses = [tensor for name, tensor in first.items() if name.startswith("trained.") and name.endswith(".use")]
    assert any((use == 1).any() for use in uses)  # entries have restarted, everywhere at the same vectors
    vectors = [name for name in first if name.endswith("vectors") and name.startswith("start.")]
    assert all(not torch.equal(first[name], first[name.replace("start.", "trained.quantizer.")]) for name in vectors)


def test_two_processes_share_discriminators_and_balancer(tiny_config: Config, states: States) -> None:
    changes = ["discriminators.start_step=1", "discriminators.stft_windows=[256]", "discriminators.channels=4"]
    config = override(tiny_config, [*changes, "loss.balanced=true", "run.batch_size=4"])
    _, (first, second) = states(config, 4)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), f"{name} differs between the ranks"


def test_the_command_runs_under_torchrun(call: Call, speech_folder: Path, tmp_path: Path) -> None:
    """One checkpoint, one set of lines, a ledger that counts the audio of both; and the run goes on alone."""
    out = tmp_path / "run"
    done = started([*TORCHRUN, "--no-python", *call(), "--steps", "8", "--valid", str(speech_folder)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint: ") == 1 and done.stdout.count("reading the data") == 1
    [leg] = load_checkpoint(out).ledger
    assert (leg.processes, leg.last_step, len(leg.validations)) == (2, 8, 1)
    assert leg.audio_seconds == pytest.approx(8 * 2 * 0.3)
    alone = started([*call(), "--resume", "--steps", "10"])
    assert alone.returncode == 0, alone.stderr
    assert [entry.processes for entry in load_checkpoint(out).ledger] == [2, 1]


def test_processes_stop_at_the_same_step(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "run"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*TORCHRUN, "--no-python", *call(), "--steps", "100000"], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        while not list(out.glob("step-*")) and process.poll() is None:
            time.sleep(0.1)
        process.terminate()  # torchrun hands it to both
        _, errors = process.communicate(timeout=120)
    assert errors.count("the run is saved") == 1, errors
    assert load_checkpoint(out).step % AGREE_EVERY == 0


def test_a_batch_that_cannot_be_split_is_refused(call: Call) -> None:
    done = started([*TORCHRUN, "--no-python", *call("run.batch_size=3")])
    assert done.returncode != 0
    assert "run.batch_size = 3 cannot be split evenly over 2 processes" in done.stderr


def test_rows_are_those_of_all_ranks_in_a_row() -> None:
    """Three ranks of two rows each, whose sums are taken by hand."""
    parts = torch.arange(12.0).reshape(3, 2, 2)
    indices = torch.tensor([5, 0, 2, 2])
    mine = [Ranks(rank, 3, lambda x: x).rows(part, indices) for rank, part in enumerate(parts)]
    assert torch.equal(torch.stack(mine).sum(dim=0), parts.flatten(0, 1)[indices])
    assert torch.equal(Ranks().rows(parts[0], indices[1:2]), parts[0][:1])
