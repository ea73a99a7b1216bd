"""The public names, the weight of the import, and what a bundle offers."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import edgecodec
import pytest


def test_the_public_names_are_these() -> None:
    assert edgecodec.__all__ == [
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
    assert all(getattr(edgecodec, name) is not None for name in edgecodec.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = edgecodec.nothing


def test_the_whole_tree_of_errors_is_public() -> None:
    def tree(error: type[Exception]) -> set[type[Exception]]:
        return {error}.union(*(tree(child) for child in error.__subclasses__()))

    public = {getattr(edgecodec, name) for name in edgecodec.__all__ if name.endswith("Error")}
    assert {error for error in tree(edgecodec.EdgecodecError) if error.__module__ == "edgecodec.errors"} == public
    assert issubclass(edgecodec.BitrateError, ValueError)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import edgecodec", ("numpy", "onnxruntime", "soundfile", "soxr", "msgspec", "torch")),
        (
            "import edgecodec.commands.main",
            ("numpy", "onnxruntime", "soundfile", "msgspec", "torch", "edgecodec_training", "rich"),
        ),
        ("import edgecodec; edgecodec.load", ("onnxruntime", "soundfile", "soxr", "torch", "onnx", "scipy")),
        ("import edgecodec; edgecodec.load(sys.argv[1])", ("soundfile", "soxr", "torch", "onnx", "scipy")),
    ],
)
def test_imports_stay_light(statement: str, absent: tuple[str, ...], tiny: Path) -> None:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(tiny)], capture_output=True, text=True, check=True)
    assert not set(absent) & set(done.stdout.split())


def test_help_is_quick_and_lists_the_commands_of_other_packages() -> None:
    code = "import sys; sys.argv = ['edgecodec', '--help']; from edgecodec.commands.main import main\ntry: main()\n"
    code += "except SystemExit: pass\nassert not {'torch', 'numpy', 'edgecodec_training'} & set(sys.modules)"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 3  # 0.15 s on an idle machine
    assert all(f"  {name} " in done.stdout for name in ("encode", "decode", "verify", "train", "export"))


def test_bitrates_and_stages(codec: edgecodec.Codec) -> None:
    assert codec.bitrates == (2.0, 4.0, 6.0, 8.0)  # 500 frames/s of 4 bits
    assert codec.stages() == 3  # 6 kbps
    assert codec.stages(bitrate=8) == 4
    assert codec.stages(stages=2) == 2
    with pytest.raises(edgecodec.BitrateError, match="cannot do 5 kbps; possible: 2, 4, 6, 8 kbps"):
        codec.stages(bitrate=5)
    for impossible in (0, 5, -1, True, 1.5):
        with pytest.raises(edgecodec.BitrateError):
            codec.stages(stages=impossible)
    with pytest.raises(edgecodec.BitrateError, match="not both"):
        codec.stages(stages=1, bitrate=2)


@pytest.mark.parametrize("bitrate", [float("nan"), float("inf"), -6.0])
def test_bitrates_that_are_no_rates(codec: edgecodec.Codec, bitrate: float) -> None:
    with pytest.raises(edgecodec.BitrateError, match="possible"):
        codec.stages(bitrate=bitrate)


def test_devices(tiny: Path) -> None:
    assert edgecodec.load(tiny).device == "cpu"
    assert edgecodec.load(tiny, device="auto").device in ("cpu", "cuda")
    with pytest.raises(edgecodec.DeviceError, match="unknown device"):
        edgecodec.load(tiny, device="tpu")
    with pytest.raises(edgecodec.DeviceError, match="threads"):
        edgecodec.load(tiny, threads=0)


def test_cuda_that_is_not_there_is_an_error(tiny: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(edgecodec.DeviceError, match=r"pip install 'edgecodec\[gpu\]', then pip install --force"):
        edgecodec.load(tiny, device="cuda")


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider':UserWarning")
def test_cuda_that_is_listed_and_cannot_start(
    tiny: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], voice
) -> None:
    """As with onnxruntime-gpu where the libraries of CUDA are not: it says that it has CUDA, and starts without."""
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(edgecodec.DeviceError, match="could not start it"):
        edgecodec.load(tiny, device="cuda")
    codec = edgecodec.load(tiny, device="auto")
    assert codec.device == "cpu"
    assert (codec.encode(voice(100)) == edgecodec.load(tiny).encode(voice(100))).all()
    spoil(bundle)
    for device in ("cpu", "auto"):
        with pytest.raises(edgecodec.BundleError, match="is no ONNX model"):
            edgecodec.load(bundle, device=device)
    assert capfd.readouterr().out == ""


def spoil(bundle: Path) -> None:
    """Put something into a bundle that is no graph, and a manifest that vouches for it."""
    (bundle / "decoder.onnx").write_bytes(b"no graph")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["graphs"]["decoder"] |= {"sha256": hashlib.sha256(b"no graph").hexdigest(), "bytes": 8}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_onnxruntime_over_onnxruntime_gpu_is_said(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both packages are listed as installed; the folder that they share holds the one without CUDA."""
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    listed = tmp_path / "onnxruntime_gpu-1.31.1.dist-info"
    listed.mkdir()
    (listed / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(edgecodec.DeviceError, match="over onnxruntime-gpu: pip install --force-reinstall --no-deps"):
        edgecodec.load(tiny, device="cuda")
    assert edgecodec.load(tiny, device="auto").device == "cpu"
    monkeypatch.delattr(onnxruntime, "InferenceSession")  # what is left when one of the two is uninstalled
    with pytest.raises(edgecodec.DeviceError, match=r"not complete: pip install .* onnxruntime-gpu"):
        edgecodec.load(tiny)
