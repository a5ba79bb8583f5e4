"""The table of answers, one row for each line: answer, class, retries, what the user reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import batch
from batch.errors import NOT_SENT_AGAIN
from batch.zstack.answers import ApiError, Duplicate, ErrorClass, NoAnswer, Refused
from batch.zstack.classify import Language, from_error, from_http, hint_of, safe_text, with_hint
from batch.zstack.codes import BAD_CHARACTERS, CODES, FAMILIES, GLOBAL_FAMILIES, HTTP, OWN_HINTS_ZH, UNKNOWN
from batch.zstack.replies import read_find, read_poll, read_submit
from batch.zstack.wire import HttpReply

P, F, R, T, N, A = (
    ErrorClass.PERMANENT,
    ErrorClass.FATAL,
    ErrorClass.RENEW,
    ErrorClass.TRANSIENT,
    ErrorClass.NODE,
    ErrorClass.AMBIGUOUS,
)
JOB = "0123456789ab4cde8f0123456789abcd"

IMMEDIATE: list[tuple[int, str, ErrorClass, int | None, str]] = [
    (400, "missing header 'Authorization'", F, 0, "credentials"),
    (400, "Authorization type must be 'OAuth'", F, 0, "credentials"),
    (400, "accessKey format is 'ZStack AccessKeyId:Signature'", F, 0, "credentials"),
    (400, "'Date' must be incuded in request header", F, 0, "credentials"),
    (400, "Invalid authKey format", F, 0, "credentials"),
    (400, "unable to find RestAuthenticationBackend for type[X]", F, 0, "credentials"),
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
    "operation[API:x] is denied: admin-only API",
    "operation[API:x] is denied: no permission",
    "operation[API:x] is denied: no permission for expended api Y",
    "account[uuid:a] has no access to resources with allow-sharing scope: ModelServiceVO[uuid:b]",
    "account[uuid:a] has no access to resources with owner-only scope: ModelServiceVO[uuid:b]",
    "account[uuid:a] has no permission to set system tag with resource[uuid:b, type:ModelServiceVO]",
    "permission denied, the account[uuid:a] is not the owner of the tagged resource[uuid:b, type:c]",
    "permission denied, the account[uuid:a] is not authorized to access resource[uuid:b]",
    "Operations on other accounts are not permitted",
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
    ("SYS.1008", N, None),
    ("SYS.1009", N, None),
    ("SYS.1010", N, None),
    ("SYS.1011", N, None),
    ("SYS.1012", N, None),
    ("SYS.1013", P, 0),
    ("SYS.1014", P, 0),
    ("SYS.1015", A, None),
    ("SYS.1016", A, None),
    ("SYS.1017", A, 0),
    ("SYS.1018", P, 0),
    ("SYS.1019", F, 0),
    ("SYS.1091", P, 0),
    ("ID.1000", F, 0),
    ("ID.1001", R, None),
    ("ORG_ZSTACK_IDENTITY_10020", R, None),
    ("ID.1002", F, 0),
    ("ID.1003", P, 0),
    ("ID.1004", P, 0),
    ("ID.1005", F, 0),
    ("ID.1006", F, 0),
    ("ID.1007", F, 0),
    ("ID.2000", F, 0),
    ("ID.2001", F, 0),
    ("ID.2002", F, 0),
    ("ID.2003", T, None),
    *((f"LOGIN_CONTROL.{number}", F, 0) for number in range(1000, 1006)),
    *((f"LICENSE.{number}", F, 0) for number in range(1000, 1009)),
    ("PORTAL.1000", F, 0),
    ("PORTAL.1001", P, 0),
    ("PORTAL.1002", N, None),
    ("TAG.1000", A, 0),
    ("TAG.1001", A, 0),
    ("TAG.1002", P, 0),
    ("ORG_ZSTACK_AI_10120", A, 1),
    ("ORG_ZSTACK_AI_MODEL_CENTER_1", A, 1),
    ("LONG_JOB.1000", P, 0),
    ("PROGRESS.1000", P, 0),
    ("MODEL_CENTER.1234", A, 1),
    ("sdk.1000", A, 1),
]


PARAMETER_CHECK = "ORG_ZSTACK_PORTAL_APIMEDIATOR_10003"


def classify(code: str, details: str = "d", **more: Any) -> ApiError:
    return from_error({"code": code, "description": "what", "details": details, **more})


@pytest.mark.parametrize(("status", "text", "error_class", "retries", "hint"), IMMEDIATE)
def test_immediate_answer(status: int, text: str, error_class: ErrorClass, retries: int | None, hint: str) -> None:
    """An immediate plain-text answer has the class of its line and tells the operator what to do."""
    refused = read_submit(HttpReply(status, text.encode()), JOB)
    assert isinstance(refused, Refused)
    assert (refused.error.error_class, refused.error.retries) == (error_class, retries)
    assert hint in refused.error.hint
    assert refused.error.code == f"HTTP.{status}"
    assert refused.error.text == text


@pytest.mark.parametrize(
    "text", [f"Duplicate job uuid[{JOB}]", f"Duplicate job uuid[{JOB}] found", f"重复的作业[{JOB}]"]
)
def test_duplicate_job_uuid(text: str) -> None:
    """A duplicate job uuid is a yes: the job was accepted before."""
    assert read_submit(HttpReply(400, text.encode()), JOB) == Duplicate()


def test_a_page_that_quotes_the_job_is_no_duplicate() -> None:
    """A proxy's 400 page that repeats the request does not mean that the job was accepted before."""
    page = f"  <html>Bad request: Duplicate job uuid[{JOB}]</html>"
    assert read_submit(HttpReply(400, page.encode()), JOB) != Duplicate()


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504, 520])
@pytest.mark.parametrize(
    "body", [b"", b"<html>Bad Gateway</html>", b"{}", b'{"error":null}', b'{"error":"x"}', b"upstream"]
)
def test_proxy_is_no_answer(status: int, body: bytes) -> None:
    """A gateway's answer, and a 503 without a JSON error, are inconclusive."""
    assert isinstance(read_submit(HttpReply(status, body), JOB), NoAnswer)


