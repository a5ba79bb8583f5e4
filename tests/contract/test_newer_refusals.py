"""Operators of newer servers get few calls if everything is denied, and errors in their own language."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.contract.scripted_node import GIVEN, ApiJob, Operator, ScriptedNode, accepted, keep_running
from tests.zstack.wire_server import answer

if TYPE_CHECKING:
    from tests.contract.scripted_node import Act
    from tests.zstack.wire_server import Seen

MANY = [f"{number:012x}4aaa8{number:015x}" for number in range(1, 101)]


def deny(code: str, details: str) -> Act:
    """202, and the job ends with a denial."""

    def act(node: ScriptedNode, job: ApiJob) -> bytes:
        job.result = answer(503, {"error": {"code": code, "description": "denied", "details": details}})
        return accepted(job)

    return act


DENIALS = [
    ("SYS.1018", "account[uuid:a] has no access to resources with owner-only scope: ModelServiceVO[uuid:b]"),
    ("SYS.1018", "said in words that nobody has seen"),
    ("SYS.1006", "permission denied, the account[uuid:a] is not authorized to access resource[uuid:b]"),
    ("TAG.1002", "too many tags"),
]


@pytest.mark.parametrize(("code", "details"), DENIALS)
@pytest.mark.both_engines
async def test_a_denied_batch_is_sent_once(code: str, details: str, node: ScriptedNode, operator: Operator) -> None:
    """100 targets whose resources are denied cost 100 POSTs, all fail for good, and the next run sends none."""
    node.acts = {source: [deny(code, details)] for source in MANY}
    operator.write_job(*MANY)
    assert await operator.run() == 3, operator.output
    assert len(node.posts()) == 100
    assert set(operator.states().values()) == {"failed"}
    assert await operator.run() == 3
    assert len(node.posts()) == 100


@pytest.mark.parametrize("code", ["SYS.1019", "ID.1002"])
@pytest.mark.both_engines
async def test_a_denied_api_is_called_once(code: str, node: ScriptedNode, operator: Operator) -> None:
    """If the whole API is denied the first answer ends the run: one POST for 100 targets, exit 3, reason denied."""
    node.acts = {source: [deny(code, "operation[API:x] is denied: no permission")] for source in MANY}
    operator.write_job(*MANY)
    assert await operator.run() == 3, operator.output
    assert len(node.posts()) == 1
    assert '"reason_code":"denied"' in operator.output
    assert "ask an administrator" in operator.output or "administrators only" in operator.output


@pytest.mark.both_engines
async def test_an_account_that_may_only_clone_clones(engine: str, node: ScriptedNode, operator: Operator) -> None:
    """An account to which the query's API is denied by SYS.1019 is warned and clones all the same.

    On Temporal the worker is warned at its start: here before the query is denied.
    """
    refused = answer(503, {"error": {"code": "SYS.1019", "details": "operation[API:Query] is denied: no permission"}})
    node.gate = lambda seen: refused if seen.call.startswith("GET /v1/ai/model-services") else None
    operator.write_job(*MANY[:3])
    assert await operator.run() == 0, operator.output
    assert ("cannot query model services" in operator.output) == (engine == "local")


MESSAGES = {"en-US": "the disk of the model centre is full", "zh-CN": "模型中心磁盘已满"}
SHOWN = [("en_US.UTF-8", "en-US", "correct the parameter"), ("zh_CN.UTF-8", "zh-CN", "请修正")]


@pytest.mark.parametrize(("lang", "tag", "hint"), SHOWN)
async def test_errors_in_the_operators_language(
    lang: str, tag: str, hint: str, node: ScriptedNode, operator: Operator
) -> None:
    """LANG sets the language in which the server's message is recorded and shown, and that of the hint."""
    queries: list[str] = []

    def overhear(seen: Seen) -> None:
        queries.append(seen.headers.get("accept-language", ""))

    def poll(_: ApiJob) -> bytes:
        output = {"code": "SYS.1007", "description": "bad", "details": "details", "message": MESSAGES[queries[-1]]}
        return answer(503, {"error": output})

    node.acts, node.gate, node.poll = {MANY[0]: [keep_running]}, overhear, poll
    operator.write_job(MANY[0])
    assert await operator.run(env=GIVEN | {"LANG": lang, "LC_ALL": lang}) == 3, operator.output
    assert set(queries) == {tag}
    (failed,) = [line for line in operator.lines() if line.get("state") == "failed"]
    assert failed["error"].startswith(f"bad: {MESSAGES[tag]}: details")
    assert hint in operator.output or json.dumps(hint)[1:-1] in operator.output
    assert MESSAGES[tag] in operator.output or json.dumps(MESSAGES[tag])[1:-1] in operator.output


async def test_wide_characters_of_a_source(node: ScriptedNode, operator: Operator) -> None:
    """``plan`` with a server warns once of a character above U+FFFF that comes from a source's own name."""
    source = {"uuid": MANY[0], "name": "qwen \U0001f680"}
    node.gate = lambda seen: answer(200, {"inventories": [source]}) if MANY[0] in seen.target else None
    operator.write_job(f"{{uuid: {MANY[0]}, params: {{name: '${{source.name}}-x'}}}}")
    assert await operator.zclone("plan", "job.yaml") == 0, operator.output
    assert operator.output.count("has a character above U+FFFF at position 5") == 1, operator.output
