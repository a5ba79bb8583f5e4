"""The table of answers, line by line: answer, class, what the engine does, what the user reads.

Each answer is decoded by the client's own tables and driven through the engine's own ``settle``, once with the server
always saying the same and no clone visible, and once with the clone visible after all.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

import pytest

from batch.engine.attempts import DecisionContext
from batch.engine.decisions import after_find, after_poll, after_submit
from batch.engine.policy import Policy
from batch.engine.settle import settle
from batch.engine.steps import End, Look, LookReason, Poll, Send, Step, Ticket
from batch.errors import RunStoppedError
from batch.model import State
from batch.zstack.answers import (
    Absent,
    Accepted,
    Done,
    Duplicate,
    FindAnswer,
    Found,
    NoAnswer,
    NotSent,
    PollAnswer,
    Refused,
    SubmitAnswer,
    Unknown,
)
from batch.zstack.classify import Language, with_hint
from batch.zstack.replies import read_find, read_poll, read_submit
from batch.zstack.wire import HttpReply
from tests.engine.scripted_api import CLONE, RESOURCE_UUID, MemoryJournal, new_dependencies, service
from tests.simulation.virtual import VirtualClock, VirtualLoop, run_virtual

if TYPE_CHECKING:
    from batch.engine.poll_schedule import PollWindow
    from batch.model import Clone

JOB: Final = "0123456789ab4cde8f0123456789abcd"
TICKET: Final = Ticket(1, JOB, 0.0, 0.0, 1860.0, is_answered=True)
DETAILS: Final = "details: 'x' = 1, 详细信息"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``ends``: the end if the server always says so and shows no clone."""

    line: str
    answer: tuple[int, str] | SubmitAnswer
    """Status and body, or how the transport reports a broken connection."""
    kind: str
    """The error's class, or the kind of answer."""
    step: str
    """What the engine does next."""
    ends: str
    hint: tuple[str, str] = ("", "")
    """Part of the user's hint, English and Chinese."""
    at: str = "post"
    has_clone: str = "cloned after 1"
    """The end if the clone is visible."""


def error(code: str, details: str = DETAILS, **more: object) -> str:
    return json.dumps({"error": {"code": code, "description": "said", "details": details, **more}}, ensure_ascii=False)


def coded(line: str, code: str, kind: str, ends: str, *hint: str, details: str = DETAILS, **more: object) -> Row:
    """Make the row of a code at the poll, where errors of async calls arrive."""
    step = {"renew": "Renew"}.get(kind, "Look")
    has_clone = {"renew": "renewed, cloned after 1"}.get(kind, "cloned after 1")
    english, chinese = hint
    return Row(
        line, (503, error(code, details, **more)), kind, step, ends, (english, chinese), at="poll", has_clone=has_clone
    )


STOPS: Final = ("fatal", "Abort", "stopped")
FAILS: Final = ("permanent", "Look", "failed after 1")
STOPPED: Final = {"has_clone": "stopped"}
SAME: Final = {"has_clone": "cloned after 1"}
CREDENTIALS: Final = ("ZSTACK_*", "凭据格式")
ACCESS_KEY: Final = ("check the AccessKey", "请检查 AccessKey")
REFUSED: Final = ("refused the request", "请求被")

