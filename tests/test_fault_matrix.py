"""The fault matrix and the rules of security in tests/README.md: no row is missing, and each names tests that exist."""

from __future__ import annotations

import re
from typing import Final

from tests.named_tests import TESTS, unknown_tests

LAST: Final = {"a": 26, "b": 30, "c": 13, "s": 38}
"""Faults of the process and its files, of network and HTTP, and of the input; rules of security."""
ROWS: Final = [f"{kind}{number}" for kind, last in LAST.items() for number in range(1, last + 1)]


def matrix() -> dict[str, list[str]]:
    """Map each row to the tests it names."""
    text = (TESTS / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| ([abcs]\d+) \| ([^|]+) \| ([^|]*) \|$", text, re.MULTILINE)
    assert all(fault.strip() for _, fault, _ in found)
    return {row: re.findall(r"`([^`]+)`", tests) for row, _, tests in found}


def test_every_fault_and_every_rule_has_its_row() -> None:
    """The table has every row once and in order."""
    assert list(matrix()) == ROWS


def test_every_row_names_tests_that_exist() -> None:
    """A row names at least one test, and all of them exist."""
    assert [row for row, tests in matrix().items() if not tests] == []
    assert unknown_tests(name for tests in matrix().values() for name in tests) == []
    assert unknown_tests(["crash/test_strace.py::test_that_is_not_there", "crash/absent.py::test_x"])


def test_every_table_names_tests_that_exist() -> None:
    """Everything that a table names as a test is one."""
    tables = "\n".join(
        line for line in (TESTS / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")
    )
    named = re.findall(r"`([\w/]+\.py(?:::\w+)?)`", tables)
    assert len(named) > 500
    assert unknown_tests(name for name in named if "::" in name) == []
    assert [name for name in named if not (TESTS / name.partition("::")[0]).is_file()] == []


def test_every_line_of_the_specification_names_tests_that_exist() -> None:
    """Each line below "Lines of the specification" names at least one test, and all of them exist."""
    text = (TESTS / "README.md").read_text(encoding="utf-8")
    table = text.partition("\n## Lines of the specification\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| ([^|]+) \| (`[^|]+) \|$", table, re.MULTILINE)
    named = {line: re.findall(r"`([^`]+)`", tests) for line, tests in lines}
    assert named
    assert unknown_tests(name for tests in named.values() for name in tests) == []
