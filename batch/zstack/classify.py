"""From an answer in ZStack's words to an ``ApiError``: by code, then global code, then text as a last resort.

Source: wire section 7. Error texts are kept verbatim but made safe to show: one line, nothing invisible, at most 2,048
characters.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from batch.zstack.answers import ApiError, ErrorClass
from batch.zstack.codes import AGENT_FAILED, CODES, DENIED, FAMILIES, GLOBAL_CODES, GLOBAL_FAMILIES, HTTP, UNKNOWN, Rule
from batch.zstack.decode import as_object, as_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batch.model import JsonValue

Language: TypeAlias = Literal["en", "zh"]

LONGEST_TEXT: Final = 2048
"""Characters of an error text."""
_DEEPEST = 16
_MOST_NODES = 256
_LONGEST_CODE = 128

_DENIALS: Final = re.compile(
    r"permission denied|is denied by default|has no access to the resource|denied by the policy"
    r"|is not the owner of the resource|不是资源.{0,200}的所有者|拒绝操作|无法使用资源"
    r"|权限(不足|被拒绝)|没有权限|被策略.{0,200}拒绝",
    re.IGNORECASE | re.DOTALL,
)
_AGENT_TROUBLE: Final = re.compile(
    r"\bhttp (error|status|code)|connection (refused|reset|timed out)|unable to (connect|post)|\bagent\b"
    r"|连接(被拒绝|超时|失败)|代理",
    re.IGNORECASE,
)
_AUTHORIZATION: Final = re.compile(
    r"authorization|accesskey|'date'|date format|\bdate\b.{0,40}(header|format)", re.IGNORECASE
)
_TYPE_COMPLAINT: Final = re.compile(r"field is excepted", re.IGNORECASE)
_ACCESS_KEY: Final = re.compile(r"access\s?key", re.IGNORECASE)
_SKEW: Final = re.compile(r"requestTimeTooSkewed", re.IGNORECASE)
_NO_API: Final = re.compile(r"no api mapping|/v1/", re.IGNORECASE)


def from_error(error: Mapping[str, JsonValue], language: Language = "en") -> ApiError:
    """Classify the ``error`` object of an answer."""
    nodes = list(_walk(error))
    text = safe_text("; ".join(dict.fromkeys(part for node in nodes for part in _texts(node))))
    code, rule = _decide(nodes, text)
    return _made(code, rule, text, language)


def from_http(status: int, text: str, language: Language = "en") -> ApiError:
    """Classify a 4xx or 500 whose body is plain text (wire: section 7, immediate answers)."""
    return _made(f"HTTP.{status}", HTTP[_http_kind(status, text)], safe_text(text) or f"HTTP {status}", language)


def safe_text(text: str, longest: int = LONGEST_TEXT) -> str:
    r"""Escape control, bidirectional and separator characters (``\n``, ``\x1b``, ``\u2028``), then cut."""
    # Twice the length is enough to cut from, and bounds the work on a megabyte of details.
    shown = text[: 2 * longest]
    if not shown.isprintable():
        shown = "".join(char if _is_plain(char) else _escape(char) for char in shown)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def is_skew(text: str) -> bool:
    """Whether the text of a 403 says that a signed request was refused for its date."""
    return _SKEW.search(text) is not None


def _is_plain(char: str) -> bool:
    return char == " " or unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"}


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def _made(code: str, rule: Rule, text: str, language: Language) -> ApiError:
    hint = rule.hint_zh if language == "zh" else rule.hint
    return ApiError(rule.klass, safe_text(code, _LONGEST_CODE), text, rule.retries, hint)


def _walk(error: Mapping[str, JsonValue]) -> Iterator[Mapping[str, JsonValue]]:
    """Each error of the tree once, outer ones first; depth and number are bounded, so that no cycle holds it."""
    level: list[Mapping[str, JsonValue]] = [error]
    seen: set[int] = set()
    for _ in range(_DEEPEST):
        inner: list[Mapping[str, JsonValue]] = []
        for node in level:
            if id(node) in seen or len(seen) >= _MOST_NODES:
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
    parts = [as_text(node.get(name)) for name in ("description", "details", "elaboration")]
    text = ": ".join(dict.fromkeys(part for part in parts if part))
    if text:
        yield text


def _codes(node: Mapping[str, JsonValue]) -> Iterator[str]:
    for name in ("code", "globalErrorCode"):
        code = as_text(node.get(name))
        if code:
            yield GLOBAL_CODES.get(code, code)


def _rule(code: str) -> Rule | None:
    return CODES.get(code) or FAMILIES.get(code.partition(".")[0])


def _decide(nodes: list[Mapping[str, JsonValue]], text: str) -> tuple[str, Rule]:
    """Let the innermost code that says something win; a catch-all only where nothing else is known."""
    known = [(code, rule) for node in nodes for code in _codes(node) if (rule := _rule(code)) is not None]
    telling = [(code, rule) for code, rule in known if not rule.catch_all]
    outer = next((code for node in nodes for code in _codes(node)), "")
    if telling:
        return _verified(*telling[-1], outer)
    code, rule = known[-1] if known else (outer or "UNKNOWN", _by_family(nodes) or UNKNOWN)
    if code == "SYS.1006" or not known:
        rule = _by_text(text) or rule
    return code, rule


def _verified(code: str, rule: Rule, outer: str) -> tuple[str, Rule]:
    """Have the clone looked for where a permanent cause lies below an error that may have run."""
    above = _rule(outer) or UNKNOWN
    if code != outer and rule.klass is ErrorClass.PERMANENT and above.klass is ErrorClass.AMBIGUOUS:
        return code, Rule(ErrorClass.AMBIGUOUS, 0, rule.hint, rule.hint_zh)
    return code, rule


def _by_family(nodes: list[Mapping[str, JsonValue]]) -> Rule | None:
    for node in nodes:
        for name in ("globalErrorCode", "code"):
            family = (as_text(node.get(name)) or "").rpartition("_")[0]
            if family in GLOBAL_FAMILIES:
                return CODES[GLOBAL_FAMILIES[family]]
    return None


def _by_text(text: str) -> Rule | None:
    if _DENIALS.search(text):
        return DENIED
    return AGENT_FAILED if _AGENT_TROUBLE.search(text) else None


def _http_kind(status: int, text: str) -> str:
    if status == 401:
        return "unauthorized"
    if status == 400 and _AUTHORIZATION.search(text) and not _TYPE_COMPLAINT.search(text):
        return "authorization"
    if status == 403 and is_skew(text):
        return "skew"
    if status == 403 and _ACCESS_KEY.search(text):
        return "access key"
    if status == 404 and _NO_API.search(text):
        return "no api"
    if status == 500:
        return "server error"
    return "refused"
