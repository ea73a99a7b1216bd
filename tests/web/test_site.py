"""`edgecodec web`: what it writes, where onnxruntime-web comes from, and what it refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from edgecodec.commands.main import app
from edgecodec.commands.site import Sources, find_ort
from edgecodec.errors import EdgecodecError
from typer.testing import CliRunner, Result

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "runtime" / "tiny_bundle"
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
WRITTEN = {"ort.wasm.bundle.min.js": b"module", "ort-wasm-simd-threaded.wasm": b"wasm"}


@pytest.fixture
def ort(tmp_path: Path) -> Path:
    """A folder that looks like onnxruntime-web."""
    folder = tmp_path / "onnxruntime-web" / "dist"
    folder.mkdir(parents=True)
    for name, data in zip(FILES, WRITTEN.values(), strict=True):
        (folder / name).write_bytes(data)
    return folder.parent


def web(*words: object) -> Result:
    return CliRunner().invoke(app, ["web", *map(str, words)])


def test_a_folder_for_any_host(ort: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    done = web(site, "--bundle", TINY, "--ort", ort)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{site}: ")
    names = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert {
        "index.html",
        "page.js",
        "edgecodec/web.js",
        "bundle/manifest.json",
        *(f"ort/{name}" for name in WRITTEN),
    } <= names
    assert not [name for name in names if name.endswith((".d.ts", ".mjs", "node.js", "command.js"))]
    graphs = json.loads((TINY / "manifest.json").read_text())["graphs"]
    assert all(f"bundle/{graph['file']}" in names for graph in graphs.values())
    assert web(site, "--bundle", TINY, "--ort", ort).output == f"edgecodec: {site}: exists; -f writes into it\n"
    assert web(site, "--bundle", TINY, "--ort", ort.parent / "onnxruntime-web" / "dist", "-f").exit_code == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "name a folder to write, or give --serve"),
        (
            ["site", "--ort", "nowhere"],
            1,
            "edgecodec: nowhere: no folder of onnxruntime-web, with ort.wasm.bundle.min.mjs",
        ),
        (["site", "--bundle", "nothing"], 1, "edgecodec: no bundle named 'nothing'"),
    ],
)
def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = web(*words)
    assert done.exit_code == code and said in done.output
    assert not (tmp_path / "site").exists()


def test_serving_on_this_machine_alone(ort: Path) -> None:
    command = [
        Path(sys.executable).parent / "edgecodec",
        "web",
        "--serve",
        "--port",
        "0",
        "--bundle",
        TINY,
        "--ort",
        ort,
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        address = server.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        for name, kind in (("", "text/html"), ("page.js", "text/javascript"), ("ort/" + FILES[1], "application/wasm")):
            with urlopen(address + name) as answer:
                assert answer.headers["Content-Type"] == kind
        with pytest.raises(HTTPError):
            urlopen(f"{address}nothing.js")
        _, _, host = address.rstrip("/").partition("//")
        with socket.create_connection(host.split(":")) as gone:  # a browser that goes away says so to nobody
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.sendall(b"GET /page.js HTTP/1.0\r\n")
        taken = web("--serve", "--port", address.rstrip("/").rpartition(":")[2], "--bundle", TINY, "--ort", ort)
        assert taken.exit_code == 1 and "choose another by --port" in taken.output
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=30) == 0 and server.stderr.read() == ""


@pytest.fixture
def sources(ort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """A checkout without npm packages, an empty cache, and an npm that packs what looks like onnxruntime-web."""
    with tarfile.open(tmp_path / "packed.tgz", "w:gz") as tar:
        for name in FILES:
            tar.add(ort / "dist" / name, f"package/dist/{name}")
    digest = base64.b64encode(hashlib.sha512((tmp_path / "packed.tgz").read_bytes()).digest()).decode()
    entry = {"version": "1.2.3", "integrity": f"sha512-{digest}"}
    (tmp_path / "lock.json").write_text(json.dumps({"packages": {"node_modules/onnxruntime-web": entry}}))
    (tmp_path / "bin").mkdir()
    npm = tmp_path / "bin" / "npm"
    npm.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n/bin/cp {tmp_path}/packed.tgz "$6/onnxruntime-web-1.2.3.tgz"\n'
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Sources(ROOT / "runtime" / "web", ROOT / "runtime" / "js" / "src", tmp_path / "lock.json", tmp_path / "none")


def test_npm_fetches_once(sources: Sources, tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        assert find_ort(sources, None, said.append) == WRITTEN
    assert len(said) == 1 and said[0].startswith("fetching onnxruntime-web 1.2.3 with npm, once, to ")
    assert (tmp_path / "asked").read_text().count("\n") == 1


def test_an_archive_of_another_digest_is_refused(sources: Sources, tmp_path: Path) -> None:
    with (tmp_path / "packed.tgz").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(EdgecodecError, match=r"what npm fetched is not onnxruntime-web 1\.2\.3 of the lock file"):
        find_ort(sources, None, lambda _: None)
    assert list((tmp_path / "cache" / "edgecodec").iterdir()) == []  # the next call fetches again


def test_without_npm_one_line_says_what_to_do(sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "bin" / "npm").write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    with pytest.raises(EdgecodecError, match=r"npm cannot fetch onnxruntime-web@1\.2\.3: no network; name a folder by"):
        find_ort(sources, None, lambda _: None)
    (tmp_path / "bin" / "npm").unlink()
    with pytest.raises(EdgecodecError, match=r"needs onnxruntime-web 1\.2\.3: install npm, which fetches it, or name"):
        find_ort(sources, None, lambda _: None)


def test_an_installation_has_its_own_files(tmp_path: Path) -> None:
    page = tmp_path / "edgecodec_web" / "page"
    page.mkdir(parents=True)
    with pytest.raises(EdgecodecError, match="lacks the files of the page"):
        Sources.of_folder(tmp_path)
    (page / "index.html").touch()
    assert Sources.of_folder(tmp_path).codec == tmp_path / "edgecodec_web" / "edgecodec"
