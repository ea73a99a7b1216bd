"""edgecodec: neural audio codecs on the device.

    codec = edgecodec.load("speech")
    codes = codec.encode(audio, bitrate=6.0)
    audio = codec.decode(codes)

Streams come from `codec.encoder_stream()` and `codec.decoder_stream()`. All errors are `EdgecodecError`s.
"""

from .bitstream import Packet, PacketFormat
from .codec import Codec, load
from .errors import AudioError, BitrateError, BitstreamError, BundleError, DeviceError, EdgecodecError
from .manifest import Manifest
from .stream import DecoderStream, EncoderStream

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "BitrateError",
    "BitstreamError",
    "BundleError",
    "Codec",
    "DecoderStream",
    "DeviceError",
    "EdgecodecError",
    "EncoderStream",
    "Manifest",
    "Packet",
    "PacketFormat",
    "__version__",
    "load",
]
