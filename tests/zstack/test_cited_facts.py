"""The facts about the server that comments cite are in the repository: batch/zstack/README.md."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FACTS: Final = (ROOT / "batch" / "zstack" / "README.md").read_text(encoding="utf-8")
SECTIONS: Final = re.findall(r"^## (\d+)\. ", FACTS, re.MULTILINE)
SOURCES: Final = sorted(path for folder in ("batch", "tests") for path in (ROOT / folder).rglob("*.py"))
NAME: Final = "zstack/" + "README.md"
CITED: Final = re.compile(re.escape(NAME) + r"(?:[\s#]+(\d+(?:, \d+)*(?: and \d+)?))?")
ELSEWHERE: Final = re.compile("|".join((r"\bwire: ", r"\bwire" + r"[: ]{1,2}(source|sections?)\b")), re.IGNORECASE)
"""Citations of a document that is not in the repository."""


def citations(path: Path) -> list[str]:
    """Return the citations of the facts in one file, a text of numbers for each; "" if it has no number."""
    text = re.sub(r"\s*\n\s*#?\s*", " ", path.read_text(encoding="utf-8"))
    return CITED.findall(text)


def numbers(citation: str) -> list[str]:
    return re.findall(r"\d+", citation)


def test_sections_are_numbered_in_order() -> None:
    """Sections count from 1, each number once."""
    assert [str(number) for number in range(1, len(SECTIONS) + 1)] == SECTIONS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_citation_names_a_section_that_exists(path: Path) -> None:
    """Every citation names existing sections, and none names a document that is not in the repository."""
    if path.name != "test_cited_facts.py":
        for citation in citations(path):
            assert numbers(citation), f"{path}: a citation without its section"
            assert set(numbers(citation)) <= set(SECTIONS)
        found = ELSEWHERE.search(path.read_text(encoding="utf-8"))
        assert found is None, found


def test_every_section_is_cited() -> None:
    """A fact that no product code relies on is not kept."""
    product = [path for path in SOURCES if path.is_relative_to(ROOT / "batch")]
    cited = {number for path in product for citation in citations(path) for number in numbers(citation)}
    assert cited == set(SECTIONS)