@pytest.mark.parametrize(("code", "error_class", "retries"), CODE_TABLE)
def test_code(code: str, error_class: ErrorClass, retries: int | None) -> None:
    """A code has the class and the retries of its line, and a hint."""
    error = classify(code)
    assert (error.error_class, error.retries) == (error_class, retries)
    assert error.hint
    assert error.text == "what: d"


def test_every_code_of_the_table_is_tested() -> None:
    """No code has a meaning that the table above does not state."""
    tested = {code for code, _, _ in CODE_TABLE}
    assert set(CODES) <= tested
    assert {code.partition(".")[0] for code in tested} >= set(FAMILIES)
    codes_beside = [code for code in tested if "_" in code]
    for family in GLOBAL_FAMILIES:
        assert any(code.startswith(family) for code in [*codes_beside, PARAMETER_CHECK])


@pytest.mark.parametrize("details", DENIED)
def test_denial_behind_1006(details: str) -> None:
    """SYS.1006 that denies a permission is permanent, in both languages."""
    error = classify("SYS.1006", details)
    assert (error.error_class, error.retries, error.code) == (P, 0, "SYS.1006")
    assert "permission" in error.hint


@pytest.mark.parametrize("code", ["SYS.1015", "SYS.1016"])
def test_agent_behind_1006(code: str) -> None:
    """SYS.1006 caused by an unreachable agent is retried as often as attempts allow, after a lookup."""
    error = classify("SYS.1006", cause={"code": code, "details": "io"})
    assert (error.error_class, error.retries, error.code) == (A, None, code)


