"""The plan of a run: what the manifest pinned comes first, the server is asked for the rest and that is pinned too."""

from __future__ import annotations

from asyncio import to_thread
from pathlib import Path
from typing import TYPE_CHECKING

from batch import __version__
from batch.cli.drafts import draft, finished, learnt
from batch.cli.preparation import warn
from batch.cli.server import Server
from batch.errors import UsageError
from batch.model import Pins
from batch.plan import crosscheck, inputs_digest, pinned, trusted
from batch.plan.saved import SavedPlan, read_saved

if TYPE_CHECKING:
    from batch.cli.drafts import Draft
    from batch.cli.preparation import Prepared
    from batch.engine import Stop
    from batch.manifest import Manifest
    from batch.model import Plan
    from batch.zstack.version import Version

NO_VERSION = "the server did not tell its version: parameters it does not know yet would be dropped without a word"


def server_of(prepared: Prepared, *, stop: Stop) -> Server:
    """Return the run's server, not yet reached; once ``stop`` is requested nothing more is sent to it."""
    server = Server(
        prepared.settings,
        rate=prepared.limits.rate,
        manifest=prepared.path,
        faults=prepared.asked.simulate,
    )
    stop.on_request(server.gate.stop_sending)
    return server


def drafted(prepared: Prepared, started_at: float) -> Draft:
    """Plan a run that begins at ``started_at`` as far as that goes without the server. Raises JobFileError."""
    pins = Pins() if prepared.asked.saved is None else prepared.asked.saved.pins
    first = draft(prepared.job, run=prepared.asked.run, started_at=started_at, pins=pins)
    warn(map(str, first.plan.warnings))
    if prepared.asked.saved is not None:
        prepared.asked.saved.require(first.plan, tool=__version__)
    return first


async def planned(prepared: Prepared, manifest: Manifest, server: Server, *, first: Draft | None) -> Plan:
    """Return the plan as at the run's first start; input files with unchanged bytes are not checked a second time.

    ``first``: the draft of a new run. Raises JobFileError.
    """
    if prepared.asked.saved is not None:
        return await _as_saved(prepared, prepared.asked.saved, manifest, server)
    job, run, at = prepared.job, prepared.asked.run, manifest.header.created_at
    pins, known = manifest.past.pinned.pins, manifest.past.plan
    if first is None and known is not None and known.inputs:
        inputs = await to_thread(inputs_digest, job, run=run, started_at=at, pins=pins)
        if inputs == known.inputs:
            counts = {"count": known.targets, "hand_overs": known.hand_overs}
            return trusted(job, run=run, started_at=at, digest=known.digest, pins=pins, **counts)
    if first is None:
        first = await to_thread(draft, job, run=run, started_at=at, pins=pins)
        warn(map(str, first.plan.warnings))
    plan, more = await finished(first, server)
    if more.sources or more.queries:
        await manifest.write_pins(more)
    return plan


async def _as_saved(prepared: Prepared, saved: SavedPlan, manifest: Manifest, server: Server) -> Plan:
    """Return the plan as it was saved. Raises UsageError where the job, or before the first start a source, differs."""
    first = await to_thread(drafted, prepared, saved.started_at)
    if manifest.past.plan is None and (saved.pins.sources or saved.pins.queries):
        anew = await to_thread(draft, prepared.job, run=prepared.asked.run, started_at=saved.started_at, pins=Pins())
        saved.require_same_server(await learnt(anew, server))
        await manifest.write_pins(saved.pins)
    return first.plan


def job_and_run(job: Path | None, run: str | None, plan: Path | None) -> tuple[Path, str | None, SavedPlan | None]:
    """Put JOB, ``--run`` and ``--plan`` together; the plan names job and run. Raises UsageError."""
    if plan is None:
        if job is None:
            raise UsageError("Missing argument JOB: the job file, or --plan FILE")
        return job, run, None
    try:
        saved = read_saved(plan.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, UsageError) as error:
        raise UsageError(f"{plan}: {getattr(error, 'strerror', None) or error}") from None
    if run not in {None, saved.run} or job not in {None, Path(saved.job_file)}:
        raise UsageError(f"{plan}: is a plan of {saved.job_file}, run {saved.run}: leave JOB and --run away")
    return Path(saved.job_file), saved.run, saved


def check_version(prepared: Prepared, manifest: Manifest, version: Version | None) -> None:
    """Raise JobFileError for every parameter that the server is too old for."""
    if version is None:
        warn([NO_VERSION])
        return
    pins = manifest.past.pinned.pins
    crosscheck(
        pinned(prepared.job, pins),
        run=prepared.identity,
        started_at=manifest.header.created_at,
        pins=pins,
        version=version,
    )