IMMEDIATE: Final = [
    Row("nothing sent", NotSent("cannot connect: refused"), "NotSent", "Resend", "sent again until it gets through"),
    Row("no answer to the POST", NoAnswer("no answer in time"), "NoAnswer", "Poll", "uncertain after 4"),
    Row("400 authorization", (400, "missing header 'Authorization'"), *STOPS, CREDENTIALS, **STOPPED),
    Row("400 authorization", (400, "Authorization type must be 'OAuth'"), *STOPS, CREDENTIALS, **STOPPED),
    Row("400 authorization", (400, "'Date' must be incuded in request header"), *STOPS, CREDENTIALS, **STOPPED),
    Row("400 authorization", (400, "Invalid authKey format"), *STOPS, CREDENTIALS, **STOPPED),
    Row(
        "400 authorization",
        (400, "unable to find RestAuthenticationBackend for type[X]"),
        *STOPS,
        CREDENTIALS,
        **STOPPED,
    ),
    Row("403 skew", (403, "requestTimeTooSkewed"), *STOPS, ("clock or time zone", "时钟或时区"), **STOPPED),
    Row("403 access key", (403, "wrong accessKey signature"), *STOPS, ACCESS_KEY, **STOPPED),
    Row("403 access key", (403, "access key id: X does not existed or disabled"), *STOPS, ACCESS_KEY, **STOPPED),
    Row("400 job uuid", (400, "Invalid header[X-Job-UUID], it must be a UUID"), *FAILS, REFUSED, **SAME),
    Row("400 duplicate", (400, f"Duplicate job uuid[{JOB}]"), "Duplicate", "Poll", "uncertain after 4"),
    Row("400 other", (400, "[requestCpu] field is excepted an int or long"), *FAILS, REFUSED, **SAME),
    Row("404 no api", (404, "no api mapping to /v1/ai/x"), *STOPS, ("older than 5.3.20", "低于 5.3.20"), **STOPPED),
    Row("405", (405, "Method Not Allowed"), *FAILS, REFUSED, **SAME),
    Row("500 text", (500, 'For input string: "30m"'), "ambiguous", "Poll", "uncertain after 2", ("checked", "核实")),
    Row("503 sync", (503, error("SYS.1010")), "node", "Look", "stopped"),
    Row("503 sync", (503, error("SYS.1010")), "node", "Look", "uncertain after 1", at="find"),
    Row("503 sync", (503, error("SYS.1006")), "ambiguous", "Look", "uncertain after 1", at="find"),
    Row("503 sync", (503, error("LICENSE.1001")), *STOPS, ("licence", "许可证"), at="find"),
    *(
        Row("proxy", (status, body), "NoAnswer", "Poll", "uncertain after 4")
        for status in (429, 502, 503, 504)
        for body in ("", "<html>Bad Gateway</html>", "{}")
    ),
    *(Row("proxy", (status, "<html>"), "NoAnswer", "Look", "uncertain after 1", at="find") for status in (429, 502)),
]
"""Immediate answers: from the POST, and where they apply from the query that looks for the clone."""

DENIED: Final = ("permission", "授权")
AGENT: Final = ("could not reach an agent", "无法连接代理")
UNDONE: Final = ("checked before a retry", "先核实再重试")
UNSUPPORTED: Final = ("cannot do it", "不支持")
INTERACTIVE: Final = ("use an AccessKey", "使用 AccessKey")
ELSEWHERE: Final = ("ZStack's support", "ZStack 支持")
UNKNOWN_CODE: Final = ("unknown code", "未知错误码")
CHARACTERS: Final = ("above U+FFFF", "U+FFFF 以上")
REFUSED_CHARACTERS: Final = "Incorrect string value: 'F0 9F' for column 'name'"
P1, A1, A2, A4, T4, NODE, STOP, UNKNOWN_END = (
    ("permanent", "failed after 1"),
    ("ambiguous", "failed after 1"),
    ("ambiguous", "failed after 2"),
    ("ambiguous", "uncertain after 4"),
    ("transient", "failed after 4"),
    ("node", "stopped"),
    ("fatal", "stopped"),
    ("ambiguous", "uncertain after 2"),
)

