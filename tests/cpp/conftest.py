"""The C++ runtime, built once, and a program of it that answers what Python asks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import edgecodec
import onnxruntime
import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # for modules beside the tests, which pytest's importlib mode finds nowhere

import cpp_page  # noqa: E402
from cpp_runtime import Cpp  # noqa: E402

PACKAGES = ("g++", "cmake", "pkg-config", "nlohmann-json3-dev", "zlib1g-dev", "portaudio19-dev")
# Checks of pointers are those of the address sanitizer; the same of the other one, or -O1, double the time of building.
SANITIZED = (
    "-O0 -fsanitize=address,undefined -fno-sanitize=null,alignment,object-size,vptr,pointer-overflow "
    "-fno-sanitize-recover=undefined -Wall -Wextra -Wpedantic -Werror"
)


def complete() -> bool:
    """Whether there is what builds: a compiler, libraries, and apt, which fetches the headers of onnxruntime."""
    found = all(shutil.which(program) for program in ("g++", "cmake", "pkg-config", "apt-get", "dpkg-deb"))
    headers = (Path("/usr/include") / name for name in ("nlohmann/json.hpp", "zlib.h", "portaudio.h"))
    return sys.platform == "linux" and found and all(map(Path.is_file, headers))


@pytest.fixture(scope="session")
def library() -> Path:
    """The shared library inside the wheel of onnxruntime."""
    [found] = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    return found


@pytest.fixture(scope="session")
def built(need) -> Path:
    """A folder like the top of the repository, with the program that answers what Python asks."""
    need(complete, *PACKAGES)
    folder = cpp_page.like_the_top("cpp-tests")
    headers, _, _ = cpp_page.blocks("Debian 12, or another onnxruntime")
    if not list((folder / "build" / "headers").glob("usr/include/onnxruntime/*_cxx_api.h")):
        try:
            cpp_page.run(cpp_page.without_installing(headers), folder)
        except AssertionError as error:  # no network, or another system
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no headers of onnxruntime: {error}")
    [program] = cpp_page.blocks("In a program", "cpp")
    cpp_page.write_if_new(folder / "page_program.hpp", program)
    checked = (
        f"cmake -S {HERE} -B check -DEDGECODEC_DLOPEN=ON -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS='{SANITIZED}' "
        f"-DPAGE={folder} -DONNXRUNTIME_INCLUDE_DIR={folder}/build/headers/usr/include/onnxruntime\n"
        "cmake --build check"
    )
    assert subprocess.run(cpp_page.shell(checked), cwd=folder).returncode == 0
    return folder


@pytest.fixture(scope="session")
def page_built(built: Path) -> Path:
    """The folder, in which the commands of the page have run up to the build."""
    _, build, _ = cpp_page.blocks("Debian 12, or another onnxruntime")
    assert subprocess.run(cpp_page.shell(build), cwd=built).returncode == 0
    return built


@pytest.fixture(scope="session")
def cpp(built: Path, library: Path) -> Iterator[Cpp]:
    asked = Cpp(built / "check" / "check", library)
    yield asked
    asked.close()


@pytest.fixture(scope="session")
def codec() -> edgecodec.Codec:
    return edgecodec.load("speech")
