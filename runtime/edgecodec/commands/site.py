"""The folder of the live page: page, codec, bundle, and onnxruntime's wasm, which this distribution does not hold.

    index.html  style.css  *.js     the page                    edgecodec/    the runtime in JavaScript
    bundle/                         the graphs, and their facts ort/          two files of onnxruntime-web, 14 MB

The two files come from a folder that is named, from the npm packages of a checkout, or from the npm registry, by the
digest of the lock file; npm's archive then stays in the user's cache.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..bundle import read_bundle
from ..errors import EdgecodecError

_PACKAGE = "onnxruntime-web"
# A module named .mjs is served as text by some hosts, and browsers then refuse it.
_ORT_FILES = {
    "ort.wasm.bundle.min.mjs": "ort.wasm.bundle.min.js",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
_NOT_FOR_BROWSERS = ("node.js", "command.js")
_OF_BUNDLES = ("MODEL_CARD.md", "LICENSE")  # what goes with the graphs, where it is there
_NPM_SECONDS = 600


@dataclass(frozen=True)
class Sources:
    """Where the page's own files lie: folders of the page and of the runtime in JavaScript, and its lock file."""

    page: Path
    codec: Path
    lock: Path
    modules: Path  # npm packages, where they are installed

    @classmethod
    def of_folder(cls, folder: Path = Path(__file__).parents[2]) -> Sources:
        """Of the folder that holds `edgecodec`: `runtime/` of a checkout, or that of an installation's packages."""
        js, package = folder / "js", folder / "edgecodec_web"
        checkout = cls(folder / "web", js / "src", js / "package-lock.json", js / "node_modules")
        installed = cls(
            package / "page", package / "edgecodec", package / "package-lock.json", package / "node_modules"
        )
        for sources in (checkout, installed):
            if (sources.page / "index.html").is_file():
                return sources
        raise EdgecodecError("this installation lacks the files of the page: install edgecodec again")


def write_site(target: Path, bundle: str, ort: Path | None, notice: Callable[[str], None]) -> None:
    """Write the page of a bundle, by name or path, to a folder; tell `notice` what is fetched.

    Raises:
        EdgecodecError: a bundle that is none, or files of onnxruntime-web that cannot be had.
    """
    sources, checked = Sources.of_folder(), read_bundle(bundle)
    ort_files = find_ort(sources, ort, notice)
    for folder in ("edgecodec", "bundle", "ort"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    for path in sources.page.iterdir():
        shutil.copyfile(path, target / path.name)
    for path in sources.codec.glob("*.js"):
        if path.name not in _NOT_FOR_BROWSERS:
            shutil.copyfile(path, target / "edgecodec" / path.name)
    manifest = checked.manifest
    entropy = () if manifest.entropy is None else (manifest.entropy.file,)
    for name, data in checked.graphs.items():
        (target / "bundle" / getattr(manifest.graphs, name).file).write_bytes(data)
    for name in ("manifest.json", *entropy, *_OF_BUNDLES):
        if (checked.path / name).is_file():
            shutil.copyfile(checked.path / name, target / "bundle" / name)
    for name, data in ort_files.items():
        (target / "ort" / name).write_bytes(data)


def find_ort(sources: Sources, folder: Path | None, notice: Callable[[str], None]) -> dict[str, bytes]:
    """The files of onnxruntime-web by the names that they get, from `folder` where it is given.

    Raises:
        EdgecodecError: they are not there, cannot be fetched, or are not those of the lock file.
    """
    if folder is not None:
        found = _in_folder(folder)
        if found is None:
            names = " and ".join(_ORT_FILES)
            raise EdgecodecError(f"{folder}: no folder of {_PACKAGE}, with {names} in it or in its dist/")
        return found
    return _in_folder(sources.modules / _PACKAGE) or _in_archive(_archive(sources.lock, notice))


def _in_folder(folder: Path) -> dict[str, bytes] | None:
    for place in (folder, folder / "dist"):
        if all((place / name).is_file() for name in _ORT_FILES):
            return {own: (place / name).read_bytes() for name, own in _ORT_FILES.items()}
    return None


def _archive(lock: Path, notice: Callable[[str], None]) -> Path:
    """The npm archive of the lock file's version, from the cache or fetched into it."""
    entry = json.loads(lock.read_text())["packages"][f"node_modules/{_PACKAGE}"]
    version, integrity = entry["version"], entry["integrity"]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgecodec"
    archive = cache / f"{_PACKAGE}-{version}.tgz"
    if not archive.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise EdgecodecError(
                f"the page needs {_PACKAGE} {version}: install npm, which fetches it, or name its folder by --ort"
            )
        notice(f"fetching {_PACKAGE} {version} with npm, once, to {archive}")
        _fetch(npm, f"{_PACKAGE}@{version}", cache)
    if not archive.is_file() or _digest(archive) != integrity:
        archive.unlink(missing_ok=True)
        raise EdgecodecError(f"what npm fetched is not {_PACKAGE} {version} of the lock file; name a folder by --ort")
    return archive


def _fetch(npm: str, package: str, cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    command = [npm, "pack", package, "--silent", "--ignore-scripts", "--pack-destination", str(cache)]
    try:
        done = subprocess.run(command, cwd=cache, capture_output=True, text=True, check=False, timeout=_NPM_SECONDS)
    except subprocess.TimeoutExpired:
        raise EdgecodecError(f"npm did not fetch {package} in {_NPM_SECONDS} s; name a folder by --ort") from None
    if done.returncode:
        reason = " ".join(done.stderr.split())[:200]
        raise EdgecodecError(f"npm cannot fetch {package}: {reason or done.returncode}; name a folder by --ort")


def _digest(path: Path) -> str:
    """As lock files of npm have it."""
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def _in_archive(archive: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(archive) as tar:
        for name, own in _ORT_FILES.items():
            file = tar.extractfile(f"package/dist/{name}")
            assert file is not None  # its digest is that of the lock file
            found[own] = file.read()
    return found