def test_agent_recognised_by_text() -> None:
    """SYS.1006 whose text speaks of an HTTP error to an agent counts like SYS.1015."""
    assert classify("SYS.1006", "http error 502 from the model centre").retries is None
    assert classify("SYS.1006", "disk is full").retries == 1


@pytest.mark.parametrize("where", ["cause", "causes"])
def test_the_most_specific_code_is_shown(where: str) -> None:
    """The innermost specific code of cause and causes names an error that may have run, and decides the retries."""
    inner = {"code": "SYS.1006", "cause": {"code": "SYS.1003", "description": "no image"}}
    error = (
        classify("SYS.1000", cause=inner) if where == "cause" else classify("SYS.1000", causes=[{"code": "?"}, inner])
    )
    assert (error.error_class, error.retries, error.code) == (A, 0, "SYS.1003")
    assert "no image" in error.text


CAUSES = ("SYS.1003", "SYS.1009", "SYS.1001", "SYS.1006", "LICENSE.1003", "ID.1001", "ID.1002", "ID.2003", "NEW.1")


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("outer", ["SYS.1006", "SYS.1000", "SYS.1001", "NEW.2"])
def test_no_cause_makes_a_possible_execution_harmless(outer: str, cause: str) -> None:
    """Whatever its causes, an error that may have run may have run; no cause stops the run or ends the session."""
    assert classify(outer, cause={"code": cause, "details": "is denied by default"}).error_class is A


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("outer", ["SYS.1007", "SYS.1010", "ID.2003", "ID.1001", "LICENSE.1003"])
def test_a_cause_makes_an_error_more_cautious_or_leaves_it(outer: str, cause: str) -> None:
    """Of an error that was not executed only a cause that may have run changes the class; a stop stays a stop."""
    alone, error = classify(outer), classify(outer, cause={"code": cause})
    in_doubt = classify(cause).error_class is A
    if alone.error_class is F:
        assert (error.error_class, error.may_have_run) == (F, in_doubt)
    else:
        assert error.error_class is (A if in_doubt else alone.error_class)


@pytest.mark.parametrize("code", ["SYS.1001", "SYS.1004", "SYS.1015", "SYS.1016", "NEW.1"])
def test_codes_after_which_work_may_continue(code: str) -> None:
    """A timeout, an agent's trouble and an unknown code leave open whether the server is still working."""
    assert classify(code).may_go_on
    if code != "NEW.1":
        assert classify("SYS.1006", cause={"code": code}).may_go_on
    assert not classify("SYS.1006").may_go_on


def test_permanent_cause_is_verified() -> None:
    """A permanent cause of an error that may have run: the clone is looked up, and not retried."""
    error = classify("SYS.1000", cause={"code": "SYS.1003", "details": "no image"})
    assert (error.error_class, error.retries, error.code) == (A, 0, "SYS.1003")


def test_dead_session_below_a_catch_all() -> None:
    """A session's end is recognised by its global code under any code."""
    error = classify("SYS.1006", globalErrorCode="ORG_ZSTACK_IDENTITY_10020")
    assert (error.error_class, error.code) == (R, "ID.1001")


def test_global_code_of_parameter_checks() -> None:
    """An unknown code with the parameter checker's global code is an invalid argument, and follows the latter."""
    error = classify("NEW.1", globalErrorCode=PARAMETER_CHECK)
    assert (error.error_class, error.retries, error.code) == (P, 0, PARAMETER_CHECK)


@pytest.mark.parametrize("code", ["", "NEW.1"])
def test_global_code_of_the_ai_plugin(code: str) -> None:
    """An error that only the AI plugin's global code names may have run, and is retried once."""
    error = classify(code, globalErrorCode="ORG_ZSTACK_AI_10129")
    assert (error.error_class, error.retries, error.may_go_on) == (A, 1, True)
    assert "AI plugin" in error.hint
    assert classify("SYS.1007", globalErrorCode="ORG_ZSTACK_AI_10129").error_class is P


