"""The arguments and flags of all commands, each declared once.

Two flags differ in meaning from those of other commands and have no variable: ``schema --manifest`` and
``simulate --state``.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from batch.app.options import (
    PRESETS,
    DiscoverOutput,
    Engine,
    Example,
    ListOutput,
    LogFormat,
    PlanOutput,
    ProblemFormat,
    ProgressMode,
    ReportOutput,
    VerifyOutput,
    complete_codes,
    complete_contexts,
    complete_jobs,
    complete_keys,
    complete_manifests,
    complete_runs,
)
from batch.cli.parser import argument, choice_flag, complete_words, flag, format_flag, option, refuse_format
from batch.model import State

Job = Annotated[Path, argument("JOB", "The job file.", complete_jobs)]
Jobs = Annotated[list[Path], argument("JOB", "The job files.", complete_jobs)]
ManifestPath = Annotated[
    Path,
    argument(
        "JOB|MANIFEST",
        "The job file, for its newest run here; or the manifest of a run, finished or still running.",
        complete_runs,
    ),
]
Key = Annotated[str, argument("KEY", "The target's id, or its uuid if it has no id.", complete_keys)]
NewFile = Annotated[Path | None, argument("FILE", "The new job file, which must not exist. Default: job.yaml.")]
NewFileOption = Annotated[Path | None, flag("--out", "The new job file, the same as [FILE].", "FILE")]
OfExample = Annotated[
    Example | None, choice_flag(Example, "--example", "Write this example, with the files it refers to.")
]
Run = Annotated[str | None, flag("--run", "Name of this run; one run never clones a target twice.", "ID")]
RunOfJob = Annotated[str | None, flag("--run", "This run of the job file instead of its newest.", "ID")]
Manifest = Annotated[
    Path | None,
    flag(
        "--manifest",
        "The results manifest. Default: JOB[.RUN].manifest.jsonl in the current folder.",
        "FILE",
        complete=complete_manifests,
    ),
]
Simulate = Annotated[
    str | None,
    flag(
        "--simulate",
        "Rehearse on an embedded node: calm (default), flaky, chaos or --simulate=FILE.yaml.",
        "[FAULTS]",
        complete=complete_words(*PRESETS),
    ),
]
Rate = Annotated[
    str | None,
    flag("--rate", "Calls per second of every kind, polls and retries included; also N/min. Default 10/s.", "N/s"),
]
Concurrency = Annotated[int | None, flag("--concurrency", "Clones in flight on the server. Default 8.", "N", min=1)]
Deadline = Annotated[
    str | None, flag("--deadline", "Time for the whole run, such as 90s, 45m or 2h; then stop and exit 4.", "TIME")
]
AcceptChanges = Annotated[
    bool, flag("--accept-changes", "Continue even if targets with an unresolved attempt were edited.")
]
NewRun = Annotated[
    bool, flag("--new-run", "Start the run that `run:` with ${date} names now, even if an earlier one is unfinished.")
]
Strict = Annotated[bool, flag("--strict", "Exit with 2 if cloned targets were edited in the job file.")]
AtMostOnce = Annotated[
    bool,
    flag(
        "--at-most-once",
        "Never resend after a lost answer, for servers that ignore resourceUuid; permanent for the manifest.",
    ),
]
Tag = Annotated[bool, flag("--tag", "Give each clone a user tag of job, run and key; fixed at the run's first start.")]
AdoptManifest = Annotated[
    bool, flag("--adopt-manifest", "Continue with a manifest that another user started; recorded in it.")
]
ShowProgress = Annotated[ProgressMode, choice_flag(ProgressMode, "--progress", "Live view, plain log lines, or none.")]
LogStyle = Annotated[
    LogFormat, choice_flag(LogFormat, "--log-format", "Log format; auto picks console on a terminal, else JSON.")
]
Quiet = Annotated[bool, flag("--quiet", "Print only warnings and errors; a successful run prints nothing.", short="-q")]
LogFile = Annotated[
    Path | None,
    flag(
        "--log-file",
        "Append the full log to FILE instead of stderr; FILE may contain ${run}, ${date}, ${name}.",
        "FILE",
    ),
]
Insecure = Annotated[bool, flag("--insecure", "Do not verify the server's certificate; this is recorded.")]
CaFile = Annotated[Path | None, flag("--ca-file", "PEM file of the CA that signed the server's certificate.", "FILE")]
TrustEndpoint = Annotated[
    str | None, flag("--trust-endpoint", "Allow sending your credentials to this endpoint.url of the job file.", "URL")
]
Context = Annotated[
    str | None,
    flag(
        "--context",
        "The context of ~/.zstack-cli/config.yaml to use.",
        "NAME",
        complete=lambda incomplete: complete_contexts(incomplete, os.environ),
    ),
]
Only = Annotated[
    list[str] | None,
    flag(
        "--only",
        "Only targets that match every term: key=, source=, name=, tag=, sample:1%; * matches anything.",
        "EXPR",
    ),
]
OnlyAgain = Annotated[
    list[str] | None,
    flag("--only", "Such as 'state=failed code=SYS.10*'; also key=, source=, name=, tag=, sample:1%.", "EXPR"),
]
OnlyRecorded = Annotated[
    list[str] | None,
    flag("--only", "Such as 'state=failed code=SYS.10* key!=test-*', sample:1%; every term must match.", "EXPR"),
]
Shard = Annotated[str | None, flag("--shard", "Process part K of N, from 0; each part has its own manifest.", "K/N")]
Report = Annotated[
    Path | None,
    flag(
        "--report",
        "Write a report at the end: .html, .md, .csv, .xml or .json; FILE may contain ${run}, ${date}, ${name}.",
        "FILE",
    ),
]
MetricsFile = Annotated[
    Path | None, flag("--metrics-file", "Write metrics for node_exporter, every 15 s and at the end.", "FILE")
]
PingUrl = Annotated[
    str | None, flag("--ping-url", "POST to URL/start, then to URL/EXITCODE; errors here never fail the run.", "URL")
]
EngineOfRun = Annotated[
    Engine | None,
    choice_flag(Engine, "--engine", "Execute in this process (default) or by workers on Temporal; fixed for the run."),
]
OnOverlap = Annotated[
    str,
    flag(
        "--on-overlap",
        "If another process is running it: exit 75 (fail), exit 0 (skip), or wait up to TIME, then 75.",
        "fail|skip|wait:TIME",
        complete=complete_words("fail", "skip", "wait:"),
    ),
]
Cancel = Annotated[bool, flag("--cancel", "End a run on Temporal: clones in flight settle, then exit code 4.")]
WorkerRate = Annotated[str, flag("--rate", "Calls per second of all the endpoint's workers.", "N/s")]
WorkerShare = Annotated[str, flag("--share", "This worker's share of the rate, such as 1/3.", "K/N")]
Watch = Annotated[
    bool, flag("--watch", "Refresh until the process ends or is killed, then exit as the run did.", short="-w")
]
RetryStates = Annotated[
    list[State] | None,
    choice_flag(State, "--state", "failed (default), conflict, or uncertain for targets that were set aside.", "STATE"),
]
Problems = Annotated[
    ProblemFormat, choice_flag(ProblemFormat, "--format", "text, or github for annotations in a pull request.")
]
Details = Annotated[bool, flag("--details", "Each target with each of its parameters, instead of the summary.")]
PlanAs = Annotated[PlanOutput, format_flag(PlanOutput, "A table, one JSON document, or runnable curl commands.")]
ListAs = Annotated[
    ListOutput, format_flag(ListOutput, "A table, one JSON document, JSON Lines, or CSV.", file="use -o FORMAT > {}")
]
States = Annotated[
    list[State] | None, choice_flag(State, "--state", "Only targets in this state; may be repeated.", "STATE")
]
Codes = Annotated[
    list[str] | None,
    flag(
        "--code",
        "Only targets with this error code, such as SYS.1006; may be repeated.",
        "CODE",
        complete=complete_codes,
    ),
]
RepairedFile = Annotated[
    Path | None, flag("--out", "The new manifest. Default: MANIFEST.repaired.manifest.jsonl beside it.", "FILE")
]
ShardManifests = Annotated[
    list[Path], argument("MANIFEST", "The manifests of all shards of one run.", complete_manifests)
]
MergedFile = Annotated[Path, flag("--out", "The new manifest; an existing file is kept.", "FILE")]
NoFormat = Annotated[str | None, typer.Option("--output", "-o", hidden=True, callback=refuse_format)]
ReportAs = Annotated[
    ReportOutput | None,
    format_flag(ReportOutput, "The format; xml is JUnit. Default: by --out. Without --out, print to stdout."),
]
ReportFile = Annotated[
    Path | None, flag("--out", "Write the report here: .html, .md, .csv, .xml (JUnit) or .json.", "FILE")
]
VerifiedFile = Annotated[
    Path | None, flag("--verified", "Include the output of `verify -o json` from FILE (html, md, json).", "FILE")
]
DemoFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the job, manifest and report.")]
Conditions = Annotated[list[str] | None, argument("CONDITION", "Such as type=Endpoint or 'name~=qwen%'.")]
DiscoverAs = Annotated[
    DiscoverOutput | None,
    format_flag(DiscoverOutput, "YAML with the names as comments, or JSON. Default: the ending of --out, else yaml."),
]
NewJobFile = Annotated[Path | None, flag("--out", "Write a new job file instead of to stdout.", "FILE")]
OptionalJob = Annotated[Path | None, argument("JOB", "The same as --job.", complete_jobs)]
CheckedJob = Annotated[
    Path | None, option("--job", "Check this job file's endpoint and all it refers to.", "FILE", show_default=False)
]
RunJob = Annotated[Path | None, argument("JOB", "The job file; not with --plan, which names it.", complete_jobs)]
SavedPlan = Annotated[
    Path | None, option("--plan", "Run exactly the plan that `zclone plan --out FILE` saved, or refuse.", "FILE")
]
PlanFile = Annotated[Path | None, flag("--out", "Also save the plan, for `zclone run --plan FILE`.", "FILE")]
ServerCheck = Annotated[
    bool,
    flag(
        "--server-check", "Send each clone with ephemeral::validationOnly: the server validates it without making it."
    ),
]
ProofFile = Annotated[
    Path | None, flag("--proof", "Write the result as a proof that --check can check offline.", "FILE")
]
VerifyAs = Annotated[VerifyOutput, format_flag(VerifyOutput, "Format of the result.", file="use -o json > {}")]
WebHookListen = Annotated[
    str | None,
    flag(
        "--webhook-listen",
        "Listen for job results here, so that a clone takes one call; the server must reach it.",
        "HOST:PORT",
    ),
]
WebHookUrl = Annotated[
    str | None, flag("--webhook-url", "URL by which the server reaches --webhook-listen, such as a TLS proxy.", "URL")
]
JobOrManifest = Annotated[
    Path, argument("JOB|MANIFEST", "The job file; or a manifest, to compare only existence and names.")
]
CheckedProof = Annotated[Path | None, option("--check", "Check the proof FILE against MANIFEST, offline.", "FILE")]
Reopen = Annotated[bool, option("--reopen", "Record missing clones as undone, so that the next run makes them again.")]
Fix = Annotated[bool, option("--fix", "Set drifted fields to the values of JOB, where the API can.")]
Yes = Annotated[bool, option("--yes", "Do not ask before anything is recorded or set.")]
JobOfRun = Annotated[Path, argument("JOB", "The job file of the run.")]
YesDelete = Annotated[bool, option("--yes", "Do not ask before anything is deleted.")]
OfManifest = Annotated[bool, option("--manifest", "The schema of manifest records instead of job files.")]
OfReport = Annotated[bool, option("--report", "The schema of JSON reports instead of job files.")]
OfPlan = Annotated[bool, option("--plan", "The schema of `zclone plan -o json` instead of job files.")]
OfVerify = Annotated[bool, option("--verify", "The schema of `verify -o json` instead of job files.")]
OfLog = Annotated[bool, option("--log", "The schema of log lines instead of job files.")]
SchemaFile = Annotated[Path | None, flag("--out", "Write the schema to FILE instead of stdout, replacing it.", "FILE")]
Prune = Annotated[bool, flag("--prune", "Remove the manifests of settled runs, but for the newest: --keep N.")]
Keep = Annotated[int | None, flag("--keep", "With --prune: how many settled runs to keep.", "N", min=0)]
Columns = Annotated[
    str | None,
    flag(
        "--columns",
        "Only these columns, in this order; also owner, share_with, params.NAME, those of rows and matrix.",
        "NAME,...",
    ),
]
Changes = Annotated[
    list[str] | None, typer.Argument(metavar="CHANGE", help="rate=40/s, concurrency=32, pause, resume, drain, reload.")
]
Limit = Annotated[int | None, flag("--limit", "Only the first N targets.", "N", min=1)]
Port = Annotated[int, flag("--port", "The port; 0 picks a free one.", "N", min=0, max=65535)]
Host = Annotated[str, flag("--host", "The address to listen on.", "ADDRESS")]
Faults = Annotated[
    str, flag("--faults", "calm, flaky, chaos or a YAML file.", "FAULTS", complete=complete_words(*PRESETS))
]
NodeState = Annotated[Path | None, option("--state", "Keep the node's clones in FILE between starts.", "FILE")]
Seed = Annotated[int, flag("--seed", "Seed of the random faults.", "N")]
Sources = Annotated[int, flag("--sources", "Serve N model services: qwen-1, qwen-2 and so on.", "N", min=0)]
WebHooksAnywhere = Annotated[
    bool, option("--web-hooks-anywhere", "Call web hooks on other machines too, not only on loopback.")
]
CheckedEngine = Annotated[
    Engine, choice_flag(Engine, "--engine", "temporal: check Temporal and the endpoint's workers too.")
]
OfCommand = Annotated[str | None, argument("COMMAND", "Such as run; without it the list of all.")]
