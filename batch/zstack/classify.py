"""Classifies ZStack's errors as ``ApiError``: by code, then global code, then text as a last resort.

Source: zstack/README.md 10 and 11. Error texts are kept verbatim but made safe to display: one line, no invisible
characters, at most 2,048 characters.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from batch.errors import IN_USE, NOT_SENT_AGAIN
from batch.jsoncodec import as_object, as_text
from batch.text import cut, escape
from batch.zstack.answers import ApiError, ErrorClass
from batch.zstack.codes import (
    AGENT_FAILED,
    BAD_CHARACTERS,
    CATCH_ALL,
    CODES,
    DENIED,
    FAMILIES,
    GLOBAL_CODES,
    GLOBAL_FAMILIES,
    HTTP,
    OWN_HINTS_ZH,
    UNKNOWN,
    Rule,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batch.model import JsonValue

Language: TypeAlias = Literal["en", "zh"]

LONGEST_TEXT: Final = 2048
"""Maximum characters of an error text."""
_DEEPEST = 16
_MAX_NODES = 256
_LONGEST_CODE = 128

_DENIALS: Final = re.compile(
    r"permission denied, ?(the )?account|operation\[api:[^\]]{0,300}\] is denied|denied by the policy"
    r"|has no access to (the )?resource"
    r"|is not the owner of the (tagged )?resource|is not authorized to access|\] has no permission"
    r"|on other accounts are not permitted|不是资源.{0,200}的所有者|拒绝操作|无法使用资源"
    r"|权限(不足|被拒绝)|没有权限|被策略.{0,200}拒绝",
    re.IGNORECASE | re.DOTALL,
)
_AGENT_ERRORS: Final = re.compile(
    r"\bhttp (error|status|code)|connection (refused|reset|timed out)|unable to (connect|post)|\bagent\b"
    r"|连接(被拒绝|超时|失败)|代理",
    re.IGNORECASE,
)
_AUTHORIZATION: Final = re.compile(
    r"authorization|accesskey|authkey|restauthenticationbackend|'date'|date format|\bdate\b.{0,40}(header|format)",
    re.IGNORECASE,
)
_BAD_CHARACTERS: Final = re.compile(r"incorrect string value", re.IGNORECASE)
_TYPE_COMPLAINT: Final = re.compile(r"field is excepted", re.IGNORECASE)
_ACCESS_KEY: Final = re.compile(r"access\s?key", re.IGNORECASE)
_SKEW: Final = re.compile(r"requestTimeTooSkewed", re.IGNORECASE)
_DATE_FORM: Final = re.compile(r"date format|\bdate\b.{0,40}(format|conform)|unparseable date", re.IGNORECASE)
_STATUS: Final = re.compile(r"HTTP\.([0-9]{3})")
_NO_API: Final = re.compile(r"no api mapping|/v1/", re.IGNORECASE)


def from_error(error: Mapping[str, JsonValue], language: Language = "en") -> ApiError:
    """Classify the ``error`` object of an answer."""
    nodes = list(_walk(error))
    text = safe_text("; ".join(dict.fromkeys(part for node in nodes for part in _texts(node))))
    code, rule, may_have_run = _decide(nodes)
    in_use = any(IN_USE in _codes(node) for node in nodes)
    return replace(_error(code, rule, text, language, may_have_run=may_have_run), has_cause_in_use=in_use)


def from_http(status: int, text: str, language: Language = "en") -> ApiError:
    """Classify a 4xx or 500 whose body is plain text (zstack/README.md 10)."""
    return _error(f"HTTP.{status}", HTTP[_http_kind(status, text)], safe_text(text) or f"HTTP {status}", language)


def hint_of(code: str | None, text: str | None, language: Language = "en") -> str:
    """Return the hint for a recorded error; empty if there is none.

    ``code`` and ``text`` as in ``ApiError``; ``text`` may be part of a longer text.
    """
    rule = _rule_on_record(code or "", text or "")
    return _own_hint(code or "", language) if rule is None else _hint(rule, language)


def with_hint(code: str | None, text: str | None, language: Language = "en") -> str | None:
    """Return ``text`` as lists, logs and reports show it: followed by its hint in parentheses.

    A text that contains its hint, as in older manifests, is not changed.
    """
    hint = missing_hint(code, text, language)
    return f"{text} ({hint})" if hint else text


def missing_hint(code: str | None, text: str | None, language: Language = "en") -> str:
    """Return the hint of a recorded error; empty where it has none, or ``text`` contains it in either language."""
    rule = _rule_on_record(code or "", text or "")
    if rule is None:
        return _own_hint(code or "", language) if text else ""
    if not text or f"({rule.hint})" in text or f"({rule.hint_zh})" in text:
        return ""
    return _hint(rule, language)


def safe_text(text: str, longest: int = LONGEST_TEXT) -> str:
    r"""Escape control, bidirectional and separator characters (``\n``, ``\x1b``, ``\u2028``), then cut."""
    # Twice the length is enough to cut from, and limits the work on a megabyte of details.
    return cut(escape(text[: 2 * longest]), longest)


def is_skew(status: int, text: str) -> bool:
    """Return whether a signed request was refused because its date is too far from the server's time."""
    return status == 403 and _SKEW.search(text) is not None


