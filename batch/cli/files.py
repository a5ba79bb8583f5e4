"""Commands about job files: validate, plan, init, schema. None of them talks to a server."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from batch.cli import options
from batch.cli.terminal import emit, say
from batch.errors import ExitCode, JobFileError, UsageError

if TYPE_CHECKING:
    from batch.jobfile import Job


def validate(jobs: options.Jobs, *, form: options.Problems = options.ProblemFormat.TEXT) -> None:
    """Check job files and every file they name, without a server; all problems at once, with their places."""
    broken = [job for job in jobs if not _is_valid(job, form)]
    if broken:
        raise typer.Exit(ExitCode.USAGE)


def _is_valid(path: Path, form: options.ProblemFormat) -> bool:
    from batch.jobfile import load
    from batch.jobfile.render_problems import as_github, as_text, source_line
    from batch.plan import assumed, assumed_found, expand

    try:
        job = replace(load(path), found=assumed_found)
        plan = expand(job, run=None, started_at=time.time(), sources=assumed)
    except JobFileError as error:
        is_text = form is options.ProblemFormat.TEXT
        emit([as_text(error.problems, source_line) if is_text else as_github(error.problems)])
        return False
    for warning in plan.warnings:
        say(str(warning))
    say(f"{path}: ok, {plan.count} targets")
    return True


def plan(
    job: options.Job,
    *,
    run: options.Run = None,
    output: options.PlanAs = options.PlanOutput.TABLE,
    out: options.PlanFile = None,
    server_check: options.ServerCheck = False,
    insecure: options.Insecure = False,
    context: options.Context = None,
) -> None:
    """Show what a run would send and why, and how long it takes at the job's rate.

    Where the settings name an endpoint, its sources and its version are checked too; nothing is changed there.
    """
    import asyncio

    from batch.cli.look import AskedLook, look, save
    from batch.cli.plans import curl, document, duration, table
    from batch.jobfile import load

    loaded = load(job)
    asked = AskedLook(run, server_check, insecure, context)
    shown = asyncio.run(look(loaded, asked, started_at=time.time()))
    match output:
        case options.PlanOutput.TABLE:
            emit(table(shown))
        case options.PlanOutput.JSON:
            emit(document(shown))
        case options.PlanOutput.CURL:
            emit(curl(shown.plan, url=_url(loaded)))
    say(duration(shown.plan, loaded.limits))
    if shown.verdicts is not None:
        say(str(shown.verdicts))
        if shown.verdicts.others:
            raise typer.Exit(shown.verdicts.exit_code)
    if out is not None:
        save(shown, out)
        say(f"saved {out}; next: zclone run --plan {out}")


def _url(job: "Job") -> str | None:
    """Find the endpoint without its credentials; None where no setting names it."""
    from batch.cli.settings import read_settings
    from batch.zstack.settings import endpoint_url

    try:
        return read_settings(os.environ, job=job.endpoint).settings.url
    except UsageError:
        url = os.environ.get("ZSTACK_API_URL") or (job.endpoint and job.endpoint.url)
        return endpoint_url(url) if url else None


def init(file: options.NewFile = Path("job.yaml")) -> None:
    """Write a commented job file to start from."""
    from batch.cli.starter import STARTER

    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(STARTER)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    say(f"wrote {file}; next: zclone validate {file}")


def schema(
    *,
    manifest: options.OfManifest = False,
    report: options.OfReport = False,
    plan: options.OfPlan = False,
    log: options.OfLog = False,
) -> None:
    """Print the JSON Schema of job files, for editors and checks."""
    if log:
        from batch.cli.log_schema import log_schema as made
    elif plan:
        from batch.plan.schema import plan_schema as made
    elif report:
        from batch.report.document import report_schema as made
    elif manifest:
        from batch.manifest.schema import manifest_schema as made
    else:
        from batch.jobfile.schema import job_schema as made
    emit([json.dumps(made(), indent=2, ensure_ascii=False)])
