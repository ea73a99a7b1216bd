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
    "tests/cpp/test_cpp.py::test_how_long_a_frame_takes",
    "tests/cpp/test_cpp.py::test_libraries_that_are_no_onnxruntime",
    "tests/cpp/test_cpp.py::test_the_loopback_of_the_page",
    "tests/cpp/test_cpp.py::test_the_page",
    "tests/export/test_adapted_bundles.py",
    "tests/export/test_dac.py",
    "tests/export/test_encodec.py",
    "tests/export/test_encodec_32khz.py",
    "tests/export/test_encodec_48khz.py",
    "tests/export/test_encodec_start.py",
    "tests/export/test_entropy.py::test_a_checkpoint_takes_a_model_along",
    "tests/export/test_export.py::test_missing_extra_is_named[pesq-eval",
    "tests/export/test_export.py::test_replaces_a_bundle_but_nothing_else",
    "tests/export/test_graphs.py::test_float16_storage_halves_the_files_and_keeps_agreement",
    "tests/export/test_int8_lstm.py::test_a_codec",
    "tests/export/test_int8_lstm.py::test_codecs_that_look_ahead",
    "tests/export/test_int8_lstm.py::test_the_command",
    "tests/export/test_mimi.py",
    "tests/export/test_published.py",
    "tests/export/test_snac.py",
    "tests/export/test_snac_windowed.py",
    "tests/export/test_study.py::test_a_finished",
    "tests/export/test_study.py::test_a_variant",
    "tests/export/test_study.py::test_ctrl_c",
    "tests/export/test_study.py::test_evaluate_says",
    "tests/export/test_study.py::test_every_kind",
    "tests/export/test_study.py::test_figures_are",
    "tests/export/test_study.py::test_in_noise",
    "tests/export/test_study.py::test_seeds_that",
    "tests/export/test_study.py::test_stage_counts",
    "tests/export/test_study.py::test_the_page_in_a_browser",
    "tests/export/test_study.py::test_the_table",
    "tests/export/test_study.py::test_what_is_done",
    "tests/export/test_study.py::test_words_follow",
    "tests/fuzz/test_fuzz.py::test_nothing_but_errors_of_the_tree[weights",
    "tests/js/test_browser.py",
    "tests/js/test_javascript.py::test_speed_beside_python",
    "tests/js/test_package.py",
    "tests/live/test_calls.py::test_a_call_with_a_key[False",
    "tests/live/test_live.py::test_devices_at_another_rate[44100",
    "tests/live/test_live.py::test_devices_at_another_rate[48000",
    "tests/live/test_live.py::test_ten_seconds_of_speech[idle",
    "tests/packaging/test_lowest_versions.py",
    "tests/packaging/test_pages.py::test_the_blocks_of_a_page_run[runtime/docs/evaluation.md]",
    "tests/packaging/test_pages.py::test_the_blocks_of_a_page_run[runtime/docs/files.md]",
    "tests/packaging/test_pages.py::test_the_blocks_of_a_page_run[runtime/docs/mobile.md]",
    "tests/packaging/test_pages.py::test_the_blocks_of_a_page_run[runtime/docs/streaming.md]",
    "tests/packaging/test_pages.py::test_the_blocks_of_a_page_run[training/README.md]",
    "tests/packaging/test_pages.py::test_the_blocks_of_a_page_run[training/docs/codebooks.md]",
    "tests/packaging/test_wheel.py",
    "tests/runtime/test_bench.py::test_prints_units",
    "tests/runtime/test_chunks.py::test_tens_of_thousands_of_mutations",
    "tests/runtime/test_cli.py::test_the_example_in_every_help_works[evaluate]",
    "tests/runtime/test_coded_packets.py::test_live_variable_rate_holds_its_mean_and_loses_nothing[2",
    "tests/runtime/test_durable.py::test_a_kill_at_every_system_call[folder-True",
    "tests/runtime/test_durable.py::test_a_kill_at_every_system_call[links",
    "tests/runtime/test_effort.py::test_scores_are_those_of_the_best_search",
    "tests/runtime/test_file_output.py::test_consoles_of_ascii_alone[chosen1",
    "tests/runtime/test_file_output.py::test_consoles_of_ascii_alone[chosen2",
    "tests/runtime/test_quality.py::test_the_extra_eval_is_enough",
    "tests/runtime/test_report.py",
    "tests/runtime/test_stream.py::test_streams_never_grow",
    "tests/training/test_distributed.py",
    "tests/training/test_training_loop.py::test_a_run_stopped_by_ctrl_c_is_saved_and_goes_on",
    "tests/web/test_firefox.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless EVERYTHING is set or a test is named."""
    if os.environ.get("EVERYTHING") or any("::" in word for word in config.args):
        return
    long = [item for item in items if item.nodeid.startswith(_LONG)]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]
