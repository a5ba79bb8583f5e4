"""``zclone plan``: the plan of a run, checked against the server or a rehearsal's node, if there is one."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from batch import __version__, outputs
from batch.app.embedded_node import node_state, require_faults
from batch.app.messages import say
from batch.app.run_list import find_earlier_run
from batch.app.run_plan import NO_VERSION, fetch_pins, take_fields
from batch.app.selection import PLANNED, clone_filter, require_match, select
from batch.app.server import Server, say_warnings
from batch.app.server_checks import (
    MAX_COMPARED,
    check_clones,
    read_inventories,
    read_resources,
    warn_of_missing_rights,
    warn_of_owners,
)
from batch.errors import UsageError
from batch.jobfile.job import KEEPABLE
from batch.plan import Identities, Planning, RunTags, regenerate, tag_clones
from batch.plan.identity import regenerate_clone
from batch.plan.pins import SavedPlan
from batch.plan.rearchitect import IMAGES_FIELD
from batch.report.filters import read_filter
from batch.settings.reader import read_settings
from batch.settings.sources import UntrustedEndpointError
from batch.text import to_json
from batch.zstack.queries import QueryApi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from batch.app.run_list import EarlierRun
    from batch.app.server_checks import CheckSummary
    from batch.jobfile import Job
    from batch.model import Clone, JsonValue, Plan
    from batch.plan import Draft, Setting
    from batch.plan.rearchitect import Coverage
    from batch.settings.sources import EndpointOptions
    from batch.zstack.settings import Settings

MAX_UNCOVERED: Final = 20
"""Maximum number of uncovered sources that are listed."""
OFFLINE: Final = "no endpoint in the settings: sources, differences and the server's version are not checked"


@dataclass(frozen=True, slots=True)
class Preview:
    """A final plan with the server's data about it."""

    planning: Planning
    plan: Plan
    """The plan of the job file; ``requests`` is the part that would be sent."""
    earlier: EarlierRun
    inventories: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    """Source inventories by uuid; empty if the server was not queried."""
    server_check: CheckSummary | None = None
    """Results of ``--server-check``; None without it."""
    only: Sequence[str] = ()
    """Filters of ``--only``, which select the targets to show."""

    def clones(self) -> Iterator[tuple[Clone, Callable[[], Mapping[str, Setting]]]]:
        """Yield the selected clones as they would be sent, with the origins of their parameters."""
        tags, identities = RunTags(self.plan.job, self.plan.run), Identities(self.plan.job, self.plan.run)
        is_wanted = clone_filter(read_filter(self.only, shard=None, fields=PLANNED))
        for clone, settings in self.planning.explain():
            sent = regenerate_clone(clone, identities, self.earlier.undone)
            if self.planning.job.tag:
                sent = tags.add(sent)
            if is_wanted(sent):
                yield sent, settings

    def requests(self) -> Plan:
        """Return the selected part of the plan, with its clones as they would be sent."""
        plan = regenerate(self.plan, self.earlier.undone)
        return select(tag_clones(plan) if self.planning.job.tag else plan, only=self.only, shard=None)

    def require_usable(self) -> None:
        """Raise UsageError if ``only`` matches nothing, JobFileError for an undone uuid of the user's own."""
        require_match(self.plan, self.only)
        if self.earlier.undone:
            self.planning.refuse_undone(self.earlier.undone.has_uuid)

    def differences(self, clone: Clone) -> dict[str, JsonValue]:
        """Return the source's values of the parameters in which the clone will differ."""
        source = self.inventories.get(clone.source_uuid)
        if source is None:
            return {}
        shown = {name: _value(source, name) for name in clone.params if name != "tagUuids"}
        return {name: value for name, value in shown.items() if _normalise(value) != _normalise(clone.params[name])}

    def resets(self, clone: Clone) -> dict[str, JsonValue]:
        """Return the source's values that the clone will lose: omitted, the server sets these to 0 or false."""
        source = self.inventories.get(clone.source_uuid, {})
        return {name: source[name] for name in KEEPABLE if name not in clone.params and source.get(name)}

    def warn_of_resets(self) -> None:
        """Warn of clones that lose a value which ``keep`` would copy."""
        count = sum(bool(self.resets(clone)) for clone in self.plan.clones()) if self.inventories else 0
        if count:
            keep = ", ".join(KEEPABLE)
            say(f"warning: {count} clones lose the source's {' or '.join(KEEPABLE)}: `keep: [{keep}]` copies them")


def _value(source: Mapping[str, JsonValue], name: str) -> JsonValue:
    if name == "architectureImages":
        return take_fields(source, [IMAGES_FIELD])[IMAGES_FIELD]
    return source.get(name)


def _normalise(value: JsonValue) -> JsonValue:
    """Fold the case of architectures and drop null fields, since answers and requests differ in both."""
    if isinstance(value, list):
        return [_normalise(item) for item in value]
    if isinstance(value, dict):
        return {name: _normalise(inner) for name, inner in value.items() if inner is not None}
    return value.upper() if isinstance(value, str) and value.upper() in {"X86_64", "AARCH64"} else value


def preview_plan(
    job: Job,
    endpoint: EndpointOptions,
    *,
    run: str | None,
    only: Sequence[str],
    faults: str | None,
    server_check: bool,
) -> Preview:
    """Plan a run, or what is left of an earlier one. Raises JobFileError with all problems, UnreachableError.

    ``faults``: faults of an embedded node used instead of the server; None for the server of the settings.
    """
    earlier = find_earlier_run(job, run, at=time.time(), simulated=faults is not None)
    return asyncio.run(
        _preview(job, endpoint, run=run, earlier=earlier, only=only, faults=faults, server_check=server_check)
    )


