"""The pages: their examples run as they stand there, their links lead somewhere, and the README stays short.

The blocks of a page run in its order, in one folder that holds `speech.wav`, the folders `held-out/` and
`recordings/`, and `models/`. Python blocks of a page share their names; `audio`, `blocks` and `play` are there before
the first. Lines that install are left out. What cannot run here (hours of training, a microphone, another machine) is
marked ```sh no-run: its options are still looked up in the help of its command.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import edgecodec
import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "CHANGELOG.md",
    "export/README.md",
    "export/docs/adapters.md",
    "training/README.md",
    "training/docs/codebooks.md",
    "training/docs/denoising.md",
    "training/docs/experiments.md",
    "training/docs/quantizers.md",
    "tests/README.md",
    "tests/audio/README.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "runtime" / "docs").glob("*.md")),
]
CLIP = ROOT / "tests" / "audio" / "speech_ro.flac"
README_LINES = 130
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
INSTALLS = ("pip install", "apt-get install", "git clone", "make ")
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    "OMP_NUM_THREADS": "1",
}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Language, what follows it, and text of each block of a page, in order."""
    return [(language, mark.strip(), text) for language, mark, text in BLOCK.findall(text_of(page))]


def runs(language: str, mark: str) -> bool:
    return language in ("sh", "python") and mark != "no-run"