@pytest.mark.parametrize("code", ["SYS.1000", "SYS.1002", "SYS.1006", "NEW.1"])
def test_characters_that_the_database_refuses(code: str) -> None:
    """MySQL's error has its own hint under any code, at any depth, and is not retried."""
    details = "Incorrect string value: '\\xF0\\x9F\\x98\\x80' for column 'name' at row 1"
    for error in (classify(code, details), classify("SYS.1000", cause={"code": code, "details": details})):
        assert (error.error_class, error.retries, error.hint) == (A, 0, BAD_CHARACTERS.hint)
    assert "U+FFFF" in from_error({"code": code, "details": details}, "zh").hint
    assert classify("SYS.1003", details).hint == CODES["SYS.1003"].hint


MESSAGES: list[tuple[dict[str, str], str]] = [
    ({"message": "out of room"}, "what: out of room"),
    ({"message": "disk is full"}, "what: disk is full: out of room"),
    ({"message": "what: out of room, disk is full"}, "what: out of room, disk is full"),
    ({"message": "disk is full", "i18nDetails": "disk is full"}, "what: disk is full: out of room"),
    ({"message": "", "i18nDetails": "磁盘已满"}, "what: 磁盘已满: out of room"),
]


@pytest.mark.parametrize(("more", "text"), MESSAGES)
def test_texts_in_the_operators_language(more: dict[str, str], text: str) -> None:
    """``message`` and ``i18nDetails`` of newer servers are shown once, and only if they add something."""
    assert classify("SYS.1007", "out of room", **more).text == text


def test_a_denial_is_read_in_the_operators_language_too() -> None:
    """A denial is recognised by the text of ``message``, in any language of the details."""
    message = "operation[API:x] is denied: no permission"
    assert classify("SYS.1006", "Der Vorgang wurde abgelehnt", message=message).error_class is P


def test_a_denied_lookup_stops_nothing() -> None:
    """SYS.1019 ends the run as the answer to the clone; at the query it only means that this account may not look."""
    body = json.dumps({"error": {"code": "SYS.1019", "details": "operation[API:x] is denied: no permission"}}).encode()
    for answer, error_class in ((read_poll(HttpReply(503, body)), F), (read_find(HttpReply(503, body), JOB), P)):
        assert isinstance(answer, Refused)
        assert (answer.error.error_class, answer.error.code) == (error_class, "SYS.1019")


def test_text_alone_never_renews_a_session() -> None:
    """A text about sessions without the code causes no login."""
    assert classify("SYS.1006", "the session expired").error_class is A


def test_cycles_and_depth_are_bounded() -> None:
    """A tree that contains itself, or is deeper than 16, or has no usable fields is classified all the same."""
    loop: dict[str, Any] = {"code": "SYS.1006", "details": "x"}
    loop["cause"] = loop
    loop["causes"] = [loop, None, 3, []]
    assert from_error(loop).code == "SYS.1006"
    deep: dict[str, Any] = {"code": "SYS.1003"}
    for _ in range(20):
        deep = {"code": "SYS.1006", "cause": deep}
    assert from_error(deep).code == "SYS.1006"
    empty = from_error({"code": 7, "details": ["x"]})
    assert (empty.error_class, empty.retries, empty.code) == (UNKNOWN.error_class, 1, "UNKNOWN")


def test_text_is_verbatim_and_safe() -> None:
    """Error text reaches the user verbatim, on one line, without invisible characters, and at most 2,048 characters."""
    error = classify("SYS.1007", "错误的参数 ü 'a=b'")
    assert error.text == "what: 错误的参数 ü 'a=b'"
    nasty = "a\nb\x1b[2J\u202ec\u2028d\x00\ue000"
    assert safe_text(nasty) == "a\\nb\\x1b[2J\\u202ec\\u2028d\\x00\\ue000"
    long = classify("SYS.1007", "x" * 1_000_000)
    assert len(long.text) == 2048
    assert long.text.endswith("…")


