"""Section 7 of the wire specification, one row for each of its lines: answer, class, retries, what the user reads."""

from __future__ import annotations

import re
from typing import Any

import pytest

from batch.zstack.answers import ApiError, Duplicate, ErrorClass, NoAnswer, Refused
from batch.zstack.classify import from_error, safe_text
from batch.zstack.codes import CODES, FAMILIES, HTTP, UNKNOWN
from batch.zstack.replies import submitted
from batch.zstack.wire import Reply

P, F, R, T, A = (
    ErrorClass.PERMANENT,
    ErrorClass.FATAL,
    ErrorClass.RENEW,
    ErrorClass.TRANSIENT,
    ErrorClass.AMBIGUOUS,
)
JOB = "0123456789ab4cde8f0123456789abcd"

IMMEDIATE: list[tuple[int, str, ErrorClass, int | None, str]] = [
    (400, "missing header 'Authorization'", F, 0, "credentials"),
    (400, "Authorization type must be 'OAuth'", F, 0, "credentials"),
    (400, "accessKey format is 'ZStack AccessKeyId:Signature'", F, 0, "credentials"),
    (400, "'Date' must be incuded in request header", F, 0, "credentials"),
    (400, "the Date format is wrong, expected EEE, dd MMM yyyy HH:mm:ss z", F, 0, "credentials"),
    (403, "requestTimeTooSkewed", F, 0, "clock or time zone"),
    (403, "wrong accessKey signature", F, 0, "AccessKey"),
    (403, "access key id: X does not existed or disabled", F, 0, "AccessKey"),
    (400, "Invalid header[X-Job-UUID], it must be a UUID with '-' stripped", P, 0, "refused"),
    (400, "[requestCpu] field is excepted an int or long, but was [Authorization].", P, 0, "refused"),
    (400, "no action key", P, 0, "refused"),
    (404, "no api mapping to /v1/ai/model-services/x", F, 0, "endpoint"),
    (405, "Method Not Allowed", P, 0, "refused"),
    (413, "too large", P, 0, "refused"),
    (401, "who are you", R, None, "gateway"),
    (403, "<html>blocked by policy</html>", P, 0, "gateway"),
    (500, "For input string: 30m", A, 1, "checked"),
]

DENIED = [
    "permission denied, the account[uuid:a] is not the owner of the resource[uuid:b]",
    "操作错误，账户[uuid:a]不是资源[uuid:b, type:ModelServiceVO]的所有者",
    "operation[API:x] is denied by default, please contact admin to correct it",
    "默认情况下拒绝操作[API：x]，请与管理员联系以更正",
    "the account[uuid:a] has no access to the resources[uuid:b]",
    "账户[uuid:a]无法使用资源[uuid:b]",
    "the operation is denied by the policy[x]",
]

CODE_TABLE: list[tuple[str, ErrorClass, int | None]] = [
    ("SYS.1000", A, 1),
    ("SYS.1001", A, None),
    ("SYS.1002", A, 1),
    ("SYS.1003", P, 0),
    ("SYS.1004", A, None),
    ("SYS.1005", A, None),
    ("SYS.1006", A, 1),
    ("SYS.1007", P, 0),
    ("SYS.1008", T, 1),
    ("SYS.1009", T, None),
    ("SYS.1010", T, None),
    ("SYS.1011", T, None),
    ("SYS.1012", T, None),
    ("SYS.1013", P, 0),
    ("SYS.1014", P, 0),
    ("SYS.1015", A, None),
    ("SYS.1016", A, None),
    ("SYS.1017", P, 0),
    ("ID.1000", F, 0),
    ("ID.1001", R, None),
    ("ORG_ZSTACK_IDENTITY_10020", R, None),
    ("ID.1002", F, 0),
    ("ID.1003", P, 0),
    ("ID.1004", P, 0),
    ("ID.1005", F, 0),
    ("ID.1006", F, 0),
    ("ID.2000", F, 0),
    ("ID.2001", F, 0),
    ("ID.2002", F, 0),
    ("ID.2003", T, None),
    *((f"LOGIN_CONTROL.{number}", F, 0) for number in range(1000, 1006)),
    *((f"LICENSE.{number}", F, 0) for number in range(1000, 1009)),
    ("PORTAL.1000", F, 0),
    ("PORTAL.1001", P, 0),
    ("PORTAL.1002", T, None),
    ("TAG.1000", A, 0),
    ("LONG_JOB.1000", P, 0),
    ("PROGRESS.1000", P, 0),
    ("MODEL_CENTER.1234", A, 1),
    ("sdk.1000", A, 1),
]


