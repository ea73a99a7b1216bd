"""The package as npm makes it, installed in an empty project: its command, and all examples of its page."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import edgecodec
import numpy as np
import pytest
import soundfile
from edgecodec.files.encoding import Rate
from edgecodec.files.in_memory import decode_clip, encode_clip
from file_vectors import encoded
from store import BUNDLES, PACKAGE, clip

PAGE = PACKAGE.parent / "docs" / "javascript.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
# What the blocks find there: sound, in one piece and in many, something that plays it, and the page's own server.
PRELUDE = """
import { createReadStream, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { readWav } from "edgecodec";

globalThis.audio = readWav(readFileSync("speech.wav")).audio[0];
const size = Math.ceil(audio.length / 20);
globalThis.blocks = Array.from({ length: 20 }, (_, i) => audio.subarray(i * size, (i + 1) * size));
let played = 0;
globalThis.play = (samples) => (played += samples.length);
const server = createServer((request, response) => {
  response.setHeader("connection", "close");
  createReadStream(`node_modules/edgecodec${request.url}`).pipe(response);
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
server.unref();
globalThis.location = { href: `http://127.0.0.1:${server.address().port}/page.html` };
process.on("exit", () => writeFileSync("played.txt", String(played)));
"""

Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def project(node, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the packed package, and onnxruntime linked from where it is installed."""
    folder, checkout = (tmp_path_factory.mktemp(name) for name in ("project", "checkout"))
    package = (
        checkout / "runtime" / "js"
    )  # a copy: packing adds files for a moment, and other tests run beside this one
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("node_modules"))
    for name in ("models", "LICENSE", "runtime/docs"):
        (checkout / name).symlink_to(PACKAGE.parents[1] / name)
    npm = {"cwd": folder, "check": True, "capture_output": True, "text": True}
    subprocess.run(["npm", "pack", "--silent", "--pack-destination", folder, package], **npm)
    assert not (package / "speech").exists() and not (package / "LICENSE").exists()
    (folder / "package.json").write_text('{"type": "module"}')
    install = ["npm", "install", "--offline", "--no-audit", "--no-fund", "--silent"]
    subprocess.run([*install, folder / f"edgecodec-{edgecodec.__version__}.tgz"], **npm)
    for name in ("onnxruntime-node", "onnxruntime-web", "onnxruntime-common"):
        (folder / "node_modules" / name).symlink_to(PACKAGE / "node_modules" / name)
    soundfile.write(folder / "speech.wav", clip(24_000), 24_000)
    (folder / "prelude.js").write_text(PRELUDE)
    whole = encode_clip(edgecodec.load("speech"), clip(12_000)[None], Rate(stages=2), gain=0)
    (folder / "cut.edgc").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture
def shell(project: Path) -> Shell:
    """`shell(line)`: runs a line in the project."""

    def run(line: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "npm_config_offline": "true"}
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=project,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )

    return run


def test_what_the_package_holds(project: Path) -> None:
    installed = project / "node_modules" / "edgecodec"
    assert sorted(path.name for path in installed.iterdir()) == [
        "LICENSE",
        "README.md",
        "bin",
        "package.json",
        "speech",
        "src",
    ]
    assert json.loads((installed / "package.json").read_text())["version"] == edgecodec.__version__
    assert {path.name for path in (installed / "speech").iterdir()} == {
        path.name for path in BUNDLES["speech"].iterdir()
    }


def test_every_block_of_the_page_runs(project: Path, shell: Shell) -> None:
    assert {language for language, _ in BLOCKS} == {"js", "bash"}
    ran = 0
    for number, (language, text) in enumerate(BLOCKS):
        if language == "bash":
            lines = [line for line in text.splitlines() if line and not line.startswith("npm install")]
            done = [shell(line) for line in lines]
        else:
            (project / f"block{number}.js").write_text(text)
            done = [shell(f"node --import ./prelude.js block{number}.js")]
            if "play(" in text:
                assert int((project / "played.txt").read_text()) >= 12_000, text
        for one in done:
            assert one.returncode == 0, f"{text}\n{one.stdout}{one.stderr}"
            ran += 1
    assert ran > 10
    original = clip(24_000)
    for name in ("decoded.wav", "shell.wav", "piped.wav"):
        sound, rate = soundfile.read(project / name)
        assert rate == 24_000 and len(sound) == len(original)
    assert (project / "speech.edgc").read_bytes() == (project / "shell.edgc").read_bytes()


def test_the_command_writes_what_python_writes(project: Path, shell: Shell) -> None:
    codec = edgecodec.load("speech")
    audio = soundfile.read(project / "speech.wav", dtype="float32")[0]
    for words, ours in (
        ("", encode_clip(codec, audio[None], Rate(stages=5), gain=0)),
        ("--gain 6", encoded(codec, audio[None], stages=5, gain=6)),
    ):
        assert shell(f"npx edgecodec encode speech.wav one.edgc -q 5 -f {words}").returncode == 0
        data = (project / "one.edgc").read_bytes()
        assert data == ours
        assert shell("npx edgecodec decode one.edgc one.wav -f").returncode == 0
        sound = soundfile.read(project / "one.wav", dtype="int16")[0]
        assert np.abs(sound - decode_clip(codec, data)[0] * 32_767).max() <= 1


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="numpy adds floats in another order here")
@pytest.mark.parametrize("words", ["speech.wav ours -b 3", "- ours", "speech.wav ours --quality 6 --effort best"])
def test_the_commands_write_the_same_bytes(project: Path, shell: Shell, words: str) -> None:
    for command, name in (("npx edgecodec", "theirs.edgc"), (f"{sys.executable} -m edgecodec", "ours.edgc")):
        done = shell(f"cat speech.wav | {command} encode {words.replace('ours', name)} -f")
        assert done.returncode == 0, done.stderr
    assert (project / "theirs.edgc").read_bytes() == (project / "ours.edgc").read_bytes()


