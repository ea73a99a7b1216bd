"""WebDataset shards, read from front to end from wherever they lie: a disk, a web server, an object store, a command.

What opens a shard goes by how its name begins:

    http://, https://        Python's own client; a broken connection goes on where it stopped
    pipe:COMMAND             the standard output of a shell command
    anything else            fsspec: a path, file://, s3:// (needs s3fs), gs:// (gcsfs), hf:// (huggingface_hub), …

A shard is an uncompressed tar of `<key>.<audio suffix>` members, each with an optional `<key>.json` beside it. Its
content is not trusted: sizes are bounded, and of what it holds only audio and JSON are read, nothing is unpickled or
executed. A `pipe:` command does run as the user's own: it only ever comes from what the user asks to train on.
"""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..files.audio import INPUT_SUFFIXES
from ..files.tar_members import NOTE_BYTES, Readable, TarReader, split_name

MEMBER_BYTES = 512 * 2**20  # a larger recording is refused: members are held in memory
PADDING_BYTES = 2**20  # that a command may write behind an archive
REMOTE_BLOCK_BYTES = 8 * 2**20
TIMEOUT = 60.0  # seconds without a byte from a web server
RECONNECTS = 5


@dataclass(frozen=True)
class Sample:
    """Members of a shard with one key: an audio file, empty where it is larger than `MEMBER_BYTES`, and its JSON."""

    key: str
    audio: bytes
    note: bytes | None


def expand_braces(source: str | Path) -> list[str]:
    """The shards that a pattern stands for: `{000..127}` and `{train,extra}` as in a shell; what exists is itself."""
    name = str(source)
    if "{" not in name or Path(name).exists():
        return [name]
    from braceexpand import braceexpand

    try:
        return list(braceexpand(name))
    except ValueError as error:
        raise DataError(f"{name}: {error}") from None


def is_url(source: str) -> bool:
    """Whether a shard is read as a stream, and is not a path."""
    return source.startswith("pipe:") or "://" in source


@contextlib.contextmanager
def open_shard(shard: str) -> Iterator[Readable]:
    """Open a shard to read it once.

    Raises:
        DataError: nothing can open such a shard.
        OSError: it could not be opened or read. Storage libraries have errors of their own, too.
    """
    if shard.startswith("pipe:"):
        with _command(shard.removeprefix("pipe:")) as stream:
            yield stream
    elif shard.startswith(("http://", "https://")):
        with contextlib.closing(_WebFile(shard)) as web:
            yield web
    else:
        from fsspec.core import url_to_fs

        try:
            storage, path = url_to_fs(shard)
        except (ImportError, ValueError) as error:  # a scheme that needs another package, or that none knows
            raise DataError(str(error)) from None
        with storage.open(path, "rb", block_size=REMOTE_BLOCK_BYTES) as file:
            yield file


@contextlib.contextmanager
def _command(command: str) -> Iterator[Readable]:
    """The output of a shell command, which must succeed."""
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
            ended = len(process.stdout.read(PADDING_BYTES)) < PADDING_BYTES
        except DataError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            if not process.returncode:  # the archive is to blame; otherwise a command that failed
                process.terminate()
                raise
            ended = True
        except BaseException:
            process.terminate()
            raise
        if not ended:
            process.terminate()
    if ended and process.returncode:
        raise OSError(f"the command ended with status {process.returncode}")


class _WebFile:
    """A file on a web server, read from front to end.

    Servers close connections over which nothing goes while training is busy; reading goes on where it stopped.
    """

    def __init__(self, url: str) -> None:
        self.url, self.position = url, 0
        self.response = self._connect()
        length = self.response.headers.get("Content-Length")
        self.length = None if length is None else int(length)

    def _connect(self) -> http.client.HTTPResponse:
        headers = {"Range": f"bytes={self.position}-"} if self.position else {}
        try:
            response = urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()  # or its connection stays open
            raise
        assert isinstance(response, http.client.HTTPResponse)
        if self.position and response.status != http.HTTPStatus.PARTIAL_CONTENT:
            response.close()
            raise DataError("the connection broke, and the server cannot go on in the middle of a file")
        return response

    def read(self, size: int, /) -> bytes:
        """As of any file; connects again up to `RECONNECTS` times where the connection breaks."""
        attempt = 0
        while True:
            try:
                if attempt:
                    self.response = self._connect()
                data = self.response.read(size)
                if not data and self.length is not None and self.position < self.length:
                    raise ConnectionError("the server closed the connection")
                self.position += len(data)
                return data
            except (OSError, http.client.HTTPException):
                self.response.close()
                if attempt == RECONNECTS:
                    raise
                time.sleep(2**attempt / 2)
                attempt += 1

    def close(self) -> None:
        """Close the connection."""
        self.response.close()


def read_samples(stream: Readable) -> Iterator[Sample]:
    """The samples of a shard in their order.

    Raises:
        DataError: not a tar, or one that is damaged or ends too early, or a header too large to be honest.
    """
    key, audio, note = "", None, None
    tar = TarReader(stream)
    for member in tar:
        name, suffix = split_name(member.name)
        if name != key:
            if audio is not None:
                yield Sample(key, audio, note)
            key, audio, note = name, None, None
        if suffix in INPUT_SUFFIXES:
            audio = tar.content(member, MEMBER_BYTES) if member.size <= MEMBER_BYTES else b""
        elif suffix == ".json":
            note = tar.content(member, NOTE_BYTES + 1)
    if audio is not None:
        yield Sample(key, audio, note)
