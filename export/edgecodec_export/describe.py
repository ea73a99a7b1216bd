"""What a manifest says of a checkpoint and its graphs before these run."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from edgecodec.manifest import (
    GraphFiles,
    Latency,
    Lookahead,
    PartSizes,
    QuantizerFacts,
    StartFrames,
    StateSizes,
    held_back,
)
from edgecodec_training.checkpoint import Checkpoint
from edgecodec_training.model import CodecModel, macs_per_second, parameter_count

from .adapters.adapted import AdaptedCodec
from .convert import Converted, Precision
from .model_card import Notes
from .onnx_model import opset_of
from .quantizer_graphs import max_paths

PRECISIONS: dict[Precision, str] = {"fp32": "fp32", "fp16": "fp16-storage", "int8": "int8"}  # in the manifest
# Of the ledger; nothing that names paths.
_LEG = ("first_step", "last_step", "audio_seconds", "wall_seconds", "machine", "processes")
_TOOLS = ("edgecodec", "torch", "onnx", "onnxscript", "onnxruntime")
_COUNTED_FRAMES = 10
_LONG = 1 << 14  # samples of a frame of which one is enough


def describe(
    name: str,
    checkpoint: Checkpoint,
    trained: CodecModel,
    converted: Converted,
    precision: Precision,
    graphs: GraphFiles,
    notes: Notes,
) -> dict[str, Any]:
    """All fields of a manifest but golden vectors, parity and quality, which the graphs give when they run.

    Raises:
        ExportError: graphs of several opsets.
    """
    config = checkpoint.config.model
    quantizer, stored = config.quantizer, converted.model
    assert isinstance(stored, CodecModel)
    return {
        "name": name,
        "architecture": config.architecture,
        "sample_rate": config.sample_rate,
        "frame_size": config.frame_size,
        "latent_dim": config.latent_dim,
        "quantizer": QuantizerFacts(quantizer.kind, quantizer.codebook_size, quantizer.max_stages),
        "state": StateSizes(trained.encoder.state_size, trained.decoder.state_size),
        "latency": Latency(config.frame_size, trained.algorithmic_latency),
        "max_paths": max_paths(stored.quantizer.tables()),
        "parameters": PartSizes(
            *(parameter_count(part) for part in (trained.encoder, trained.decoder, trained.quantizer))
        ),
        "macs_per_second": _macs(trained, stored),
        "opset": opset_of(converted.graphs),
        "precision": PRECISIONS[precision],
        "graphs": graphs,
        "training": {
            "step": checkpoint.step,
            "legs": [{key: _plain(getattr(leg, key)) for key in _LEG} for leg in checkpoint.ledger],
            "data": list(notes.data),
            "model": asdict(config),
        },
        "tools": _tools(),
    }


def describe_adapted(
    name: str,
    model: AdaptedCodec,
    converted: Converted,
    precision: Precision,
    graphs: GraphFiles,
    notes: Notes,
    origin: Mapping[str, str],
) -> dict[str, Any]:
    """The same of somebody else's codec; `origin` tells where its weights come from, and under which licence."""
    c = model.contract
    lookahead = Lookahead(c.encoder_lookahead, c.decoder_lookahead)
    start = StartFrames(c.encoder_start, c.decoder_start)
    return {
        "name": name,
        "architecture": model.architecture,
        "sample_rate": c.sample_rate,
        "frame_size": c.frame_size,
        "latent_dim": c.latent_dim,
        "quantizer": QuantizerFacts("rvq", c.codebook_size, c.max_stages),
        "state": StateSizes(model.encoder.state_size, model.decoder.state_size),
        "latency": Latency(c.frame_size, held_back(lookahead, start, c.frame_size)),
        "channels": c.channels,
        "lookahead": lookahead,
        "start_frames": start,
        "call_frames": c.call_frames,
        "side": c.side,
        "stage_widths": c.stage_widths,
        "parameters": PartSizes(*(_numbers(part) for part in (model.encoder, model.decoder, model.quantizer))),
        "macs_per_second": _adapted_macs(model),
        "opset": opset_of(converted.graphs),
        "precision": PRECISIONS[precision],
        "graphs": graphs,
        "training": {"origin": dict(origin), "data": list(notes.data), "model": model.facts},
        "tools": _tools(),
    }


def _adapted_macs(model: AdaptedCodec) -> PartSizes:
    """Of a second, counted on a whole short clip."""
    c = model.contract
    frames = c.call_frames or max(_COUNTED_FRAMES if c.frame_size < _LONG else 1, c.encoder_start, c.decoder_start)
    seconds, last = frames * c.frame_size / c.sample_rate, torch.tensor(1)
    audio, latents = torch.zeros(1, c.channels, frames * c.frame_size), torch.zeros(1, frames, c.latent_dim)
    return PartSizes(
        encoder=macs_per_second(model.encoder, audio, seconds, *([last] if c.encoder_lookahead else [])),
        decoder=macs_per_second(model.decoder, latents, seconds, *([last] if c.decoder_lookahead else [])),
        quantizer=round(model.quantizer.macs() * c.sample_rate / c.frame_size),
    )


def _numbers(part: torch.nn.Module) -> int:
    return sum(tensor.numel() for tensor in (*part.parameters(), *part.buffers()))


def _tools() -> dict[str, str]:
    return {"python": platform.python_version()} | {tool: importlib.metadata.version(tool) for tool in _TOOLS}


def _macs(trained: CodecModel, stored: CodecModel) -> PartSizes:
    """Of a second: the parts as trained, which count the same as stored, and the search through stored tables."""
    config = trained.config
    seconds = _COUNTED_FRAMES * config.frame_size / config.sample_rate
    audio = torch.zeros(1, 1, _COUNTED_FRAMES * config.frame_size)
    latents = torch.zeros(1, _COUNTED_FRAMES, config.latent_dim)
    return PartSizes(
        encoder=macs_per_second(trained.encoder, audio, seconds),
        decoder=macs_per_second(trained.decoder, latents, seconds),
        quantizer=round(stored.quantizer.tables().macs() * config.frame_rate),
    )


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
