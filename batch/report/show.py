"""``zclone show``: all records of one target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.model import State
from batch.text import escape, iso
from batch.zstack.classify import with_hint

if TYPE_CHECKING:
    from batch.manifest import Story
    from batch.model import HandOverRecord, Record
    from batch.zstack.classify import Language

_DETAILS: Final = ("resource_uuid", "digest", "clone_uuid", "name", "error_code", "error")
_SHOWN_JOB_DIGITS: Final = 8


def show_lines(story: Story, language: Language = "en") -> list[str]:
    """Return the history of one target, attempt by attempt.

    Job uuids are shortened, because with the full one anyone can read the job's result from the server.
    """
    lines = [f"key          {escape(story.key)}", f"source_uuid  {escape(story.source_uuid)}"]
    if not story.records:
        return [*lines, "planned; nothing sent yet"]
    for record in story.records:
        lines += _record(record, language)
    for line in story.hand_overs:
        lines += _hand_over(line, language)
    return lines


def _hand_over(line: HandOverRecord, language: Language) -> list[str]:
    result = "handed over" if line.error_code is None else "hand-over refused"
    details = {
        "clone_uuid": line.clone_uuid,
        "owner": line.wanted.owner,
        "share_with": ", ".join(line.wanted.share_with) or None,
        "error_code": line.error_code,
        "error": with_hint(line.error_code, line.error, language),
    }
    shown = [f"  {name:<15}{escape(value)}" for name, value in details.items() if value is not None]
    return [f"{iso(line.at)}  {result}", *shown]


def _record(record: Record, language: Language) -> list[str]:
    found = " (found by its uuid)" if record.adopted else ""
    lines = [f"{iso(record.at)}  {record.state.value}, attempt {record.attempt}{found}"]
    if record.state is State.PLANNED:
        retried = "reopened by zclone retry; attempts count from zero"
        lines.append(f"  {retried if record.retried else 'the attempt was not executed and is not counted'}")
    if record.job_uuid is not None:
        lines.append(f"  job_uuid       {escape(record.job_uuid[:_SHOWN_JOB_DIGITS])}…")
    record = record._replace(error=with_hint(record.error_code, record.error, language))
    details = ((name, getattr(record, name)) for name in _DETAILS)
    lines += [f"  {name:<15}{escape(value)}" for name, value in details if value is not None]
    if record.deadline is not None:
        lines.append(f"  {'deadline':<15}{iso(record.deadline)}")
    return lines
