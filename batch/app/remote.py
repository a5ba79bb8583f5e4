"""A run on Temporal: find or start it, and copy its records into the manifest."""

from __future__ import annotations

from asyncio import to_thread
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from batch.app.messages import say
from batch.app.observe import observe
from batch.app.options import Engine
from batch.app.outcome import EarlyEnd, unfinished_by_inputs
from batch.app.ownership import log_doubts, uuids_of
from batch.app.run_plan import check_version
from batch.app.selection import find_remaining_work, record_edits_and_retries, record_shard
from batch.app.temporal import connect_temporal
from batch.app.webhook import NOT_ON_TEMPORAL
from batch.clock import SystemClock
from batch.engine.control import before_stop
from batch.engine.handover import waiting_clones
from batch.errors import EndReason, ManifestLockedError, UnreachableError, UsageError
from batch.manifest.kinds import HandOverTry, RemoteEngine
from batch.manifest.reader import open_reader
from batch.manifest.records import parse_line
from batch.model import HandOverRecord, Record, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batch.app.logs import LoggingJournal
    from batch.app.prepare import Setup
    from batch.engine import Stop
    from batch.engine.survey import Survey
    from batch.manifest import Manifest
    from batch.model import Clone, Plan
    from batch.temporal.command import OpenWorkflow, RemoteRun
    from batch.temporal.messages import Ending, Facts, PageLine


@dataclass(slots=True)
class Remote:
    """The known state of the run on Temporal."""

    run: RemoteRun
    opened: OpenWorkflow | None
    """None if it has no open workflow."""
    is_cancelled: bool
    calls: int = 0
    """Number of calls it made, as last reported."""


async def find_remote(setup: Setup, manifest: Manifest) -> Remote | None:
    """Return the run if its engine is Temporal, None if this process is the engine.

    Raises ManifestLockedError if the run continues on Temporal but the command is for another engine or a retry,
    UnreachableError if Temporal cannot be reached, UsageError for incompatible flags.
    """
    last, options = manifest.past.remote, setup.options
    wanted = options.engine or (Engine.LOCAL if last is None else Engine.TEMPORAL)
    if options.cancel and wanted is Engine.LOCAL:
        raise UsageError("--cancel: ends a run on Temporal: add --engine temporal; Ctrl-C stops a local run")
    if wanted is Engine.LOCAL and last is None:
        return None
    if wanted is Engine.TEMPORAL and setup.web_hook is not None:
        raise UsageError(NOT_ON_TEMPORAL)
    if setup.settings is None:
        raise UsageError("--engine temporal: its workers cannot reach the embedded node of --simulate: use one only")
    run = await _connect(setup, is_takeover=wanted is Engine.LOCAL)
    place = run.connection
    if last is not None and (last.address, last.namespace) != (place.address, place.namespace):
        # The address never comes from a manifest, because credentials are sent there.
        raise UnreachableError(
            f"the run was started on Temporal at {last.address}, namespace {last.namespace}, and may continue there; "
            f"the TEMPORAL_* variables say {place.address}, namespace {place.namespace}: set TEMPORAL_ADDRESS and "
            "TEMPORAL_NAMESPACE to where it was started"
        )
    opened = await run.find()
    if opened is not None and (wanted is Engine.LOCAL or options.retry is not None):
        what = "retry once it has ended" if options.retry else "follow it with --engine temporal"
        raise ManifestLockedError(f"the run continues on Temporal, workflow {run.id}: {what}, or end it with --cancel")
    if wanted is Engine.LOCAL:
        manifest.past.remote = None
        return None
    if options.cancel and opened is None:
        raise UsageError(f"--cancel: no workflow {run.id} is open on Temporal at {place.address}")
    manifest.past.remote = RemoteEngine(Engine.TEMPORAL.value, place.address, place.namespace, run.id)
    return Remote(run, opened, options.cancel)


async def _connect(setup: Setup, *, is_takeover: bool) -> RemoteRun:
    try:
        connection = await connect_temporal(setup.options.endpoint.environ)
    except UsageError as error:
        # The run may still continue there, so no other engine may take it over.
        raise (UnreachableError(str(error)) if is_takeover else error) from None
    from batch.temporal.command import RemoteRun

    assert setup.settings is not None
    return RemoteRun(connection, endpoint=setup.settings.url, job=setup.job.name, run=setup.identity)


def require_same_plan(remote: Remote, plan: Plan) -> None:
    """Raise ManifestLockedError if the run continues with another plan."""
    if remote.opened is not None and remote.opened.digest != plan.digest:
        raise ManifestLockedError(
            f"the workflow {remote.run.id} continues with another plan than that of the job file: "
            "change the file back to follow it, or end it first: zclone run JOB --engine temporal --cancel"
        )


async def clone_remotely(
    setup: Setup, plan: Plan, manifest: Manifest, *, whole: Plan, remote: Remote, stop: Stop
) -> EarlyEnd:
    """Execute the rest of ``plan``, a part of ``whole``, on Temporal; return why it ended early, if it did."""
    rest = await find_remaining_work(setup.options, plan, manifest, whole=whole)
    require_same_plan(remote, rest.plan)
    if stop.requested or (rest.is_done and remote.opened is None):
        await record_shard(manifest, rest)
        return EarlyEnd(stop.reason, stop.code)
    facts = await _ask_worker(remote, setup, stop)
    if facts is None:
        return EarlyEnd(stop.reason, stop.code)
    if remote.opened is None:
        await to_thread(check_version, setup, manifest, facts.version)
        found = await record_edits_and_retries(manifest, rest, whole)
    else:
        found = rest.found
    with unfinished_by_inputs():
        work = _Work(setup, rest.plan, manifest, found, stop)
        ending = await _observe(remote, work, rate=facts.rate)
    return _end_of(remote, stop) if ending is None else EarlyEnd(ending.text, ending.reason)


