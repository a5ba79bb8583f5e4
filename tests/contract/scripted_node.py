"""A server whose answer to each POST, poll and lookup a test decides, and that keeps a true ledger of what it made."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tests import forkserver
from tests.zstack.wire_server import SESSION, Seen, WireServer, answer, error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.forkserver import Process

PREFLIGHT: Final = "0" * 32
"""The uuid that a client queries to check its credentials."""
GIVEN: Final = {"ZSTACK_SESSION_ID": SESSION}
PASSWORD: Final = {"ZSTACK_ACCOUNT": "admin", "ZSTACK_PASSWORD": "password"}
_PATIENCE: Final = 200.0
"""Seconds after which a command that does not end is killed."""


Act: TypeAlias = "Callable[[ScriptedNode, ApiJob], bytes | None]"
"""Handles a POST; returns its answer, or None to close the connection without one."""


@dataclass(eq=False)
class ApiJob:
    """One POST and its fate."""

    uuid: str
    source: str
    params: dict[str, Any]
    result: bytes | None = None
    """The answer to a poll; None: 202, it is running."""
    is_known: bool = True
    """Whether a poll finds its row; otherwise 404."""
    polls: int = 0

    @property
    def resource(self) -> str:
        """The requested resource uuid."""
        return str(self.params.get("resourceUuid", ""))


@dataclass
class ScriptedNode:
    """``acts`` by source handle its first, second, … POST; the last one repeats; ``accept`` handles the others."""

    acts: dict[str, list[Act]] = field(default_factory=dict)
    honours: bool = True
    """Whether a clone gets the requested uuid."""
    look: Callable[[str], bytes | None] | None = None
    """Answers a lookup of a uuid with bytes, or None to drop the connection. Not set: the truth."""
    poll: Callable[[ApiJob], bytes] | None = None
    """Answers a poll of a known job; not set: the truth."""
    gate: Callable[[Seen], bytes | None] | None = None
    """Answers any call before anything else sees it; None: continue."""
    jobs: list[ApiJob] = field(default_factory=list)
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Every clone by its uuid, and what existed before."""
    sources_of: list[str] = field(default_factory=list)
    """The source of each clone, one entry per clone."""
    given: list[str] = field(default_factory=list)
    """Resources whose owner was changed."""
    logins: int = 0
    calls: list[str] = field(default_factory=list)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a query of the sources waits for ``release``."""
    release: asyncio.Event | None = None

    def posts(self, source: str | None = None) -> list[ApiJob]:
        return [job for job in self.jobs if source in {None, job.source}]

    def execute(self, job: ApiJob) -> None:
        """Do the work: make the clone, or fail because its uuid is in use."""
        uuid = job.resource if self.honours and job.resource else f"{len(self.made):012x}4ccc9{len(self.made):015x}"
        if uuid in self.made:
            job.result = failed("SYS.1000")
            return
        self.made[uuid] = {"name": "made", **job.params, "uuid": uuid}
        self.sources_of.append(job.source)
        job.result = answer(200, {"inventory": self.made[uuid]})

    async def handle(self, seen: Seen) -> bytes | None:
        self.calls.append(seen.call)
        method, _, path = seen.call.partition(" ")
        if self.gate is not None and (refused := self.gate(seen)) is not None:
            return refused
        if path.startswith("/v1/ai/model-services"):
            return await self._services(method, path.removeprefix("/v1/ai/model-services").strip("/"), seen)
        if path.startswith("/v1/api-jobs/"):
            return self._poll(path.rpartition("/")[2])
        if path == "/v1/accounts/login":
            self.logins += 1
            return answer(200, {"inventory": {"uuid": f"{self.logins:032x}"}})
        if path == "/v1/management-nodes/actions":
            return answer(200, {"version": "5.5.22"})
        if path.startswith("/v1/account/"):
            return self._change_owner(seen)
        return answer(200, {})

    async def _services(self, method: str, uuid: str, seen: Seen) -> bytes | None:
        if method == "POST":
            return self._post(uuid, seen)
        if not uuid:
            return await self._query(seen)
        if self.look is not None and uuid != PREFLIGHT:
            return self.look(uuid)
        return self.shown(uuid)

    def shown(self, uuid: str) -> bytes:
        """Return the truth about a uuid."""
        return answer(200, {"inventories": [self.made[uuid]] if uuid in self.made else []})

    async def _query(self, seen: Seen) -> bytes:
        if self.release is not None:
            self.held.set()
            await self.release.wait()
        uuids = {uuid for uuid in SOURCES if uuid in seen.target}
        return answer(200, {"inventories": [{"uuid": uuid, "name": "source"} for uuid in sorted(uuids)]})

    def _post(self, source: str, seen: Seen) -> bytes | None:
        uuid = seen.headers["x-job-uuid"]
        job = ApiJob(uuid, source, seen.json["params"])
        is_duplicate = self._row(uuid) is not None
        self.jobs.append(job)
        if is_duplicate:
            job.is_known = False
            return answer(400, f"Duplicate job uuid[{uuid}]")
        acts = self.acts.get(source, [accept])
        number = len(self.posts(source))
        return acts[min(number, len(acts)) - 1](self, job)

    def _poll(self, uuid: str) -> bytes:
        for job in self.jobs:
            job.polls += job.uuid == uuid
        row = self._row(uuid)
        if row is None:
            return answer(404, "the job has been expired")
        return outcome(row) if self.poll is None else self.poll(row)

    def _row(self, uuid: str) -> ApiJob | None:
        return next((job for job in reversed(self.jobs) if job.uuid == uuid and job.is_known), None)

    def _change_owner(self, seen: Seen) -> bytes:
        self.given.append(seen.json["params"]["resourceUuid"])
        job = ApiJob(seen.headers["x-job-uuid"], "", {}, answer(200, {"inventory": {"uuid": "0" * 32}}))
        self.jobs.append(job)
        return accepted(job)


SOURCES: Final = [f"{number:012x}4aaa8{number:015x}" for number in range(1, 31)]
A, B, C, D = SOURCES[:4]


def accepted(job: ApiJob, api_timeout: float = 1800.0) -> bytes:
    location = f"http://127.0.0.1/zstack/v1/api-jobs/{job.uuid}"
    return answer(202, {"location": location, "apiTimeout": int(1000 * api_timeout)})


def failed(code: str, *inner: str) -> bytes:
    """Return the end of a job that failed with a code, caused by the inner ones."""
    cause: dict[str, object] = {}
    for name in reversed(inner):
        cause = {"cause": {"code": name, "description": "inner", "details": "", **cause}}
    return answer(503, error(code, "", **cause))


def outcome(job: ApiJob) -> bytes:
    """Return the truth about a job."""
    return answer(202, {}) if job.result is None else job.result


def accept(node: ScriptedNode, job: ApiJob) -> bytes:
    """202, and the clone is made at once."""
    node.execute(job)
    return accepted(job)


def keep_running(node: ScriptedNode, job: ApiJob) -> bytes:
    """202, and the work does not end until the test says so."""
    return accepted(job)


def lose_row(node: ScriptedNode, job: ApiJob) -> bytes:
    """202, and the work continues without a row that a poll would find."""
    job.is_known = False
    return accepted(job)


def lose_answer(node: ScriptedNode, job: ApiJob) -> None:
    """Execute it, without an answer and without a row."""
    node.execute(job)
    job.is_known = False


def queue(node: ScriptedNode, job: ApiJob) -> None:
    """Keep it for later, without an answer and without a row."""
    job.is_known = False


def refuse(code: str, *inner: str) -> Act:
    """202, and the job ends with a code; nothing is made."""

    def act(node: ScriptedNode, job: ApiJob) -> bytes:
        job.result = failed(code, *inner)
        return accepted(job)

    return act


def make_and_refuse(code: str, *inner: str) -> Act:
    """202, the clone is made, and the job nevertheless ends with a code."""

    def act(node: ScriptedNode, job: ApiJob) -> bytes:
        node.execute(job)
        job.result = failed(code, *inner)
        return accepted(job)

    return act


def turn_away(status: int, text: str) -> Act:
    """Answer at once with a status and a text, in which {job} stands for the job uuid; nothing is executed."""

    def act(node: ScriptedNode, job: ApiJob) -> bytes:
        job.is_known = False
        return answer(status, text.replace("{job}", job.uuid))

    return act


class Operator:
    """Works in a folder with the real command and its job file against a scripted node."""

    def __init__(self, folder: Path, env: dict[str, str], url: str, *, patience: float = _PATIENCE) -> None:
        self.folder = folder
        self.patience = patience
        self.env = env | GIVEN | {"ZSTACK_API_URL": url}

    def write_job(self, *targets: str, limits: str = "", run: str = "default", more: str = "") -> None:
        """Write each target as YAML: a source uuid or a map in braces. ``limits`` is added to a rate."""
        rows = "".join(f"  - {target}\n" for target in targets)
        limits = ", ".join(filter(None, ("rate: 200/s", limits)))
        text = f"version: 1\nname: job\nrun: {run}\nlimits: {{{limits}}}\n{more}targets:\n{rows}"
        (self.folder / "job.yaml").write_text(text, encoding="utf-8")

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> Process[bytes]:
        return forkserver.start(arguments, cwd=self.folder, env=self.env | (env or {}), stderr="stdout")

    async def zclone(
        self, *arguments: str, patience: float | None = None, env: dict[str, str] | None = None
    ) -> int | None:
        """Return the exit code, or None if it did not end in time. ``said`` has its output."""
        process = self.start(*arguments, env=env)
        is_late = False
        try:
            output, _ = await asyncio.to_thread(process.communicate, patience or self.patience)
        except subprocess.TimeoutExpired:
            is_late = True
            process.kill()
            output, _ = await asyncio.to_thread(process.communicate)
        self.output = output.decode()
        return None if is_late else process.returncode

    async def run(
        self, *arguments: str, patience: float | None = None, env: dict[str, str] | None = None
    ) -> int | None:
        return await self.zclone("run", "job.yaml", *arguments, patience=patience, env=env)

    async def run_until_settled(self, *, most: int) -> int | None:
        """Rerun the same command, as the README says, until it exits with 0 or 3, at most ``times`` times."""
        code = None
        for _ in range(most):
            code = await self.run()
            if code in {0, 3}:
                break
        return code

    async def run_and_kill(
        self, node: ScriptedNode, *arguments: str, env: dict[str, str] | None = None, recorded: str = ""
    ) -> None:
        """Kill a command with SIGKILL once the last POST was polled and a line with the state is ``recorded``."""
        process = self.start(*arguments or ("run", "job.yaml"), env=env)
        before = len(node.jobs)
        while len(node.jobs) == before or not node.jobs[-1].polls:  # noqa: ASYNC110 - a process is waited for
            await asyncio.sleep(0.02)
        while recorded and recorded not in {line.get("state") for line in self.lines()}:  # noqa: ASYNC110 - so is a file
            await asyncio.sleep(0.02)
        process.kill()
        await asyncio.to_thread(process.communicate)

    def manifest(self, name: str = "job.manifest.jsonl") -> Path:
        return self.folder / name

    def lines(self, name: str = "job.manifest.jsonl") -> Iterator[dict[str, Any]]:
        """Return the readable lines of the manifest."""
        for text in self.manifest(name).read_bytes().splitlines():
            try:
                yield json.loads(text)
            except ValueError:
                continue

    def states(self, name: str = "job.manifest.jsonl") -> dict[str, str]:
        """Return the last state of every target that has a record."""
        return {line["key"]: line["state"] for line in self.lines(name) if "state" in line}

    def damage(self, is_meant: Callable[[dict[str, Any]], bool]) -> int:
        """Corrupt the selected lines of records, keys included; return how many."""
        spoilt = 0
        texts = self.manifest().read_bytes().splitlines(keepends=True)
        for number, text in enumerate(texts):
            if is_meant(json.loads(text)):
                texts[number] = b"#" * (len(text) - 1) + b"\n"
                spoilt += 1
        self.manifest().write_bytes(b"".join(texts))
        return spoilt

    async def repair(self) -> None:
        """Replace the manifest by what ``zclone repair`` saves."""
        code = await self.zclone("repair", self.manifest().name, "--out", "repaired.jsonl")
        assert code == 0, self.output
        self.manifest("repaired.jsonl").replace(self.manifest())


def with_clock_set(seconds: float, flag: Path) -> dict[str, str]:
    """Return variables under which the command's wall clock is wrong by ``seconds`` from its start on."""
    flag.touch()
    return {"CLOCK_JUMPS": str(seconds), "CLOCK_FLAG": str(flag)}


def serve(node: ScriptedNode) -> WireServer:
    """Return a server on loopback, to be entered."""
    return WireServer(node.handle)
