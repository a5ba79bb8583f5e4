"""Problems as people and machines read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.jobfile.render_problems import render_github, render_text, source_line
from batch.model import Place, Problem

if TYPE_CHECKING:
    from pathlib import Path


def problem(line: int, column: int, path: str = "a.b", message: str = "is wrong") -> Problem:
    return Problem(Place("job.yaml", line, column), path, message)


def test_the_caret_stands_below_the_column() -> None:
    """A problem is its line and a caret, also after wide characters, tabs and unprintable ones."""
    lines = {1: "name: x", 2: "克隆:\tx\x07"}
    found = render_text([problem(1, 7), problem(2, 5), problem(9, 1, "")], lambda place: lines.get(place.line))
    assert found.splitlines() == [
        "job.yaml:1:7: a.b: is wrong",
        "    name: x",
        "          ^",
        "job.yaml:2:5: a.b: is wrong",
        "    克隆: x\\x07",
        "          ^",
        "job.yaml:9:1: is wrong",
    ]


def test_long_lines_are_cut_around_the_column() -> None:
    """At most a hundred characters of a line are shown, the column among them."""
    text = render_text([problem(1, 5001)], lambda _: "." * 5000 + "X" + "." * 5000)
    _, line, caret = text.splitlines()
    assert (len(line), line[caret.index("^")]) == (104, "X")


def test_lines_of_the_endpoint_are_not_shown() -> None:
    """A secret written into the endpoint by mistake is not repeated, nor a line with a key of that kind."""
    for path, line in [("endpoint.url", "url: http://a:PLANTED@b"), ("", "  {session: PLANTED, session: x}")]:
        text = render_text([problem(1, 1, path)], lambda _, line=line: line)  # type: ignore[misc]  # bound at once
        assert "PLANTED" not in text


def test_github_annotations_are_escaped() -> None:
    """Annotations carry file, line, column and title; line breaks and separators cannot end them early."""
    found = render_github([problem(3, 5, "a,b:c", "50% of\nit")])
    assert found == "::error file=job.yaml,line=3,col=5,title=a%2Cb%3Ac::50%25 of%0Ait"


def test_source_lines_are_read_from_the_file(tmp_path: Path) -> None:
    """The line of a place is read if there is one."""
    path = tmp_path / "job.yaml"
    path.write_bytes(b"a\r\nb\xff\n")
    assert source_line(Place(str(path), 1, 1)) == "a"
    assert source_line(Place(str(path), 2, 1)) == "b\N{REPLACEMENT CHARACTER}"
    assert source_line(Place(str(path), 3, 1)) is None
    assert source_line(Place(str(tmp_path / "missing"), 1, 1)) is None
