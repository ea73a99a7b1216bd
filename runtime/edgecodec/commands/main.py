"""The command `edgecodec`: one list of commands, and one place that says what went wrong.

A command is imported when it runs, so that `--help` answers at once. Those of other packages (`train`, `export`) come
from the entry-point group `edgecodec.commands`, and are listed and run in the same way. The last paragraph of a
command's docstring may be `Example: …`, which ends its help.
"""

from __future__ import annotations

import codecs
import inspect
import io
import os
import signal
import sys
import warnings
from importlib import metadata
from typing import Annotated, Any, NoReturn, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from .. import __version__
from ..errors import DamageWarning, EdgecodecError, ScaleWarning, StalledError

_INTERRUPTED, _FAILED, _BROKEN_PIPE = 130, 1, 141
_AS_IT_CAN = "edgecodec-as-it-can"  # an error handler
_ASCII = "edgecodec_ascii"  # an encoding: typer takes a stream of "ascii" for one of UTF-8 that is badly set up
_LIKENESSES = {
    "×": b"x",
    "·": b".",
    "…": b"...",
    "–": b"-",
    "█": b"#",
    "µ": b"u",
    "−": b"-",
    "≥": b">=",
    "→": b"->",
    "±": b"+-",
}
_show_warning = warnings.showwarning
_GROUP = "edgecodec.commands"
_HELP = {"help_option_names": ["-h", "--help"]}
_OWN = (  # name, where it is, summary, the extra that it needs
    ("encode", "files:encode", "Encode audio to an .edgc file.", None),
    ("decode", "files:decode", "Decode an .edgc file to audio.", None),
    ("roundtrip", "files:roundtrip", "Encode and decode, to hear what a bitrate does.", None),
    ("trim", "files:trim", "Cut an .edgc file to a lower bitrate, without decoding.", None),
    ("codes", "files:codes", "Take codes out of an .edgc file as an array, and back.", "codes"),
    ("info", "bundles:info", "Tell what an .edgc file or a bundle is.", None),
    ("verify", "bundles:verify", "Check a bundle, and this machine's results.", None),
    ("vectors", "bundles:vectors", "Write what a codec makes of a clip, for ports.", None),
    ("doctor", "doctor:doctor", "Look for what is wrong on this machine.", None),
    ("live", "live:live", "Hear yourself through the codec.", None),
    ("devices", "live:devices", "List microphones and loudspeakers.", None),
    ("web", "web:web", "Make a live page for browsers, or serve it.", None),
    ("send", "network:send", "Send sound to another machine over UDP.", None),
    ("receive", "network:receive", "Play what another machine sends.", None),
    ("simulate-loss", "evaluation:simulate_loss", "Hear and score what lost packets do.", None),
    ("evaluate", "evaluation:evaluate", "Score a bundle on audio, beside other codecs.", "eval"),
    ("bench", "bench:bench", "Measure what a bundle costs on this machine.", None),
)
_OTHERS = {
    "export": ("Export a checkpoint to a bundle.", "export"),
    "study": ("Train and measure quantizers beside each other.", "all"),
    "train-entropy": ("Teach a codec which codes follow which.", "export"),
    "fit-codebooks": ("Fit a codec's codebooks to your audio.", "codebooks"),
    "train": ("Train a codec.", "train"),
}
_EXTRA_OF = {"ray": "cluster"}  # packages that an option needs, whatever the command


class _Command(TyperCommand):
    """A command that is listed without being imported."""

    def __init__(self, entry: metadata.EntryPoint, summary: str, extra: str | None) -> None:
        super().__init__(entry.name, help=summary)
        self._entry, self._extra = entry, extra

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **options: Any) -> Any:
        """Import the command; it goes on alone from here."""
        function = self._entry.load()
        paragraphs = (inspect.getdoc(function) or "").split("\n\n")
        examples = [text for text in paragraphs if text.startswith("Example: ")]
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        app.command(
            self.name,
            help="\n\n".join(text for text in paragraphs if text not in examples),
            epilog="\n\n".join(f"\b\n{text}" for text in examples),  # \b: the line is not broken
            context_settings=_HELP,
        )(function)
        return typer.main.get_command(app).make_context(info_name, args, parent=parent, **options)

    def lacks(self, package: str) -> str:
        """What to say where a package is missing."""
        if package.startswith("edgecodec"):
            return f"{self.name}: this installation lacks {package}"
        extra = _EXTRA_OF.get(package, self._extra)
        install = "edgecodec" if extra is None else f"'edgecodec[{extra}]'"
        return f"{self.name} needs {package}: pip install {install}"


