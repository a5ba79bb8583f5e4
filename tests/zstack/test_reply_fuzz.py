"""Generated replies over a real socket: whatever a server sends, the client only gives its documented answers."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import resource
import sys
from typing import TYPE_CHECKING, Any

import pytest

from batch.errors import RunStoppedError
from batch.zstack import answers
from batch.zstack.wire import LARGEST
from tests.zstack.wire_server import CLONE, JOB, RESOURCE, SESSION, WireServer, answer, client_of, error

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.zstack.client import Client

DOCUMENTED = (
    {answers.Accepted, answers.Duplicate, answers.Done, answers.Refused, answers.NotSent, answers.NoAnswer},
    {answers.Running, answers.Done, answers.Refused, answers.Unknown, answers.NotSent, answers.NoAnswer},
    {answers.Found, answers.Absent, answers.Refused, answers.NotSent, answers.NoAnswer},
)
STATUSES = (200, 200, 202, 202, 503, 503, 400, 401, 403, 404, 405, 429, 500, 502, 504, 204, 302, 307, 418, 599)
LEAVES: tuple[Any, ...] = (None, True, 0, -1, 1.5, 2**70, "", "x", "\x1b[2J\n\u202e", RESOURCE, [], {}, "é" * 3000)
KEYS = (
    "error",
    "inventory",
    "inventories",
    "uuid",
    "code",
    "details",
    "cause",
    "causes",
    "location",
    "apiTimeout",
    "name",
)
BOMB = gzip.compress(b"0" * 30_000_000)
HUGE = b'{"a":"' + b"x" * LARGEST + b'"}'
DEEP = b'{"error":' * 5_000 + b"1" + b"}" * 5_000


def tree(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.random()
    if depth > 4 or kind < 0.3:
        return draw.choice(LEAVES)
    if kind < 0.45:
        return [tree(draw, depth + 1) for _ in range(draw.randrange(4))]
    return {draw.choice(KEYS): tree(draw, depth + 1) for _ in range(draw.randrange(5))}


def plain(draw: random.Random) -> bytes:
    return answer(draw.choice(STATUSES), tree(draw))


def likely(draw: random.Random) -> bytes:
    body = error(draw.choice(("SYS.1000", "SYS.1003", "ID.1001", "WEIRD", "LICENSE.1")), cause=tree(draw))
    return answer(draw.choice(STATUSES), body)


def nearly_right(draw: random.Random) -> bytes:
    """Generate a valid reply, or one with a value of the wrong type or a changed byte."""
    value = draw.choice((RESOURCE, RESOURCE, draw.choice(LEAVES), tree(draw)))
    inventory = {"uuid": value, "name": draw.choice(LEAVES), "extra": tree(draw)}
    right: tuple[tuple[int, Any], ...] = (
        (202, {"location": f"http://10.0.0.1/zstack/v1/api-jobs/{JOB}", "apiTimeout": draw.choice((1800000, *LEAVES))}),
        (202, {}),
        (200, {"inventory": inventory}),
        (200, {"inventories": [inventory]}),
        (200, {}),
        (400, f"Duplicate job uuid[{JOB}]"),
        (404, "the job has been expired"),
        (503, error(draw.choice(("SYS.1006", "SYS.1000", "ID.1001")), cause=tree(draw))),
    )
    data = bytearray(answer(*draw.choice(right)))
    if draw.random() < 0.3:
        body = data.index(b"\r\n\r\n") + 4
        data[draw.randrange(body, len(data))] = draw.randrange(256)
    return bytes(data)


def cut(draw: random.Random) -> bytes:
    data = likely(draw)
    return data[: draw.randrange(len(data))]


def flipped(draw: random.Random) -> bytes:
    data = bytearray(plain(draw))
    for _ in range(draw.randrange(1, 6)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


def noise(draw: random.Random) -> bytes:
    return answer(draw.choice(STATUSES), draw.randbytes(draw.randrange(200)))


def deep(draw: random.Random) -> bytes:
    return answer(draw.choice(STATUSES), draw.choice((DEEP, b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}")))


def large(draw: random.Random) -> bytes:
    if draw.random() < 0.5:
        return answer(draw.choice(STATUSES), HUGE)
    return answer(draw.choice(STATUSES), BOMB, Content_Encoding="gzip")


def headed(draw: random.Random) -> bytes:
    value = draw.choice(("", "x" * 500, "-1", "9" * 300, "Mon, 99 Foo 2025", "gzip", "deflate", "br", "\x0b"))
    name = draw.choice(("Retry_After", "Date", "Content_Encoding", "Set_Cookie", "Content_Type", "Location"))
    return answer(draw.choice(STATUSES), json.dumps(tree(draw)), **{name: value})


MAKERS: tuple[Callable[[random.Random], bytes], ...] = (
    nearly_right,
    nearly_right,
    plain,
    likely,
    cut,
    flipped,
    noise,
    headed,
)


def generated(seed: int) -> bytes:
    draw = random.Random(seed)
    rare = draw.random()
    if rare < 0.01:
        return large(draw)
    return deep(draw) if rare < 0.05 else draw.choice(MAKERS)(draw)


@pytest.mark.parametrize(
    ("first", "count"),
    [(0, 1_500), pytest.param(0, 20_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])],
)
async def test_generated_replies(first: int, count: int) -> None:
    """Truncated, huge, bombed, wrong-typed, deep and garbled replies give documented answers, in bounded memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seeds = iter(range(first, first + count))
    async with WireServer(lambda _: generated(next(seeds))) as server:
        # A truncated reply must end, or the client would rightly wait for the rest.
        server.closes = True
        async with client_of(server.url) as client:
            for seed in range(first, first + count):
                async with asyncio.timeout(20):
                    given = await call(client, seed % 3)
                assert type(given) in DOCUMENTED[seed % 3], seed
                assert SESSION not in repr(given), seed
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200 * 1024 * (1 if sys.platform == "linux" else 1024)


async def call(client: Client, which: int) -> object:
    if which == 0:
        return await client.submit(CLONE, JOB)
    if which == 1:
        return await client.poll(JOB)
    try:
        return await client.find(RESOURCE)
    except RunStoppedError:
        # The documented end of a given session.
        return answers.Absent()
