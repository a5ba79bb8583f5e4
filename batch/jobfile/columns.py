"""The columns of ``from:`` files: those of a target's own, and names for ``${…}``."""

from __future__ import annotations

from typing import Any, Final

from batch.jobfile.matrix import NAME
from batch.jobfile.problems import Complaint, shorten, unknown

OWN_COLUMNS: Final = ("uuid", "id", "params", "systemTags", "userTags")
PARAM_COLUMN: Final = "params."


def check_column(name: str, complaints: list[Complaint]) -> None:
    """Complain of a column that is neither a name for ``${…}`` nor spelt like one of a target's own."""
    folded = {own.casefold(): own for own in OWN_COLUMNS}
    near = folded.get(name.casefold().replace("_", "").removesuffix("s")) or folded.get(
        name.casefold().replace("_", "").removesuffix("s") + "s"
    )
    if near:
        complaints.append(Complaint(name, unknown(name, OWN_COLUMNS, what="column"), at_key=True))
    elif name.startswith(("param.", "source.")) or not NAME.fullmatch(name):
        message = f"{shorten(name)} is neither a column of its own (uuid, id, params.NAME, …) nor a name for ${{…}}"
        complaints.append(Complaint(name, message, at_key=True))


def check_id(value: Any, complaints: list[Complaint]) -> None:
    """Complain of an ``id`` that is no plain text."""
    if value.__class__ is not str or not value or value.strip() != value or not value.isprintable():
        complaints.append(Complaint("id", f"must be a text without control characters, not {shorten(value)}"))
