"""Commands for servers: discover and doctor query one; simulate, demo and worker run."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from batch import outputs
from batch.app.messages import say, set_style
from batch.app.options import PRESETS, Engine, LogFormat
from batch.cli import declare, options, values
from batch.cli.terminal import Link, emit, emit_data
from batch.errors import ExitCode, UsageError
from batch.outputs import NamedFile, require_distinct
from batch.text import shell_path

FAULTS = values.complete_words(*PRESETS)
Port = Annotated[int, declare.flag("--port", metavar="N", min=0, max=65535, text="The port; 0 picks a free one.")]
Host = Annotated[str, declare.flag("--host", metavar="ADDRESS", text="The address to listen on.")]
Faults = Annotated[
    str, declare.flag("--faults", metavar="FAULTS", text="calm, flaky, chaos or a YAML file.", autocompletion=FAULTS)
]
NodeState = Annotated[
    Path | None, declare.option("--state", metavar="FILE", text="Keep the node's clones in FILE between starts.")
]
Seed = Annotated[int, declare.flag("--seed", metavar="N", text="Seed of the random faults.")]
Sources = Annotated[
    int, declare.flag("--sources", metavar="N", min=0, text="Serve N model services: qwen-1, qwen-2 and so on.")
]
WebHooksAnywhere = Annotated[
    bool, declare.option("--web-hooks-anywhere", text="Call web hooks on other machines too, not only on loopback.")
]
CheckedEngine = Annotated[
    Engine, declare.choice(Engine, "--engine", text="temporal: check Temporal and the endpoint's workers too.")
]


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
    import asyncio

    from batch.app.new_job_files import find_services, json_job, write_schema, yaml_job

    form = _format(output, out)
    asked = list(conditions or ())
    services = asyncio.run(find_services(asked, declare.endpoint_options(flags)))
    lines = (
        json_job(services)
        if form is values.DiscoverOutput.JSON
        else yaml_job(services, asked, has_schema=out is not None)
    )
    if out is None:
        emit_data(lines)
    else:
        outputs.write_new(out, "\n".join(lines) + "\n", mode=outputs.PRIVATE)
        for path in write_schema(out.parent) if form is values.DiscoverOutput.YAML else ():
            say(f"wrote {path}")
    say(f"{len(services)} model services found")


def _format(output: values.DiscoverOutput | None, out: Path | None) -> values.DiscoverOutput:
    """Return the format, by default from the ending of ``out``. Raises UsageError if the two disagree."""
    is_json = out is not None and out.suffix.lower() == ".json"
    if is_json and output is values.DiscoverOutput.YAML:
        raise UsageError(f"{out}: a job file that ends in .json is read as JSON: use -o json or another ending")
    return output or (values.DiscoverOutput.JSON if is_json else values.DiscoverOutput.YAML)


def doctor(
    job: options.OptionalJob = None,
    *,
    checked_job: options.CheckedJob = None,
    insecure: options.Insecure = False,
    ca_file: options.CaFile = None,
    trust_endpoint: options.TrustEndpoint = None,
    context: options.Context = None,
    engine: CheckedEngine = Engine.LOCAL,
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
        async for finding in examine(checked_job or job, declare.endpoint_options(flags), engine):
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
    endpoint = declare.endpoint_options(dict(locals()))
    set_style(is_json=log_format is LogFormat.JSON)
    from batch.app import logs
    from batch.app.worker import run_worker

    with logs.log_to(log_file, style=log_format):
        code = run_worker(endpoint, rate=rate, share=share, metrics_file=metrics_file)
    raise typer.Exit(code)


def simulate(
    *,
    port: Port = 8080,
    host: Host = "127.0.0.1",
    faults: Faults = "calm",
    state: NodeState = None,
    seed: Seed = 1,
    sources: Sources = 0,
    web_hooks_anywhere: WebHooksAnywhere = False,
) -> None:
    """Serve an embedded ZStack node until it is stopped; its first line of output is {"url": ..., "token": ...}.

    GET /__ledger with that token as X-Node-Token lists the clones made and the calls received. Unknown sources are made
    up. POST /__tamper changes services behind the API: {"change": {UUID: {FIELD: VALUE}}, "delete": [UUID], "make":
    [{"uuid", "name", "userTags"}], "tags": {UUID: [TAG]}, "owners": {UUID: ACCOUNT}}. Beyond loopback (--host) session
    and password are random, and the first line has them too.

    FAULTS as a file: version: 1, preset: calm, and faults: [{fault: lost_reply, on: submit, probability: 0.02}, {fault:
    fail, code: SYS.1006, source: UUID, times: 1}]; an unknown word is an error that lists the known ones.
    """
    import asyncio

    from batch.app.embedded_node import fault_options
    from batch.simulator.access import is_loopback
    from batch.simulator.daemon import run_forever
    from batch.simulator.options import made_up_sources
    from batch.simulator.state import StateError

    if not is_loopback(host):
        say(f"warning: others can use this node at {host}; its random session and password are in the first line")
    if state is not None and faults not in PRESETS:
        require_distinct([NamedFile("--state", state)], [NamedFile("--faults", Path(faults))])
    node = fault_options(faults, seed=seed)
    given = (*node.sources, *made_up_sources(sources))
    node = replace(node, sources=given, hooks_anywhere=web_hooks_anywhere or node.hooks_anywhere)
    serving = run_forever(node, host=host, port=port, state=state)
    try:
        asyncio.run(serving)
    except StateError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"{host}:{port}: {error.strerror or error}") from None


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
