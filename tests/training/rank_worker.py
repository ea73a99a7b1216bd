"""One process of a run, alone or started by torchrun: trains a few steps and writes all that it holds.

python rank_worker.py DATA OUT STEPS CONFIG…

For each configuration, in OUT: `NAME-RANK-of-COUNT.safetensors`, or `NAME-RANK.txt` with why it was refused.
"""

import os
import sys
from pathlib import Path

import torch
from edgecodec.errors import ConfigError
from edgecodec_training.checkpoint import contiguous_state
from edgecodec_training.config import load_config
from edgecodec_training.trainer import Trainer
from safetensors.torch import save_file

data, out, steps, *configs = sys.argv[1:]
torch.set_num_threads(1)
for config in map(Path, configs):
    try:
        trainer = Trainer(load_config(config), [Path(data)])
    except ConfigError as error:
        (Path(out) / f"{config.stem}-{os.environ['RANK']}.txt").write_text(str(error))
        continue
    start = {f"start.{name}": tensor for name, tensor in contiguous_state(trainer.model.quantizer).items()}
    for _ in range(int(steps)):
        measures = trainer.train_step()
    assert all(torch.isfinite(value) for value in measures.values()), measures
    trained = {f"trained.{name}": tensor for name, tensor in contiguous_state(trainer.model).items()}
    average = {f"average.{name}": tensor for name, tensor in contiguous_state(trainer.average).items()}
    judged = {f"discriminators.{name}": tensor for name, tensor in contiguous_state(trainer.discriminators).items()}
    name = f"{config.stem}-{trainer.ranks.rank}-of-{trainer.ranks.count}.safetensors"
    save_file(start | trained | average | judged, Path(out) / name)