def classify(code: str, details: str = "d", **more: Any) -> ApiError:
    return from_error({"code": code, "description": "what", "details": details, **more})


@pytest.mark.parametrize(("status", "text", "klass", "retries", "hint"), IMMEDIATE)
def test_immediate_answer(status: int, text: str, klass: ErrorClass, retries: int | None, hint: str) -> None:
    """An immediate plain-text answer has the class of its line in section 7 and tells the operator what to do."""
    refused = submitted(Reply(status, text.encode()), JOB)
    assert isinstance(refused, Refused)
    assert (refused.error.klass, refused.error.retries) == (klass, retries)
    assert hint in refused.error.hint
    assert refused.error.code == f"HTTP.{status}"
    assert refused.error.text == text


@pytest.mark.parametrize(
    "text", [f"Duplicate job uuid[{JOB}]", f"Duplicate job uuid[{JOB}] found", f"重复的作业[{JOB}]"]
)
def test_duplicate_job_uuid(text: str) -> None:
    """A duplicate job uuid is a yes: the job was accepted before."""
    assert submitted(Reply(400, text.encode()), JOB) == Duplicate()


def test_a_page_that_quotes_the_job_is_no_duplicate() -> None:
    """A proxy's 400 page that repeats the request is no word of ZStack that the job was accepted before."""
    page = f"  <html>Bad request: Duplicate job uuid[{JOB}]</html>"
    assert submitted(Reply(400, page.encode()), JOB) != Duplicate()


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504, 520])
@pytest.mark.parametrize(
    "body", [b"", b"<html>Bad Gateway</html>", b"{}", b'{"error":null}', b'{"error":"x"}', b"upstream"]
)
def test_proxy_is_no_answer(status: int, body: bytes) -> None:
    """A gateway's answer, and a 503 without a JSON error, says nothing about the request."""
    assert isinstance(submitted(Reply(status, body), JOB), NoAnswer)


@pytest.mark.parametrize(("code", "klass", "retries"), CODE_TABLE)
def test_code(code: str, klass: ErrorClass, retries: int | None) -> None:
    """A code has the class and the retries of its line in section 7, and a hint."""
    error = classify(code)
    assert (error.klass, error.retries) == (klass, retries)
    assert error.hint
    assert error.text == "what: d"


def test_every_code_of_the_table_is_tested() -> None:
    """No code has a meaning that the table above does not state."""
    tested = {code for code, _, _ in CODE_TABLE}
    assert set(CODES) <= tested
    assert {code.partition(".")[0] for code in tested} >= set(FAMILIES)


@pytest.mark.parametrize("details", DENIED)
def test_denial_behind_1006(details: str) -> None:
    """SYS.1006 that denies a permission is permanent, in both languages."""
    error = classify("SYS.1006", details)
    assert (error.klass, error.retries, error.code) == (P, 0, "SYS.1006")
    assert "permission" in error.hint


@pytest.mark.parametrize("code", ["SYS.1015", "SYS.1016"])
def test_agent_behind_1006(code: str) -> None:
    """SYS.1006 caused by an agent that could not be reached is retried as often as attempts allow, after a look."""
    error = classify("SYS.1006", cause={"code": code, "details": "io"})
    assert (error.klass, error.retries, error.code) == (A, None, code)


def test_agent_told_by_text_only() -> None:
    """SYS.1006 whose text speaks of an HTTP error to an agent counts like SYS.1015."""
    assert classify("SYS.1006", "http error 502 from the model centre").retries is None
    assert classify("SYS.1006", "disk is full").retries == 1


