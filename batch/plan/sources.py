"""What a plan needs to know of the sources: which ones, and what it takes for granted without a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from batch.jobfile.layers import has_source_name
from batch.jobfile.problems import Problems
from batch.jobfile.targets import read_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batch.jobfile import Job
    from batch.jobfile.job import Target
    from batch.model import JsonValue

Sources: TypeAlias = "Callable[[str], Mapping[str, JsonValue] | None]"
"""Returns the inventory of a source uuid as the server shows it, None where the source does not exist."""


def assumed(uuid: str) -> Mapping[str, JsonValue]:
    """Stand in for the server: every source exists and has every field, so that the rest can be checked offline."""
    return _AnyFields(uuid)


def source_uuids(job: Job) -> Iterator[str]:
    """Stream the uuids whose inventories the plan of ``job`` uses, possibly repeated; none when no target uses any.

    Raises JobFileError where a file cannot be read on; rows with problems are left out.
    """
    for target in read_targets(job, Problems()):
        if _uses_source(target):
            yield target.uuid


def _uses_source(target: Target) -> bool:
    layer, base = target.layer, target.entry.base
    if layer.keep or base.keep:
        return True
    params = [layer.params[name] for name in layer.templates]
    params += [base.params[name] for name in base.templates if name not in layer.params]
    tags = (*layer.system_tags, *layer.user_tags, *base.system_tags, *base.user_tags)
    return any(map(has_source_name, params)) or any(map(has_source_name, tags))


class _AnyFields(dict[str, "JsonValue"]):
    """Has every field; what it is is made up from its name."""

    def __init__(self, uuid: str) -> None:
        super().__init__(uuid=uuid, size=0, system=False)

    def get(self, name: str, default: JsonValue = None) -> JsonValue:  # type: ignore[override]
        return super().get(name, default) if name in self else f"<{name}>"
