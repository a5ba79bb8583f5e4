"""Opens job files and the files that they name, and reads the bytes of a YAML file.

Files that a job file names are regular ones below its folder: so no pipe or device blocks the command, and a foreign
job file cannot show other files of this machine. A ``ca_file`` may be anywhere. A secret's file is read only where no
other user can access it, or where a service manager mounted it.

Up to 16 MiB of YAML are kept in memory and may be edited during the run; a larger file is streamed for every pass, and
must not change meanwhile.
"""

from __future__ import annotations

import codecs
import difflib
import errno
import hashlib
import itertools
import os
import re
import stat
from io import BytesIO
from typing import TYPE_CHECKING, Final

from batch.jobfile.jsontext import bad_json, read_json
from batch.jobfile.problems import fail

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path
    from typing import BinaryIO

    from batch.errors import JobFileError
    from batch.jobfile.jsontext import JsonText

LARGEST: Final = 4 << 30
"""Maximum bytes of a file of targets, which is streamed: some 20 million rows."""

CHANGED: Final = "was changed while the run was reading it: run the same command again"
MAX_BYTES: Final = 16 * 1024 * 1024
"""Maximum size of a file that is kept, and of any part between two targets of a streamed one."""
MOVE: Final = "move the targets to a JSON Lines or CSV file and name it with `- from: targets.jsonl`"
_INVISIBLE: Final = re.compile(rb"\r(?=[^\n])|\xc2\x85|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]")
"""CR alone, U+0085, U+2028, U+2029, which end a line in YAML and in few editors; U+202A to 202E, U+2066 to 2069."""
_DIRECTIONS: Final = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
NO_BRACES: Final = ": values are written ${name}, in quotes, and not {{ }}"
_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
_QUOTED: Final = re.compile(rb"\"[^\"]*\"|'[^']*'")
_CHUNK: Final = 1 << 20
_LONGEST_LINE: Final = 1 << 16
_STREAMED_LINE: Final = re.compile(rb"^targets[ \t]*:", re.MULTILINE)
_TOP_LEVEL_LINE: Final = re.compile(rb"^[^\s#\-]", re.MULTILINE)


class InputFiles:
    """The files of one job, each opened for every pass over the targets; a changed one is rejected."""

    def __init__(self) -> None:
        """Start with no file opened."""
        self._seen: dict[Path, tuple[int, int]] = {}

    def open(self, path: Path, folder: Path) -> BufferedReader:
        """Open as ``open_input`` does. Raises JobFileError where the file changed since it was first opened."""
        stream = open_input(path, folder)
        try:
            self.check(stream, path)
        except BaseException:
            stream.close()
            raise
        return stream

    def check(self, stream: BinaryIO, path: Path) -> None:
        """Raise JobFileError where ``path``, opened as ``stream``, has a new size or modification time."""
        status = os.fstat(stream.fileno())
        state = (status.st_size, status.st_mtime_ns)
        if self._seen.setdefault(path, state) != state:
            raise fail(str(path), CHANGED)


def open_input(path: Path, folder: Path, *, largest: int = LARGEST) -> BufferedReader:
    """Open ``path``, named by a job file in ``folder``, for reading.

    Raises OSError, also where links or ``..`` lead out of the folder or to a file with another extension (``rows.csv``
    cannot stand for ``secrets.yaml``), or where it is not a regular file or has more than ``largest`` bytes.
    """
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise OSError(errno.EINVAL, "is not below the job file's folder: put it there")
    if real.suffix.lower() != path.suffix.lower():
        raise OSError(errno.EINVAL, "is a link to another kind of file")
    stream = open_regular(real)
    if os.fstat(stream.fileno()).st_size > largest:
        stream.close()
        raise OSError(errno.EFBIG, f"has more than {largest >> 20:,} MiB")
    return stream


def open_regular(path: Path) -> BufferedReader:
    """Open ``path`` for reading. Raises OSError, also where it is not a regular file."""
    # O_NONBLOCK: opening a pipe without a writer must not wait.
    stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "is not a regular file")
    return stream


