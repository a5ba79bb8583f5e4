"""Commands for job files: validate, plan, init, schema."""

from typing import TYPE_CHECKING

import typer

from batch import outputs
from batch.app.messages import say, terminal_width
from batch.app.options import PlanOutput, ProblemFormat
from batch.cli import options, parser
from batch.cli.terminal import STDOUT, emit, emit_data, emit_paged
from batch.errors import ExitCode, UsageError
from batch.text import shell_path

if TYPE_CHECKING:
    from batch.app.preview import Preview


def validate(jobs: options.Jobs, *, form: options.Problems = ProblemFormat.TEXT) -> None:
    """Check job files and the files they refer to, without a server; report all problems with their positions."""
    from batch.app.job_files import check_job_file

    is_valid = True
    for job in jobs:
        problems = check_job_file(job, form)
        emit(problems)
        is_valid = is_valid and not problems
    if not is_valid:
        raise typer.Exit(ExitCode.USAGE)


def plan(  # noqa: PLR0913 - one argument for each flag
    job: options.Job,
    *,
    run: options.Run = None,
    output: options.PlanAs = PlanOutput.TABLE,
    details: options.Details = False,
    only: options.Only = None,
    out: options.PlanFile = None,
    server_check: options.ServerCheck = False,
    simulate: options.Simulate = None,
    insecure: options.Insecure = False,
    ca_file: options.CaFile = None,
    trust_endpoint: options.TrustEndpoint = None,
    context: options.Context = None,
) -> None:
    """Show what a run would send, and how long it takes at the job's rate: a summary, or --details.

    If the settings name an endpoint, sources and server version are checked too, without changing anything.
    """
    flags = dict(locals())
    from batch.app.preview import preview_plan, save_plan
    from batch.plan import load_job
    from batch.settings.reader import endpoint_for_shell

    if out is not None and only:
        raise UsageError("plan: --out saves the whole plan: leave out --only")
    endpoint, wanted = parser.endpoint_options(flags), tuple(only or ())
    loaded = load_job(job)
    url = endpoint_for_shell(endpoint, loaded.endpoint) if output is PlanOutput.CURL else None
    shown = preview_plan(loaded, endpoint, run=run, only=wanted, faults=simulate, server_check=server_check)
    _show_plan(shown, output, url, is_detailed=details or bool(wanted))
    if shown.server_check is not None:
        say(str(shown.server_check))
        if shown.server_check.others:
            raise typer.Exit(shown.server_check.exit_code)
    if out is not None:
        save_plan(shown, out)
        say(f"saved {out}; next: zclone run --plan {shell_path(out)}")


def _show_plan(preview: "Preview", output: PlanOutput, url: str | None, *, is_detailed: bool) -> None:
    """Write the plan to stdout, and its cost to stderr unless the summary includes it."""
    from batch.app.plan_output import curl, details, json_plan, plan_lines, summary_lines

    if output is PlanOutput.TABLE:
        show = details if is_detailed else summary_lines
        emit_paged(show(preview, size=terminal_width(STDOUT) or None))
    else:
        emit_data(json_plan(preview) if output is PlanOutput.JSON else curl(preview.requests(), url=url))
    if output is not PlanOutput.TABLE or is_detailed:
        for line in plan_lines(preview):
            say(line)


def init(file: options.NewFile = None, *, out: options.NewFileOption = None, example: options.OfExample = None) -> None:
    """Write a commented job file, and the JSON Schema for editors beside it."""
    from batch.app.job_files import write_example

    if file is not None and out is not None:
        raise UsageError(f"init: FILE and --out name two files, {file} and {out}: leave one out")
    first, *others = write_example(example, file or out)
    for path in (first, *others):
        say(f"wrote {path}")
    say(f"next: zclone validate {shell_path(first)}")


def schema(
    *,
    manifest: options.OfManifest = False,
    report: options.OfReport = False,
    plan: options.OfPlan = False,
    log: options.OfLog = False,
    verify: options.OfVerify = False,
    out: options.SchemaFile = None,
) -> None:
    """Print the JSON Schema of job files, for editors and checks."""
    from batch.app.schemas import schema_text

    kinds = {"log": log, "verify": verify, "plan": plan, "report": report, "manifest": manifest}
    text = schema_text(next((kind for kind, is_wanted in kinds.items() if is_wanted), "job"))
    if out is None:
        emit_data(text.split("\n"))
    else:
        outputs.replace(out, [text, "\n"], mode=outputs.PUBLIC)
        say(f"wrote {out}")
