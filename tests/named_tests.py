"""Names of tests in tables of rules, compared with the existing tests."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

TESTS: Final = Path(__file__).resolve().parent


@cache
def _tests_in(file: str) -> frozenset[str]:
    path = TESTS / file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    methods = re.findall(r"^    def (test_\w+)\(", text, re.MULTILINE)
    machines = re.findall(r"^(Test\w+|test_\w+)(?:: \w+)? = ", text, re.MULTILINE)
    return frozenset([*re.findall(r"^(?:async )?def (test_\w+)\(", text, re.MULTILINE), *methods, *machines])


def unknown_tests(names: Iterable[str]) -> list[str]:
    """Return those of ``file::test`` (file below tests/) that do not exist."""
    return [name for name in names if name.partition("::")[2] not in _tests_in(name.partition("::")[0])]