@dataclass(frozen=True, slots=True)
class _Work:
    setup: Setup
    plan: Plan
    manifest: Manifest
    found: Survey
    stop: Stop


def _end_of(remote: Remote, stop: Stop) -> EarlyEnd:
    if stop.requested and stop.code is not EndReason.DEADLINE:
        return EarlyEnd(f"{stop.reason}: the run continues on Temporal, workflow {remote.run.id}", stop.code)
    return EarlyEnd()


async def _observe(remote: Remote, work: _Work, *, rate: float) -> Ending | None:
    manifest, plan = work.manifest, work.plan
    past = manifest.past
    await manifest.write_plan(plan, (pair for pair in plan.listing() if not past.is_planned(pair[0])))
    structlog.get_logger().info("run.started", targets=plan.count, rate=rate, workflow=remote.run.id)
    calls = lambda: remote.calls  # noqa: E731 - too short for a def
    async with observe(work.setup, plan, manifest, work.found, calls=calls, rate=rate, stop=work.stop) as journal:
        return await _follow(remote, work, journal)


async def _ask_worker(remote: Remote, setup: Setup, stop: Stop) -> Facts | None:
    """Return a worker's facts, or None after a stop. Raises UsageError for a rate below that of the workers."""
    alone = f"no worker answers yet at {remote.run.queue}: start one with zclone worker"
    facts = await before_stop(remote.run.ask_worker(lambda: say(alone)), stop)
    rate = setup.limits.rate
    if facts is not None and setup.is_rate_set and rate < facts.rate:
        raise UsageError(
            f"the run's rate of {rate:g}/s is below the workers' {facts.rate:g}/s, which all runs of the endpoint "
            "share: restart the workers with the lower --rate, or leave out the run's"
        )
    return facts


async def _follow(remote: Remote, work: _Work, journal: LoggingJournal) -> Ending | None:
    """Start or follow the run until it ends, or until a stop, after which it continues without this process.

    Return why the run ended early, if it did. Raises UnreachableError for an outage before anything was sent.
    """
    from batch.temporal.messages import Ending
    from batch.temporal.page import Work

    manifest, plan, run, silence = work.manifest, work.plan, remote.run, _OutageNotice()
    past, limits = manifest.past, work.setup.limits
    uuid_of = await to_thread(uuids_of, plan, manifest, journal.made)
    await to_thread(log_doubts, plan, past)

    def made() -> Iterator[tuple[Clone, str]]:
        waiting = waiting_clones(plan, past, SystemClock().time()) if plan.hand_overs else ()
        return ((clone, uuid_of(clone) or "") for clone in waiting if clone is not None)

    whole = Work(plan, work.found, past, limits, past.is_at_most_once, made)
    if remote.opened is None:
        if past.is_cut_off:
            await manifest.take_up([key for key, one in past.intents.items() if one.state is not State.PLANNED])
        await manifest.flush()
        remote.opened = await run.begin(whole)
        is_loaded: bool | None = False
    else:
        is_loaded = await before_stop(run.is_loaded(silent=silence), work.stop)
    if is_loaded is False:
        await run.load(remote.opened, whole)
    if remote.is_cancelled:
        await run.stop(Ending("--cancel", EndReason.SIGNAL))
    sink = _Sink(remote, manifest, journal)
    ending = await run.follow(remote.opened, sink, work.stop, silent=silence)
    if ending is not None and not past.was_sent and ending.reason in _UNREACHED:
        raise UnreachableError(ending.text, ending.reason)
    return ending


_UNREACHED: Final = (EndReason.OUTAGE, EndReason.LOGIN)


class _OutageNotice:
    """Logs once per outage why nothing answers."""

    def __init__(self) -> None:
        self._said: str | None = None

    def __call__(self, reason: str) -> None:
        if reason != self._said:
            structlog.get_logger().warning("temporal.silent", reason=reason)
        self._said = reason


class _Sink:
    """Writes the lines of pages into the manifest."""

    def __init__(self, remote: Remote, manifest: Manifest, journal: LoggingJournal) -> None:
        self._remote = remote
        self._manifest = manifest
        self._journal = journal

    def find_unwritten(self, lines: Sequence[PageLine]) -> list[PageLine]:
        wanted = {_identity(line): line for line in lines}
        for line in _lines(self._manifest):
            wanted.pop(_identity(line), None)
        return list(wanted.values())

    def write(self, line: PageLine) -> None:
        if isinstance(line, HandOverRecord):
            self._journal.note_hand_over(line)
        elif isinstance(line, Record):
            self._journal.note(line)
        else:
            self._manifest.note_operation(HandOverTry(line.of, line.is_unexecuted))

    async def flush(self) -> None:
        await self._manifest.flush()

    def note_calls(self, calls: int) -> None:
        self._remote.calls = calls


def _identity(line: PageLine | HandOverTry) -> tuple[object, ...]:
    if isinstance(line, HandOverRecord):
        return "handed over", line.key, line.at
    if not isinstance(line, Record):
        return "tried", line.of.key, line.of.at, line.is_unexecuted
    return line.state, line.key, line.at, line.attempt, line.job_uuid


def _lines(manifest: Manifest) -> Iterator[PageLine | HandOverTry]:
    with open_reader(manifest.path) as lines:
        for body in lines.bodies():
            line = parse_line(body)
            if isinstance(line, Record | HandOverRecord | HandOverTry):
                yield line
