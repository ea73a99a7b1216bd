"""One process of a run, alone or started by torchrun: trains a few steps and writes all that it holds.

python rank_worker.py CONFIG DATA OUT STEPS
"""

import sys
from pathlib import Path

import torch
from edgecodec_training.checkpoint import contiguous_state
from edgecodec_training.config import load_config
from edgecodec_training.trainer import Trainer
from safetensors.torch import save_file

config, data, out, steps = sys.argv[1:]
torch.set_num_threads(1)
trainer = Trainer(load_config(config), [Path(data)])
start = {f"start.{name}": tensor for name, tensor in contiguous_state(trainer.model.quantizer).items()}
for _ in range(int(steps)):
    measures = trainer.train_step()
assert all(torch.isfinite(value) for value in measures.values()), measures
trained = {f"trained.{name}": tensor for name, tensor in contiguous_state(trainer.model).items()}
average = {f"average.{name}": tensor for name, tensor in contiguous_state(trainer.average).items()}
save_file(start | trained | average, Path(out) / f"rank-{trainer.ranks.rank}-of-{trainer.ranks.count}.safetensors")