CODES: Final = [
    coded("SYS.1000", "SYS.1000", *A2, "uuid already in use", "UUID 已被占用"),
    coded("SYS.1001", "SYS.1001", *A4, "may still be executing", "可能仍在进行"),
    coded("SYS.1002", "SYS.1002", *A2, "see the causes", "请查看原因"),
    coded("SYS.1003", "SYS.1003", *P1, "check the uuids", "请检查 UUID"),
    coded("SYS.1004/1005", "SYS.1004", *A4, *UNDONE),
    coded("SYS.1004/1005", "SYS.1005", *A4, *UNDONE),
    *(
        coded("SYS.1006", "SYS.1006", *P1, *DENIED, details=details)
        for details in (
            "permission denied, the account[uuid:a] is not the owner of the resource[uuid:b]",
            "操作错误，账户[uuid:a]不是资源[uuid:b]的所有者",
            "operation[API:x] is denied by default, please contact admin to correct it",
            "默认情况下拒绝操作[API：x]，请与管理员联系以更正",
            "the account[uuid:a] has no access to the resources[uuid:b]",
            "账户[uuid:a]无法使用资源[uuid:b]",
            "the operation is denied by the policy[x]",
            "operation[API:x] is denied: no permission",
            "account[uuid:a] has no access to resources with owner-only scope: ModelServiceVO[uuid:b]",
        )
    ),
    coded("SYS.1006", "SYS.1006", *A4, *AGENT, cause={"code": "SYS.1015", "details": "io"}),
    coded("SYS.1006", "SYS.1006", *A4, *AGENT, details="http error 502 from the model centre"),
    coded("SYS.1006", "SYS.1006", *A2, "see the causes", "请查看错误文本"),
    coded("SYS.1007", "SYS.1007", *P1, "correct the parameter", "请修正"),
    coded("SYS.1008", "SYS.1008", *NODE, "", ""),
    *(coded("SYS.1009-1012", f"SYS.{number}", *NODE, "", "") for number in range(1009, 1013)),
    *(coded("SYS.1013/1014", f"SYS.{number}", *P1, *UNSUPPORTED) for number in (1013, 1014)),
    *(coded("SYS.1015/1016", f"SYS.{number}", *A4, *AGENT) for number in (1015, 1016)),
    coded("SYS.1017", "SYS.1017", *A1, "cancelled", "取消"),
    coded("SYS.1018", "SYS.1018", *P1, *DENIED),
    coded("SYS.1019", "SYS.1019", *STOP, "may not call the API", "无权调用"),
    coded("SYS.1091", "SYS.1091", *P1, "see the text", "请查看错误文本"),
    coded("ID.1000", "ID.1000", *STOP, "credentials", "凭据"),
    coded("ID.1001", "ID.1001", "renew", "renewed, cloned after 1", "", ""),
    coded("ID.1001", "ORG_ZSTACK_IDENTITY_10020", "renew", "renewed, cloned after 1", "", ""),
    coded("ID.1001", "NEW.1", "renew", "renewed, cloned after 1", "", "", globalErrorCode="ORG_ZSTACK_IDENTITY_10020"),
    coded("ID.1002", "ID.1002", *STOP, "admin account", "管理员账户"),
    coded("ID.1003", "ID.1003", *P1, "quota", "配额"),
    coded("ID.1004", "ID.1004", *P1, "quota", "配额"),
    coded("ID.1005", "ID.1005", *STOP, "change its password", "修改密码"),
    coded("ID.1006", "ID.1006", *STOP, "log out stale ones", "注销闲置会话"),
    coded("ID.1007", "ID.1007", *STOP, "disabled", "停用"),
    *(coded("ID.2000-2003", f"ID.{number}", *STOP, *INTERACTIVE) for number in (2000, 2001, 2002)),
    coded("ID.2000-2003", "ID.2003", *T4, "AccessKey", "AccessKey"),
    *(
        coded("LOGIN_CONTROL", f"LOGIN_CONTROL.{number}", *STOP, "clear the lock", "解除锁定")
        for number in range(1000, 1006)
    ),
    *(coded("LICENSE", f"LICENSE.{number}", *STOP, "licence", "许可证") for number in range(1000, 1009)),
    coded("PORTAL.1000", "PORTAL.1000", *STOP, "AIOS is not installed", "未安装 AIOS"),
    coded("PORTAL.1001/1002", "PORTAL.1001", *P1, "give the field", "请补充"),
    coded("PORTAL.1001/1002", "PORTAL.1002", *NODE, "", ""),
    coded("TAG.1000", "TAG.1000", "ambiguous", "failed after 1", "each tag once", "标签不可重复"),
    coded("TAG.1001/1002", "TAG.1001", *A1, "each tag once", "只能写一次"),
    coded("TAG.1001/1002", "TAG.1002", *P1, "no more tags", "上限"),
    coded("ORG_ZSTACK_AI", "ORG_ZSTACK_AI_10120", *UNKNOWN_END, "AI plugin", "AI 插件"),
    coded("ORG_ZSTACK_AI", "NEW.1", *UNKNOWN_END, "AI plugin", "AI 插件", globalErrorCode="ORG_ZSTACK_AI_10129"),
    coded("Incorrect string value", "SYS.1000", *A1, *CHARACTERS, details=REFUSED_CHARACTERS),
    coded(
        "Incorrect string value",
        "SYS.1006",
        *A1,
        *CHARACTERS,
        cause={"code": "SYS.1000", "details": REFUSED_CHARACTERS},
    ),
    coded("LONG_JOB, PROGRESS", "LONG_JOB.1000", *P1, *ELSEWHERE),
    coded("LONG_JOB, PROGRESS", "PROGRESS.1000", *P1, *ELSEWHERE),
    coded("unknown prefix", "MODEL_CENTER.1234", *UNKNOWN_END, *UNKNOWN_CODE),
    coded("unknown prefix", "HOST.1001", *UNKNOWN_END, *UNKNOWN_CODE),
    coded("sdk", "sdk.1000", *UNKNOWN_END, *UNKNOWN_CODE),
]

