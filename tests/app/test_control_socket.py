"""The socket of ``zclone control``: its path, who may use it, and its answers to garbage."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from batch.app import control, process
from batch.app.control import control_run
from batch.app.process import listen
from batch.clock import SystemClock
from batch.engine import Gate, Stop, hard_cap
from batch.engine.control import Controls
from batch.errors import EndReason, RunStoppedError, UsageError
from batch.manifest import Header, open_manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from batch.app.prepare import Setup

HEADER = Header("j", "default", "u", simulated=False, tool="t", created_at=1.0, job_file="")


class Scene:
    """A run that accepts control commands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stop = Stop()
        gate = Gate(10.0, cap=hard_cap(10.0), clock=SystemClock())
        self.controls = Controls(gate, self.stop, rate=10.0, concurrency=8)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        manifest = open_manifest(self.path, HEADER)
        setup = cast("Setup", SimpleNamespace())
        async with listen(setup, manifest, self.controls, stop=self.stop, calls=lambda: 7, waves=(1, 5)):
            yield
        await manifest.close(0)

    async def order(self, *orders: str) -> dict[str, Any]:
        return await asyncio.to_thread(control_run, self.path, orders)


@pytest.mark.parametrize("name", ["m.jsonl", "m" * 200 + ".jsonl"])
@pytest.mark.parametrize("depth", [0, 40])
async def test_the_socket_is_found_at_a_long_path(name: str, depth: int, tmp_path: Path) -> None:
    """A folder and a name beyond the 108 bytes of a socket's path work, and so does a socket left behind."""
    folder = tmp_path.joinpath(*["deep"] * depth)
    folder.mkdir(parents=True, exist_ok=True)
    scene = Scene(folder / name)
    for rate in (20.0, 30.0):
        async with scene.listening():
            answer = await scene.order(f"rate={rate:g}/s")
            (made,) = folder.glob(".zclone-*")
            assert made.stat().st_mode & 0o777 == 0o600
        in_force = {"rate": rate, "concurrency": 8, "paused": False, "draining": False}
        status = {"stopping": False, "calls": 7, "waves": [1, 5], "rate_in_force": rate}
        assert answer == {**in_force, **status, "note": ""}
        with socket.socket(socket.AF_UNIX) as left, control.socket_address(scene.path) as address:
            left.bind(address)


async def test_a_process_reports_its_progress(tmp_path: Path) -> None:
    """The answer has calls, rate and waves; if no process listens everything is zero."""
    scene = Scene(tmp_path / "m.jsonl")
    async with scene.listening():
        scene.controls.set_rate(20.0)
        scene.stop.request("SIGTERM", EndReason.SIGNAL)
        found = await asyncio.to_thread(control.query_process, scene.path)
    assert found == control.ProcessState(True, 7, 20.0, 20.0, (1, 5))
    assert await asyncio.to_thread(control.query_process, scene.path) == control.ProcessState()


async def test_another_user_is_not_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of another user gets no answer and changes nothing, whatever the socket's mode."""
    scene = Scene(tmp_path / "m.jsonl")
    async with scene.listening():
        monkeypatch.setattr(process, "peer_uid", lambda _: 12345)
        with pytest.raises(RunStoppedError, match="did not answer"):
            await scene.order("pause")
    assert not scene.controls.is_paused


async def test_a_socket_of_another_user_gets_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that listens beside the manifest must belong to the manifest's owner."""
    scene = Scene(tmp_path / "m.jsonl")
    async with scene.listening():
        monkeypatch.setattr(control, "peer_uid", lambda _: 12345)
        with pytest.raises(UsageError, match="does not belong to the manifest's owner"):
            await scene.order("pause")


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"[]\n", b'{"request": 7}\n', b'{"request": ["rm -rf"]}\n', b"x" * 70_000]
)
async def test_garbage_changes_nothing(line: bytes, tmp_path: Path) -> None:
    """An invalid request is answered with an error, or not at all, and the next request is applied."""
    scene = Scene(tmp_path / "m.jsonl")
    async with scene.listening():
        with control.socket_address(scene.path) as address:
            reader, writer = await asyncio.open_unix_connection(address)
        writer.write(line)
        writer.write_eof()
        answer = await reader.read()
        assert not answer or "error" in json.loads(answer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        assert (await scene.order("concurrency=3"))["concurrency"] == 3


@pytest.mark.parametrize("rounds", range(8))
async def test_a_connection_made_as_the_run_ends_is_closed(rounds: int, tmp_path: Path) -> None:
    """Nothing of it is left, however far the event loop has handled it."""
    scene = Scene(tmp_path / "m.jsonl")
    with socket.socket(socket.AF_UNIX) as other:
        other.settimeout(60)
        async with scene.listening():
            with control.socket_address(scene.path) as address:
                other.connect(address)
            for _ in range(rounds):
                await asyncio.sleep(0)
        assert await asyncio.to_thread(other.recv, 1) == b""


async def test_an_ending_run_accepts_no_commands_but_shows_its_limits(tmp_path: Path) -> None:
    """After a stop a command is refused with the reason; a query alone is answered."""
    scene = Scene(tmp_path / "m.jsonl")
    async with scene.listening():
        scene.stop.request("SIGTERM", EndReason.SIGNAL)
        for order in ("rate=5/s", "drain", "resume"):
            with pytest.raises(UsageError, match="the run is ending: SIGTERM"):
                await scene.order(order)
        assert (await scene.order())["rate"] == 10.0


async def test_a_draining_run_accepts_new_limits_but_no_pause(tmp_path: Path) -> None:
    """Clones in flight may be polled faster; a pause would never end."""
    scene = Scene(tmp_path / "m.jsonl")
    async with scene.listening():
        assert (await scene.order("drain"))["draining"]
        assert (await scene.order("rate=50/s"))["rate"] == 50.0
        with pytest.raises(UsageError, match="the run is ending: drained"):
            await scene.order("pause")


async def test_a_run_continues_without_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without sockets is reported, and nothing else changes."""

    def refuse(_manifest: Path) -> socket.socket:
        raise OSError(95, "Operation not supported")

    warnings: list[str] = []
    monkeypatch.setattr(process, "_bind", refuse)
    monkeypatch.setattr(process, "warn", warnings.extend)
    async with Scene(tmp_path / "m.jsonl").listening():
        pass
    assert "Operation not supported" in warnings[0]
