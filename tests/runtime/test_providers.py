"""Devices other than the CPU: the golden vectors decide, once, and nothing falls back in silence.

onnxruntime's CPU provider stands in for others here: it is real, and every machine has it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import edgecodec
import numpy as np
import onnxruntime
import pytest
from edgecodec import verdicts
from edgecodec.providers import PROVIDERS, Provider, choose

CPU, NOT_MANY = "CPUExecutionProvider", "AzureExecutionProvider"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where verdicts are remembered: not in the home of who tests."""
    file = tmp_path / "cache" / "verdicts.json"
    monkeypatch.setattr(verdicts, "cache_file", lambda: file)
    return file


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Provider:
    """`openvino` is the CPU provider."""
    provider = Provider(CPU, "nothing")
    monkeypatch.setitem(PROVIDERS, "openvino", provider)
    return provider


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices that golden vectors were asked of."""
    asked, ask = [], verdicts.verify

    def counted(codec: Any) -> Any:
        asked.append(codec.device)
        return ask(codec)

    monkeypatch.setattr(verdicts, "verify", counted)
    return asked


def change_golden(bundle: Path, share: float) -> None:
    """Other golden codes, of so many frames, in a bundle that vouches for them: the CPU then disagrees."""
    with np.load(bundle / "golden.npz") as file:
        arrays = dict(file)
    for name in arrays:
        if name.startswith("codes_"):
            arrays[name][:, :, : round(share * arrays[name].shape[2])] ^= 1
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    data = buffer.getvalue()
    (bundle / "golden.npz").write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["golden"] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.usefixtures("stand_in")
def test_a_device_that_gives_the_codes_is_taken_and_asked_once(tiny: Path, runs: list[str], voice) -> None:
    codec = edgecodec.load(tiny, device="openvino")
    assert codec.device == "openvino"
    assert (codec.encode(voice(500)) == edgecodec.load(tiny).encode(voice(500))).all()
    assert runs == ["openvino"]
    assert edgecodec.load(tiny, device="openvino").device == "openvino"
    assert pickle.loads(pickle.dumps(codec)).device == "openvino"
    assert runs == ["openvino"]


@pytest.mark.usefixtures("stand_in")
def test_a_device_that_gives_others_is_refused_with_the_figure(bundle: Path, runs: list[str]) -> None:
    change_golden(bundle, 0.25)
    frames = edgecodec.load(bundle).frames(np.load(bundle / "golden.npz")["audio"].shape[2])
    figure = f"{1 - round(0.25 * frames) / frames:.2%} of the golden codes are equal \\(99% must be\\)"
    for _ in range(2):  # measured, and remembered
        with pytest.raises(edgecodec.DeviceError, match=rf"^openvino is refused, .*: {figure}, and decoded .*$"):
            edgecodec.load(bundle, device="openvino")
    assert runs == ["openvino"]
    assert edgecodec.load(bundle).device == "cpu"  # the CPU is what others are compared with


@pytest.mark.usefixtures("stand_in")
def test_a_changed_bundle_is_asked_anew(bundle: Path, runs: list[str]) -> None:
    assert edgecodec.load(bundle, device="openvino")
    change_golden(bundle, 0.5)
    with pytest.raises(edgecodec.DeviceError, match="is refused"):
        edgecodec.load(bundle, device="openvino")
    assert runs == ["openvino"] * 2


def test_another_onnxruntime_or_other_options_are_asked_anew(
    tiny: Path, stand_in: Provider, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edgecodec.load(tiny, device="openvino")
    monkeypatch.setattr(onnxruntime, "__version__", "9.9")
    edgecodec.load(tiny, device="openvino")
    stand_in.options["precision"] = "ACCURACY"
    edgecodec.load(tiny, device="openvino")
    edgecodec.load(tiny, device="openvino")
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    edgecodec.load(tiny, device="openvino")
    assert len(runs) == 4


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b'{"a": 1}', b'{"a": {"equal_codes": 2}}', b"[" * 100_000, b" " * 100_000],
)
def test_a_spoiled_cache_is_done_again(tiny: Path, cache: Path, runs: list[str], content: bytes) -> None:
    cache.parent.mkdir()
    cache.write_bytes(content)
    for _ in range(2):
        assert edgecodec.load(tiny, device="openvino").device == "openvino"
    assert runs == ["openvino"]
    assert len(json.loads(cache.read_bytes())) == 1
    assert [file.name for file in cache.parent.iterdir()] == [cache.name]


@pytest.mark.usefixtures("stand_in")
def test_a_cache_that_cannot_be_written_changes_no_answer(tiny: Path, bundle: Path, cache: Path) -> None:
    cache.parent.write_text("a file where the folder would be")
    assert edgecodec.load(tiny, device="openvino").device == "openvino"
    change_golden(bundle, 1.0)
    with pytest.raises(edgecodec.DeviceError, match=r"0\.00% of the golden codes"):
        edgecodec.load(bundle, device="openvino")


def test_nobodys_home(monkeypatch: pytest.MonkeyPatch, tiny: Path, stand_in: Provider) -> None:
    monkeypatch.setattr(verdicts, "cache_file", lambda: None)
    assert edgecodec.load(tiny, device="openvino").device == "openvino"


@pytest.mark.usefixtures("stand_in")
def test_the_cache_stays_small(tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(verdicts.MOST_VERDICTS + 3):
        monkeypatch.setattr(onnxruntime, "__version__", str(i))
        verdicts.measure(edgecodec.load(tiny, device="openvino"))
    assert len(json.loads(cache.read_bytes())) == verdicts.MOST_VERDICTS
    assert cache.stat().st_size < verdicts.MOST_BYTES // 4


def test_the_cpu_is_never_asked(tiny: Path, cache: Path, runs: list[str]) -> None:
    assert edgecodec.load(tiny).device == "cpu"
    assert not runs
    assert not cache.parent.exists()


@pytest.mark.parametrize("device", ["openvino", "coreml", "directml", "xnnpack", "webgpu"])
def test_a_provider_that_is_not_there_is_said_in_one_line(tiny: Path, device: Any, run: Any) -> None:
    if PROVIDERS[device].name in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has {device}")
    with pytest.raises(edgecodec.DeviceError) as refusal:
        edgecodec.load(tiny, device=device)
    text = str(refusal.value)
    assert text == (
        f"{PROVIDERS[device].name} was asked for, but this onnxruntime has only "
        f"{', '.join(onnxruntime.get_available_providers())}: {PROVIDERS[device].source}"
    )
    assert "\n" not in text
    result = run("verify", tiny, "--device", device)
    assert (result.exit_code, result.stderr) == (1, f"edgecodec: {text}\n")


def test_a_provider_that_takes_no_part_of_the_graphs(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CoreML of free shapes: all would run on the CPU, and nobody would know."""
    if NOT_MANY not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {NOT_MANY}, which takes no node of these graphs")
    if not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
        pytest.skip("this onnxruntime does not tell which provider runs a node")
    monkeypatch.setitem(PROVIDERS, "webgpu", Provider(NOT_MANY, "nothing"))
    with pytest.raises(edgecodec.DeviceError, match=f"^{NOT_MANY} takes no part of these graphs"):
        edgecodec.load(tiny, device="webgpu")


