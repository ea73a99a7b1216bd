"""A sound rig for all tests, and the bundle that they use."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import edgecodec
import pytest
from edgecodec.bundle import shipped_bundles

HERE = Path(__file__).parent
TINY = HERE.parent / "runtime" / "tiny_bundle"

_spec = importlib.util.spec_from_file_location("rig", HERE / "rig.py")
rig = importlib.util.module_from_spec(_spec)
sys.modules["rig"] = rig
_spec.loader.exec_module(rig)


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