class _Commands(TyperGroup):
    """Runs commands and turns what goes wrong into one line and an exit code; nobody sees a traceback."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, place, summary, extra in _OWN:
            entry = metadata.EntryPoint(name, f"{__package__}.{place}", _GROUP)
            self.add_command(_Command(entry, summary, extra))
        for entry in sorted(metadata.entry_points(group=_GROUP), key=lambda entry: entry.name):
            known = entry.name in _OTHERS and not entry.value.startswith("edgecodec_")  # another would take its place
            if entry.name not in self.commands and not known:
                self.add_command(_Command(entry, *_OTHERS.get(entry.name, (f"From {entry.value}.", None))))

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        try:
            return super().invoke(ctx)
        except StalledError as error:
            _complain(str(error))
            sys.stdout.flush()
            os._exit(error.exit_code)  # nothing can end the thread that waits for the device
        except EdgecodecError as error:
            _fail(str(error), error.exit_code)
        except ModuleNotFoundError as error:
            command = self.commands[ctx.invoked_subcommand]
            _fail(command.lacks(error.name or "a package") if isinstance(command, _Command) else str(error), _FAILED)
        except ImportError as error:
            if _was_interrupted(error):
                _fail("interrupted", _INTERRUPTED)
            _fail(f"cannot import {error.name or 'a package'}: {' '.join(str(error).split())}", _FAILED)
        except KeyboardInterrupt as error:
            _fail(str(error) or "interrupted", _INTERRUPTED)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains once more when it exits
            raise typer.Exit(_BROKEN_PIPE) from None  # in silence, as other programs end then
        except OSError as error:
            _fail(f"{error.filename or 'input or output'}: {error.strerror or error}", _FAILED)
        except MemoryError:
            _fail("out of memory", _FAILED)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgecodec {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_Commands,
    name="edgecodec",
    help="Neural audio codecs on the device: encode, decode and inspect; train and export your own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_HELP,
)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    pass


def _complain(message: str) -> None:
    # Names in it may be a stranger's: they do not write to the terminal. Bytes of names that are not UTF-8 stay.
    safe = "".join(
        letter if letter.isprintable() or letter == "\n" or "\udca0" <= letter <= "\udcff" else "?"
        for letter in message
    )
    typer.echo(f"edgecodec: {safe}", err=True)


def _fail(message: str, code: int) -> NoReturn:
    _complain(message)
    raise typer.Exit(code)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """In one line, as what goes wrong."""
    if issubclass(category, (ScaleWarning, DamageWarning)):
        _complain(str(message))
    else:
        _show_warning(message, category, filename, lineno, file, line)


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether it began with Ctrl-C: modules in C say "initialization failed" then."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _as_it_can(error: UnicodeError) -> tuple[bytes, int]:
    """For a console of few characters: likenesses; and the very bytes of names that are not UTF-8."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return b"".join(map(_likeness, error.object[error.start : error.end])), error.end


def _likeness(char: str) -> bytes:
    if 0xDC80 <= ord(char) <= 0xDCFF:  # how Python holds a byte that is not UTF-8
        return bytes([ord(char) - 0xDC00])
    return _LIKENESSES.get(char) or char.encode("ascii", "backslashreplace")


def _ascii_by_another_name(name: str) -> codecs.CodecInfo | None:
    if name != _ASCII:
        return None
    plain = codecs.lookup("ascii")
    return codecs.CodecInfo(
        plain.encode,
        plain.decode,
        plain.streamreader,
        plain.streamwriter,
        plain.incrementalencoder,
        plain.incrementaldecoder,
        name=_ASCII,
    )


def _shows_ascii_alone() -> bool:
    """Whether the locale is the one of ASCII, by the user's choice: Python takes that for UTF-8 (PEP 538 and 540)."""
    of_python = "PYTHONIOENCODING" in os.environ or "PYTHONUTF8" in os.environ
    own = os.environ.get("LC_CTYPE", "")
    own = "" if own in ("C.UTF-8", "C.utf8", "UTF-8") else own  # as Python sets it where LANG says C
    chosen = os.environ.get("LC_ALL") or own or os.environ.get("LANG")
    return chosen in ("C", "POSIX") and not of_python


def main() -> None:
    """Run the command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # temporary files go, as with Ctrl-C
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # which is what nohup does
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    warnings.showwarning = _warn
    codecs.register_error(_AS_IT_CAN, _as_it_can)
    codecs.register(_ascii_by_another_name)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            plain = _shows_ascii_alone() or codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=_ASCII if plain else None, errors=_AS_IT_CAN)
    app()
