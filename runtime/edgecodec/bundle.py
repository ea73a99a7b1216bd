"""Bundles on disk: finding one, and refusing it unless every byte is what its manifest says.

Each graph is read once; the bytes that were hashed are the bytes that onnxruntime gets.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path, PurePosixPath, PureWindowsPath

from .durable import settle
from .entropy_model import NO_MODEL, Predictor, read_entropy_model
from .errors import BundleError
from .manifest import FORMAT_VERSION, GRAPHS, FileEntry, Manifest
from .onnx_fields import is_ort_format, keeps_data_elsewhere

__all__ = [
    "FORMAT_VERSION",
    "GRAPHS",
    "Bundle",
    "FileEntry",
    "Manifest",
    "find_bundle",
    "read_bundle",
    "shipped_bundles",
]

MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: its folder, its manifest, and the graphs' bytes by name."""

    path: Path
    manifest: Manifest
    graphs: dict[str, bytes]
    predictor: Predictor  # of its codes: an entropy model, or none

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes that name this codec in files: of SHA-256 over the four graphs' digests.

        Graphs that were made from another bundle's, and give its codes, go by its name.
        """
        if self.manifest.fingerprint:
            return bytes.fromhex(self.manifest.fingerprint)
        digests = (getattr(self.manifest.graphs, name).sha256 for name in GRAPHS)
        return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests)).digest()[:8]

    @property
    def model_fingerprint(self) -> bytes:
        """8 bytes that name the entropy model, zeros where there is none."""
        entropy = self.manifest.entropy
        return NO_MODEL if entropy is None else bytes.fromhex(entropy.sha256)[:8]

    def golden(self) -> bytes:
        """The checked bytes of the golden vectors."""
        return _read_entry(self.path, "golden", self.manifest.golden)


def shipped_bundles() -> dict[str, Path]:
    """The bundles that come with the installation, by name."""
    try:
        root = resources.files("edgecodec_models")
    except ModuleNotFoundError:
        return {}
    folders = sorted(Path(str(entry)) for entry in root.iterdir())
    return {folder.name: folder for folder in folders if (folder / "manifest.json").is_file()}


def find_bundle(bundle: str | os.PathLike[str]) -> Path:
    """The folder of a shipped bundle's name or of a path (anything with a separator, or a folder that exists).

    Raises:
        BundleError: no such folder or name; the message lists the shipped names.
    """
    text = os.fspath(bundle)
    path = Path(text)
    is_path = not isinstance(bundle, str) or "/" in text or os.sep in text
    shipped = {} if is_path else shipped_bundles()
    if text in shipped:
        return shipped[text]
    settle(path)
    if path.is_dir():
        return path
    if is_path:
        raise BundleError(f"{text}: no such bundle folder")
    names = ", ".join(shipped) or "none"
    raise BundleError(f"no bundle named {text!r}; shipped: {names}. Give a shipped name or the path of a bundle folder")


def read_bundle(bundle: str | os.PathLike[str]) -> Bundle:
    """Read a bundle by name or path, and check its files against its manifest.

    Raises:
        BundleError: what is wrong, where, and what to do.
    """
    path = find_bundle(bundle)
    manifest_path = path / "manifest.json"
    try:
        text = _read_bounded(manifest_path, MANIFEST_BYTES)
    except OSError as error:
        raise BundleError(f"{manifest_path}: {error.strerror}; is this a bundle folder?") from None
    if text is None:
        raise BundleError(f"{manifest_path}: larger than {MANIFEST_BYTES} bytes, so no manifest")
    try:
        manifest = Manifest.from_json(text)
    except BundleError as error:
        raise BundleError(f"{manifest_path}: {error}") from None
    graphs = {name: _read_entry(path, name, getattr(manifest.graphs, name)) for name in GRAPHS}
    for name, data in graphs.items():
        file = path / getattr(manifest.graphs, name).file
        if is_ort_format(data) != (file.suffix == ".ort"):
            raise BundleError(f"{file}: .ort, and no other file, must be in onnxruntime's own format")
        if file.suffix == ".ort":  # it can name no other file
            continue
        try:
            elsewhere = keeps_data_elsewhere(data)
        except BundleError as error:
            raise BundleError(f"{file}: {error}") from None
        if elsewhere:  # which onnxruntime would look for in the current folder
            raise BundleError(f"{file}: keeps weights in another file (external data); save it as one file")
    return Bundle(path, manifest, graphs, _read_predictor(path, manifest))


def _read_predictor(path: Path, manifest: Manifest) -> Predictor:
    """The bundle's entropy model, or what stands for none."""
    quantizer = manifest.quantizer
    if manifest.entropy is None:
        return Predictor(quantizer.codebook_size)
    data = _read_entry(path, "entropy", manifest.entropy)
    try:
        return read_entropy_model(data, quantizer.max_stages, quantizer.codebook_size)
    except BundleError as error:
        raise BundleError(f"{path / manifest.entropy.file}: no entropy model of this bundle: {error}") from None


def _read_entry(folder: Path, what: str, entry: FileEntry) -> bytes:
    """The bytes of one listed file, which must lie in the folder itself and be what the manifest says."""
    plain = PurePosixPath(entry.file).name == entry.file == PureWindowsPath(entry.file).name
    if not plain or entry.file in ("", ".", "..") or not entry.file.isprintable():
        raise BundleError(f"{folder}: {what} file {entry.file!r} is no plain file name, so it would leave the bundle")
    path = folder / entry.file
    try:
        if path.resolve(strict=True).parent != folder.resolve():
            raise BundleError(f"{path}: a link that leaves the bundle; copy the file into it")
        data = _read_bounded(path, entry.bytes)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        reason = error.strerror if isinstance(error, OSError) else "a loop of links"
        raise BundleError(f"{path}: {reason}; the bundle is incomplete, copy or export it again") from None
    if data is None or len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256.lower():
        raise BundleError(f"{path}: altered, its bytes are not those of the manifest; copy or export the bundle again")
    return data


def _read_bounded(path: Path, limit: int) -> bytes | None:
    """The bytes of a regular file, or None where there are more than `limit`."""
    if not path.is_file():
        raise FileNotFoundError(2, "No such file", str(path))
    if path.stat().st_size > limit:
        return None
    with path.open("rb") as file:
        data = file.read(limit + 1)
    return data if len(data) <= limit else None
