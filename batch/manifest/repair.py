"""Write what can be verified of a damaged manifest into a new one, and mark what cannot be known as uncertain."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from batch.model import Record

if TYPE_CHECKING:
    from pathlib import Path


CODE: Final = "ZCLONE.REPAIRED"
"""Error code of the targets that a repair left uncertain."""
_TEXT: Final = "records of this target were lost or damaged; the server must be asked"
_KEY: Final = re.compile(rb'"key":("(?:[^"\\]|\\.)*")')
_BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair kept and what it could not know."""

    path: Path
    kept: int
    """Lines taken over, the header among them."""
    damaged: int
    """Stretches of bytes that could not be verified."""
    uncertain: int
    """Targets that the server must be asked about."""


@dataclass(slots=True)
class _Target:
    source_uuid: str
    last: Record | None = None
    place: int = -1
    """Number of the segment that holds ``last``."""


@dataclass(slots=True)
class _Findings:
    targets: dict[str, _Target] = field(default_factory=dict)
    doubtful: dict[str, int] = field(default_factory=dict)
    """Targets that a damaged stretch names, with its number."""
    is_lost: bool = False
    """Whether something was lost of which nobody knows whose it was."""
    damaged: int = 0