def test_causes_are_shown_once() -> None:
    """The text names description, details, elaboration and each cause, without repeating one."""
    inner = {"code": "SYS.1003", "description": "not found", "details": "image"}
    error = classify("SYS.1006", elaboration="错误信息: 无", cause=inner, causes=[inner])
    assert error.text == "what: d: 错误信息: 无; not found: image"


OTHERS = (UNKNOWN, BAD_CHARACTERS)


def test_hints_in_both_languages() -> None:
    """Every rule has a hint in English and one in Chinese, each one line."""
    for rule in (*CODES.values(), *FAMILIES.values(), *GLOBAL_FAMILIES.values(), *HTTP.values(), *OTHERS):
        assert rule.hint
        assert "\n" not in rule.hint + rule.hint_zh
        assert re.search(r"[\u4e00-\u9fff]", rule.hint_zh)
        assert not re.search(r"[\u4e00-\u9fff]", rule.hint)
    assert from_error({"code": "SYS.1003"}, "zh").hint == CODES["SYS.1003"].hint_zh


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("code", [*CODES, *GLOBAL_FAMILIES, "LICENSE.1", "NEW.1", "HTTP.400", "HTTP.401", "HTTP.500"])
def test_a_recorded_error_has_the_hint_of_the_answer(code: str, language: Language) -> None:
    """Code and text of a recorded error are enough for its hint, in either language."""
    status = code.removeprefix("HTTP.")
    made = from_error({"code": code, "details": "said"}, language)
    error = from_http(int(status), "said", language) if status != code else made
    assert hint_of(error.code, f"nothing was sent: {error.text}", language) == error.hint
    shown = with_hint(error.code, error.text, language)
    assert shown == f"{error.text} ({error.hint})"
    assert with_hint(error.code, shown, language) == shown, "as manifests of older versions have it"


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("code", ["LICENSE.1003", "SYS.1010", "ID.1001", "SYS.1007"])
def test_at_most_once_no_hint_promises_another_attempt(code: str, language: Language) -> None:
    """A target that stays uncertain because of ``--at-most-once`` is shown without the hint of its last error."""
    text = f"{NOT_SENT_AGAIN}; said"
    assert (hint_of(code, text, language), with_hint(code, text, language)) == ("", text)


@pytest.mark.parametrize("code", [None, "", "ZCLONE.UNANSWERED"])
def test_our_own_errors_have_no_hint(code: str | None) -> None:
    """In English zclone's own errors, and those without a text, are shown unchanged."""
    assert (hint_of(code, "agent"), with_hint(code, "agent"), with_hint("SYS.1003", None)) == ("", "agent", None)


def test_an_agents_denial_is_no_denial_of_the_request() -> None:
    """What the operating system denies to an agent is met during the execution: a clone may be left."""
    assert classify("SYS.1006", "rsync: mkdir /models failed: Permission denied (13)").error_class is A
    text = "unable to post to the agent http://10.0.0.1:7070: http error 403: user model has no access to the resource"
    assert classify("SYS.1006", text).error_class is A


def test_our_own_errors_have_a_hint_in_chinese() -> None:
    """Their texts are English on record, so a Chinese operator gets a hint for each of zclone's codes."""
    used = set[str]()
    for file in Path(batch.__file__).parent.rglob("*.py"):
        used |= set(re.findall(r"\bZCLONE\.[A-Z_]+", file.read_text(encoding="utf-8")))
    assert used == set(OWN_HINTS_ZH)
    for code, hint in OWN_HINTS_ZH.items():
        assert re.search(r"[\u4e00-\u9fff]", hint)
        assert (hint_of(code, "text", "zh"), with_hint(code, "text", "zh")) == (hint, f"text ({hint})")
        assert with_hint(code, None, "zh") is None
