"""edgecodec: neural audio codecs on the device.

    codec = edgecodec.load("speech")
    codes = codec.encode(audio, bitrate=6.0)  # [T], [C, T] or [B, C, T] to [B * C, stages, frames]
    audio = codec.decode(codes)  # [B * C, 1, samples]

Streams come from `codec.encoder_stream()` and `codec.decoder_stream()`. All errors are `EdgecodecError`s.

All but errors are imported when they are first used: the command line passes through here too, and answers `--help`
without numpy.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

from .errors import (
    AudioError,
    BitrateError,
    BitstreamError,
    BundleError,
    CheckpointError,
    ConfigError,
    DataError,
    DeviceError,
    EdgecodecError,
    ExportError,
    NetworkError,
    StalledError,
)

if TYPE_CHECKING:
    from .codec import Codec, load
    from .decoder_stream import DecoderStatistics, DecoderStream
    from .encoder_stream import EncoderStream
    from .manifest import Manifest
    from .packets import Packet, PacketFormat

__version__ = "0.2.0"

__all__ = [
    "AudioError",
    "BitrateError",
    "BitstreamError",
    "BundleError",
    "CheckpointError",
    "Codec",
    "ConfigError",
    "DataError",
    "DecoderStatistics",
    "DecoderStream",
    "DeviceError",
    "EdgecodecError",
    "EncoderStream",
    "ExportError",
    "Manifest",
    "NetworkError",
    "Packet",
    "PacketFormat",
    "StalledError",
    "__version__",
    "load",
]

# onnxruntime 1.32 writes files below the home folder when it is imported, and asks for a host of Microsoft's after a
# while. What is said of a program's own microphone stays here; whoever wants it has set the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_MODULES = {
    "codec": ("Codec", "load"),
    "decoder_stream": ("DecoderStatistics", "DecoderStream"),
    "encoder_stream": ("EncoderStream",),
    "manifest": ("Manifest",),
    "packets": ("Packet", "PacketFormat"),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            globals()[name] = value = getattr(import_module(f".{module}", __name__), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
