"""Commands for the clones of a run on the server: verify compares them with the job file, rollback deletes them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batch.app.messages import say
from batch.cli import declare, options, values
from batch.cli.terminal import agree, emit, emit_data
from batch.errors import ExitCode, UsageError
from batch.text import escape, shell_path

if TYPE_CHECKING:
    from batch.app.fix import FixResult
    from batch.app.rollback import RollbackResult
    from batch.app.verify import VerifyOptions, VerifyResult


JobOrManifest = Annotated[
    Path,
    typer.Argument(
        metavar="JOB|MANIFEST",
        help="The job file; or a manifest, to compare only existence and names.",
        show_default=False,
    ),
]
CheckedProof = Annotated[
    Path | None, declare.option("--check", metavar="FILE", text="Check the proof FILE against MANIFEST, offline.")
]

Reopen = Annotated[
    bool, declare.option("--reopen", text="Record missing clones as undone, so that the next run makes them again.")
]
Fix = Annotated[bool, declare.option("--fix", text="Set drifted fields to the values of JOB, where the API can.")]
Yes = Annotated[bool, declare.option("--yes", text="Do not ask before anything is recorded or set.")]
JobOfRun = Annotated[Path, typer.Argument(metavar="JOB", help="The job file of the run.", show_default=False)]
YesDelete = Annotated[bool, declare.option("--yes", text="Do not ask before anything is deleted.")]


def verify(  # noqa: PLR0913 - one argument for each flag
    path: JobOrManifest,
    *,
    run: options.Run = None,
    manifest: options.Manifest = None,
    simulate: options.Simulate = None,
    rate: options.Rate = None,
    output: options.VerifyAs = values.VerifyOutput.TABLE,
    proof: options.ProofFile = None,
    check: CheckedProof = None,
    reopen: Reopen = False,
    fix: Fix = False,
    yes: Yes = False,
    adopt_manifest: options.AdoptManifest = False,
    insecure: options.Insecure = False,
    ca_file: options.CaFile = None,
    trust_endpoint: options.TrustEndpoint = None,
    context: options.Context = None,
) -> None:
    """Read the clones of a run back and compare them with JOB, field by field; only --fix changes the server.

    Exits with 4 if anything is unknown or open, else with 3 if anything differs or a target failed, else with 0.
    """
    flags = dict(locals())
    if check is not None:
        _check(check, path)
        return
    from batch.app.verify import VerifyOptions, verify_run

    endpoint, screen = declare.endpoint_options(flags), _Screen(output, is_said=yes)
    verify_options = VerifyOptions(path, endpoint, run, manifest, simulate, rate, proof, reopen, adopt_manifest)
    if fix:
        _fix(verify_options, output, is_said=yes)
    verified = verify_run(verify_options, screen.confirm)
    if not reopen:
        screen.show(verified)
    if screen.is_agreed:
        say(f"{len(verified.missing)} targets are undone; next: {verified.next_command}")
    if proof is not None:
        say(f"wrote {proof}; zclone verify --check {shell_path(proof)} {shell_path(verified.path)} checks it offline")
    raise typer.Exit(verified.found.exit_code)


class _Screen:
    """Shows the findings and asks for confirmation."""

    def __init__(self, output: values.VerifyOutput, *, is_said: bool) -> None:
        """``is_said``: whether the operator gave ``--yes``."""
        self._output = output
        self._is_said = is_said
        self.is_agreed = False

    def show(self, verified: "VerifyResult") -> None:
        """Write the findings to stdout."""
        from batch.report.verification import verification_document, verification_lines

        if self._output is values.VerifyOutput.JSON:
            emit_data(verification_document(verified.found))
        else:
            emit(verification_lines(verified.found, next_command=verified.next_command))

    def confirm(self, verified: "VerifyResult") -> bool:
        """List the findings, then ask. Raises UsageError without a terminal."""
        self.show(verified)
        self.is_agreed = _may_reopen(verified, is_said=self._is_said)
        return self.is_agreed


def _fix(options: "VerifyOptions", output: values.VerifyOutput, *, is_said: bool) -> None:
    """Set drifted fields and exit with the code of a second verification. Raises UsageError."""
    from batch.app.fix import fix_run
    from batch.report.verification import verification_document, verification_lines

    if options.reopen or options.proof is not None:
        raise UsageError("--fix: cannot be combined with --reopen or --proof: use them in a separate zclone verify")
    is_table = output is values.VerifyOutput.TABLE

    def confirm(fix: "FixResult") -> bool:
        for line in _fix_lines(fix):
            # stdout gets only one document, with the final result.
            emit([line]) if is_table else say(line)
        count = len(fix.wanted)
        question = f"set fields of {count} clones to the values of the job file?"
        return count > 0 and agree(question, is_said=is_said, unasked=f"--fix: would set fields of {count} clones")

    fix = fix_run(options, confirm)
    if not is_table:
        emit_data(verification_document(fix.found))
    elif fix.updated or fix.unknown or fix.failed:
        emit(verification_lines(fix.found, next_command=fix.next_command))
    say(f"--fix: {len(fix.updated)} of {len(fix.wanted)} clones updated")
    raise typer.Exit(fix.found.exit_code)


def _fix_lines(fix: "FixResult") -> "Iterator[str]":
    from batch.report.verification import verification_lines

    yield from verification_lines(fix.found, next_command=fix.next_command)
    yield from (escape(f"to set    {key}  {', '.join(fields)}") for key, fields in fix.wanted.items())


def _may_reopen(verified: "VerifyResult", *, is_said: bool) -> bool:
    """Show what would be recorded and ask for confirmation, unless given. Raises UsageError without a terminal."""
    count = len(verified.missing)
    if verified.found.exit_code is ExitCode.UNFINISHED:
        say("--reopen: nothing is recorded while clones are open or unknown; continue the run, or verify as admin")
        return False
    if not count:
        say("--reopen: nothing is missing")
        return False
    question = f"record {count} targets as undone, so that the next run makes them again?"
    return agree(question, is_said=is_said, unasked=f"--reopen: would record {count} targets as undone")


def _check(proof: Path, manifest: Path) -> None:
    from batch.report.proof import check_proof

    emit([check_proof(proof, manifest)])


def rollback(  # noqa: PLR0913 - one argument for each flag
    job: JobOfRun,
    *,
    run: options.Run = None,
    manifest: options.Manifest = None,
    simulate: options.Simulate = None,
    rate: options.Rate = None,
    yes: YesDelete = False,
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
    verify_options = VerifyOptions(job, endpoint, run, manifest, simulate, rate, adopt_manifest=adopt_manifest)
    done = roll_back(verify_options, lambda found: _may_delete(found, is_said=yes))
    emit(_rollback_lines(done))
    raise typer.Exit(done.exit_code)


def _may_delete(result: "RollbackResult", *, is_said: bool) -> bool:
    """List what would be done and ask for confirmation, unless given. Raises UsageError without a terminal."""
    emit(_deletion_lines(result))
    count = len(result.wanted)
    return agree(f"delete {count} clones?", is_said=is_said, unasked=f"rollback: would delete {count} clones")


def _rollback_head(result: "RollbackResult", counts: str) -> str:
    part = f", shard {result.shard} only" if result.shard else ""
    return escape(f"{result.job}, run {result.run}{part}: {counts}")


def _deletion_lines(result: "RollbackResult") -> Iterator[str]:
    counts = f"{len(result.wanted)} to delete, {len(result.gone)} already gone, {len(result.left)} left"
    yield _rollback_head(result, counts)
    yield from (escape(f"delete    {key}  {uuid}") for key, uuid in result.wanted.items())
    yield from (escape(f"gone      {key}") for key in result.gone)
    yield from (escape(f"left      {key}  {why}") for key, why in result.left.items())


def _rollback_lines(result: "RollbackResult") -> Iterator[str]:
    counts = f"{len(result.undone)} undone, {len(result.left)} left, {len(result.unknown)} unknown"
    yield _rollback_head(result, counts)
    yield from (escape(f"left      {key}  {why}") for key, why in result.left.items())
    yield from (escape(f"unknown   {key}  {why}") for key, why in result.unknown.items())
