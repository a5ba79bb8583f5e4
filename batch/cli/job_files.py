"""Commands for job files: validate, plan, init, schema."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batch import outputs
from batch.app.messages import say
from batch.cli import declare, options, values
from batch.cli.terminal import emit, emit_data, emit_paged, terminal_width
from batch.errors import ExitCode, JobFileError, UsageError
from batch.text import shell_path, to_json

if TYPE_CHECKING:
    from batch.app.preview import Preview
    from batch.app.server_checks import CheckSummary

OfManifest = Annotated[bool, declare.option("--manifest", text="The schema of manifest records instead of job files.")]
OfReport = Annotated[bool, declare.option("--report", text="The schema of JSON reports instead of job files.")]
OfPlan = Annotated[bool, declare.option("--plan", text="The schema of `zclone plan -o json` instead of job files.")]
OfVerify = Annotated[bool, declare.option("--verify", text="The schema of `verify -o json` instead of job files.")]
OfLog = Annotated[bool, declare.option("--log", text="The schema of log lines instead of job files.")]
SchemaFile = Annotated[
    Path | None, declare.flag("--out", metavar="FILE", text="Write the schema to FILE instead of stdout, replacing it.")
]


def validate(jobs: options.Jobs, *, form: options.Problems = values.ProblemFormat.TEXT) -> None:
    """Check job files and the files they refer to, without a server; report all problems with their positions."""
    broken = [job for job in jobs if not _is_valid(job, form)]
    if broken:
        raise typer.Exit(ExitCode.USAGE)


def _is_valid(path: Path, form: values.ProblemFormat) -> bool:
    from batch.jobfile.render_problems import render_github, render_text, source_line
    from batch.plan import Planning, load_job

    try:
        plan = Planning(load_job(path), run=None, started_at=time.time()).draft().plan
    except JobFileError as error:
        is_text = form is values.ProblemFormat.TEXT
        emit((render_text(error.problems, source_line) if is_text else render_github(error.problems)).split("\n"))
        return False
    for warning in plan.warnings:
        say(str(warning))
    say(f"{path}: ok, {plan.count} targets")
    return True


def plan(  # noqa: PLR0913 - one argument for each flag
    job: options.Job,
    *,
    run: options.Run = None,
    output: options.PlanAs = values.PlanOutput.TABLE,
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
    import asyncio

    from batch.app.earlier_run import find_earlier_run
    from batch.app.preview import preview_plan, save_plan
    from batch.plan import load_job
    from batch.settings.reader import endpoint_for_shell

    if out is not None and only:
        raise UsageError("plan: --out saves the whole plan: leave out --only")
    endpoint, wanted = declare.endpoint_options(flags), tuple(only or ())
    loaded = load_job(job)
    url = endpoint_for_shell(endpoint, loaded.endpoint) if output is values.PlanOutput.CURL else None
    earlier = find_earlier_run(loaded, run, at=time.time(), simulated=simulate is not None)
    preview = preview_plan(
        loaded, endpoint, run=run, earlier=earlier, only=wanted, faults=simulate, server_check=server_check
    )
    shown = asyncio.run(preview)
    _show_plan(shown, output, url, is_detailed=details or bool(wanted))
    _show_server_check(shown.server_check)
    if out is not None:
        save_plan(shown, out)
        say(f"saved {out}; next: zclone run --plan {shell_path(out)}")


def _show_server_check(summary: "CheckSummary | None") -> None:
    """Write what --server-check found to stderr, and exit unless the server would make every clone."""
    if summary is not None:
        say(str(summary))
        if summary.others:
            raise typer.Exit(summary.exit_code)


def _show_plan(preview: "Preview", output: values.PlanOutput, url: str | None, *, is_detailed: bool) -> None:
    """Write the plan to stdout, and its cost to stderr unless the summary includes it."""
    from batch.app.plan_output import curl, json_plan
    from batch.app.plan_table import details, plan_lines, summary_lines

    match output:
        case values.PlanOutput.TABLE:
            show = details if is_detailed else summary_lines
            emit_paged(show(preview, size=terminal_width()))
        case values.PlanOutput.JSON:
            emit_data(json_plan(preview))
        case values.PlanOutput.CURL:
            emit_data(curl(preview.requests(), url=url))
    if output is not values.PlanOutput.TABLE or is_detailed:
        for line in plan_lines(preview):
            say(line)


def init(file: options.NewFile = None, *, out: options.NewFileOption = None, example: options.OfExample = None) -> None:
    """Write a commented job file, and the JSON Schema for editors beside it."""
    from batch.app.new_job_files import write_example

    if file is not None and out is not None:
        raise UsageError(f"init: FILE and --out name two files, {file} and {out}: leave one out")
    first, *others = write_example(example, file or out)
    for path in (first, *others):
        say(f"wrote {path}")
    say(f"next: zclone validate {shell_path(first)}")


def schema(
    *,
    manifest: OfManifest = False,
    report: OfReport = False,
    plan: OfPlan = False,
    log: OfLog = False,
    verify: OfVerify = False,
    out: SchemaFile = None,
) -> None:
    """Print the JSON Schema of job files, for editors and checks."""
    if log:
        from batch.app.log_schema import log_schema as make_schema
    elif verify:
        from batch.report.verification import verification_schema as make_schema
    elif plan:
        from batch.app.plan_output import plan_schema as make_schema
    elif report:
        from batch.report.document import report_schema as make_schema
    elif manifest:
        from batch.manifest.schema import manifest_schema as make_schema
    else:
        from batch.jobfile.schema import job_schema as make_schema
    text = to_json(make_schema(), indent=2)
    if out is None:
        emit_data(text.split("\n"))
    else:
        outputs.replace(out, [text, "\n"], mode=outputs.PUBLIC)
        say(f"wrote {out}")
