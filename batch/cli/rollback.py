"""``zclone rollback``: delete the clones of a run."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batch.cli import declare, options
from batch.cli.terminal import agree, emit
from batch.text import escape

if TYPE_CHECKING:
    from batch.app.rollback import RollbackResult

RolledJob = Annotated[Path, typer.Argument(metavar="JOB", help="The job file of the run.", show_default=False)]
Yes = Annotated[bool, declare.option("--yes", text="Do not ask before anything is deleted.")]


def rollback(  # noqa: PLR0913 - one argument for each flag
    job: RolledJob,
    *,
    run: options.Run = None,
    manifest: options.Manifest = None,
    simulate: options.Simulate = None,
    rate: options.Rate = None,
    yes: Yes = False,
    adopt_manifest: options.AdoptManifest = False,
    insecure: options.Insecure = False,
    ca_file: options.CaFile = None,
    trust_endpoint: options.TrustEndpoint = None,
    context: options.Context = None,
) -> None:
    """Delete the clones of a run that are unchanged and not in use; list them first.

    Exits with 0 if all are gone, with 3 if any was left, with 4 if the outcome of any is unknown: run it again.
    """
    flags = dict(locals())
    from batch.app.rollback import roll_back
    from batch.app.verify import VerifyOptions

    endpoint = declare.endpoint_options(flags)
    asked = VerifyOptions(job, endpoint, run, manifest, simulate, rate, adopt_manifest=adopt_manifest)
    done = roll_back(asked, lambda found: _confirm(found, is_said=yes))
    emit(_end_lines(done))
    raise typer.Exit(done.exit_code)


def _confirm(found: "RollbackResult", *, is_said: bool) -> bool:
    """List what would be done and ask for confirmation, unless given. Raises UsageError without a terminal."""
    emit(_lines(found))
    count = len(found.wanted)
    return agree(f"delete {count} clones?", is_said=is_said, unasked=f"rollback: would delete {count} clones")


def _head(found: "RollbackResult", counts: str) -> str:
    part = f", shard {found.shard} only" if found.shard else ""
    return escape(f"{found.job}, run {found.run}{part}: {counts}")


def _lines(found: "RollbackResult") -> Iterator[str]:
    counts = f"{len(found.wanted)} to delete, {len(found.gone)} already gone, {len(found.left)} left"
    yield _head(found, counts)
    yield from (escape(f"delete    {key}  {uuid}") for key, uuid in found.wanted.items())
    yield from (escape(f"gone      {key}") for key in found.gone)
    yield from (escape(f"left      {key}  {why}") for key, why in found.left.items())


def _end_lines(done: "RollbackResult") -> Iterator[str]:
    counts = f"{len(done.undone)} undone, {len(done.left)} left, {len(done.unknown)} unknown"
    yield _head(done, counts)
    yield from (escape(f"left      {key}  {why}") for key, why in done.left.items())
    yield from (escape(f"unknown   {key}  {why}") for key, why in done.unknown.items())
