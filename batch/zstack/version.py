"""The server's version, and what it is too old for: the server drops parameters it does not know without a word."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from batch.zstack.params import PARAMS

if TYPE_CHECKING:
    from collections.abc import Iterable

Version: TypeAlias = tuple[int, int, int]
_VERSION = re.compile(r"\s*v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")


def parse_version(text: str) -> Version | None:
    """Read ``5.3.46`` and what may follow it; None where it is no version."""
    match = _VERSION.match(text)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3] or 0))


def too_new(names: Iterable[str], version: Version) -> dict[str, Version]:
    """Tell which of these parameters the server does not know yet, and since when ZStack has them."""
    return {name: PARAMS[name].since for name in names if name in PARAMS and PARAMS[name].since > version}
