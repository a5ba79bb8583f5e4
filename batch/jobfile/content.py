"""The bytes of a YAML file: kept while they are few, else streamed from the file anew for every pass."""

from __future__ import annotations

import codecs
import hashlib
import os
import re
import stat
from io import BytesIO
from typing import TYPE_CHECKING, Final

from batch.jobfile.inputs import LARGEST
from batch.jobfile.problems import fail

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from batch.errors import JobFileError
    from batch.jobfile.inputs import InputFiles

MAX_BYTES: Final = 16 * 1024 * 1024
"""Of a file that is kept, and of any part of a streamed one that stands between two targets."""
MOVE: Final = "move the targets to a JSON Lines or CSV file and name it with `- from: targets.jsonl`"

_CHUNK: Final = 1 << 20
_LONGEST_LINE: Final = 1 << 16
_STREAMED_LINE: Final = re.compile(rb"^targets[ \t]*:", re.MULTILINE)
_TOP_LEVEL_LINE: Final = re.compile(rb"^[^\s#\-]", re.MULTILINE)


class Content:
    """What a file holds, the same in every pass: one that is not kept is refused once it was changed."""

    def __init__(self, path: Path, kept: bytes | None, files: InputFiles) -> None:
        """Look at all of it once; ``kept`` is the whole. Raises JobFileError for what is not UTF-8 text."""
        self._path = path
        self._kept = kept
        self._files = files
        self.ends_with_targets = False
        """Whether ``targets`` is surely the last top-level key, so that who wants the others may stop there."""
        self.may_name_files = False
        """Whether the key ``from`` can occur, plain or escaped."""
        with self.open() as stream:
            self.digest: Final = self._scanned(stream)
            """SHA-256 of the bytes."""
            self.check(stream)

    def open(self) -> BinaryIO:
        """Return the bytes as a stream. Raises JobFileError where the file cannot be read or was changed."""
        if self._kept is not None:
            return BytesIO(self._kept)
        try:
            stream = self._path.open("rb")
        except OSError as error:
            raise _unreadable(self._path, error) from None
        try:
            self.check(stream)
        except BaseException:
            stream.close()
            raise
        return stream

    def check(self, stream: BinaryIO) -> None:
        """Raise JobFileError where the file was changed since it was first read."""
        if self._kept is None:
            self._files.check(stream, self._path)

    def position(self, offset: int) -> tuple[int, int]:
        """Return line and column of the byte at ``offset``, both from 1."""
        line, column = 1, 1
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        with self.open() as stream:
            while offset > 0 and (chunk := stream.readline(min(offset, _CHUNK))):
                offset -= len(chunk)
                column += len(decoder.decode(chunk))
                if chunk.endswith(b"\n"):
                    line, column = line + 1, 1
        return line, column + len(decoder.decode(b"", final=True))

    def _scanned(self, stream: BinaryIO) -> bytes:
        """Check the encoding and see what can occur, a chunk of whole lines at a time."""
        total = hashlib.sha256()
        decoder = codecs.getincrementaldecoder("utf-8")()
        offset, is_listed, is_last = 0, False, True
        while chunk := stream.read(_CHUNK):
            chunk += stream.readline(_LONGEST_LINE)
            total.update(chunk)
            self._refuse_encoding(chunk, offset, decoder)
            offset += len(chunk)
            start = None if is_listed else _STREAMED_LINE.search(chunk)
            if is_listed or start:
                is_last = is_last and not _TOP_LEVEL_LINE.search(chunk, start.end() if start else 0)
            is_listed = is_listed or start is not None
            # Where a line is too long to be looked at whole, the key may stand across two chunks.
            is_whole = chunk.endswith(b"\n") or len(chunk) < _CHUNK
            self.may_name_files |= b"from" in chunk or b"\\" in chunk or not is_whole
            is_last = is_last and is_whole
        self._refuse_encoding(b"", offset, decoder)
        self.ends_with_targets = is_listed and is_last
        return total.digest()

    def _refuse_encoding(self, chunk: bytes, offset: int, decoder: codecs.IncrementalDecoder) -> None:
        """Raise JobFileError where ``chunk``, the bytes from ``offset`` on, is no UTF-8; none are the end."""
        file = str(self._path)
        if offset == 0 and chunk.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise fail(file, "is UTF-16 or UTF-32: save it as UTF-8")
        if offset == 0 and chunk.startswith(b"\xef\xbb\xbf"):
            raise fail(file, "starts with a byte order mark: save it as UTF-8 without BOM")
        nul = chunk.find(b"\0")
        if nul >= 0:
            message = "has a NUL byte: it is not a text file, or UTF-16"
            raise fail(file, message, at=self.position(offset + nul))
        try:
            decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            # Bytes of a character that the chunk before began with come first in what could not be decoded.
            at = self.position(offset - (len(error.object) - len(chunk)) + error.start)
            raise fail(file, "is not UTF-8: save it as UTF-8", at=at) from None


def read_content(path: Path, files: InputFiles) -> Content:
    """Read a job file. Raises JobFileError for what cannot be one: unreadable, too large, not UTF-8 text."""
    try:
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            is_streamed = stat.S_ISREG(found.st_mode) and found.st_size > MAX_BYTES
            data = None if is_streamed else stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if found.st_size > LARGEST:
        raise fail(str(path), f"larger than {LARGEST >> 30} GiB: {MOVE}")
    if data is not None and len(data) > MAX_BYTES:
        raise fail(str(path), f"larger than 16 MiB, and no file that can be read twice: {MOVE}")
    return Content(path, data, files)


def _unreadable(path: Path, error: OSError) -> JobFileError:
    return fail(str(path), f"cannot be read: {error.strerror or error}")