LINES: Final = {
    "immediate": (
        "nothing sent",
        "no answer to the POST",
        "400 authorization",
        "403 skew",
        "403 access key",
        "400 job uuid",
        "400 duplicate",
        "400 other",
        "404 no api",
        "405",
        "500 text",
        "503 sync",
        "proxy",
    ),
    "codes": (
        *("SYS.1000", "SYS.1001", "SYS.1002", "SYS.1003", "SYS.1004/1005", "SYS.1006", "SYS.1007", "SYS.1008"),
        *("SYS.1009-1012", "SYS.1013/1014", "SYS.1015/1016", "SYS.1017"),
        *("SYS.1018", "SYS.1019", "SYS.1091"),
        *("ID.1000", "ID.1001", "ID.1002", "ID.1003", "ID.1004", "ID.1005", "ID.1006", "ID.1007", "ID.2000-2003"),
        *("LOGIN_CONTROL", "LICENSE", "PORTAL.1000", "PORTAL.1001/1002", "TAG.1000", "TAG.1001/1002"),
        *("ORG_ZSTACK_AI", "Incorrect string value", "LONG_JOB, PROGRESS"),
        *("unknown prefix", "sdk"),
    ),
}
"""The lines of both tables in their order: immediate answers, and codes (zstack/README.md 10 and 11)."""

ROWS: Final = [*IMMEDIATE, *CODES]


@dataclass
class Answering:
    """A server that always gives the row's answer, and recovers where the engine waits for that."""

    row: Row
    has_clone: bool
    language: Language
    posts: int = 0
    renewals: int = 0

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        self.posts += 1
        if self.row.at != "post" or (isinstance(self.row.answer, NotSent) and self.posts > 3):
            return Accepted(None)
        if self.row.kind == "Duplicate":
            return Duplicate()
        return decoded_post(self.row, self.language)

    async def poll(self, job_uuid: str, window: PollWindow | None = None) -> PollAnswer:
        if window is not None:
            await asyncio.sleep(1.0)
        if self.renewals:
            return Done(service())
        if self.row.at == "poll":
            return decoded_poll(self.row, self.language)
        return Unknown() if self.row.at != "find" and not isinstance(self.row.answer, NotSent) else Done(None)

    async def find(self, resource_uuid: str) -> FindAnswer:
        if self.row.at == "find" and not self.has_clone:
            return decoded_find(self.row, self.language)
        return Found(service()) if self.has_clone or isinstance(self.row.answer, NotSent) else Absent()

    async def renew(self) -> None:
        self.renewals += 1


def decoded_post(row: Row, language: Language) -> SubmitAnswer:
    return read_submit(reply(row.answer), JOB, language) if isinstance(row.answer, tuple) else row.answer


def decoded_poll(row: Row, language: Language) -> PollAnswer:
    assert isinstance(row.answer, tuple)
    return read_poll(reply(row.answer), language)


def decoded_find(row: Row, language: Language) -> FindAnswer:
    assert isinstance(row.answer, tuple)
    return read_find(reply(row.answer), RESOURCE_UUID, language)


def reply(answer: tuple[int, str]) -> HttpReply:
    return HttpReply(answer[0], answer[1].encode())


