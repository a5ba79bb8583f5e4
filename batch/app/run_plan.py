"""The plan of a run: pinned answers from the manifest, then answers of the server, which are pinned in turn."""

from __future__ import annotations

from asyncio import to_thread
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch import __version__
from batch.app.manifest import new_header
from batch.app.messages import warn
from batch.app.selection import require_match
from batch.errors import UsageError
from batch.model import Pins
from batch.plan import Planning, placeholder_uuids, placeholder_value, regenerate, tag_clones
from batch.plan.rearchitect import IMAGES_FIELD
from batch.text import shell_path
from batch.zstack.params import BODY_PARAMS, IMAGE_FIELDS
from batch.zstack.queries import QueryApi

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from batch.app.prepare import Setup
    from batch.app.server import Server
    from batch.manifest import Manifest
    from batch.model import JsonValue, Plan
    from batch.plan import Draft, Questions
    from batch.plan.pins import SavedPlan
    from batch.zstack.params import Version

NO_VERSION: Final = "the server did not report its version: it silently drops parameters that it does not know"
_PLAIN_FIELDS: Final = BODY_PARAMS.keys() - {"architectureImages", "resourceUuid", "tagUuids"}
"""Parameters that are also columns of the source's inventory, so that no others need fetching."""


def make_draft(setup: Setup, started_at: float) -> Draft:
    """Plan a run that starts at ``started_at``, as far as possible without the server. Raises JobFileError."""
    saved = setup.options.saved
    draft = _draft(setup, started_at, Pins() if saved is None else saved.pins)
    if saved is not None:
        saved.require(draft.plan, tool=__version__)
    return draft


def draft_new_run(setup: Setup) -> Draft | None:
    """Plan a run without a manifest, so that an invalid job file leaves no manifest behind."""
    if setup.path.exists():
        return None
    if setup.options.retry is not None:
        raise UsageError(
            f"{setup.path}: no such manifest: zclone runs {shell_path(setup.job.path)} lists what can be retried"
        )
    draft = make_draft(setup, new_header(setup).created_at)
    if not draft.questions:
        require_match(draft.plan, setup.options.only)
    return draft


def _draft(setup: Setup, started_at: float, pins: Pins) -> Draft:
    draft = Planning(setup.job, run=setup.identity, started_at=started_at, pins=pins).draft()
    warn(map(str, draft.plan.warnings))
    return draft


async def make_plan(setup: Setup, manifest: Manifest, server: Server, *, draft: Draft | None) -> Plan:
    """Return the plan as of the run's first start, and pin the server's answers.

    ``draft``: the draft of a new run. Raises JobFileError.
    """
    plan, undone = await _make_plan(setup, manifest, server, draft=draft), manifest.past.undone
    if undone:
        at, pins = manifest.header.created_at, manifest.past.pinned.pins
        planning = Planning(setup.job, run=setup.identity, started_at=at, pins=pins)
        await to_thread(planning.refuse_undone, undone.has_uuid)
        plan = regenerate(plan, undone)
    if setup.options.tag and not manifest.header.tag:
        warn(["--tag: this run began without tags and continues without them: --run ID begins another one"])
    return tag_clones(plan) if manifest.header.tag else plan


async def _make_plan(setup: Setup, manifest: Manifest, server: Server, *, draft: Draft | None) -> Plan:
    if setup.options.saved is not None:
        return await _make_saved(setup, setup.options.saved, manifest, server)
    if draft is None:
        draft = await to_thread(_draft, setup, manifest.header.created_at, manifest.past.pinned.pins)
    more = await fetch_pins(draft, server)
    plan = await to_thread(draft.finish, more)
    if more.sources or more.queries:
        await manifest.write_pins(more)
    return plan


