"""A node under a clock that a test moves."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from batch.simulator.faults import Fault, FaultKind, FaultRule
from batch.simulator.node import Node
from batch.simulator.options import SESSION, NodeOptions
from batch.simulator.wire import Delivery, Later, Request, Response

START = 1_764_042_710.0
"""Nov 25, 2025 11:51:50 AM at UTC+8."""
SOURCE = "d76744cb53f9378abf42b907df3efb6e"
CLONE = "90d425a802ff44eeb530f21587633700"
SERVICES = "/v1/ai/model-services"
QUICK = NodeOptions(latency=(0.2, 0.2))


def job(number: int = 1) -> str:
    return f"{number:032d}"


def hit(kind: FaultKind, *, on: str = "submit", requests: int | None = 1, **fault: Any) -> tuple[FaultRule, ...]:
    """Return one fault on one numbered request."""
    return (FaultRule(Fault(kind, **fault), on=on, requests=None if requests is None else frozenset({requests})),)


class Bench:
    def __init__(self, options: NodeOptions = QUICK, **switches: Any) -> None:
        self.node = Node(replace(options, **switches), now=START)
        self.now = START

    def deliver(  # the parts of a request
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        session: str | None = SESSION,
        job: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Delivery:
        path, _, query = path.partition("?")
        sent = {"content-type": "application/json;charset=UTF-8"}
        if session is not None:
            sent["authorization"] = f"OAuth {session}"
        if job is not None:
            sent["x-job-uuid"] = job
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        pairs = tuple(parse_qsl(query, keep_blank_values=True))
        return self.node.receive(Request(method, f"/zstack{path}", pairs, sent | (headers or {}), data), self.now)

    def send(self, method: str, path: str, body: Any = None, **how: Any) -> Response:
        delivery = self.deliver(method, path, body, **how)
        assert isinstance(delivery, Response), delivery
        return delivery

    def wait(self, seconds: float = 5.0) -> None:
        self.now += seconds
        self.node.advance(self.now)

    def post(self, params: Any = None, *, source: str = SOURCE, job: str | None = job(), **how: Any) -> Delivery:
        tags = {key: how.pop(key) for key in ("systemTags", "userTags") if key in how}
        return self.deliver("POST", f"{SERVICES}/{source}", {"params": params or {}, **tags}, job=job, **how)

    def poll(self, job: str = job()) -> tuple[int, Any]:
        return decoded(self.send("GET", f"/v1/api-jobs/{job}", session=None))

    def clone(self, params: Any = None, *, job: str = job(), **how: Any) -> tuple[int, Any]:
        """Post, wait until it has ended, poll."""
        reply = self.post(params, job=job, **how)
        assert isinstance(reply, Response)
        assert reply.status == 202, reply
        self.wait()
        return self.poll(job)

    def error(self, params: Any = None, **how: Any) -> tuple[str, str]:
        """Return code and details of a clone that fails."""
        status, answer = self.clone(params, **how)
        assert status == 503, answer
        return answer["error"]["code"], answer["error"]["details"]

    def found(self, uuid: str = CLONE, **how: Any) -> list[Any]:
        status, answer = decoded(self.send("GET", f"{SERVICES}/{uuid}", **how))
        assert status == 200, answer
        inventories: list[Any] = answer["inventories"]
        return inventories


def decoded(reply: Response) -> tuple[int, Any]:
    """Return status and JSON; text stays text."""
    try:
        return reply.status, json.loads(reply.body)
    except ValueError:
        return reply.status, reply.body.decode()


def outcome(delivery: Delivery) -> Delivery:
    return delivery.outcome if isinstance(delivery, Later) and delivery.outcome is not None else delivery
