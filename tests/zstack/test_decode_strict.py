"""The bytes of a server: strict, bounded, one error."""

from __future__ import annotations

import gzip
import zlib

import pytest

from batch import jsoncodec
from batch.jsoncodec import decode_with_stdlib
from batch.zstack.wire import DEEPEST, LARGEST, BadReplyError, inflate, json_object

BAD = [
    b"",
    b"null",
    b"[]",
    b"3",
    b"<html>",
    b'{"a":NaN}',
    b'{"a":Infinity}',
    b'{"a":1e999}',
    b'{"a":"\xff"}',
    b'{"a":"\xed\xa0\x80"}',
    b'{"a":"\\ud800"}',
    b'{"a":"\\uDFFF"}',
    b"\xef\xbb\xbf{}",
    b'{"a":1} x',
    b'{"a":01}',
    b'{"a":' + b"1" * 5000 + b"}",
    b'{"a":"\n"}',
    b'{"a":' + b"[" * 200_000,
    b'{"a":' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"a":' + b"[" * DEEPEST + b"]" * DEEPEST + b"}",
    b"{" + b" " * LARGEST + b"}",
]
SAME = [
    b'{"a":18446744073709551615,"b":-9223372036854775808}',
    b'{"a":18446744073709551616,"b":-9223372036854775809}',
    b'{"a":123456789012345678901234567890}',
    b'{"a":-0,"b":-0.0,"c":1.5e3}',
    b'{"a":"\\ud83d\\ude00 \\u003d \x7f"}',
    b'{"a":1,"a":2}',
    b' {"a" : [ true , null ] }\r\n',
]


@pytest.mark.parametrize("body", BAD, ids=range(len(BAD)))
@pytest.mark.parametrize("load", [jsoncodec.decode, decode_with_stdlib])
def test_bad_bytes(body: bytes, load: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any defect of a body is one error, with and without orjson."""
    monkeypatch.setattr(jsoncodec, "decode", load)
    with pytest.raises(BadReplyError):
        json_object(body)


@pytest.mark.parametrize("body", SAME, ids=range(len(SAME)))
def test_same_values_with_and_without_orjson(body: bytes) -> None:
    """The standard library's decoder gives the values and types that orjson gives."""
    ours, theirs = decode_with_stdlib(body), jsoncodec.decode(body)
    assert ours == theirs
    assert [type(value) for value in ours.values()] == [type(value) for value in theirs.values()]


def test_deepest_allowed() -> None:
    """Nesting of the allowed depth passes."""
    depth = DEEPEST - 1
    assert json_object(b'{"a":' + b"[" * depth + b"]" * depth + b"}")


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_unsolicited_compression(pack: object) -> None:
    """A body compressed although none was requested is read."""
    assert callable(pack)
    assert inflate(pack(b"{}"), "gzip" if pack is gzip.compress else "deflate") == b"{}"


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(b"x" * (LARGEST + 1), mtime=0), "gzip"),
        (gzip.compress(b"{}", mtime=0)[:-4], "gzip"),
        (b"no gzip", "gzip"),
        (b"{}", "br"),
    ],
)
def test_bad_compression(body: bytes, encoding: str) -> None:
    """A bomb, a truncated or broken stream and an unknown encoding are the one error."""
    with pytest.raises(BadReplyError):
        inflate(body, encoding)


@pytest.mark.parametrize("decode", [jsoncodec.decode, decode_with_stdlib])
def test_our_own_files_round_trip(decode: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is not UTF-8 is read back from our own files, with and without orjson."""
    monkeypatch.setattr(jsoncodec, "decode", decode)
    assert jsoncodec.decode_own(b'{"job_file":"\\udcff.yaml"}') == {"job_file": "\udcff.yaml"}
    with pytest.raises(ValueError, match=r"."):
        jsoncodec.decode_own(b'{"job_file":')