@pytest.mark.parametrize("where", ["cause", "causes"])
def test_most_specific_code_wins(where: str) -> None:
    """The innermost telling code of cause and causes wins over the catch-all around it."""
    inner = {"code": "SYS.1006", "cause": {"code": "LICENSE.1001", "description": "expired"}}
    error = (
        classify("SYS.1000", cause=inner) if where == "cause" else classify("SYS.1000", causes=[{"code": "?"}, inner])
    )
    assert (error.klass, error.code) == (F, "LICENSE.1001")
    assert "expired" in error.text


def test_innermost_of_two_telling_codes() -> None:
    """Of two codes that both tell something the inner one, nearer to the root of the matter, wins."""
    error = classify("SYS.1015", cause={"code": "SYS.1011", "details": "no node"})
    assert (error.klass, error.code) == (T, "SYS.1011")


def test_permanent_cause_is_verified() -> None:
    """A permanent cause below an error that may have run: the clone is looked for, and not retried."""
    error = classify("SYS.1000", cause={"code": "SYS.1003", "details": "no image"})
    assert (error.klass, error.retries, error.code) == (A, 0, "SYS.1003")


def test_dead_session_below_a_catch_all() -> None:
    """A session's end is recognised by its global code under any code."""
    error = classify("SYS.1006", globalErrorCode="ORG_ZSTACK_IDENTITY_10020")
    assert (error.klass, error.code) == (R, "ID.1001")


def test_global_code_of_parameter_checks() -> None:
    """An unknown code with the parameter checker's global code is an invalid argument."""
    error = classify("NEW.1", globalErrorCode="ORG_ZSTACK_PORTAL_APIMEDIATOR_10003")
    assert (error.klass, error.retries, error.code) == (P, 0, "NEW.1")


def test_text_alone_never_renews_a_session() -> None:
    """A text about sessions without the code is no reason to log in again."""
    assert classify("SYS.1006", "the session expired").klass is A


def test_cycles_and_depth_are_bounded() -> None:
    """A tree that holds itself, or is deeper than 16, or has no usable fields is classified all the same."""
    loop: dict[str, Any] = {"code": "SYS.1006", "details": "x"}
    loop["cause"] = loop
    loop["causes"] = [loop, None, 3, []]
    assert from_error(loop).code == "SYS.1006"
    deep: dict[str, Any] = {"code": "SYS.1003"}
    for _ in range(20):
        deep = {"code": "SYS.1006", "cause": deep}
    assert from_error(deep).code == "SYS.1006"
    empty = from_error({"code": 7, "details": ["x"]})
    assert (empty.klass, empty.retries, empty.code) == (UNKNOWN.klass, 1, "UNKNOWN")


def test_text_is_verbatim_and_safe() -> None:
    """Error text reaches the user verbatim, on one line, without anything invisible, and at most 2,048 characters."""
    error = classify("SYS.1007", "错误的参数 ü 'a=b'")
    assert error.text == "what: 错误的参数 ü 'a=b'"
    nasty = "a\nb\x1b[2J\u202ec\u2028d\x00\ue000"
    assert safe_text(nasty) == "a\\nb\\x1b[2J\\u202ec\\u2028d\\x00\\ue000"
    long = classify("SYS.1007", "x" * 1_000_000)
    assert len(long.text) == 2048
    assert long.text.endswith("…")


def test_causes_are_told_once() -> None:
    """The text names description, details, elaboration and each cause, without repeating one."""
    inner = {"code": "SYS.1003", "description": "not found", "details": "image"}
    error = classify("SYS.1006", elaboration="错误信息: 无", cause=inner, causes=[inner])
    assert error.text == "what: d: 错误信息: 无; not found: image"


def test_hints_in_both_languages() -> None:
    """Every rule has a hint in English and one in Chinese, each one line."""
    for rule in (*CODES.values(), *FAMILIES.values(), *HTTP.values(), UNKNOWN):
        assert rule.hint
        assert "\n" not in rule.hint + rule.hint_zh
        assert re.search(r"[\u4e00-\u9fff]", rule.hint_zh)
        assert not re.search(r"[\u4e00-\u9fff]", rule.hint)
    assert from_error({"code": "SYS.1003"}, "zh").hint == CODES["SYS.1003"].hint_zh
