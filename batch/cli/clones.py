"""Commands for the clones of a run on the server: verify compares them with the job file, rollback deletes them."""

from typing import TYPE_CHECKING

import typer

from batch.app.messages import say
from batch.app.options import VerifyOutput
from batch.cli import options, parser
from batch.cli.terminal import agree, emit, emit_data
from batch.text import shell_path

if TYPE_CHECKING:
    from batch.app.fix import FixResult
    from batch.app.rollback import RollbackResult
    from batch.app.run_access import VerifyOptions
    from batch.app.verify import VerifyResult
    from batch.report.verification import Verification


def verify(  # noqa: PLR0913 - one argument for each flag
    path: options.JobOrManifest,
    *,
    run: options.Run = None,
    manifest: options.Manifest = None,
    simulate: options.Simulate = None,
    rate: options.Rate = None,
    output: options.VerifyAs = VerifyOutput.TABLE,
    proof: options.ProofFile = None,
    check: options.CheckedProof = None,
    reopen: options.Reopen = False,
    fix: options.Fix = False,
    yes: options.Yes = False,
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
        from batch.report.proof import check_proof

        emit([check_proof(check, path)])
        return
    from batch.app.run_access import VerifyOptions
    from batch.app.verify import verify_run

    endpoint = parser.endpoint_options(flags)
    verify_options = VerifyOptions(path, endpoint, run, manifest, simulate, rate, proof, reopen, adopt_manifest)
    if fix:
        _fix(verify_options, output, is_said=yes)
    verified = verify_run(verify_options, lambda found: _may_reopen(found, output, is_said=yes))
    if not reopen:
        _show(verified.found, output, verified.next_command)
    if verified.is_reopened:
        say(f"{len(verified.missing)} targets are undone; next: {verified.next_command}")
    if proof is not None:
        say(f"wrote {proof}; zclone verify --check {shell_path(proof)} {shell_path(verified.path)} checks it offline")
    raise typer.Exit(verified.found.exit_code)


def _show(found: "Verification", output: VerifyOutput, next_command: str) -> None:
    """Write the findings to stdout."""
    from batch.report.verification import verification_document, verification_lines

    if output is VerifyOutput.JSON:
        emit_data(verification_document(found))
    else:
        emit(verification_lines(found, next_command=next_command))


def _may_reopen(verified: "VerifyResult", output: VerifyOutput, *, is_said: bool) -> bool:
    """List the findings, then ask whether to record them. Raises UsageError without a terminal."""
    _show(verified.found, output, verified.next_command)
    refusal, count = verified.reopen_refusal(), len(verified.missing)
    if refusal is not None:
        say(f"--reopen: {refusal}")
        return False
    question = f"record {count} targets as undone, so that the next run makes them again?"
    return agree(question, is_said=is_said, unasked=f"--reopen: would record {count} targets as undone")


def _fix(options: "VerifyOptions", output: VerifyOutput, *, is_said: bool) -> None:
    """Set drifted fields and exit with the code of a second verification. Raises UsageError."""
    from batch.app.fix import fix_run

    is_table = output is VerifyOutput.TABLE

    def confirm(fix: "FixResult") -> bool:
        for line in fix.planned_lines():
            # stdout gets only one document, with the final result.
            emit([line]) if is_table else say(line)
        count = len(fix.wanted)
        question = f"set fields of {count} clones to the values of the job file?"
        return count > 0 and agree(question, is_said=is_said, unasked=f"--fix: would set fields of {count} clones")

    fix = fix_run(options, confirm)
    if not is_table or fix.updated or fix.unknown or fix.failed:
        _show(fix.found, output, fix.next_command)
    say(f"--fix: {len(fix.updated)} of {len(fix.wanted)} clones updated")
    raise typer.Exit(fix.found.exit_code)


def rollback(  # noqa: PLR0913 - one argument for each flag
    job: options.JobOfRun,
    *,
    run: options.Run = None,
    manifest: options.Manifest = None,
    simulate: options.Simulate = None,
    rate: options.Rate = None,
    yes: options.YesDelete = False,
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
    from batch.app.run_access import VerifyOptions

    endpoint = parser.endpoint_options(flags)
    verify_options = VerifyOptions(job, endpoint, run, manifest, simulate, rate, adopt_manifest=adopt_manifest)
    done = roll_back(verify_options, lambda found: _may_delete(found, is_said=yes))
    emit(done.lines())
    raise typer.Exit(done.exit_code)


def _may_delete(result: "RollbackResult", *, is_said: bool) -> bool:
    """List what would be done and ask for confirmation, unless given. Raises UsageError without a terminal."""
    emit(result.planned_lines())
    count = len(result.wanted)
    return agree(f"delete {count} clones?", is_said=is_said, unasked=f"rollback: would delete {count} clones")
