"""The one escaper: what it escapes, what it keeps, and that JSON keeps its meaning."""

from __future__ import annotations

import json
import shlex
import sys
import unicodedata
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.text import columns, cut, escape, escape_json, pad, shell_path, to_json, width

if TYPE_CHECKING:
    from batch.model import JsonValue

EVERY_CHARACTER = "".join(map(chr, range(sys.maxunicode + 1)))
VISIBLE_MARKS = frozenset(
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
    + "".join(map(chr, range(0x13430, 0x13439)))
)
"""Signs of Arabic, Syriac, Kaithi and Egyptian that are format characters and visible."""
JOINERS = frozenset("\u200c\u200d")
TEXTS = st.text() | st.sampled_from(["\x1b[2J\x1b]0;x\x07\n\x9b\u202e", "\ud800", "\U000e0041", "\x7f", "\u2028"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
)


def must_go(char: str) -> bool:
    kind = unicodedata.category(char)
    return kind in {"Cc", "Cs", "Zl", "Zp", "Co"} or (kind == "Cf" and char not in JOINERS | VISIBLE_MARKS)


def test_each_character_is_escaped_or_kept() -> None:
    """Control, format, separator, private and surrogate characters are escaped; every other assigned one stays."""
    for char in EVERY_CHARACTER:
        shown = escape(char)
        if must_go(char):
            assert shown != char, hex(ord(char))
            assert shown.isascii(), hex(ord(char))
            assert shown.isprintable(), hex(ord(char))
        elif unicodedata.category(char) != "Cn":
            assert shown == char, hex(ord(char))


@pytest.mark.parametrize(
    ("char", "shown"),
    [
        ("\n", r"\n"),
        ("\t", r"\t"),
        ("\x1b", r"\x1b"),
        ("\x9b", r"\x9b"),
        ("\u202e", r"\u202e"),
        ("\ud83d", r"\ud83d"),
        ("\ufffe", r"\ufffe"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_escapes_are_those_of_python(char: str, shown: str) -> None:
    """An escape names the character, in two, four or eight hexadecimal digits."""
    assert escape(f"a{char}b") == f"a{shown}b"


@given(TEXTS)
def test_escaping_is_idempotent(text: str) -> None:
    """Escaped text is one line, and escaping it again changes nothing."""
    shown = escape(text)
    assert len(shown.splitlines()) <= 1
    assert escape(shown) == shown


@given(JSON, st.sampled_from([None, 2]))
def test_json_keeps_its_meaning(value: JsonValue, indent: int | None) -> None:
    """JSON is read back unchanged, and its lines have nothing left to escape."""
    text = to_json(value, indent=indent)
    assert json.loads(text) == value
    assert [escape(line) for line in text.split("\n")] == text.split("\n")


def test_documents_are_escaped_like_json() -> None:
    """An encoded document keeps its line breaks, and characters beyond U+FFFF become two escapes."""
    document = '{\n"a":"\x7f\u202e\U000e0041克"\n}'
    assert escape_json(document) == '{\n"a":"\\u007f\\u202e\\udb40\\udc41克"\n}'
    assert json.loads(escape_json(document)) == json.loads(document)


def test_widths_are_those_of_a_terminal() -> None:
    """Wide characters take two columns, marks and joiners none, ambiguous ones as many as the caller says."""
    assert columns("ae\u0301克\uff21\u200d\ufe0f") == [1, 1, 0, 2, 2, 0, 0]
    assert (columns("─"), columns("─", ambiguous=2)) == ([1], [2])
    assert width("abc名") == 5
    assert pad("名", 4) + "|" == "名  |"
    assert pad("long", 2) == "long"


def test_long_texts_are_cut() -> None:
    """A cut text has the given length, and says that it was cut."""
    assert cut("abcd", 4) == "abcd"
    assert cut("abcde", 4) == "abc…"


@pytest.mark.parametrize("path", ["a b.yaml", "-x.yaml", "$(touch PWNED)", "a'b", "名.yaml", "--run=x"])
def test_a_printed_path_is_one_word_and_no_option(path: str) -> None:
    """Pasted into a shell, a path is one word that names the same file and begins no option."""
    (word,) = shlex.split(shell_path(path))
    assert word.removeprefix("./") == path
    assert not word.startswith("-")
