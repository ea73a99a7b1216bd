"""A sound rig for all tests, and the bundle that they use."""

from __future__ import annotations

import os
from pathlib import Path

import edgecodec
import pytest
import rig
from edgecodec.bundle import shipped_bundles

TINY = Path(__file__).parents[1] / "runtime" / "tiny_bundle"


@pytest.fixture(scope="session")
def bundle() -> str:
    """The shipped bundle, or the one that EDGECODEC_TEST_BUNDLE names; the tiny one where none is shipped."""
    shipped = "speech" if "speech" in shipped_bundles() else str(TINY)
    return os.environ.get("EDGECODEC_TEST_BUNDLE", shipped)


@pytest.fixture(scope="session")
def codec(bundle: str) -> edgecodec.Codec:
    return edgecodec.load(bundle)


@pytest.fixture(scope="module")
def machine(need):
    """A machine with a microphone and a loudspeaker."""
    need(rig.complete, *rig.PACKAGES)
    with rig.rig() as running:
        yield running


@pytest.fixture
def fragile(need):
    """The same, to be broken."""
    need(rig.complete, *rig.PACKAGES)
    with rig.rig() as running:
        yield running