def test_auto_takes_the_cpu_where_cuda_gives_other_codes(bundle: Path, monkeypatch: pytest.MonkeyPatch, run) -> None:
    monkeypatch.setitem(PROVIDERS, "cuda", Provider(CPU, "nothing"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    assert choose("auto") == "cuda"
    assert edgecodec.load(bundle, device="auto").device == "cuda"
    change_golden(bundle, 0.5)
    assert edgecodec.load(bundle, device="auto").device == "cpu"
    with pytest.raises(edgecodec.DeviceError, match="cuda is refused"):
        edgecodec.load(bundle, device="cuda")


def test_the_quantizer_stays_on_the_cpu() -> None:
    for device, provider in PROVIDERS.items():
        for graph in ("quantizer_encode", "quantizer_decode"):
            assert device == "cuda" or provider.chain(graph, 1) == [CPU], device
        first = provider.chain("encoder", 3)[0]
        assert first == CPU if device == "cpu" else first[0] == provider.name
    assert PROVIDERS["openvino"].chain("decoder", 3)[0][1] == {
        "device_type": "CPU",
        "precision": "ACCURACY",
        "num_of_threads": "3",
    }


@pytest.mark.usefixtures("stand_in")
def test_verify_measures_a_device_that_load_refuses(bundle: Path, run, clip: Path, runs: list[str]) -> None:
    passed = run("verify", bundle, "--device", "openvino")
    assert passed.exit_code == 0, passed.output
    assert "on openvino: files as the manifest says" in passed.stdout
    change_golden(bundle, 0.5)
    failed = run("verify", bundle, "--device", "openvino")
    assert failed.exit_code == 1
    assert failed.stdout.count("FAILED") == 3
    runs.clear()
    refused = run("encode", clip, "clip.edgc", "--bundle", bundle, "--device", "openvino")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("edgecodec: openvino is refused")
    assert not runs  # as `verify` has remembered
    assert not Path("clip.edgc").exists()


def test_an_unknown_device_is_a_wrong_call(tiny: Path, run) -> None:
    result = run("verify", tiny, "--device", "tpu")
    assert result.exit_code == 2
    assert "choose cpu, cuda, openvino, coreml, directml, xnnpack, webgpu or auto" in " ".join(result.stderr.split())


def test_doctor_tells_which_providers_give_the_codes(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecodec.benchmarks import diagnosis

    names = ["OpenVINOExecutionProvider", CPU, NOT_MANY]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    real = onnxruntime.InferenceSession

    def session(*args: Any, providers: list[Any], **options: Any) -> Any:  # as where OpenVINO's libraries are not
        return real(*args, providers=[CPU], **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    found = diagnosis.examine(str(bundle))
    assert [(v.provider, v.passed) for v in found.providers] == [(names[0], False), (CPU, True), (NOT_MANY, None)]
    assert "could not start it" in found.providers[0].text
    assert not found.broken


def test_where_verdicts_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()  # the real place
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    file = verdicts.cache_file()
    assert file.parts[-2:] == ("edgecodec", "verdicts.json")
    assert os.name != "posix" or "Caches" in file.parts or file.is_relative_to(tmp_path)
