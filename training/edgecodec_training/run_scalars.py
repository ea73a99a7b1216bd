"""What a run wrote into its TensorBoard log, read again: a number a logged step, over all legs."""

from __future__ import annotations

from pathlib import Path


def read_scalars(run: Path) -> dict[str, dict[int, float]]:
    """Of every scalar its values by step; of a step that two legs trained, the later value. Empty without a log."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not (run / "tensorboard").is_dir():
        return {}
    log = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})  # 0: all of them
    log.Reload()
    return {tag: {event.step: event.value for event in log.Scalars(tag)} for tag in log.Tags()["scalars"]}
