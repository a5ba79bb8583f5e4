"""Commands for servers: discover and doctor query one; simulate, demo and worker run."""

import os
from pathlib import Path

import typer

from batch.app.messages import say, set_style
from batch.app.options import Engine, LogFormat
from batch.cli import options, parser
from batch.cli.terminal import Link, emit, emit_data
from batch.errors import ExitCode, UsageError
from batch.text import shell_path


def discover(
    conditions: options.Conditions = None,
    *,
    output: options.DiscoverAs = None,
    out: options.NewJobFile = None,
    insecure: options.Insecure = False,
    ca_file: options.CaFile = None,
    context: options.Context = None,
) -> None:
    """Write a job file of all model services that match every CONDITION, such as type=Endpoint 'name~=qwen%'.

    It lists the current services; a job with `query` repeats the query at the start of each run.
    """
    flags = dict(locals())
    from batch.app.job_files import discover_job

    found = discover_job(conditions or (), parser.endpoint_options(flags), form=output, out=out)
    if out is None:
        emit_data(found.lines)
    say(f"{found.count} model services found")


def doctor(
    job: options.OptionalJob = None,
    *,
    checked_job: options.CheckedJob = None,
    insecure: options.Insecure = False,
    ca_file: options.CaFile = None,
    trust_endpoint: options.TrustEndpoint = None,
    context: options.Context = None,
    engine: options.CheckedEngine = Engine.LOCAL,
) -> None:
    """Check settings, reachability, credentials, server version, clock and the permission to clone.

    Nothing is changed on the server; a session that doctor opens is closed again. With --job the file's endpoint is
    used if needed, and its sources, images, tags, GPU specs, accounts and model centres are checked. With --engine
    temporal the namespace is checked too, and the workers of the endpoint with their shares and keys.
    """
    flags = dict(locals())
    if job is not None and checked_job not in {None, job}:
        raise UsageError("doctor: give the job file once")
    import asyncio

    from batch.app.doctor import examine

    async def show() -> ExitCode:
        code = ExitCode.OK
        async for finding in examine(checked_job or job, parser.endpoint_options(flags), engine):
            emit([str(finding)])
            code = finding.exit_code or code
        return code

    raise typer.Exit(asyncio.run(show()))


def worker(  # noqa: PLR0913 - one argument for each flag
    *,
    rate: options.WorkerRate,
    share: options.WorkerShare = "1/1",
    metrics_file: options.MetricsFile = None,
    log_format: options.LogStyle = LogFormat.AUTO,
    log_file: options.LogFile = None,
    insecure: options.Insecure = False,
    ca_file: options.CaFile = None,
    context: options.Context = None,
) -> None:
    """Make the calls of runs with --engine temporal until stopped; any number of workers, on any machines.

    All workers of an endpoint get the same --rate, and each its own --share of it. Temporal's TEMPORAL_* variables,
    such as TEMPORAL_ADDRESS, give the connection. Prefer an access key as login: it has no session that ends.
    """
    endpoint = parser.endpoint_options(dict(locals()))
    set_style(is_json=log_format is LogFormat.JSON)
    from batch.app import logs
    from batch.app.temporal import run_worker

    with logs.log_to(log_file, style=log_format):
        code = run_worker(endpoint, rate=rate, share=share, metrics_file=metrics_file)
    raise typer.Exit(code)


def simulate(
    *,
    port: options.Port = 8080,
    host: options.Host = "127.0.0.1",
    faults: options.Faults = "calm",
    state: options.NodeState = None,
    seed: options.Seed = 1,
    sources: options.Sources = 0,
    web_hooks_anywhere: options.WebHooksAnywhere = False,
) -> None:
    """Serve an embedded ZStack node until it is stopped; its first line of output is {"url": ..., "token": ...}.

    GET /__ledger with that token as X-Node-Token lists the clones made and the calls received. Unknown sources are made
    up. POST /__tamper changes services behind the API: {"change": {UUID: {FIELD: VALUE}}, "delete": [UUID], "make":
    [{"uuid", "name", "userTags"}], "tags": {UUID: [TAG]}, "owners": {UUID: ACCOUNT}}. Beyond loopback (--host) session
    and password are random, and the first line has them too.

    FAULTS as a file: version: 1, preset: calm, and faults: [{fault: lost_reply, on: submit, probability: 0.02}, {fault:
    fail, code: SYS.1006, source: UUID, times: 1}]; an unknown word is an error that lists the known ones.
    """
    from batch.app.embedded_node import serve_node

    serve_node(host, port, faults, state=state, seed=seed, sources=sources, hooks_anywhere=web_hooks_anywhere)


def demo(folder: options.DemoFolder = Path("zclone-demo")) -> None:
    """Run a one-minute demo: 300 clones, faults, a SIGKILL halfway, the same command again, and the proof.

    It needs no settings and no server: it uses an embedded node, whose ledger lists the clones made.
    """
    from batch.app.demo import new_folder, run_demo

    found = run_demo(new_folder(folder), os.environ)
    emit(found.lines)
    emit(
        [
            Link("The report: ", found.report.resolve()),
            f"Next: zclone init my.yaml; details: zclone status {shell_path(found.manifest)}",
        ]
    )
    raise typer.Exit(ExitCode.OK if found.is_proven else ExitCode.BROKEN)
