"""How far the search for codes goes: as live sound, or as files, which can wait."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import edgecodec
import msgspec
import numpy as np
import onnx
import pytest
from edgecodec.errors import BitrateError, BundleError
from edgecodec.files.code_arrays import codes_of_edgc
from edgecodec.manifest import Manifest

PATHS = Path(__file__).parent / "paths_bundle"
EFFORTS = {"live": 0, "fast": 4, "best": 8}


@pytest.fixture(scope="module")
def searching() -> edgecodec.Codec:
    return edgecodec.load(PATHS)


def with_most_paths(codec: edgecodec.Codec, most: int) -> Manifest:
    return msgspec.structs.replace(codec.manifest, max_paths=most)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_more_effort_leaves_less_error(searching: edgecodec.Codec, voice, stages: int) -> None:
    audio = np.stack([voice(4000), voice(4000, seed=1)])
    left = []
    for effort in EFFORTS:
        codes = searching.encode(audio, stages=stages, effort=effort)
        decoded = searching.decode(codes, samples=4000)[:, 0]
        left.append(float(np.square(decoded - audio).sum()))
    assert all(later <= before * 1.001 if stages == 1 else later < before for before, later in pairwise(left))


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("size", [1, 5, 70])
def test_streams_give_the_codes_of_the_whole_clip(searching: edgecodec.Codec, voice, effort, size: int) -> None:
    audio = np.stack([voice(3000), voice(3000, seed=2)])
    whole = searching.encode(audio, stages=4, effort=effort)
    stream = searching.encoder_stream(stages=4, effort=effort, channels=2, frames_per_packet=size)
    packets = [p for block in np.split(audio, [7, 900, 2900], axis=1) for p in stream.push(block)] + stream.flush()
    assert np.array_equal(np.concatenate([packet.codes for packet in packets], axis=2), whole)


def test_efforts_are_path_counts_and_live_is_the_default(searching: edgecodec.Codec, voice) -> None:
    audio = voice(2000)
    sessions, size = searching._sessions, searching.frame_size
    padded = np.pad(audio, (0, searching.frames(2000) * size - 2000))[None, None]
    latents, _ = sessions.analyze(padded, sessions.zero_state("encoder", 1))
    found = {}
    for effort, paths in EFFORTS.items():
        assert searching.manifest.paths(effort) == paths
        found[effort] = searching.encode(audio, stages=4, effort=effort)
        assert np.array_equal(found[effort], sessions.quantize(latents, 4, paths))
    assert np.array_equal(searching.encode(audio, stages=4), found["live"])
    assert not np.array_equal(found["fast"], found["live"]) and not np.array_equal(found["best"], found["live"])


def test_a_bundle_bounds_the_paths(searching: edgecodec.Codec) -> None:
    assert [with_most_paths(searching, 6).paths(effort) for effort in EFFORTS] == [0, 4, 6]
    assert [with_most_paths(searching, 3).paths(effort) for effort in EFFORTS] == [0, 3, 3]


def test_without_a_wide_search_every_effort_is_live(codec: edgecodec.Codec, voice) -> None:
    assert codec.manifest.max_paths == 0
    live = codec.encode(voice(1000), stages=4)
    assert all(np.array_equal(codec.encode(voice(1000), stages=4, effort=effort), live) for effort in EFFORTS)


def test_an_unknown_effort_is_refused(searching: edgecodec.Codec) -> None:
    for call in (lambda: searching.encode(np.zeros(99), effort="most"), lambda: searching.encoder_stream(effort="")):
        with pytest.raises(BitrateError, match="effort must be live, fast, best, not "):
            call()


def test_the_manifest_says_the_most_paths(searching: edgecodec.Codec) -> None:
    facts = json.loads((PATHS / "manifest.json").read_text())
    assert (facts["format_version"], facts["max_paths"]) == (2, 16)
    assert "max_paths" not in json.loads(with_most_paths(searching, 0).to_json())
    for wrong in (-1, 65, True, "8"):
        with pytest.raises(BundleError, match="max_paths"):
            Manifest.from_json(json.dumps(facts | {"max_paths": wrong}))


@pytest.mark.parametrize(("folder", "most"), [("tiny_bundle", 8), ("paths_bundle", 0)])
def test_a_manifest_that_contradicts_the_graph_is_refused(tmp_path: Path, folder: str, most: int) -> None:
    bundle = Path(shutil.copytree(PATHS.parent / folder, tmp_path / "bundle"))
    facts = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(facts | {"format_version": 2, "max_paths": most}))
    with pytest.raises(BundleError, match=r"quantizer_encode\.onnx: has inputs latents, n_stages"):
        edgecodec.load(bundle)


def test_more_paths_than_the_graph_can_follow_are_refused(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(PATHS, tmp_path / "bundle"))
    facts = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(facts | {"max_paths": 17}))
    with pytest.raises(BundleError, match="the graphs contradict the manifest"):
        edgecodec.load(bundle)


def test_files_get_the_fast_search(run, clip: Path, searching: edgecodec.Codec, tmp_path: Path) -> None:
    found = {}
    for name, options in {"default": [], **{effort: ["--effort", effort] for effort in EFFORTS}}.items():
        assert run("encode", clip, f"{name}.edgc", "--bundle", PATHS, "-q", 4, *options).exit_code == 0
        found[name] = codes_of_edgc(str(tmp_path / f"{name}.edgc"), None).codes
    assert np.array_equal(found["default"], found["fast"])
    assert len({codes.tobytes() for codes in found.values()}) == 3
    assert run("roundtrip", clip, "a.wav", "--bundle", PATHS, "-q", 4).exit_code == 0
    assert run("decode", "fast.edgc", "b.wav", "--bundle", PATHS).exit_code == 0
    assert run("roundtrip", clip, "c.wav", "--bundle", PATHS, "-q", 4, "--effort", "live").exit_code == 0
    a, b, c = ((tmp_path / f"{name}.wav").read_bytes() for name in "abc")
    assert a == b != c
    refused = run("encode", clip, "x.edgc", "--bundle", PATHS, "--effort", "most")
    assert refused.exit_code == 2 and "live" in refused.output


def test_scores_are_those_of_the_best_search(run, clip: Path) -> None:
    scored = {}
    for name, options in {"default": [], **{effort: ["--effort", effort] for effort in EFFORTS}}.items():
        result = run("evaluate", "--fixed", PATHS, "--data", clip.parent, "-q", 4, "--json", *options)
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert found["effort"] == ("best" if name == "default" else name)
        scored[name] = found["rows"][0]["measures"]["si_sdr"]["mean"]
        assert found["notes"] == [f"paths: clips are encoded with effort {found['effort']}"]
    assert scored["default"] == scored["best"] > scored["live"]


def test_the_graph_names_its_inputs() -> None:
    graph = onnx.load(PATHS / "quantizer_encode.onnx").graph
    assert [value.name for value in graph.input] == ["latents", "n_stages", "paths"]
