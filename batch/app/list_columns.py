"""The columns of ``zclone list``: those of the manifest and those of the job file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.errors import UsageError
from batch.manifest.kinds import PlanLine
from batch.manifest.reading import reading
from batch.manifest.records import parse_line
from batch.report.target_list import COLUMNS, HAND_OVER_COLUMNS
from batch.text import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from batch.manifest.listing import Row
    from batch.model import JsonValue

_PLAN: Final = b'{"plan":'
"""Prefix of a plan line."""
_INSERT_AFTER: Final = "name"
"""The column after which the hand-over columns are inserted."""


def choose_columns(
    manifest: Path, named: Path, requested: Sequence[str] | None, default: Sequence[str], *, warn: Callable[[str], None]
) -> tuple[tuple[str, ...], Callable[[Row], dict[str, JsonValue]] | None]:
    """Return the columns to show, and the reader of those that come from the job file, if any.

    ``requested``: value of ``--columns``; None for the ``default`` ones, with owner and shares if the run has
    hand-overs. If the job file is unreadable, these are left out and ``warn`` is called with the reason. Raises
    UsageError.
    """
    of_job = [name for name in requested or () if name not in COLUMNS]
    if not of_job and (requested is not None or not _has_hand_overs(manifest)):
        return tuple(default if requested is None else requested), None
    # Imported here, because only these columns need the job file.
    from batch.app.job_lookup import JobColumns

    if requested is not None:
        try:
            return tuple(requested), JobColumns(manifest, named, of_job).of
        except UsageError as error:
            known = ", ".join(COLUMNS)
            raise UsageError(
                f"--columns: {', '.join(of_job)}: not of a manifest ({known}), and {escape(str(error))}"
            ) from None
    try:
        found = JobColumns(manifest, named, HAND_OVER_COLUMNS)
    except UsageError as error:
        warn(f"without the columns {' and '.join(HAND_OVER_COLUMNS)}: {escape(str(error))}")
        return tuple(default), None
    return tuple(_with_hand_overs(default)), found.of


def _has_hand_overs(manifest: Path) -> bool:
    """Return whether any recorded plan has hand-overs."""
    with reading(manifest) as found:
        plans = (parse_line(body) for body in found.bodies() if body.startswith(_PLAN))
        return any(isinstance(plan, PlanLine) and plan.hand_overs for plan in plans)


def _with_hand_overs(default: Sequence[str]) -> Iterator[str]:
    for name in default:
        yield name
        if name == _INSERT_AFTER:
            yield from HAND_OVER_COLUMNS
