"""The commands `info`, `verify` and `vectors`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ..errors import BundleError
from .options import AsJson, Bundle, BundleName, DeviceName, Force, Threads, load_codec, say


def info(
    what: Annotated[
        str, typer.Argument(metavar="FILE|BUNDLE", help="An .edgc file (- for stdin), a shipped bundle or a folder.")
    ],
    as_json: AsJson = False,
) -> None:
    """Tell what an .edgc file or a bundle is.

    Example: edgecodec info speech
    """
    from .info import describe

    facts = describe(what)
    say("\n".join(f"{name:<22}{value}" for name, value in facts.lines()), facts.data, as_json)


def verify(
    bundle: BundleName,
    as_json: AsJson = False,
    device: DeviceName = "cpu",
    threads: Threads = 1,
) -> None:
    """Check a bundle's files, and this machine's results against its golden vectors.

    Example: edgecodec verify speech
    """
    from ..verdicts import measure

    codec = load_codec(bundle, device, threads, proven=False)
    results = measure(codec)
    lines = [
        f"{r.stages:>3} stages: {r.equal_codes:.2%} of codes equal, decoded within {r.decoded_error:.1e}"
        + ("" if r.coded_equal else ", coded to other bytes")
        + (
            ""
            if r.passed and r.equal_codes == 1
            else " (another processor rounds differently)"
            if r.passed
            else "  FAILED"
        )
        for r in results
    ]
    passed = all(r.passed for r in results)
    data = {"passed": passed, "device": codec.device, "results": [asdict(r) for r in results]}
    say("\n".join([f"{codec.manifest.name} on {codec.device}: files as the manifest says", *lines]), data, as_json)
    if not passed:
        raise BundleError(f"{bundle}: does not do what was exported")


def vectors(
    source: Annotated[str, typer.Argument(metavar="IN", help="Audio; its first three seconds are taken.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help=".npz, or .json with the same.")],
    bundle: Bundle = "speech",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a clip and all that a codec makes of it on the way: what a port in another language compares itself with.

    Example: edgecodec vectors speech.wav vectors.npz
    """
    from ..files.output import open_output
    from ..files.port_vectors import port_vectors, read_clip, to_json, to_npz

    codec = load_codec(bundle, "cpu", 1)
    with open_output(target, force=force, suffixes=(".npz", ".json"), source=source) as output:
        arrays = port_vectors(codec, read_clip(codec, source))
        output.file.write(to_json(arrays) if target.lower().endswith(".json") else to_npz(arrays))
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    say(f"{target}: {len(arrays)} arrays of {codec.manifest.name}", shapes, as_json, beside=target)