def is_unread_date(status: int, text: str) -> bool:
    """Return whether a signed request was refused because the server cannot parse its date."""
    return status == 400 and _DATE_FORM.search(text) is not None and not _TYPE_COMPLAINT.search(text)


def _error(code: str, rule: Rule, text: str, language: Language, *, may_have_run: bool = False) -> ApiError:
    code = safe_text(code, _LONGEST_CODE)
    hint = hint_of(code, text, language)
    return ApiError(rule.error_class, code, text, rule.retries, hint, rule.may_go_on, may_have_run)


def _hint(rule: Rule, language: Language) -> str:
    return rule.hint_zh if language == "zh" else rule.hint


def _own_hint(code: str, language: Language) -> str:
    """Return the hint of a code of zclone itself; none in English, the language of its texts."""
    return OWN_HINTS_ZH.get(code, "") if language == "zh" else ""


def _rule_on_record(code: str, text: str) -> Rule | None:
    """Return the rule of an error that ``from_error`` or ``from_http`` made; None where zclone made the code.

    None too where the error is not answered by another attempt: the rule's hint may name one.
    """
    if not code or code.startswith("ZCLONE.") or text.startswith(NOT_SENT_AGAIN):
        return None
    status = _STATUS.fullmatch(code)
    return _rule_of(code, text) if status is None else HTTP[_http_kind(int(status[1]), text)]


def _walk(error: Mapping[str, JsonValue]) -> Iterator[Mapping[str, JsonValue]]:
    """Yield each error of the tree once, outer ones first; depth and number are limited, so that cycles end."""
    level: list[Mapping[str, JsonValue]] = [error]
    seen: set[int] = set()
    for _ in range(_DEEPEST):
        inner: list[Mapping[str, JsonValue]] = []
        for node in level:
            if id(node) in seen or len(seen) >= _MAX_NODES:
                continue
            seen.add(id(node))
            yield node
            inner.extend(_causes(node))
        level = inner


def _causes(node: Mapping[str, JsonValue]) -> Iterator[Mapping[str, JsonValue]]:
    causes = node.get("causes")
    for value in (node.get("cause"), *(causes if isinstance(causes, list) else ())):
        cause = as_object(value)
        if cause is not None:
            yield cause


def _texts(node: Mapping[str, JsonValue]) -> Iterator[str]:
    """Yield the texts of an error; those in the caller's language, of newer servers, only where they add something."""
    names = ("description", "details", "elaboration", "message", "i18nDetails")
    description, details, elaboration, *localized = (as_text(node.get(name)) or "" for name in names)
    text_so_far = f"{description}: {details}: {elaboration}"
    added = [text for text in localized if text not in text_so_far]
    parts = [part for part in (description, *added, details, elaboration) if part]
    whole = dict.fromkeys(part for part in parts if part in added or not any(part in longer for longer in added))
    if whole:
        yield ": ".join(whole)


