"""Where tests find modules beside them, programs they need, and how programs that they start hear Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Need = Callable[..., None]

# Bundles that tests make are run without a trial in another process, except in tests of trials.
os.environ.setdefault("EDGECODEC_TRUST", "1")

# What tests import that is no test: pytest's importlib mode finds it nowhere.
sys.path += [str(Path(__file__).parent / folder) for folder in ("adapters", "export", "live", "runtime")]

# A background shell starts its programs with SIGINT ignored, and they would hand that on to the programs that tests
# interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # nohup does the same with this one
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def need() -> Need:
    """`need(complete, packages)`: skip unless `complete()`, and say which Debian packages would be enough.

    In continuous integration, where they must be there, it fails instead. `make debs` installs them.
    """

    def require(complete: Callable[[], bool], *packages: str) -> None:
        if not complete():
            missing = f"programs are missing: apt-get install {' '.join(packages)}"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)

    return require


# What takes a minute and more, or says what another test says too, and is left to `make everything`.
_LONG = (
    "tests/adapters/test_speed.py",
    "tests/live/test_calls.py::test_a_call_with_a_key[False",
    "tests/live/test_live.py::test_devices_at_another_rate[44100",
    "tests/live/test_live.py::test_ten_seconds_of_speech[idle",
    "tests/packaging/test_lowest_versions.py",
    "tests/packaging/test_pages.py::test_the_blocks_of_a_page_run[runtime/docs/evaluation.md]",
    "tests/packaging/test_pages.py::test_the_blocks_of_a_page_run[training/README.md]",
    "tests/packaging/test_wheel.py",
    "tests/cpp/test_cpp.py::test_the_loopback_of_the_page",
    "tests/export/test_adapted_bundles.py",
    "tests/export/test_dac.py",
    "tests/export/test_encodec_32khz.py",
    "tests/export/test_encodec.py",
    "tests/export/test_encodec_48khz.py",
    "tests/export/test_entropy.py::test_a_checkpoint_takes_a_model_along",
    "tests/export/test_graphs.py::test_float16_storage_halves_the_files_and_keeps_agreement",
    "tests/export/test_encodec_start.py",
    "tests/export/test_mimi.py::test_past_the_published_window",
    "tests/export/test_mimi.py::test_int8_products_of_the_transformers",
    "tests/export/test_published.py",
    "tests/export/test_snac.py",
    "tests/js/test_browser.py",
    "tests/js/test_javascript.py::test_speed_beside_python",
    "tests/js/test_package.py::test_every_block_of_the_page_runs",
    "tests/runtime/test_chunks.py::test_tens_of_thousands_of_mutations",
    "tests/runtime/test_durable.py::test_a_kill_at_every_system_call[folder-True",
    "tests/runtime/test_durable.py::test_a_kill_at_every_system_call[links",
    "tests/runtime/test_cli.py::test_the_example_in_every_help_works[evaluate]",
    "tests/runtime/test_file_output.py::test_consoles_of_ascii_alone[chosen1",
    "tests/runtime/test_file_output.py::test_consoles_of_ascii_alone[chosen2",
    "tests/runtime/test_quality.py::test_the_extra_eval_is_enough",
    "tests/runtime/test_report.py",
    "tests/runtime/test_stream.py::test_streams_never_grow",
    "tests/training/test_distributed.py",
    "tests/web/test_firefox.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless EVERYTHING is set or a test is named."""
    if os.environ.get("EVERYTHING") or any("::" in word for word in config.args):
        return
    long = [item for item in items if item.nodeid.startswith(_LONG)]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]
