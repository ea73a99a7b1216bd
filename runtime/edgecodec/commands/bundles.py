"""The commands `info` and `verify`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ..errors import BundleError
from .options import AsJson, BundleName, DeviceName, Threads, load_codec, say


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
    from ..golden import verify as verify_golden

    codec = load_codec(bundle, device, threads)
    results = verify_golden(codec)
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