def _codes(node: Mapping[str, JsonValue]) -> Iterator[str]:
    for name in ("code", "globalErrorCode"):
        code = as_text(node.get(name))
        if code:
            yield GLOBAL_CODES.get(code, code)


def _rule(code: str) -> Rule | None:
    return CODES.get(code) or FAMILIES.get(code.partition(".")[0])


def _decide(nodes: list[Mapping[str, JsonValue]]) -> tuple[str, Rule, bool]:
    """Return code, rule and ``may_have_run``: the class is that of the outermost error, or a more cautious one.

    A cause below it may turn "not executed" into "may have run", never the other way, and does not affect the whole
    run; for an error that may have run it may give a more exact code, number of retries, and hint.
    """
    code, rule = _classify_node(nodes[0])
    causes = [_classify_node(node) for node in nodes[1:]]
    known = [(inner, of_inner) for inner, of_inner in causes if of_inner is not UNKNOWN]
    specific = [(inner, of_inner) for inner, of_inner in known if not of_inner.catch_all]
    may_go_on = any(of_inner.may_go_on for _, of_inner in known)
    if rule.error_class is ErrorClass.AMBIGUOUS:
        detail, of_detail = specific[-1] if specific else (code, rule)
        return detail, replace(of_detail, error_class=rule.error_class, may_go_on=rule.may_go_on or may_go_on), False
    if any(of_inner.error_class is ErrorClass.AMBIGUOUS for _, of_inner in causes):
        if rule.error_class is ErrorClass.FATAL:
            return code, replace(rule, may_go_on=may_go_on), True
        return code, replace(rule, error_class=ErrorClass.AMBIGUOUS, may_go_on=may_go_on), False
    if rule.error_class is ErrorClass.PERMANENT:
        code, rule = next(
            (pair for pair in reversed(specific) if pair[1].error_class is rule.error_class), (code, rule)
        )
    return code, rule, False


def _classify_node(node: Mapping[str, JsonValue]) -> tuple[str, Rule]:
    """Return code and rule of one error of the tree, without its causes."""
    codes = list(_codes(node))
    known = [code for code in codes if _rule(code) is not None]
    specific = [code for code in known if code not in CATCH_ALL]
    families = [code for code in codes if _by_family(code) is not None]
    code = next(iter((*specific, *known, *families, *codes)), "UNKNOWN")
    return code, _rule_of(code, "; ".join(_texts(node)))


def _rule_of(code: str, text: str) -> Rule:
    """Return the rule of a code, or of the text where the code is not specific."""
    known = _rule(code)
    rule = known or _by_family(code) or UNKNOWN
    if rule.catch_all or known is None:
        return _by_text(code, text, is_known=known is not None) or rule
    return rule


def _by_family(code: str) -> Rule | None:
    return next((rule for family, rule in GLOBAL_FAMILIES.items() if code.startswith(family)), None)


def _by_text(code: str, text: str, *, is_known: bool) -> Rule | None:
    """Return the meaning of the text of a catch-all or unknown ``code``; of the catch-alls only SYS.1006 needs it."""
    if _BAD_CHARACTERS.search(text):
        return BAD_CHARACTERS
    if is_known and code != "SYS.1006":
        return None
    # What an agent reports of its operating system may read like a denial of ZStack, and may come after some work.
    if _AGENT_ERRORS.search(text):
        return AGENT_FAILED
    return DENIED if _DENIALS.search(text) else None


def _http_kind(status: int, text: str) -> str:
    if status == 401:
        return "unauthorized"
    if status == 400 and _AUTHORIZATION.search(text) and not _TYPE_COMPLAINT.search(text):
        return "authorization"
    if is_skew(status, text):
        return "skew"
    if status == 403 and _ACCESS_KEY.search(text):
        return "access key"
    if status == 404 and _NO_API.search(text):
        return "no api"
    if status == 500:
        return "server error"
    return "refused"
