"""``zclone plan``: what would be sent, checked against the server where the settings name one."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from batch import __version__
from batch.cli.drafts import draft, final, learnt, used_fields
from batch.cli.estate import MOST_COMPARED, estate, tell_owners
from batch.cli.handing import tell_rights
from batch.cli.planning import NO_VERSION
from batch.cli.server import Server, say_warnings
from batch.cli.settings import read_settings
from batch.cli.terminal import say
from batch.cli.verdicts import server_check
from batch.errors import UsageError
from batch.jobfile.layers import KEEPABLE
from batch.model import Pins
from batch.plan import coverage, crosscheck, explained, pinned
from batch.plan.rearchitect import IMAGES_FIELD
from batch.plan.saved import SavedPlan
from batch.zstack.surroundings import Surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from batch.cli.drafts import Draft
    from batch.cli.verdicts import Verdicts
    from batch.jobfile import Job
    from batch.model import Clone, JsonValue, Plan
    from batch.plan import Setting
    from batch.zstack.settings import Settings

OFFLINE: Final = "no endpoint in the settings: sources, differences and the server's version are not checked"


@dataclass(frozen=True, slots=True)
class Look:
    """A final plan, and what it is shown with."""

    job: Job
    run: str
    started_at: float
    pins: Pins
    plan: Plan
    inventories: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    """Of the sources, as the server shows them; empty where it was not asked."""
    verdicts: Verdicts | None = None
    """What the server would say to the clones; None where it was not asked."""

    def clones(self) -> Iterator[tuple[Clone, Callable[[], Mapping[str, Setting]]]]:
        """Stream the clones, and where their parameters come from."""
        return explained(self.job, run=self.run, started_at=self.started_at, sources=self.pins.sources.get)

    def differences(self, clone: Clone) -> dict[str, JsonValue]:
        """Return the source's values of the parameters that the clone gets other ones for."""
        source = self.inventories.get(clone.source_uuid)
        if source is None:
            return {}
        shown = {name: _shown(source, name) for name in clone.params if name != "tagUuids"}
        return {name: value for name, value in shown.items() if _folded(value) != _folded(clone.params[name])}

    def resets(self, clone: Clone) -> dict[str, JsonValue]:
        """Return what the source has and the clone will not: the server sets these to 0 and false when left out."""
        source = self.inventories.get(clone.source_uuid, {})
        return {name: source[name] for name in KEEPABLE if name not in clone.params and source.get(name)}

    def tell_resets(self) -> None:
        """Say how many clones lose something that ``keep`` would copy."""
        count = sum(bool(self.resets(clone)) for clone in self.plan.clones()) if self.inventories else 0
        if count:
            keep = ", ".join(KEEPABLE)
            say(f"warning: {count} clones lose their source's {' or '.join(KEEPABLE)}: `keep: [{keep}]` copies them")


def _shown(source: Mapping[str, JsonValue], name: str) -> JsonValue:
    if name == "architectureImages":
        return used_fields(source, [IMAGES_FIELD])[IMAGES_FIELD]
    return source.get(name)


def _folded(value: JsonValue) -> JsonValue:
    """Make x86_64 of an answer and X86_64 of a request one, and images without a field and with a null one."""
    if isinstance(value, list):
        return [_folded(item) for item in value]
    if isinstance(value, dict):
        return {name: _folded(inner) for name, inner in value.items() if inner is not None}
    return value.upper() if isinstance(value, str) and value.upper() in {"X86_64", "AARCH64"} else value


@dataclass(frozen=True, slots=True)
class AskedLook:
    """The command line of ``plan``, as far as it decides the plan."""

    run: str | None = None
    server_check: bool = False
    insecure: bool = False
    context: str | None = None


async def look(job: Job, asked: AskedLook, *, started_at: float) -> Look:
    """Plan a run that would start at ``started_at``. Raises JobFileError with all problems, UnreachableError."""
    first = draft(job, run=asked.run, started_at=started_at, pins=Pins())
    for warning in first.plan.warnings:
        say(str(warning))
    why = "to check each clone" if asked.server_check else "for its sources" if first.wanted.is_anything else None
    settings = _settings(job, asked, why=why)
    if settings is None:
        say(OFFLINE)
        _tell_collisions(first.plan)
        return Look(job, first.plan.run, started_at, Pins(), first.plan)
    async with Server(settings, rate=job.limits.rate, tell=say_warnings) as server:
        checked = await _checked(first, server)
        if not asked.server_check:
            return checked
        return replace(checked, verdicts=await server_check(job, checked.plan, server))


def save(shown: Look, file: Path) -> None:
    """Write the plan for ``run --plan``; an existing file is kept. Raises UsageError."""
    saved = SavedPlan(str(shown.job.path), shown.run, shown.started_at, shown.plan.digest, __version__, shown.pins)
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(saved.text())
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None


def _settings(job: Job, asked: AskedLook, *, why: str | None) -> Settings | None:
    try:
        found = read_settings(os.environ, job=job.endpoint, context=asked.context, insecure=asked.insecure)
    except UsageError as error:
        if why is not None:
            raise UsageError(f"{job.path}: the plan needs the server, {why}: {error}") from None
        if job.endpoint is not None and job.endpoint.url is not None:
            say(str(error))
        return None
    say_warnings(found.warnings)
    return found.settings


async def _checked(first: Draft, server: Server) -> Look:
    pins = await learnt(first, server)
    job = pinned(first.job, pins)
    if job.rearchitect is not None:
        for found in coverage(job, job.rearchitect, pins=pins):
            for line in found.lines():
                say(line)
    plan = final(first, pins)
    client = await server.client()
    if client.version is None:
        say(NO_VERSION)
    surroundings = Surroundings(client)
    seen = await estate(plan, surroundings)
    run, at = plan.run, first.started_at
    crosscheck(job, run=run, started_at=at, pins=pins, version=client.version, absent=seen.absent)
    await tell_owners(job, seen.inventories, surroundings)
    await tell_rights(plan, surroundings)
    _tell_collisions(plan)
    shown = Look(job, run, at, pins, plan, seen.inventories)
    shown.tell_resets()
    return shown


def _tell_collisions(plan: Plan) -> None:
    """Warn of names that several clones get: ZStack allows it, people mix them up."""
    seen: dict[JsonValue, int] = {}
    for clone in plan.clones():
        name = clone.params.get("name")
        if name is not None and len(seen) < MOST_COMPARED:
            seen[name] = seen.get(name, 0) + 1
    twins = [str(name) for name, count in seen.items() if count > 1]
    if twins:
        more = f" and {len(twins) - 5} more" if len(twins) > 5 else ""
        say(f"warning: several clones get one name: {', '.join(twins[:5])}{more}")
