"""What batch/README.md and tests/README.md say about files and functions of the code."""

from __future__ import annotations

import ast
import re
from typing import Final

import pytest

from tests.named_tests import TESTS

ROOT: Final = TESTS.parent
INTERNALS: Final = (ROOT / "batch" / "README.md").read_text(encoding="utf-8")
ENDS: Final = {"end_uncertain", "end_uncertain_uuid"}
"""Functions that return the uncertain end of a Clone."""


def deciding_functions() -> dict[str, set[str]]:
    """Return, by file, the functions that the table of reasons for ``uncertain`` names."""
    table = INTERNALS.partition("\nReasons for which")[2].partition("\n## ")[0]
    found: dict[str, set[str]] = {}
    for cell in re.findall(r"^\| [^|]+ \| (`[^|]+) \|$", table, re.MULTILINE):
        for place in cell.split("; "):
            file, *names = re.findall(r"`([^`]+)`", place)
            found.setdefault(file, set()).update(names)
    return found


def calls_by_function(file: str) -> dict[str, set[str]]:
    """Return the names that each function of a module of ``batch`` calls."""
    tree = ast.parse((ROOT / "batch" / file).read_text(encoding="utf-8"))
    return {
        function.name: {
            call.func.id
            for call in ast.walk(function)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        }
        for function in tree.body
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_the_reasons_for_uncertain_name_functions_that_exist() -> None:
    """Each file that decides on an uncertain end exists, and defines the functions that the table names."""
    named = deciding_functions()
    assert len(named) > 3
    assert [file for file, names in named.items() if names - calls_by_function(file).keys()] == []


@pytest.mark.parametrize("file", ["engine/attempts.py", "engine/decisions.py"])
def test_the_reasons_for_uncertain_are_complete(file: str) -> None:
    """Every function that decides on an uncertain end is in the table of reasons."""
    deciding = {name for name, called in calls_by_function(file).items() if called & ENDS}
    assert deciding
    assert deciding - ENDS <= deciding_functions()[file]


@pytest.mark.parametrize("folder", ["batch", "tests"])
def test_a_readme_names_files_that_exist(folder: str) -> None:
    """Every Python file that the README of a folder names lies below that folder, or at a path of the project."""
    named = re.findall(r"`([\w/]+\.py)\b", (ROOT / folder / "README.md").read_text(encoding="utf-8"))
    assert len(named) > 10
    assert [file for file in named if not ((ROOT / folder / file).is_file() or (ROOT / file).is_file())] == []
