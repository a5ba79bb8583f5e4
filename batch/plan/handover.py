"""What is done with a clone once it is made, rendered for one target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.jobfile.check import check_uuid
from batch.jobfile.problems import Complaint
from batch.model import HandOver
from batch.plan.render import RenderError, render

if TYPE_CHECKING:
    from batch.plan.render import Scope


def rendered(asked: HandOver, scope: Scope, complaints: list[Complaint]) -> HandOver | None:
    """Put values in for ``${…}``; None where that asks for nothing.

    A text of ``share_with`` may come to several uuids separated by ``;``, or to none, as a cell of a CSV file does.
    """
    owner = None if asked.owner is None else _rendered("owner", asked.owner, scope, complaints)
    if owner is not None:
        check_uuid("owner", owner, complaints)
    uuids: dict[str, None] = {}
    for index, text in enumerate(asked.share_with):
        path = f"share_with[{index}]"
        for uuid in filter(None, map(str.strip, (_rendered(path, text, scope, complaints) or "").split(";"))):
            check_uuid(path, uuid, complaints)
            uuids[uuid] = None
    return HandOver(owner, tuple(uuids)) if owner is not None or uuids else None


def _rendered(path: str, text: str, scope: Scope, complaints: list[Complaint]) -> str | None:
    try:
        return render(text, scope)
    except RenderError as error:
        complaints.append(Complaint(path, str(error)))
        return None