@pytest.mark.parametrize("kind", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "stereo"])
def test_wav_of_every_kind(project: Path, shell: Shell, kind: str) -> None:
    stereo = kind == "stereo"
    audio = np.stack([clip(4800), clip(4800)[::-1]], axis=1) if stereo else clip(4800)
    subtype, extensible = ("PCM_16", "WAVEX") if stereo else (kind, "WAV")
    soundfile.write(project / "in.wav", audio, 24_000, subtype=subtype, format=extensible)
    done = shell(
        "node -e 'import(`edgecodec`).then(({ readWav, writeWav }) => { const { audio, sampleRate } = "
        'readWav(fs.readFileSync("in.wav")); fs.writeFileSync("out.wav", writeWav(audio, sampleRate)); })\''
    )
    assert done.returncode == 0, done.stderr
    ours = soundfile.read(project / "in.wav", dtype="float64")[0]
    theirs, rate = soundfile.read(project / "out.wav", dtype="int16")
    assert rate == 24_000 and np.array_equal(theirs, np.clip(ours * 32_767, -32_767, 32_767).round())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("", 2, "usage: edgecodec encode"),
        ("--help", 0, "usage: edgecodec encode"),
        ("encode --help", 0, "usage: edgecodec encode"),
        ("frob", 2, 'edgecodec: no command "frob": encode or decode'),
        ("encode speech.wav", 2, "edgecodec: encode takes an input and an output"),
        ("encode speech.wav x.edgc --bogus", 2, "edgecodec: Unknown option '--bogus'"),
        ("encode speech.wav x.edgc -q 99", 2, "edgecodec: speech has 1 to 16 stages, not 99"),
        ("encode speech.wav x.edgc -q many", 2, 'edgecodec: --stages is a number, not "many"'),
        ("encode speech.wav x.edgc -b 99", 2, "edgecodec: speech cannot do 99 kbps; possible: 0.75 to 12"),
        ("encode speech.wav x.edgc -b 3 -q 4", 2, "edgecodec: give one of bitrate, quality and stage count"),
        ("encode speech.wav x.edgc -b 3 --cbr --vbr", 2, "edgecodec: --cbr and --vbr"),
        ("encode speech.wav x.edgc --quality 11", 2, "edgecodec: quality is 0 to 10"),
        ("encode speech.wav x.edgc --quality high", 2, 'edgecodec: --quality is a number, not "high"'),
        ("encode speech.wav x.edgc -b 5 --cbr", 2, "edgecodec: speech cannot do 5 kbps"),
        ("encode speech.wav x.edgc --effort most", 2, "edgecodec: effort must be"),
        ("encode speech.wav x.edgc --threads 0", 2, "edgecodec: --threads is"),
        ("encode speech.wav x.edgc --gain 61", 2, "edgecodec: --gain is a whole number of dB from 0 to 60"),
        ("encode speech.wav x.edgc --gain 0.5", 2, "edgecodec: --gain is a whole number of dB from 0 to 60"),
        ("encode speech.wav x.edgc --gain loud", 2, 'edgecodec: --gain is a number, not "loud"'),
        ("encode none.wav x.edgc", 1, "edgecodec: none.wav: no such file or folder"),
        ("encode package.json x.edgc", 1, "edgecodec: package.json: no WAV file"),
        ("encode speech.wav package.json", 1, "edgecodec: package.json: exists; -f replaces it"),
        ("encode speech.wav none/x.edgc", 1, "edgecodec: none/x.edgc: no such file or folder"),
        ("encode speech.wav x.edgc --bundle none", 1, "edgecodec: none/manifest.json"),
        ("decode speech.wav x.wav", 1, "edgecodec: speech.wav: not an .edgc file"),
        ("decode cut.edgc x.wav --strict", 1, "edgecodec: cut.edgc: truncated in chunk 0"),
        ("decode cut.edgc - > x.out", 0, "edgecodec: cut.edgc: truncated in chunk 0"),
    ],
)
def test_errors_are_one_line(project: Path, shell: Shell, words: str, code: int, said: str) -> None:
    done = shell(f"node node_modules/edgecodec/bin/edgecodec.js {words}")
    assert done.returncode == code, done.stderr
    text = done.stderr if code or "cut.edgc -" in words else done.stdout
    assert (text or done.stdout).startswith(said), done.stderr
    assert "usage" in said or (text.count("\n") == 1) or not code
    assert not (project / "x.edgc").exists() and not (project / "x.wav").exists()
    assert not list(project.glob(".edgecodec-*"))


def test_the_command_says_what_it_lacks(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "node_modules" / "edgecodec", tmp_path / "edgecodec")
    shutil.copy(project / "speech.wav", tmp_path)
    words = ["node", "edgecodec/bin/edgecodec.js", "encode", "speech.wav", "x.edgc"]
    done = subprocess.run(words, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        "edgecodec: onnxruntime-node is missing: npm install onnxruntime-node\n",
    )
