"""The arguments and flags of all commands, each declared once.

Two flags differ in meaning from those of other commands and have no variable: ``schema --manifest`` and
``simulate --state``.
"""

from pathlib import Path
from typing import Annotated

import typer

from batch.app.options import PRESETS, Engine, Example, LogFormat, ProgressMode
from batch.cli import values
from batch.cli.declare import argument, choice, flag, format_flag, option
from batch.cli.values import DiscoverOutput, ListOutput, PlanOutput, ProblemFormat, ReportOutput
from batch.model import State

Job = Annotated[Path, argument("JOB", "The job file.", values.complete_jobs)]
Jobs = Annotated[list[Path], argument("JOB", "The job files.", values.complete_jobs)]
ManifestPath = Annotated[
    Path,
    argument(
        "JOB|MANIFEST",
        "The job file, for its newest run here; or the manifest of a run, finished or still running.",
        values.complete_runs,
    ),
]
Key = Annotated[str, argument("KEY", "The target's id, or its uuid if it has no id.", values.complete_keys)]
NewFile = Annotated[Path | None, argument("FILE", "The new job file, which must not exist. Default: job.yaml.")]
NewFileOption = Annotated[Path | None, flag("--out", metavar="FILE", text="The new job file, the same as [FILE].")]

OfExample = Annotated[
    Example | None, choice(Example, "--example", text="Write this example, with the files it refers to.")
]

Run = Annotated[str | None, flag("--run", metavar="ID", text="Name of this run; one run never clones a target twice.")]
RunOfJob = Annotated[str | None, flag("--run", metavar="ID", text="This run of the job file instead of its newest.")]
Manifest = Annotated[
    Path | None,
    flag(
        "--manifest",
        metavar="FILE",
        text="The results manifest. Default: JOB[.RUN].manifest.jsonl in the current folder.",
        autocompletion=values.complete_manifests,
    ),
]
Simulate = Annotated[
    str | None,
    flag(
        "--simulate",
        metavar="[FAULTS]",
        text="Rehearse on an embedded node: calm (default), flaky, chaos or --simulate=FILE.yaml.",
        autocompletion=values.complete_words(*PRESETS),
    ),
]
Rate = Annotated[
    str | None,
    flag(
        "--rate",
        metavar="N/s",
        text="Calls per second of every kind, polls and retries included; also N/min. Default 10/s.",
    ),
]
Concurrency = Annotated[
    int | None, flag("--concurrency", metavar="N", min=1, text="Clones in flight on the server. Default 8.")
]
Deadline = Annotated[
    str | None,
    flag("--deadline", metavar="TIME", text="Time for the whole run, such as 90s, 45m or 2h; then stop and exit 4."),
]
AcceptChanges = Annotated[
    bool, flag("--accept-changes", text="Continue even if targets with an unresolved attempt were edited.")
]
NewRun = Annotated[
    bool,
    flag("--new-run", text="Start the run that `run:` with ${date} names now, even if an earlier one is unfinished."),
]
Strict = Annotated[bool, flag("--strict", text="Exit with 2 if cloned targets were edited in the job file.")]
AtMostOnce = Annotated[
    bool,
    flag(
        "--at-most-once",
        text="Never resend after a lost answer, for servers that ignore resourceUuid; permanent for the manifest.",
    ),
]
Tag = Annotated[
    bool, flag("--tag", text="Give each clone a user tag of job, run and key; fixed at the run's first start.")
]
AdoptManifest = Annotated[
    bool, flag("--adopt-manifest", text="Continue with a manifest that another user started; recorded in it.")
]
ShowProgress = Annotated[ProgressMode, choice(ProgressMode, "--progress", text="Live view, plain log lines, or none.")]
LogStyle = Annotated[
    LogFormat, choice(LogFormat, "--log-format", text="Log format; auto picks console on a terminal, else JSON.")
]
Quiet = Annotated[bool, flag("--quiet", "-q", text="Print only warnings and errors; a successful run prints nothing.")]
LogFile = Annotated[
    Path | None,
    flag(
        "--log-file",
        metavar="FILE",
        text="Append the full log to FILE instead of stderr; FILE may contain ${run}, ${date}, ${name}.",
    ),
]
Insecure = Annotated[bool, flag("--insecure", text="Do not verify the server's certificate; this is recorded.")]
CaFile = Annotated[
    Path | None, flag("--ca-file", metavar="FILE", text="PEM file of the CA that signed the server's certificate.")
]
TrustEndpoint = Annotated[
    str | None,
    flag(
        "--trust-endpoint", metavar="URL", text="Allow sending your credentials to this endpoint.url of the job file."
    ),
]
Context = Annotated[
    str | None,
    flag(
        "--context",
        metavar="NAME",
        text="The context of ~/.zstack-cli/config.yaml to use.",
        autocompletion=values.complete_contexts,
    ),
]