async def _make_saved(setup: Setup, saved: SavedPlan, manifest: Manifest, server: Server) -> Plan:
    """Return the saved plan. Raises UsageError if the job has changed or, before the first start, a source has."""
    draft = await to_thread(make_draft, setup, saved.started_at)
    if manifest.past.plan is None and (saved.pins.sources or saved.pins.queries):
        planning = Planning(setup.job, run=setup.identity, started_at=saved.started_at)
        saved.require_same_server(await fetch_pins(await to_thread(planning.draft), server))
        await manifest.write_pins(saved.pins)
    return draft.plan


async def fetch_pins(draft: Draft, server: Server) -> Pins:
    """Query the server for everything that the plan needs and no pin has; missing sources are left out."""
    questions = draft.questions
    if not questions:
        return Pins()
    query_api = QueryApi(await server.client())
    queries = {
        conditions: await _find(conditions, rendered, query_api, server)
        for conditions, rendered in questions.queries.items()
    }
    if queries:
        # The questions about sources depend on which are found.
        questions = (await to_thread(draft.planning.answer(Pins({}, queries)).draft)).questions
    return Pins(await _inventories(questions, query_api, is_rehearsal=server.is_rehearsal), queries)


async def _find(
    conditions: tuple[str, ...], rendered: tuple[str, ...], query_api: QueryApi, server: Server
) -> tuple[str, ...]:
    found = tuple([service.uuid async for service in query_api.query(rendered, fields=("uuid",))])
    if server.is_rehearsal and not found:
        server.warn_of([f"rehearsal: the embedded node has nothing for {list(conditions)}: one service is made up"])
        return placeholder_uuids(conditions)
    return found


async def _inventories(
    questions: Questions, query_api: QueryApi, *, is_rehearsal: bool
) -> dict[str, Mapping[str, JsonValue]]:
    """Return the used fields of every existing source; a rehearsal makes up the missing ones."""
    fields = sorted(questions.fields)
    wanted = fields if questions.fields <= _PLAIN_FIELDS else ()
    found: dict[str, Mapping[str, JsonValue]] = {}
    async for service in query_api.services(questions.sources, fields=wanted):
        found[service.uuid] = take_fields(service.fields, fields)
    if is_rehearsal:
        placeholders = {name: placeholder_value(name) for name in fields}
        found |= dict.fromkeys(questions.sources.keys() - found.keys(), placeholders)
    return found


def job_and_run(job: Path | None, run: str | None, plan: Path | None) -> tuple[Path, str | None, SavedPlan | None]:
    """Combine JOB, ``--run`` and ``--plan``; a plan names job and run itself. Raises UsageError."""
    if plan is None:
        if job is None:
            raise UsageError("Missing argument JOB: the job file, or --plan FILE")
        return job, run, None
    from batch.plan.pins import read_saved

    try:
        saved = read_saved(plan.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, UsageError) as error:
        raise UsageError(f"{plan}: {getattr(error, 'strerror', None) or error}") from None
    if run not in {None, saved.run} or job not in {None, Path(saved.job_file)}:
        raise UsageError(f"{plan}: is a plan for {saved.job_file}, run {saved.run}: leave out JOB and --run")
    return Path(saved.job_file), saved.run, saved


def check_version(setup: Setup, manifest: Manifest, version: Version | None) -> None:
    """Raise JobFileError if the server is too old for some parameters, naming each."""
    if version is None:
        warn([NO_VERSION])
        return
    at, pins = manifest.header.created_at, manifest.past.pinned.pins
    Planning(setup.job, run=setup.identity, started_at=at, pins=pins).check(version=version)


def take_fields(fields: Mapping[str, JsonValue], names: Iterable[str]) -> dict[str, JsonValue]:
    """Return the inventory fields that a plan can use; of an image its architecture and its two names."""
    taken = {name: fields.get(name) for name in names}
    images = taken.get(IMAGES_FIELD)
    if isinstance(images, list):
        taken[IMAGES_FIELD] = [
            {name: row.get(name) for name in IMAGE_FIELDS} for row in images if isinstance(row, dict)
        ]
    return taken
