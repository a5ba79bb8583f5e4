"""The arguments and flags of every command, each declared once; the flags are also read as ZCLONE_<FLAG>.

Two flags mean something else in another command and have no variable: ``schema --manifest``, ``simulate --state``.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from batch.cli import completion
from batch.model import State


class Progress(StrEnum):
    """How a run shows that it goes on."""

    AUTO = "auto"
    LIVE = "live"
    PLAIN = "plain"
    NONE = "none"


class LogFormat(StrEnum):
    """How log lines look; auto is console on a terminal and json elsewhere."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class ProblemFormat(StrEnum):
    """How problems of a job file look."""

    TEXT = "text"
    GITHUB = "github"


class PlanOutput(StrEnum):
    """What a plan is shown as."""

    TABLE = "table"
    JSON = "json"
    CURL = "curl"


class ListOutput(StrEnum):
    """What a list of targets is shown as."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


def environment_name(flag: str) -> str:
    """Name the variable that sets ``flag``: --log-file is ZCLONE_LOG_FILE."""
    return "ZCLONE_" + flag.removeprefix("--").replace("-", "_").upper()


def _flag(name: str, *short: str, text: str, **settings: Any) -> Any:
    return typer.Option(name, *short, envvar=environment_name(name), help=text, show_envvar=False, **settings)


Job = Annotated[Path, typer.Argument(metavar="JOB", help="The job file.", show_default=False)]
Jobs = Annotated[list[Path], typer.Argument(metavar="JOB...", help="The job files.", show_default=False)]
ManifestPath = Annotated[
    Path, typer.Argument(metavar="MANIFEST", help="The manifest of a run, also of a running one.", show_default=False)
]
Key = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="The target's id, or its uuid where it has none.",
        show_default=False,
        autocompletion=completion.keys,
    ),
]
NewFile = Annotated[Path, typer.Argument(metavar="[FILE]", help="Where to write; an existing file is kept.")]

Run = Annotated[
    str | None, _flag("--run", metavar="ID", text="Identity of this run; the same one never clones a target twice.")
]
Manifest = Annotated[
    Path | None,
    _flag("--manifest", metavar="FILE", text="The results manifest. Default: JOB[.RUN].manifest.jsonl here."),
]
Simulate = Annotated[
    str | None,
    _flag(
        "--simulate",
        metavar="[FAULTS]",
        text="Rehearse on an embedded node: calm (default), flaky, chaos or --simulate=FILE.yaml.",
    ),
]
Rate = Annotated[
    str | None, _flag("--rate", metavar="N/s", text="Calls per second, all kinds together; also N/min. Default 10/s.")
]
Concurrency = Annotated[
    int | None, _flag("--concurrency", metavar="N", min=1, text="Clones in flight on the server. Default 8.")
]
Deadline = Annotated[
    str | None, _flag("--deadline", metavar="TIME", text="Stop in time, exit 4: 90s, 45m, 2h for the whole run.")
]
AcceptChanges = Annotated[
    bool, _flag("--accept-changes", text="Go on although targets already sent were changed in the job file.")
]
AtMostOnce = Annotated[
    bool, _flag("--at-most-once", text="Never send again after a lost answer: for servers that ignore resourceUuid.")
]
ShowProgress = Annotated[Progress, _flag("--progress", text="Live view, plain log lines, or none.")]
LogStyle = Annotated[LogFormat, _flag("--log-format", text="Of the log lines; auto asks the terminal.")]
LogFile = Annotated[
    Path | None, _flag("--log-file", metavar="FILE", text="Append the log here instead of to stderr, in full detail.")
]
Insecure = Annotated[bool, _flag("--insecure", text="Do not check the server's certificate. Loud and recorded.")]
Context = Annotated[
    str | None, _flag("--context", metavar="NAME", text="Which context of ~/.zstack-cli/config.yaml to use.")
]

Only = Annotated[
    list[str] | None,
    _flag(
        "--only",
        metavar="EXPR",
        text="Only targets of which all this holds: key=, source=, name=, tag=, or sample:1%; * stands for anything.",
    ),
]
OnlyAgain = Annotated[
    list[str] | None,
    _flag(
        "--only", metavar="EXPR", text="'state=failed code=SYS.10*', key=, source=, name=, tag=, sample:1%; all hold."
    ),
]
OnlyRecorded = Annotated[
    list[str] | None,
    _flag("--only", metavar="EXPR", text="'state=failed code=SYS.10* key!=test-*', sample:1%; all of it must hold."),
]
Shard = Annotated[
    str | None,
    _flag("--shard", metavar="K/N", text="The Kth of N equal parts, K from 0; each part has its own manifest."),
]
Report = Annotated[
    Path | None, _flag("--report", metavar="FILE", text="Write a report at the end: .html, .md, .csv, .xml or .json.")
]
MetricsFile = Annotated[
    Path | None,
    _flag("--metrics-file", metavar="FILE", text="Keep metrics here for node_exporter, every 15 s and at the end."),
]
PingUrl = Annotated[
    str | None,
    _flag("--ping-url", metavar="URL", text="POST to URL/start and then URL/EXITCODE; failing to never fails the run."),
]
Watch = Annotated[
    bool, _flag("--watch", "-w", text="Show it until the process has ended or was killed; exit as the run did.")
]
RetryStates = Annotated[
    list[State] | None,
    _flag("--state", metavar="STATE", text="failed (default), conflict, or uncertain: what was set aside."),
]
OfReport = Annotated[
    bool, typer.Option("--report", help="The schema of JSON reports instead of job files.", show_envvar=False)
]

Problems = Annotated[ProblemFormat, _flag("--format", text="text, or github for annotations in a pull request.")]
PlanAs = Annotated[PlanOutput, _flag("--output", "-o", text="A table, one JSON document, or runnable curl commands.")]
ListAs = Annotated[ListOutput, _flag("--output", "-o", text="A table, one JSON document, JSON lines, or CSV.")]
States = Annotated[
    list[State] | None, _flag("--state", metavar="STATE", text="Only targets in this state; may be repeated.")
]
Codes = Annotated[
    list[str] | None,
    _flag(
        "--code",
        metavar="CODE",
        text="Only targets with this error code, such as SYS.1006; may be repeated.",
        autocompletion=completion.codes,
    ),
]
RepairedFile = Annotated[
    Path | None,
    _flag("--output", "-o", metavar="FILE", text="The new file. Default: MANIFEST.repaired.manifest.jsonl beside it."),
]
OfManifest = Annotated[
    bool, typer.Option("--manifest", help="The schema of manifest records instead of job files.", show_envvar=False)
]

ReportFile = Annotated[
    Path,
    _flag(
        "--output",
        "-o",
        metavar="FILE",
        text="The ending decides: .html, .md, .csv (for spreadsheets), .xml (JUnit), .json.",
    ),
]
DemoFolder = Annotated[Path, typer.Argument(metavar="[FOLDER]", help="A new folder for the job, manifest and report.")]
Conditions = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONDITION...]", help="Such as type=Endpoint or 'name~=qwen%'.", show_default=False),
]
NewJobFile = Annotated[
    Path | None, _flag("--output", "-o", metavar="FILE", text="A new job file; default: standard output.")
]
OptionalJob = Annotated[
    Path | None, typer.Argument(metavar="[JOB]", help="Also use this job file's endpoint.", show_default=False)
]
RunJob = Annotated[
    Path | None, typer.Argument(metavar="JOB", help="The job file; with --plan the plan names it.", show_default=False)
]
SavedPlan = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE", help="Do exactly what `zclone plan --out FILE` saved, or refuse."),
]
PlanFile = Annotated[
    Path | None, _flag("--out", metavar="FILE", text="Also save the plan, for `zclone run --plan FILE`.")
]
OfLog = Annotated[bool, typer.Option("--log", help="The schema of log lines instead of job files.", show_envvar=False)]
ServerCheck = Annotated[
    bool,
    _flag(
        "--server-check",
        text="Send each clone with ephemeral::validationOnly: the server checks it and makes nothing. One goes first.",
    ),
]
OfPlan = Annotated[
    bool, typer.Option("--plan", help="The schema of `zclone plan -o json` instead of job files.", show_envvar=False)
]

Port = Annotated[int, _flag("--port", metavar="N", min=0, max=65535, text="0 takes a free one.")]
Host = Annotated[str, _flag("--host", metavar="ADDRESS", text="Where to listen.")]
Faults = Annotated[str, _flag("--faults", metavar="FAULTS", text="calm, flaky, chaos or a YAML file.")]
NodeState = Annotated[
    Path | None, typer.Option("--state", metavar="FILE", help="Keep the node's clones here between starts.")
]
Seed = Annotated[int, _flag("--seed", metavar="N", text="Of the node's faults.")]
Lifeline = Annotated[bool, typer.Option("--until-stdin-closes", hidden=True)]
