"""The command ``zclone``: its subcommands, and the conversion of errors to a message and an exit code."""

import os
import signal
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from batch import __version__
from batch.app.messages import report_end, say, set_style
from batch.app.options import LogFormat, Overlap, ProgressMode, RunOptions
from batch.cli import clones, job_files, manifests, options, parser, servers
from batch.cli.parser import Command, Group, read_arguments
from batch.cli.terminal import emit, forbid_core_dumps, occupy_standard_streams
from batch.errors import ExitCode, JobFileError, UsageError, ZcloneError

if TYPE_CHECKING:
    from io import TextIOWrapper

EPILOG = """\b
First steps:
  zclone init --example migrate               a job file and its rows
  zclone plan --simulate migrate-arm64.yaml   what would be sent; no settings
  zclone run --simulate migrate-arm64.yaml    rehearse it on an embedded node
  zclone list migrate-arm64.simulated.manifest.jsonl

Then ZSTACK_API_URL=https://... ZSTACK_SESSION_ID_FILE=..., and the same without --simulate.

Exit codes of run: 0 all cloned, 1 broken, 2 usage, 3 needs you, 4 run it again, 5 unreachable, 75 locked
"""

app = typer.Typer(
    name="zclone",
    cls=Group,
    help="Clones ZStack AIOS model services in bulk, exactly once: run the same command until it exits 0 or 3.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they show local variables, and with them secrets
    rich_markup_mode=None,  # rich takes longer to import than most commands to run
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _show_version(is_requested: bool) -> None:  # noqa: FBT001 - typer passes it by position
    if is_requested:
        emit([f"zclone {__version__}"])
        raise typer.Exit


@app.callback()
def _zclone(
    *,
    version: Annotated[  # noqa: ARG001 - its callback handles it
        bool, parser.option("--version", "Show the version.", short="-V", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Process the options before the command."""
    if any(name.startswith("ZCLONE_") for name in os.environ):
        from batch.settings.sources import unknown_flags

        for warning in unknown_flags(os.environ, parser.VARIABLES):
            say(f"warning: {warning}")


def _fields(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags shared by ``run`` and ``retry`` as RunOptions fields, and set the message style."""
    flags["is_quiet"] = flags.pop("quiet")
    set_style(is_json=flags["log_format"] is LogFormat.JSON, is_quiet=flags["is_quiet"])
    endpoint = parser.endpoint_options(flags)
    return {**flags, "endpoint": endpoint}


@app.command(cls=Command)
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
    strict: options.Strict = False,
    new_run: options.NewRun = False,
    on_overlap: options.OnOverlap = "fail",
    at_most_once: options.AtMostOnce = False,
    tag: options.Tag = False,
    progress: options.ShowProgress = ProgressMode.AUTO,
    log_format: options.LogStyle = LogFormat.AUTO,
    log_file: options.LogFile = None,
    quiet: options.Quiet = False,
    insecure: options.Insecure = False,
    ca_file: options.CaFile = None,
    trust_endpoint: options.TrustEndpoint = None,
    context: options.Context = None,
    adopt_manifest: options.AdoptManifest = False,
    only: options.Only = None,
    shard: options.Shard = None,
    report: options.Report = None,
    metrics_file: options.MetricsFile = None,
    ping_url: options.PingUrl = None,
    engine: options.EngineOfRun = None,
    cancel: options.Cancel = False,
    webhook_listen: options.WebHookListen = None,
    webhook_url: options.WebHookUrl = None,
) -> None:
    """Clone every target of JOB, or resume the last run.

    Run the same command until it exits 0 or 3. Ctrl-C stops it cleanly, a second Ctrl-C at once.
    """
    raise typer.Exit(_run(dict(locals())))


def _run(arguments: dict[str, Any]) -> ExitCode:
    """Run a job; ``arguments``: the arguments of ``run``."""
    flags = _fields(arguments)
    from batch.app.run import run_job
    from batch.app.run_plan import job_and_run

    # Every flag except --plan is a field of the same name.
    plan = flags.pop("plan")
    flags["job"], flags["run"], flags["saved"] = job_and_run(flags["job"], flags["run"], plan)
    flags["only"], flags["plan_file"] = tuple(flags["only"] or ()), plan
    flags["on_overlap"] = Overlap.read(flags["on_overlap"])
    return run_job(RunOptions(**flags))


@app.command(cls=Command)
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
    accept_changes: options.AcceptChanges = False,
    progress: options.ShowProgress = ProgressMode.AUTO,
    log_format: options.LogStyle = LogFormat.AUTO,
    log_file: options.LogFile = None,
    quiet: options.Quiet = False,
    insecure: options.Insecure = False,
    ca_file: options.CaFile = None,
    trust_endpoint: options.TrustEndpoint = None,
    context: options.Context = None,
    adopt_manifest: options.AdoptManifest = False,
    only: options.OnlyAgain = None,
    shard: options.Shard = None,
    report: options.Report = None,
) -> None:
    """Retry failed targets with a reset attempt count, and continue the run.

    Run, uuids and limits stay the same; targets are sent as JOB defines them now. --code selects by error code.
    """
    flags = _fields(dict(locals()))
    from batch.app.run import run_job
    from batch.app.selection import read_retry

    # Every flag except --state and --code is a field of the same name.
    flags["retry"], flags["only"] = read_retry(flags.pop("state"), flags.pop("code"), only or ())
    raise typer.Exit(run_job(RunOptions(strict=False, new_run=False, at_most_once=False, **flags)))


app.command(cls=Command)(job_files.validate)
app.command(cls=Command)(job_files.plan)
app.command(cls=Command)(manifests.status)
app.command(cls=Command)(manifests.control)
app.command(name="list", cls=Command)(manifests.list_targets)
app.command(cls=Command)(manifests.show)
app.command(cls=Command)(manifests.runs)
app.command(cls=Command)(job_files.init)
app.command(cls=Command)(servers.discover)
app.command(cls=Command)(servers.doctor)
app.command(cls=Command)(job_files.schema)
app.command(cls=Command)(manifests.repair)
app.command(name="merge", cls=Command)(manifests.merge_manifests)
app.command(cls=Command)(clones.verify)
app.command(cls=Command)(clones.rollback)
app.command(cls=Command)(manifests.report)
app.command(cls=Command)(servers.simulate)
app.command(cls=Command)(servers.worker)
app.command(cls=Command)(servers.demo)


@app.command(name="help", cls=Command)
def show_help(command: options.OfCommand = None) -> None:
    """Show the help of a command, like COMMAND --help."""
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    if command is not None and command not in known:
        from batch.jobfile.problems import unknown

        raise UsageError(f"help: {unknown(command, known, what='command')}; zclone help lists all")
    raise typer.Exit(run_command([*filter(None, [command]), "--help"]))


def run_and_exit() -> NoReturn:
    """Run the process's command line and exit with its documented exit code."""
    forbid_core_dumps()
    occupy_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            cast("TextIOWrapper", stream).reconfigure(errors="backslashreplace")
    _leave(run_command(sys.argv[1:]))


def _leave(code: int) -> NoReturn:
    """Exit with ``code``, also while threads of Temporal are alive."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C while the interpreter shuts down would print a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if "temporalio" in sys.modules:
        # One of its threads that runs Python during interpreter shutdown aborts the process, which loses the exit code.
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with suppress(OSError, ValueError):  # a reader that went away
                stream.flush()
        os._exit(code)
    sys.exit(code)


def switches(command: Any, arguments: list[str]) -> set[str]:
    """Return the options that take no value, of the command that ``arguments`` name; ``command``: made of ``app``."""
    named = next((command.commands[word] for word in arguments if word in command.commands), None)
    options_of = [] if named is None else named.params
    flags = {name for option in options_of if getattr(option, "is_flag", False) for name in option.opts}
    return flags | {"--simulate", "--help", "-h"}


def run_command(arguments: list[str]) -> int:
    """Run one command line and return its exit code, reporting an error once."""
    set_style(is_json=os.environ.get(parser.environment_name("--log-format")) == LogFormat.JSON)
    try:
        command = typer.main.get_command(app)
        command(args=read_arguments(arguments, switches(command, arguments)), prog_name="zclone")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else ExitCode.BROKEN
    except JobFileError as error:
        from batch.jobfile.render_problems import render_text, source_line

        say(render_text(error.problems, source_line), level="error")
        return error.exit_code
    except ZcloneError as error:
        report_end(f"zclone: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception:  # noqa: BLE001 - a bug is reported with its traceback, without locals and secrets
        say(traceback.format_exc(), level="error")
        return ExitCode.BROKEN
    return ExitCode.OK