def decide(row: Row) -> tuple[SubmitAnswer | PollAnswer | FindAnswer, Step]:
    """Decode the row's answer and let the engine's table decide the next step."""
    policy = Policy()
    if row.at == "post":
        answer = decoded_post(row, "en")
        return answer, after_submit(answer, TICKET, policy=policy)
    if row.at == "poll":
        polled_ = decoded_poll(row, "en")
        return polled_, after_poll(polled_, Poll(TICKET), now=1.0, policy=policy)
    seen = decoded_find(row, "en")
    return seen, after_find(seen, Look(TICKET, LookReason.EMPTY), CLONE, context=DecisionContext(policy, 1.0))


def run(row: Row, *, has_clone: bool = False, language: Language = "en") -> tuple[str, str]:
    """Settle a clone against the row; return its end and what the user reads."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(7))
    api = Answering(row, has_clone, language)
    journal = MemoryJournal()
    world = new_dependencies(api, journal, clock)
    try:
        end = run_virtual(loop, settle(CLONE, Send(1), world))
    except RunStoppedError as stopped:
        left = State.PLANNED if row.kind in {"fatal", "node"} and row.at != "find" else State.ACCEPTED
        assert journal.records[-1].state in {left, State.SENT}, "taken back by an answer about its own request only"
        return "stopped", str(stopped)
    assert isinstance(end, End)
    last = journal.records[-1]
    assert (last.state, last.attempt, last.error_code) == (end.state, end.attempt, end.code)
    end_text = f"{end.state} after {end.attempt}"
    if isinstance(row.answer, NotSent):
        assert api.posts == 4
        end_text = "sent again until it gets through" if end_text == "cloned after 1" else end_text
    return (
        "renewed, " if api.renewals else ""
    ) + end_text, f"{last.error_code}: {with_hint(last.error_code, last.error, language)}"


def identity(row: Row) -> str:
    return f"{row.at}-{row.line}-{row.kind}"


@pytest.mark.parametrize("row", ROWS, ids=identity)
def test_each_line_has_its_class_and_its_step(row: Row) -> None:
    """Each answer has the class of its line and leads to that line's next step."""
    answer, step = decide(row)
    kind = answer.error.error_class.value if isinstance(answer, Refused) else type(answer).__name__
    assert kind == row.kind
    shown = f"End {step.state}" if isinstance(step, End) else type(step).__name__
    assert shown == row.step


@pytest.mark.parametrize("row", ROWS, ids=identity)
def test_each_line_comes_to_its_end(row: Row) -> None:
    """If the server always says so and no clone is visible, each line comes to its own end."""
    ends, text = run(row)
    assert ends == row.ends
    if isinstance(row.answer, tuple) and row.kind in {"permanent", "fatal", "ambiguous", "transient"}:
        assert row.hint[0] in text
        assert said_by(row.answer) in text


@pytest.mark.parametrize("row", [row for row in ROWS if row.hint[1]], ids=identity)
def test_each_line_has_a_chinese_hint(row: Row) -> None:
    """A Chinese reader gets ZStack's words unchanged and what to do in Chinese."""
    assert isinstance(row.answer, tuple)
    text = run(row, language="zh")[1]
    assert row.hint[1] in text
    assert said_by(row.answer) in text


@pytest.mark.parametrize("row", ROWS, ids=identity)
def test_a_clone_made_after_all_is_found(row: Row) -> None:
    """If the answer leaves open whether it ran, a visible clone is adopted and nothing is sent again."""
    if isinstance(row.answer, NotSent) or (row.kind == "transient" and row.at == "post"):
        pytest.skip("nothing was executed: there is nothing to find")
    assert run(row, has_clone=True)[0] == row.has_clone


def said_by(answer: tuple[int, str]) -> str:
    """Return ZStack's own words in an answer."""
    status, body = answer
    return str(json.loads(body)["error"]["details"]) if status == 503 else body


def test_no_line_is_missing() -> None:
    """Both tables are here, line by line and in their order."""
    assert tuple(dict.fromkeys(row.line for row in IMMEDIATE)) == LINES["immediate"]
    assert tuple(dict.fromkeys(row.line for row in CODES)) == LINES["codes"]
    assert (len(LINES["immediate"]), len(LINES["codes"])) == (13, 35)
