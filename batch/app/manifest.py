"""The manifest of a run: open it, check its owner, close it; and a shortcut for a finished run."""

from __future__ import annotations

import socket
import time
from asyncio import to_thread
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from batch import __version__
from batch.app.messages import say, warn
from batch.app.outcome import RunResult
from batch.app.reports import write_outputs_of_lost
from batch.app.runs import holder_text
from batch.errors import ExitCode, ManifestError, ManifestLockedError, ManifestLostError, ManifestMismatchError
from batch.manifest import Header, is_locked, open_manifest, read_finished
from batch.manifest.line import own_user, require_same
from batch.model import HandOverCounts
from batch.plan import Planning
from batch.zstack.settings import transport_warnings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batch.app.options import Overlap
    from batch.app.outcome import EarlyEnd
    from batch.app.prepare import Setup
    from batch.manifest import Manifest

EMBEDDED: Final = "embedded node"
"""Endpoint in a rehearsal's manifest, where the port differs each time."""

_LOCK_INTERVAL: Final = 0.5
"""Seconds between two checks of a lock."""


def new_header(setup: Setup) -> Header:
    """Return the header for a new manifest, which an existing one must match."""
    settings = setup.settings
    return Header(
        job=setup.job.name,
        run=setup.identity,
        endpoint=EMBEDDED if settings is None else settings.url,
        simulated=settings is None,
        tool=f"zclone {__version__}",
        created_at=setup.began if setup.options.saved is None else setup.options.saved.started_at,
        job_file=str(setup.options.job),
        at_most_once=setup.options.at_most_once,
        tag=setup.job.tag or setup.options.tag,
    )


def finished_result(setup: Setup) -> RunResult | None:
    """Return the result if an earlier process left nothing to do and no input changed since, else None.

    The required counts are absent if a process left a hand-over pending or refused.
    """
    options = setup.options
    if options.only or options.shard or options.retry or options.saved or options.strict:
        return None
    found = read_finished(setup.path)
    if found is None or not found.plan.inputs:
        return None
    if setup.options.at_most_once and not found.header.at_most_once:
        # The flag has to be recorded.
        return None
    try:
        require_same(found.header, new_header(setup))
    except ManifestMismatchError:
        # Opening the manifest will raise this error again.
        return None
    if found.users.is_foreign(own_user()):
        return None
    planning = Planning(setup.job, run=setup.identity, started_at=found.header.created_at, pins=found.pins)
    if planning.inputs_digest() != found.plan.inputs:
        return None
    return RunResult(found.counts, HandOverCounts(done=found.plan.hand_overs))


async def open_run(setup: Setup) -> Manifest:
    """Lock, repair and fold the manifest of the run, or create one. Raises ManifestError."""
    manifest = await lock_manifest(setup.path, new_header(setup))
    manifest.admitted = () if setup.settings is None else transport_warnings(setup.settings)
    manifest.past.is_at_most_once |= setup.options.at_most_once
    return manifest


async def lock_manifest(path: Path, header: Header) -> Manifest:
    """Open the manifest for writing, as ``open_manifest`` does; the error names the process that holds the lock."""
    try:
        return await to_thread(open_manifest, path, header)
    except ManifestLockedError as error:
        who = "" if error.manifest is None else await to_thread(holder_text, error.manifest)
        raise ManifestLockedError(f"{error}{who}", error.manifest) from None


async def accept_manifest(manifest: Manifest, *, by_flag: bool) -> None:
    """Accept ``manifest``: another user's only ``by_flag``, which is recorded; warn of another host.

    Raises ManifestMismatchError for one of another user without the flag.
    """
    users, user = manifest.past.users, own_user()
    if users.is_foreign(user):
        if not by_flag:
            raise ManifestMismatchError(
                f"{manifest.path}: was started by the user {users.begun_by} on {users.host}, and you are {user}: "
                "it decides what counts as done; if you trust it, add --adopt-manifest once"
            )
        await manifest.adopt(user)
    if manifest.past.is_at_most_once and manifest.past.plain.is_last:
        # The flag is recorded whatever the process comes to: it holds for every later one.
        manifest.begin()
    host = socket.gethostname()
    if users.host not in {"", host}:
        warn([f"{manifest.path}: was started on the host {users.host}, and this is {host}"])


async def close_run(
    setup: Setup, manifest: Manifest, code: ExitCode, early: EarlyEnd, *, result: RunResult | None
) -> None:
    """Record how the process ended and close the manifest; ``result``: None if it failed.

    Raises ManifestLostError, after writing report and metrics, if the manifest was moved or deleted.
    """
    lost_file = manifest.check_file()
    if lost_file is None:
        handed = None if result is None or setup.options.only else result.hand_overs
        await manifest.close(code, early.text, code=early.reason, handed=handed)
        return
    await to_thread(write_outputs_of_lost, manifest, lost_file, setup.options)
    with suppress(ManifestError):
        await manifest.close(ExitCode.BROKEN)
    raise ManifestLostError(str(manifest.failure))


def run_alone(overlap: Overlap, run: Callable[[], ExitCode]) -> ExitCode:
    """Run once no other process holds the manifest, as ``overlap`` says. Raises ManifestLockedError.

    After a wait ``run`` reads all inputs again, because the other process may have started or finished the run.
    """
    until = time.monotonic() + overlap.max_wait
    while True:
        try:
            return run()
        except ManifestLockedError as error:
            if error.manifest is None:
                raise
            if overlap.is_skipped:
                say(f"skipped: {error}")
                return ExitCode.OK
            left = until - time.monotonic()
            if left <= 0:
                raise
            say(f"{error.manifest}: another process holds this manifest: waiting up to {left:.0f} s for it to end")
            _wait_for_lock(error.manifest, until)


def _wait_for_lock(path: Path, until: float) -> None:
    """Return when the manifest at ``path`` is unlocked, or at the monotonic time ``until``."""
    while (left := until - time.monotonic()) > 0 and path.exists() and is_locked(path):
        time.sleep(min(_LOCK_INTERVAL, left))