def commands(text: str) -> Iterator[str]:
    """The lines of a shell block, joined where they are continued, without comments and what installs."""
    for line in text.replace("\\\n", " ").splitlines():
        command = line.split("  #")[0].strip()
        if command and not command.startswith("#") and not any(word in command for word in INSTALLS):
            yield command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the blocks of a page run in."""
    audio, rate = soundfile.read(CLIP, dtype="float32")
    soundfile.write(tmp_path / "speech.wav", audio, rate)
    for name, start in (("held-out", 1), ("recordings", 2)):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "speech.wav", audio[start * rate : (start + 1) * rate], rate)
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass
class Ran:
    """What the blocks of a page left: stdout of each command, names of its Python, and what was given to `play`."""

    folder: Path
    said: dict[str, str] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=dict)
    played: list[np.ndarray] = field(default_factory=list)


def run_blocks(page: str, folder: Path) -> Ran:
    audio, _ = soundfile.read(CLIP, dtype="float32")
    ran = Ran(folder)
    ran.names |= {"audio": audio, "blocks": np.array_split(audio, 37), "play": ran.played.append}
    for language, mark, text in blocks(page):
        if not runs(language, mark):
            continue
        if language == "python":
            exec(compile(text, page, "exec"), ran.names)
            continue
        for command in commands(text):
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command],
                cwd=folder,
                env=ENVIRONMENT | {"HOME": str(folder)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{page}: {command}\n{done.stdout}{done.stderr}"
            ran.said[command] = done.stdout
    return ran


def check_readme(ran: Ran) -> None:
    original, rate = soundfile.read(ran.folder / "speech.wav")
    for name in ("decoded.wav", "again.wav", "piped.wav"):
        decoded, decoded_rate = soundfile.read(ran.folder / name)
        assert decoded_rate == rate and len(decoded) == len(original), name
    assert ran.names["codes"].shape[:2] == (1, 8)
    assert ran.names["audio"].shape[:2] == (1, 1) and 0 <= ran.names["audio"].shape[2] - len(original) < 320
    assert sum(map(len, ran.played)) == len(original) // 320 * 320
    two_clips_of_three_channels = np.zeros((2, 3, 640), np.float32)
    assert ran.names["codec"].encode(two_clips_of_three_channels).shape == (6, 8, 3)


def check_evaluation(ran: Ran) -> None:
    table, beside = ran.said.values()
    rows = [line.strip("| ").split("|") for line in table.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == 4 * ["speech"] + 4 * ["speech, files"]
    assert [row[1].strip() for row in rows[:4]] == ["1.5", "3", "6", "12"]
    assert {"speech", "Opus"} <= {line.split()[1] for line in beside.splitlines()[2:]}
    assert (ran.folder / "report.html").read_text().startswith("<!doctype html>")
    picture = ElementTree.parse(ran.folder / "rate_distortion.svg").getroot()
    assert len(picture.findall("{http://www.w3.org/2000/svg}svg")) == 2


CHECKS = {"README.md": check_readme, "runtime/docs/evaluation.md": check_evaluation}


@pytest.mark.parametrize("page", [page for page in PAGES if any(runs(*block[:2]) for block in blocks(page))])
def test_the_blocks_of_a_page_run(page: str, folder: Path) -> None:
    ran = run_blocks(page, folder)
    if page in CHECKS:
        CHECKS[page](ran)


@cache
def help_of(command: str) -> str:
    words = [str(Path(sys.executable).parent / "edgecodec"), command, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=ENVIRONMENT | {"COLUMNS": "200"})
    assert done.returncode == 0, f"edgecodec {command} --help\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_exist(page: str) -> None:
    """Of all blocks and of what the text says in passing: those marked no-run are not checked by running."""
    text = text_of(page)
    written = [command for _, _, block in BLOCK.findall(text) for command in commands(block)]
    written += re.findall(r"`([^`\n]*\bedgecodec [a-z][^`\n]*)`", BLOCK.sub("", text))
    for line in written:
        for part in re.findall(r"(?:^|[ (])edgecodec ((?:[a-z][a-z-]*)(?: [^|;&]*)?)", line):
            command, *words = shlex.split(part.replace("…", ""), comments=True)
            for word in words:
                if re.fullmatch(r"--?[a-z][a-z-]*", word):
                    assert re.search(rf"(?<![\w-]){word}\b", help_of(command)), f"{page}: {line}"


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    lines = BLOCK.sub("", page.read_text(encoding="utf-8")).splitlines()
    titles = [line.lstrip("#").strip().lower() for line in lines if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|href|srcset)=\"([^\"]+)\"", BLOCK.sub("", text_of(page))):
        link = "".join(target)
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), f"{page}: {link}"
        assert not anchor or anchor in slugs(there), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_pages_name_exist(page: str) -> None:
    """Paths in backquotes, from the top or from the folder of the page."""
    for name in re.findall(r"`((?:runtime|export|training|models|tests)/[\w./-]+)`", text_of(page)):
        assert (ROOT / name).exists(), f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make (\w+)", text_of(page), flags=re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{page}: make {target}"


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    readme = text_of("README.md")
    assert len(readme.splitlines()) <= README_LINES
    for page in PAGES:
        if page not in ("README.md", "tests/audio/README.md"):
            assert f"({page})" in readme, page


def test_few_blocks_are_left_out() -> None:
    """Who marks an example no-run has no proof that it works: it takes a reason that the page gives."""
    left_out = [f"{page}: {text}" for page in PAGES for _, mark, text in blocks(page) if mark == "no-run"]
    assert len(left_out) <= 14, left_out


def test_the_map_of_the_runtime_is_complete() -> None:
    """`architecture.md` names every module of the runtime in its place, and none that is gone."""
    [drawn] = [text for _, _, text in blocks("runtime/docs/architecture.md") if text.startswith("runtime/edgecodec/")]
    where, named = "", set()
    for line in drawn.splitlines()[1:]:
        folder = re.match(r"  (\w+)/", line)
        where = f"{folder[1]}/" if folder else where if line.startswith("     ") else ""
        named |= {where + name for name in re.findall(r"\b[a-z]\w*\b(?!/)", line.split("  # ")[0])}
    package = Path(edgecodec.__file__).parent
    there = {path.relative_to(package).with_suffix("").as_posix() for path in package.rglob("*.py")}
    assert named == {name for name in there if not name.endswith("__")}
