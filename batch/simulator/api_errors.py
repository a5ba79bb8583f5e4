"""ZStack's error values, their JSON and their texts in English and Chinese (zstack/README.md 10 and 11)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from batch.simulator.wire import Json

_DETAILS_LIMIT: Final = 4096
"""Characters of ``details`` the server keeps."""
_CHINESE: Final = "zh_CN"
_ENGLISH: Final = "en_US"


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
        return (self.chinese if locale == _CHINESE else self.english)[:_DETAILS_LIMIT]


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
        texts = _DETAILS[key]
        english, chinese = texts[0].format(*values), texts[-1].format(*values)
        return ErrorCode(code, english, chinese, cause, tuple(map(str, values)))

    def json(self, error: ErrorCode, locale: str = _ENGLISH) -> Json:
        """Write ``error`` as the answer's ``error`` object; ``locale``: of newer servers' ``message``."""
        prefix = "错误信息: " if self.locale == _CHINESE else "Error message: "
        details = error.text(self.locale)
        answer: Json = {
            "code": error.code,
            "description": _DESCRIPTIONS.get(error.code, "An unknown error happened"),
            "details": details,
            "elaboration": prefix + details,
        }
        if error.cause is not None:
            answer["cause"] = self.json(error.cause, locale)
        if self.global_codes:
            answer |= self._newer(error, answer, locale)
        return answer

    def _newer(self, error: ErrorCode, answer: Json, locale: str) -> Json:
        global_code = _GLOBAL_CODES.get(error.code)
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
    best, best_weight = _ENGLISH, 0.0
    for part in (accept_language or "").split(","):
        tag, _, parameter = part.strip().partition(";")
        weight = _weight(parameter)
        language = tag.strip().lower().replace("_", "-").partition("-")[0]
        if language in {"zh", "en"} and weight > best_weight:
            best, best_weight = (_CHINESE if language == "zh" else _ENGLISH), weight
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


_DESCRIPTIONS: Final = {
    "SYS.1000": "An internal error happened in system",
    "SYS.1001": "A message or an operation timeout",
    "SYS.1002": "Unable to create a resource",
    "SYS.1003": "A resource cannot be found",
    "SYS.1004": "Failed to delete a resource",
    "SYS.1005": "A resource failed to change state",
    "SYS.1006": "An operation failed",
    "SYS.1007": "One or more API argument is invalid",
    "SYS.1008": "Unknown message",
    "SYS.1009": "No route to the destination service",
    "SYS.1010": "The management node is not ready to accept messages",
    "SYS.1011": "A message cannot be delivered",
    "SYS.1012": "The management node is unavailable",
    "SYS.1013": "No capability to perform the operation",
    "SYS.1014": "The operation is not implemented",
    "SYS.1015": "An HTTP error happened",
    "SYS.1016": "An IO error happened",
    "SYS.1017": "The operation is cancelled",
    "ID.1000": "Unable to authenticate a user",
    "ID.1001": "The session is invalid, could be expired or not existing",
    "ID.1002": "Permission denied",
    "ID.1003": "Quota exceeding",
    "ID.1004": "Invalid quota operation",
    "ID.1005": "The password must be changed",
    "ID.1006": "Login sessions hit limit of max allowed concurrent login sessions",
    "LICENSE.1000": "The license is not permitted",
    "PORTAL.1000": "No service declares the message",
    "PORTAL.1001": "A mandatory field is missing",
    "SYS.1018": "The resource is not accessible",
    "SYS.1019": "The operation is denied",
    "ID.1007": "The account is disabled",
    "LOGIN_CONTROL.1002": "The account is locked",
    "TAG.1000": "Duplicated tag",
    "TAG.1001": "Duplicated tag",
    "TAG.1002": "Exceed the quota of tags",
}

_GLOBAL_CODES: Final = {"ID.1001": "ORG_ZSTACK_IDENTITY_10020", "SYS.1007": "ORG_ZSTACK_PORTAL_APIMEDIATOR_10003"}
"""The newer code of the same error, if known."""

_DETAILS: Final[dict[str, tuple[str, ...]]] = {
    "login": ("wrong account name or password", "错误信息: 错误的帐号或密码"),
    "expired": ("Session expired", "会话已过期"),
    "sessions": (
        "Login sessions hit limit of max allowed concurrent login sessions, max allowed: {0}",
        "登录会话数达到允许的最大并发数，最大允许：{0}",
    ),
    "mandatory": (
        "field[{0}] of message[org.zstack.header.message.ApiMessageParamValidator] is mandatory, can not be null",
        "消息[org.zstack.header.message.ApiMessageParamValidator]的字段[{0}]是必填的，不能为空",
    ),
    "choices": (
        (
            "valid value for field[{0}] of message[org.zstack.header.message.ApiMessageParamValidator] are [{1}], "
            "but {2} found"
        ),
        "消息[org.zstack.header.message.ApiMessageParamValidator]的字段[{0}]的有效值为[{1}]，但发现{2}",
    ),
    "null": (
        "field[{0}] of message[org.zstack.header.message.ApiMessageParamValidator] cannot contain any NULL element",
        "消息[org.zstack.header.message.ApiMessageParamValidator]的字段[{0}]不能包含任何空元素",
    ),
    "missing": (
        "invalid field[{0}], resource[uuid:{1}, type:{2}] not found",
        "无效字段[{0}]，资源[uuid:{1}，类型:{2}]未找到",
    ),
    "missing_many": ("resource[uuids:[{0}], type:{1}] not found", "资源[uuids:[{0}]，类型:{1}]未找到"),
    "uuid": (
        (
            "resourceUuid[{0}] is not a valid uuid. A valid uuid is a UUID(v4 recommended) with '-' stripped. "
            "see http://en.wikipedia.org/wiki/Universally_unique_identifier for format of UUID"
        ),
        "resourceUuid[{0}]不是有效的uuid。有效的uuid是去掉'-'的UUID（建议v4）",
    ),
    "tag": ("no system tag matches {0}", "没有系统标签匹配{0}"),
    "duplicated_tag": ("Duplicated Tag[tag:{0}, resourceUuid:{1}]", "重复的标签[tag:{0}，resourceUuid:{1}]"),
    "owner": (
        "permission denied, the account[uuid:{0}] is not the owner of the resource[uuid:{1}, type:{2}]",
        "操作错误，账户[uuid:{0}]不是资源[uuid:{1}，类型:{2}]的所有者",
    ),
    "same_owner": (
        (
            "Invalid ChangeResourceOwner operation.Original owner is the same as target owner."
            "Current account is [uuid: {0}].The resource target owner account[uuid: {1}]."
            "The resource original owner account[uuid:{2}]."
        ),
        "ChangeResourceOwner操作无效，原所有者与目标所有者相同。当前账户[uuid: {0}]，目标[uuid: {1}]，原[uuid:{2}]。",
    ),
    "nobody": (
        "toPublic is set to false, accountUuids cannot be null or empty",
        "toPublic设置为false，accountUuids不能为null或空",
    ),
    "access": (
        "the account[uuid:{0}] has no access to the resources[uuids:[{1}], type:{2}]",
        "账户[uuid:{0}]无法使用资源[uuids:[{1}]，类型:{2}]",
    ),
    "newer_access": (
        "account[uuid:{0}] has no access to resources with {2} scope: [{1}]",
        "账户[uuid:{0}]对{2}范围的资源[{1}]没有访问权限",
    ),
    "newer_denied": (
        "operation[API:{0}] is denied: the account has no permission of it",
        "操作[API:{0}]被拒绝：账户没有权限",
    ),
    "disabled": ("the account[name:{0}] is disabled", "账户[名称:{0}]已被禁用"),
    "locked": (
        "the account[name:{0}] is locked after too many failed logins",
        "登录失败次数过多，账户[名称:{0}]已被锁定",
    ),
    "unique_image": (
        (
            "ConstraintViolationException: could not execute statement; "
            "Duplicate entry '{0}-{1}' for key 'ukModelServiceImageVO'"
        ),
    ),
    "denied": (
        "operation[API:{0}] is denied by default, please contact admin to correct it",
        "默认情况下拒绝操作[API：{0}]，请与管理员联系以更正",
    ),
    "admin": ("API[{0}] is admin only", "API[{0}]仅限管理员使用"),
    "quota": (
        (
            "quota exceeding. The account[uuid: {0}] exceeds a quota[name: {1}, value: {2}], "
            "Current used:{3}, Request:1. Please contact the administrator."
        ),
        "配额超限。账户[uuid: {0}]超过配额[name: {1}，value: {2}]，当前已用：{3}，请求：1。请联系管理员。",
    ),
    "conflict": ("ConstraintViolationException: could not execute statement; Duplicate entry '{0}' for key 'PRIMARY'",),
    "column": ("DataException: could not execute statement; Data too long for column '{0}' at row 1",),
    "charset": ("GenericJDBCException: could not execute statement; Incorrect string value for column '{0}' at row 1",),
    "field": ("CloudRuntimeException: inventory class[{0}] not having field[{1}]",),
    "timeout": (
        "async call timeout[{0} ms] for message[org.zstack.ai.message.CloneModelServiceMsg]",
        "消息[org.zstack.ai.message.CloneModelServiceMsg]异步调用超时[{0} ms]",
    ),
    "injected": ("simulated failure {0}", "模拟的失败 {0}"),
    "agent": ("unable to reach the model center agent", "无法连接模型中心代理"),
}
"""By name: English and Chinese, one text where both are the same, with numbered fields for their values."""
