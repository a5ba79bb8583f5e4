"""``zclone show``: everything on record about one target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.model import State
from batch.report.text import clean, iso

if TYPE_CHECKING:
    from batch.manifest import Story
    from batch.model import HandedOver, Record

_DETAILS: Final = ("resource_uuid", "digest", "clone_uuid", "name", "error_code", "error")
_SHOWN_JOB_DIGITS: Final = 8


def show_lines(story: Story) -> list[str]:
    """Return the story of one target, attempt by attempt.

    Of a job uuid only the start is shown: whoever knows all of it may ask the server for the job's result.
    """
    lines = [f"key          {clean(story.key)}", f"source_uuid  {clean(story.source_uuid)}"]
    if not story.records:
        return [*lines, "planned; nothing was sent yet"]
    for record in story.records:
        lines += _record(record)
    for line in story.hand_overs:
        lines += _hand_over(line)
    return lines


def _hand_over(line: HandedOver) -> list[str]:
    told = "handed over" if line.error_code is None else "hand-over refused"
    details = {
        "clone_uuid": line.clone_uuid,
        "owner": line.wanted.owner,
        "share_with": ", ".join(line.wanted.share_with) or None,
        "error_code": line.error_code,
        "error": line.error,
    }
    shown = [f"  {name:<15}{clean(value)}" for name, value in details.items() if value is not None]
    return [f"{iso(line.at)}  {told}", *shown]


def _record(record: Record) -> list[str]:
    found = " (found by its uuid)" if record.adopted else ""
    lines = [f"{iso(record.at)}  {record.state.value}, attempt {record.attempt}{found}"]
    if record.state is State.PLANNED:
        retried = "open again by zclone retry; attempts count from the start"
        lines.append(f"  {retried if record.retried else 'the attempt was not executed and is not counted'}")
    if record.job_uuid is not None:
        lines.append(f"  job_uuid       {clean(record.job_uuid[:_SHOWN_JOB_DIGITS])}…")
    details = ((name, getattr(record, name)) for name in _DETAILS)
    lines += [f"  {name:<15}{clean(value)}" for name, value in details if value is not None]
    if record.deadline is not None:
        lines.append(f"  {'deadline':<15}{iso(record.deadline)}")
    return lines