async def _preview(
    job: Job,
    endpoint: EndpointOptions,
    *,
    run: str | None,
    earlier: EarlierRun,
    only: Sequence[str],
    faults: str | None,
    server_check: bool,
) -> Preview:
    read_filter(only, shard=None, fields=PLANNED)
    if faults is not None:
        require_faults(faults)
    draft = Planning(job, run=run, started_at=earlier.began, pins=earlier.pins).draft()
    for warning in draft.plan.warnings:
        say(str(warning))
    with _server(draft, endpoint, faults=faults, server_check=server_check, earlier=earlier) as connection:
        if connection is None:
            say(OFFLINE)
            _warn_of_same_names(draft.plan)
            shown = Preview(draft.planning, draft.plan, earlier, only=only)
            shown.require_usable()
            return shown
        async with connection as server:
            shown = replace(await _check(draft, server, earlier), only=only)
            shown.require_usable()
            if not server_check:
                return shown
            return replace(shown, server_check=await check_clones(job, shown.requests(), server))


@contextmanager
def _server(
    draft: Draft, endpoint: EndpointOptions, *, faults: str | None, server_check: bool, earlier: EarlierRun
) -> Iterator[Server | None]:
    """Return the server to query, not yet connected; None if the settings name none and the plan needs none.

    An embedded node gets a copy of the rehearsal's state, so that planning does not change it.
    """
    job = draft.planning.job
    if faults is None:
        why = "to check each clone" if server_check else "for its sources" if draft.questions else None
        settings = _settings(job, endpoint, why=why)
        yield None if settings is None else _connect(settings, job, endpoint)
        return
    with TemporaryDirectory(prefix="zclone-plan-") as folder:
        manifest = Path(folder) / "plan.manifest.jsonl"
        if earlier.path is not None and (state := node_state(earlier.path)).exists():
            copyfile(state, node_state(manifest))
        yield _connect(None, job, endpoint, manifest=manifest, faults=faults)


def _connect(
    settings: Settings | None,
    job: Job,
    endpoint: EndpointOptions,
    *,
    manifest: Path = Path(),
    faults: str | None = None,
) -> Server:
    rate, environ = job.limits.rate, endpoint.environ
    return Server(settings, rate=rate, environ=environ, manifest=manifest, faults=faults, warn_of=say_warnings)


def save_plan(preview: Preview, file: Path) -> None:
    """Write the plan for ``run --plan``; never overwrites a file. Raises UsageError."""
    planning = preview.planning
    saved = SavedPlan(
        str(planning.job.path), planning.run, planning.started_at, preview.plan.digest, __version__, planning.pins
    )
    outputs.write_new(file, saved.text(), mode=outputs.PRIVATE)


def _settings(job: Job, endpoint: EndpointOptions, *, why: str | None) -> Settings | None:
    try:
        found = read_settings(endpoint, job.endpoint)
    except UntrustedEndpointError:
        raise
    except UsageError as error:
        if why is not None:
            raise UsageError(f"{job.path}: the plan needs the server, {why}: {error}") from None
        if job.endpoint is not None and job.endpoint.url is not None:
            say(str(error))
        return None
    say_warnings(found.warnings)
    return found.settings


async def _check(draft: Draft, server: Server, earlier: EarlierRun) -> Preview:
    pins = await fetch_pins(draft, server)
    planning = draft.planning.answer(pins)
    for coverage in planning.coverage():
        for line in coverage.lines():
            say(line)
        await _name_uncovered(coverage, server)
    plan = draft.finish(pins)
    for warning in plan.warnings:
        # Questions that depend on the sources' inventories.
        if warning not in draft.plan.warnings:
            say(str(warning))
    client = await server.client()
    if client.version is None:
        say(NO_VERSION)
    query_api = QueryApi(client)
    sources = await read_inventories(plan, query_api)
    # A rehearsal's node makes up missing resources only when a clone is made.
    absent = () if server.is_rehearsal else sources.absent
    resources = None if server.is_rehearsal else await read_resources(plan, sources.by_uuid, query_api)
    for warning in planning.check(version=client.version, absent=absent, resources=resources):
        say(str(warning))
    await warn_of_owners(planning, sources.by_uuid, query_api)
    await warn_of_missing_rights(plan, query_api)
    _warn_of_same_names(plan)
    shown = Preview(planning, plan, earlier, sources.by_uuid)
    shown.warn_of_resets()
    return shown


async def _name_uncovered(coverage: Coverage, server: Server) -> None:
    """Report the sources that no rule covers, by uuid and name."""
    shown = coverage.uncovered[:MAX_UNCOVERED]
    if not shown:
        return
    query_api = QueryApi(await server.client())
    names = {found.uuid: found.fields.get("name") async for found in query_api.services(shown, fields=("uuid", "name"))}
    for uuid in shown:
        say(f"  not covered: {uuid} {to_json(names.get(uuid))}")
    if len(coverage.uncovered) > MAX_UNCOVERED:
        say(f"  not covered: {len(coverage.uncovered) - MAX_UNCOVERED} more")


def _warn_of_same_names(plan: Plan) -> None:
    """Warn of names given to several clones: ZStack allows them, but people mix them up."""
    seen: dict[JsonValue, int] = {}
    for clone in plan.clones():
        name = clone.params.get("name")
        if name is not None and len(seen) < MAX_COMPARED:
            seen[name] = seen.get(name, 0) + 1
    twins = [str(name) for name, count in seen.items() if count > 1]
    if twins:
        more = f" and {len(twins) - 5} more" if len(twins) > 5 else ""
        say(f"warning: several clones get the same name: {', '.join(twins[:5])}{more}")