Only = Annotated[
    list[str] | None,
    flag(
        "--only",
        metavar="EXPR",
        text="Only targets that match every term: key=, source=, name=, tag=, sample:1%; * matches anything.",
    ),
]
OnlyAgain = Annotated[
    list[str] | None,
    flag(
        "--only",
        metavar="EXPR",
        text="Such as 'state=failed code=SYS.10*'; also key=, source=, name=, tag=, sample:1%.",
    ),
]
OnlyRecorded = Annotated[
    list[str] | None,
    flag(
        "--only",
        metavar="EXPR",
        text="Such as 'state=failed code=SYS.10* key!=test-*', sample:1%; every term must match.",
    ),
]
Shard = Annotated[
    str | None, flag("--shard", metavar="K/N", text="Process part K of N, from 0; each part has its own manifest.")
]
Report = Annotated[
    Path | None,
    flag(
        "--report",
        metavar="FILE",
        text="Write a report at the end: .html, .md, .csv, .xml or .json; FILE may contain ${run}, ${date}, ${name}.",
    ),
]
MetricsFile = Annotated[
    Path | None,
    flag("--metrics-file", metavar="FILE", text="Write metrics for node_exporter, every 15 s and at the end."),
]
PingUrl = Annotated[
    str | None,
    flag("--ping-url", metavar="URL", text="POST to URL/start, then to URL/EXITCODE; errors here never fail the run."),
]
EngineOfRun = Annotated[
    Engine | None,
    choice(Engine, "--engine", text="Execute in this process (default) or by workers on Temporal; fixed for the run."),
]
OnOverlap = Annotated[
    str,
    flag(
        "--on-overlap",
        metavar="fail|skip|wait:TIME",
        autocompletion=values.complete_words("fail", "skip", "wait:"),
        text="If another process is running it: exit 75 (fail), exit 0 (skip), or wait up to TIME, then 75.",
    ),
]
Cancel = Annotated[bool, flag("--cancel", text="End a run on Temporal: clones in flight settle, then exit code 4.")]
WorkerRate = Annotated[str, flag("--rate", metavar="N/s", text="Calls per second of all the endpoint's workers.")]
WorkerShare = Annotated[str, flag("--share", metavar="K/N", text="This worker's share of the rate, such as 1/3.")]
Watch = Annotated[
    bool, flag("--watch", "-w", text="Refresh until the process ends or is killed, then exit as the run did.")
]
RetryStates = Annotated[
    list[State] | None,
    choice(
        State,
        "--state",
        metavar="STATE",
        text="failed (default), conflict, or uncertain for targets that were set aside.",
    ),
]

Problems = Annotated[
    ProblemFormat, choice(ProblemFormat, "--format", text="text, or github for annotations in a pull request.")
]
Details = Annotated[bool, flag("--details", text="Each target with each of its parameters, instead of the summary.")]
PlanAs = Annotated[PlanOutput, format_flag(PlanOutput, text="A table, one JSON document, or runnable curl commands.")]
ListAs = Annotated[
    ListOutput,
    format_flag(ListOutput, text="A table, one JSON document, JSON Lines, or CSV.", file="use -o FORMAT > {}"),
]
States = Annotated[
    list[State] | None, choice(State, "--state", metavar="STATE", text="Only targets in this state; may be repeated.")
]
Codes = Annotated[
    list[str] | None,
    flag(
        "--code",
        metavar="CODE",
        text="Only targets with this error code, such as SYS.1006; may be repeated.",
        autocompletion=values.complete_codes,
    ),
]
RepairedFile = Annotated[
    Path | None,
    flag("--out", metavar="FILE", text="The new manifest. Default: MANIFEST.repaired.manifest.jsonl beside it."),
]
ShardManifests = Annotated[
    list[Path], argument("MANIFEST", "The manifests of all shards of one run.", values.complete_manifests)
]
MergedFile = Annotated[Path, flag("--out", metavar="FILE", text="The new manifest; an existing file is kept.")]
NoFormat = Annotated[str | None, typer.Option("--output", "-o", hidden=True, callback=values.refuse)]

ReportAs = Annotated[
    ReportOutput | None,
    format_flag(ReportOutput, text="The format; xml is JUnit. Default: by --out. Without --out, print to stdout."),
]
ReportFile = Annotated[
    Path | None, flag("--out", metavar="FILE", text="Write the report here: .html, .md, .csv, .xml (JUnit) or .json.")
]
VerifiedFile = Annotated[
    Path | None,
    flag("--verified", metavar="FILE", text="Include the output of `verify -o json` from FILE (html, md, json)."),
]
DemoFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the job, manifest and report.")]
Conditions = Annotated[list[str] | None, argument("CONDITION", "Such as type=Endpoint or 'name~=qwen%'.")]
DiscoverAs = Annotated[
    DiscoverOutput | None,
    format_flag(
        DiscoverOutput, text="YAML with the names as comments, or JSON. Default: the ending of --out, else yaml."
    ),
]
NewJobFile = Annotated[Path | None, flag("--out", metavar="FILE", text="Write a new job file instead of to stdout.")]
OptionalJob = Annotated[Path | None, argument("JOB", "The same as --job.", values.complete_jobs)]
CheckedJob = Annotated[
    Path | None,
    option("--job", metavar="FILE", text="Check this job file's endpoint and all it refers to.", show_default=False),
]
RunJob = Annotated[Path | None, argument("JOB", "The job file; not with --plan, which names it.", values.complete_jobs)]
SavedPlan = Annotated[
    Path | None,
    option("--plan", metavar="FILE", text="Run exactly the plan that `zclone plan --out FILE` saved, or refuse."),
]
PlanFile = Annotated[
    Path | None, flag("--out", metavar="FILE", text="Also save the plan, for `zclone run --plan FILE`.")
]
ServerCheck = Annotated[
    bool,
    flag(
        "--server-check",
        text="Send each clone with ephemeral::validationOnly: the server validates it without making it.",
    ),
]
ProofFile = Annotated[
    Path | None, flag("--proof", metavar="FILE", text="Write the result as a proof that --check can check offline.")
]
VerifyAs = Annotated[values.VerifyOutput, format_flag(values.VerifyOutput, text="Format of the result.")]
