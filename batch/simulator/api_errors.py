"""ZStack's error values and their JSON (zstack/README.md 10 and 11)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from batch.simulator.error_texts import DESCRIPTIONS, DETAILS, GLOBAL_CODES

if TYPE_CHECKING:
    from batch.simulator.wire import Json

DETAILS_LIMIT: Final = 4096
"""Characters of ``details`` the server keeps."""
CHINESE: Final = "zh_CN"
ENGLISH: Final = "en_US"


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """ZStack's error value, in both of the node's languages."""

    code: str
    english: str
    chinese: str
    cause: ErrorCode | None = None
    values: tuple[str, ...] = ()
    """Values inserted into the texts."""

    def text(self, locale: str) -> str:
        """Return the text in ``locale``; English for any but Chinese."""
        return (self.chinese if locale == CHINESE else self.english)[:DETAILS_LIMIT]


class ApiFailureError(Exception):
    """An API message fails with an ErrorCode: at the poll for async calls, as an immediate 503 for sync ones."""

    def __init__(self, error: ErrorCode) -> None:
        """Store ``error`` for the answer."""
        super().__init__(error.code)
        self.error = error


class RestError(Exception):
    """The REST layer itself refuses: a status and plain text, never JSON (zstack/README.md 1)."""

    def __init__(self, status: int, text: str) -> None:
        """Store ``status`` and ``text`` for the answer."""
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class ErrorFactory:
    """Creates errors in the node's language and version."""

    locale: str
    global_codes: bool
    """Write the newer ErrorCode: globalErrorCode, ``message`` in the caller's language, causes and more."""
    newer_codes: bool
    """Use the codes and texts of newer servers for denials and tags."""

    def failure(self, code: str, key: str, *values: object) -> ApiFailureError:
        """Make the failure ``code`` with the details named ``key``."""
        return ApiFailureError(self.error(code, key, *values))

    def denial(self, key: str, *values: object) -> ApiFailureError:
        """Make the refusal of an API (``denied``) or of a resource (``access``, ``owner``)."""
        if not self.newer_codes:
            return self.failure("SYS.1006", key, *values)
        if key == "denied":
            return self.failure("SYS.1019", "newer_denied", *values)
        return self.failure("SYS.1018", "newer_access", *values)

    def duplicate_tag(self, tag: str, uuid: str) -> ApiFailureError:
        """Make the refusal of a tag that the resource already has."""
        return self.failure("TAG.1001" if self.newer_codes else "SYS.1006", "duplicated_tag", tag, uuid)

    def error(self, code: str, key: str, *values: object, cause: ErrorCode | None = None) -> ErrorCode:
        """Make an ErrorCode with the details named ``key``."""
        english, chinese = DETAILS[key]
        return ErrorCode(code, english.format(*values), chinese.format(*values), cause, tuple(map(str, values)))

    def json(self, error: ErrorCode, locale: str = ENGLISH) -> Json:
        """Write ``error`` as the answer's ``error`` object; ``locale``: of newer servers' ``message``."""
        prefix = "错误信息: " if self.locale == CHINESE else "Error message: "
        details = error.text(self.locale)
        answer: Json = {
            "code": error.code,
            "description": DESCRIPTIONS.get(error.code, "An unknown error happened"),
            "details": details,
            "elaboration": prefix + details,
        }
        if error.cause is not None:
            answer["cause"] = self.json(error.cause, locale)
        if self.global_codes:
            answer |= self._newer(error, answer, locale)
        return answer

    def _newer(self, error: ErrorCode, answer: Json, locale: str) -> Json:
        global_code = GLOBAL_CODES.get(error.code)
        return {
            "globalErrorCode": global_code,
            "message": error.text(locale),
            "messageKey": global_code,
            "params": list(error.values) or None,
            "localizedMessage": error.text(locale),
            "retryable": False,
            "httpStatus": 0,
            "causes": [answer["cause"]] if error.cause is not None else [],
            "opaque": {"error.location": "node"},
        }


def locale_of(accept_language: str | None) -> str:
    """Choose the node's language that an Accept-Language header prefers: Chinese or English."""
    best, best_weight = ENGLISH, 0.0
    for part in (accept_language or "").split(","):
        tag, _, parameter = part.strip().partition(";")
        weight = _weight(parameter)
        language = tag.strip().lower().replace("_", "-").partition("-")[0]
        if language in {"zh", "en"} and weight > best_weight:
            best, best_weight = (CHINESE if language == "zh" else ENGLISH), weight
    return best


def _weight(parameter: str) -> float:
    try:
        return float(parameter.strip().removeprefix("q=")) if parameter.strip() else 1.0
    except ValueError:
        return 0.0


def error_event(error: ErrorCode) -> list[object]:
    """Write an error for the state file."""
    cause = error_event(error.cause) if error.cause is not None else None
    return [error.code, error.english, error.chinese, cause, list(error.values)]


def error_of_event(event: list[object]) -> ErrorCode:
    """Read what ``error_event`` wrote. Raises TypeError, ValueError."""
    code, english, chinese, cause, values = event
    if not isinstance(values, list):
        raise TypeError("values of an error are a list")
    error = ErrorCode(str(code), str(english), str(chinese), values=tuple(map(str, values)))
    return replace(error, cause=error_of_event(cause)) if isinstance(cause, list) else error
