"""The command ``zclone``: its commands, and how any error becomes one message and one exit code."""

import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from batch import __version__
from batch.cli import discover, doctor, files, node, options, reports, results
from batch.cli.arguments import prepared
from batch.cli.terminal import emit, occupy_standard_streams, say
from batch.errors import ExitCode, JobFileError, ZcloneError

if TYPE_CHECKING:
    from io import TextIOWrapper

EPILOG = """
[bold]First steps[/bold]

zclone run --simulate jobs/quickstart.yaml     rehearse on an embedded node, no settings needed

zclone init my.yaml && zclone validate my.yaml && zclone plan my.yaml

ZSTACK_API_URL=https://zstack:8080 ZSTACK_SESSION_ID_FILE=session zclone run my.yaml

zclone list my.manifest.jsonl --state failed   then mend, and run the same command again

[bold]Exit codes of run[/bold]   0 all cloned, 1 broken, 2 usage, 3 some failed, 4 run again, 5 unreachable, 75 locked
"""

app = typer.Typer(
    name="zclone",
    help="Clones ZStack AIOS model services in bulk, exactly once: run the same command until it exits 0 or 3.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they show local variables, and with them secrets
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:  # noqa: FBT001 - typer calls it so
    if asked:
        emit([f"zclone {__version__}"])
        raise typer.Exit


@app.callback()
def _zclone(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Take what stands before the command."""


@app.command()
def run(  # noqa: PLR0913 - one argument for each flag
    job: options.RunJob = None,
    *,
    plan: options.SavedPlan = None,
    simulate: options.Simulate = None,
    manifest: options.Manifest = None,
    run: options.Run = None,
    rate: options.Rate = None,
    concurrency: options.Concurrency = None,
    deadline: options.Deadline = None,
    accept_changes: options.AcceptChanges = False,
    at_most_once: options.AtMostOnce = False,
    progress: options.ShowProgress = options.Progress.AUTO,
    log_format: options.LogStyle = options.LogFormat.AUTO,
    log_file: options.LogFile = None,
    insecure: options.Insecure = False,
    context: options.Context = None,
    only: options.Only = None,
    shard: options.Shard = None,
    report: options.Report = None,
    metrics_file: options.MetricsFile = None,
    ping_url: options.PingUrl = None,
) -> None:
    """Clone every target of JOB, or go on where the last run stopped.

    Run the same command until it exits 0 or 3. Ctrl-C ends it in good order, a second one at once.
    """
    flags = dict(locals())
    from batch.cli.planning import job_and_run
    from batch.cli.preparation import Asked
    from batch.cli.run import run as run_job

    # Every flag but --plan is a field of its own name.
    flags["job"], flags["run"], flags["saved"] = job_and_run(job, run, flags.pop("plan"))
    flags["only"] = tuple(only or ())
    raise typer.Exit(run_job(Asked(**flags)))


@app.command()
def retry(  # noqa: PLR0913 - one argument for each flag
    job: options.Job,
    *,
    state: options.RetryStates = None,
    code: options.Codes = None,
    simulate: options.Simulate = None,
    manifest: options.Manifest = None,
    run: options.Run = None,
    rate: options.Rate = None,
    concurrency: options.Concurrency = None,
    deadline: options.Deadline = None,
    progress: options.ShowProgress = options.Progress.AUTO,
    log_format: options.LogStyle = options.LogFormat.AUTO,
    log_file: options.LogFile = None,
    insecure: options.Insecure = False,
    context: options.Context = None,
    only: options.OnlyAgain = None,
    shard: options.Shard = None,
    report: options.Report = None,
) -> None:
    """Try failed targets again: they are open once more, attempts count from the start, and the run goes on.

    Same identity, same uuids, same limits; what JOB says of them now is what is sent. --code takes those of one kind.
    """
    flags: dict[str, Any] = dict(locals())
    from batch.cli.again import again, divided
    from batch.cli.preparation import Asked
    from batch.cli.run import run as run_job

    # Every flag but --state and --code is a field of its own name.
    of_results, flags["only"] = divided(only or ())
    flags["again"] = again(flags.pop("state"), flags.pop("code"), of_results)
    raise typer.Exit(run_job(Asked(accept_changes=False, at_most_once=False, **flags)))


app.command()(files.validate)
app.command()(files.plan)
app.command()(results.status)
app.command(name="list")(results.list_targets)
app.command()(results.show)
app.command()(files.init)
app.command()(discover.discover)
app.command()(doctor.doctor)
app.command()(files.schema)
app.command()(results.repair)
app.command()(reports.report)
app.command()(node.simulate)
app.command()(reports.demo)


def run_and_exit() -> NoReturn:
    """Run the process's command line and leave with the exit code of the contract."""
    occupy_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            cast("TextIOWrapper", stream).reconfigure(errors="backslashreplace")
    sys.exit(exit_code(sys.argv[1:]))


def exit_code(arguments: list[str]) -> int:
    """Run one command line; whatever goes wrong is told once and has one code."""
    try:
        app(args=prepared(arguments), prog_name="zclone")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else ExitCode.BROKEN
    except JobFileError as error:
        from batch.jobfile.render_problems import as_text, source_line

        say(as_text(error.problems, source_line))
        return error.exit_code
    except ZcloneError as error:
        say(f"zclone: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception:  # noqa: BLE001 - the last border: a bug is told whole, without locals and secrets
        say(traceback.format_exc())
        return ExitCode.BROKEN
    return ExitCode.OK