class Content:
    """The content of a file, the same in every pass: a streamed one is rejected once it was changed."""

    def __init__(self, path: Path, data: bytes | None) -> None:
        """Read it once; ``data`` is the whole content, or None. Raises JobFileError for anything but UTF-8 text."""
        self._path = path
        self._kept = data
        self._files = InputFiles()
        self.ends_with_targets = False
        """Whether ``targets`` is certainly the last top-level key, so that readers of the other keys may stop there."""
        self.may_name_files = False
        """Whether the key ``from`` can occur, plain or escaped."""
        with self.open() as stream:
            self.digest: Final = self._scan(stream)
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

    def json(self) -> JsonText | None:
        """Return the content where it is JSON, else None. Raises JobFileError for a ``.json`` file that is not.

        JSON that is nested too deeply is left to the events, which have its place.
        """
        is_named = self._path.suffix.lower() == ".json"
        if self._kept is None or not (is_named or self._kept.lstrip().startswith(b"{")):
            return None
        try:
            return read_json(self._kept.decode())
        except RecursionError:
            return None
        except ValueError as error:
            if is_named and self._kept.strip():
                raise bad_json(str(self._path), error) from None
            return None

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

    def hint(self, line: int) -> str:
        """Return a hint where a line is not YAML because of a tab, or of ``${…}`` or ``{{ }}`` without quotes."""
        with self.open() as stream:
            text = next(itertools.islice(stream, line - 1, None), b"")
        if b"\t" in text[: len(text) - len(text.lstrip())]:
            return ": indent with spaces, not with tabs"
        unquoted = _QUOTED.sub(b"", text)
        if b"{{" in unquoted:
            return NO_BRACES
        return ': put a text with ${…} in quotes: "${name}"' if b"${" in unquoted else ""

    def _scan(self, stream: BinaryIO) -> bytes:
        """Check the encoding and which keys can occur, in chunks of whole lines."""
        total = hashlib.sha256()
        decoder = codecs.getincrementaldecoder("utf-8")()
        offset, is_listed, is_last, tail = 0, False, True, b""
        while chunk := stream.read(_CHUNK):
            chunk += stream.readline(_LONGEST_LINE)
            total.update(chunk)
            self._refuse_encoding(chunk, offset, decoder)
            self._refuse_invisible(tail + chunk, offset - len(tail))
            tail = chunk[-2:]
            offset += len(chunk)
            start = None if is_listed else _STREAMED_LINE.search(chunk)
            if is_listed or start:
                is_last = is_last and not _TOP_LEVEL_LINE.search(chunk, start.end() if start else 0)
            is_listed = is_listed or start is not None
            # Where a line is too long for one chunk, the key may extend across two chunks.
            is_whole = chunk.endswith(b"\n") or len(chunk) < _CHUNK
            self.may_name_files |= b"from" in chunk or b"\\" in chunk or not is_whole
            is_last = is_last and is_whole
        self._refuse_encoding(b"", offset, decoder)
        if tail.endswith(b"\r"):
            self._refuse_invisible(b"\r.", offset - 1)
        self.ends_with_targets = is_listed and is_last
        return total.digest()

    def _refuse_encoding(self, chunk: bytes, offset: int, decoder: codecs.IncrementalDecoder) -> None:
        """Raise JobFileError where ``chunk``, the bytes from ``offset`` on, is not UTF-8; no bytes mean the end."""
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
            # Bytes of a character that began in the previous chunk come first in the undecodable part.
            at = self.position(offset - (len(error.object) - len(chunk)) + error.start)
            raise fail(file, "is not UTF-8: save it as UTF-8", at=at) from None

    def _refuse_invisible(self, data: bytes, offset: int) -> None:
        """Raise JobFileError where ``data``, from ``offset`` on, has characters that editors show differently."""
        match = _INVISIBLE.search(data)
        if not match:
            return
        char = match.group().decode()
        what = "text direction mark" if char in _DIRECTIONS else "line break"
        escape = "\\r" if char == "\r" else f"\\u{ord(char):04x}"
        message = f'has the invisible {what} U+{ord(char):04X}: take it out, or write "{escape}" in double quotes'
        raise fail(str(self._path), message, at=self.position(offset + match.start()))


def read_content(path: Path) -> Content:
    """Read a job file. Raises JobFileError for what cannot be one: unreadable, too large, not UTF-8 text."""
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            is_streamed = stat.S_ISREG(status.st_mode) and status.st_size > MAX_BYTES
            start = stream.peek(1)
            data = None if is_streamed else stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if status.st_size > LARGEST:
        raise fail(str(path), f"larger than {LARGEST >> 30} GiB: {MOVE}")
    if data is None and (path.suffix.lower() == ".json" or start.lstrip().startswith(b"{")):
        raise fail(str(path), f"a JSON file larger than 16 MiB: {MOVE}")
    if data is not None and len(data) > MAX_BYTES:
        raise fail(str(path), f"larger than 16 MiB, and no file that can be read twice: {MOVE}")
    return Content(path, data)


def _unreadable(path: Path, error: OSError) -> JobFileError:
    return fail(str(path), f"cannot be read: {error.strerror or error}{_next_step(path, error)}")


def _next_step(path: Path, error: OSError) -> str:
    """Return a hint where the job file does not exist, or is a folder."""
    if error.errno == errno.EISDIR:
        return "; name a job file in it"
    if error.errno != errno.ENOENT:
        return ""
    names = {found.stem: found for found in path.parent.glob("*") if found.suffix in _SUFFIXES}
    near = difflib.get_close_matches(path.stem, names, n=1)
    return f"; did you mean {names[near[0]]}?" if near else "; `zclone init FILE` writes a job file"
