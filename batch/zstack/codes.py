# ruff: noqa: RUF001 - the Chinese hints have Chinese punctuation
"""ZStack's error codes as data: their meaning for a target, how often to retry, and what the operator can do.

Source: zstack/README.md 10 and 11. A code is listed itself or through its family (the part before the dot).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from batch.zstack.answers import ErrorClass

_P, _F, _R, _T, _N, _A = (
    ErrorClass.PERMANENT,
    ErrorClass.FATAL,
    ErrorClass.RENEW,
    ErrorClass.TRANSIENT,
    ErrorClass.NODE,
    ErrorClass.AMBIGUOUS,
)


@dataclass(frozen=True, slots=True)
class Rule:
    """Meaning of one code."""

    error_class: ErrorClass
    retries: int | None
    """0: never; a number: that often; None: as often as the target's attempts allow."""
    hint: str = ""
    """What the operator can do, English."""
    hint_zh: str = ""
    """The same in Chinese."""
    catch_all: bool = False
    """Whether the code is unspecific, so that any other known code of the same error is preferred."""
    may_go_on: bool = False
    """Whether the server may still be executing the request after it answered with this code."""


_CREDENTIALS = Rule(_F, 0, "check the account's credentials, then run again", "请检查账户凭据后重新运行")
_LOCKED = Rule(
    _F,
    0,
    "log in to the UI once to clear the lock, captcha or password demand, or use an AccessKey",
    "请先登录界面解除锁定、验证码或改密要求，或改用 AccessKey",
)
_SECOND_FACTOR = Rule(
    _F, 0, "this account needs an interactive login: use an AccessKey", "该账户需要交互式登录：请使用 AccessKey"
)
_LICENSE = Rule(
    _F, 0, "the licence does not allow it: renew it, then run again", "许可证不允许：请更新许可证后重新运行"
)
_BUSY = Rule(_N, None, "the management node is starting or busy; it is retried", "管理节点正在启动或繁忙，将自动重试")
_AGENT = Rule(
    _A,
    None,
    "the management node could not reach an agent, such as the model centre",
    "管理节点无法连接代理（如模型中心）",
    may_go_on=True,
)
_UNDONE = Rule(
    _A,
    None,
    "the server was rolling back; its state is checked before a retry",
    "服务端回滚中，将先核实再重试",
    may_go_on=True,
)
_ELSEWHERE = Rule(
    _P, 0, "this API should not return this error: contact ZStack's support", "此接口不应返回该错误，请联系 ZStack 支持"
)
_UNSUPPORTED = Rule(_P, 0, "this server cannot do it", "该服务器不支持此操作")

DENIED: Final = Rule(
    _P,
    0,
    "ask an administrator for the permission, or use the account that owns the resource",
    "请联系管理员授权，或使用资源所属账户",
)
"""A permission denial, under whatever code."""
AGENT_FAILED: Final = _AGENT
BAD_CHARACTERS: Final = Rule(
    _A,
    0,
    "the server's database refuses characters above U+FFFF, such as emoji: `zclone validate` names their places",
    "服务器数据库不支持 U+FFFF 以上的字符（如表情符号）：`zclone validate` 会指出其位置",
)
"""MySQL's "Incorrect string value", under whatever code: its tables may hold UTF-8 of three bytes only."""
UNKNOWN: Final = Rule(
    _A,
    1,
    "unknown code: zclone checks whether the clone exists, then retries once",
    "未知错误码：将先核实克隆是否存在，再重试一次",
    may_go_on=True,
)
"""Rule for a code that has neither a row nor a family."""

CODES: Final = {
    "SYS.1000": Rule(
        _A,
        1,
        "often a uuid already in use or a value too long for its column; see the management node's log",
        "常见原因：UUID 已被占用或字段超长；请查看管理节点日志",
        catch_all=True,
    ),
    "SYS.1001": Rule(
        _A,
        None,
        "the server timed out; the request may still be executing",
        "服务端超时，操作可能仍在进行",
        may_go_on=True,
    ),
    "SYS.1002": Rule(
        _A, 1, "the resource could not be made; see the causes", "资源创建失败，请查看原因", catch_all=True
    ),
    "SYS.1003": Rule(
        _P,
        0,
        "the source, a tag or an image does not exist or was deleted: check the uuids",
        "源、标签或镜像不存在或已删除：请检查 UUID",
    ),
    "SYS.1004": _UNDONE,
    "SYS.1005": _UNDONE,
    "SYS.1006": Rule(_A, 1, "see the causes in the text", "请查看错误文本中的原因", catch_all=True),
    "SYS.1007": Rule(_P, 0, "correct the parameter the text names", "请修正错误文本中指出的参数"),
    "SYS.1008": Rule(
        _N,
        None,
        "the service is not registered: the node is starting or the AIOS plugin is missing",
        "服务未注册：节点正在启动或缺少 AIOS 插件",
    ),
    "SYS.1009": _BUSY,
    "SYS.1010": _BUSY,
    "SYS.1011": _BUSY,
    "SYS.1012": _BUSY,
    "SYS.1013": _UNSUPPORTED,
    "SYS.1014": _UNSUPPORTED,
    "SYS.1015": _AGENT,
    "SYS.1016": _AGENT,
    "SYS.1017": Rule(
        _A, 0, "it was cancelled on the server; the clone may exist", "该操作已在服务端被取消；克隆可能已存在"
    ),
    "SYS.1018": DENIED,
    "SYS.1019": Rule(
        _F,
        0,
        "this account may not call the API at all: ask an administrator for the permission",
        "该账户无权调用此接口：请联系管理员授权",
    ),
    "SYS.1091": Rule(_P, 0, "see the text; a retry would fail in the same way", "请查看错误文本；重试结果相同"),
    "ID.1000": _CREDENTIALS,
    "ID.1001": Rule(_R, None, "the session ended", "会话已失效"),
    "ID.1002": Rule(
        _F, 0, "this API is for administrators only: use an admin account", "此接口仅限管理员：请使用管理员账户"
    ),
    "ID.1003": Rule(
        _P, 0, "the account's quota is used up: raise it or clean up", "账户配额已用尽：请提高配额或清理资源"
    ),
    "ID.1004": Rule(_P, 0, "the account's quota is set up wrongly", "账户配额设置有误"),
    "ID.1005": Rule(_F, 0, "the account must change its password first", "该账户须先修改密码"),
    "ID.1006": Rule(_F, 0, "too many sessions of this user: log out stale ones", "该用户会话过多：请注销闲置会话"),
    "ID.1007": Rule(
        _F, 0, "the account is disabled: have it enabled or use another", "该账户已停用：请启用该账户或改用其他账户"
    ),
    "ID.2000": _SECOND_FACTOR,
    "ID.2001": _SECOND_FACTOR,
    "ID.2002": _SECOND_FACTOR,
    "ID.2003": Rule(
        _T,
        None,
        "the second factor could not be checked; an AccessKey needs none",
        "双因素验证暂不可用；使用 AccessKey 则无需验证",
    ),
    "PORTAL.1000": Rule(
        _F,
        0,
        "AIOS is not installed on this server, or it is older than 5.3.20",
        "该服务器未安装 AIOS，或版本低于 5.3.20",
    ),
    "PORTAL.1001": Rule(_P, 0, "give the field the text names", "请补充错误文本中指出的字段"),
    "PORTAL.1002": _BUSY,
    "TAG.1000": Rule(_A, 0, "give each tag once; the clone may exist", "标签不可重复；克隆可能已存在"),
    "TAG.1001": Rule(_A, 0, "give each tag once; the clone may exist", "每个标签只能写一次；克隆可能已存在"),
    "TAG.1002": Rule(_P, 0, "no more tags are allowed: delete some", "标签数量已达上限：请删除部分标签"),
}
"""Rules of single codes."""

CATCH_ALL: Final = frozenset(code for code, rule in CODES.items() if rule.catch_all)
"""Unspecific codes."""

FAMILIES: Final = {"LICENSE": _LICENSE, "LOGIN_CONTROL": _LOCKED, "LONG_JOB": _ELSEWHERE, "PROGRESS": _ELSEWHERE}
"""Rules of whole families of codes."""

GLOBAL_CODES: Final = {"ORG_ZSTACK_IDENTITY_10020": "ID.1001"}
"""The newer servers' ``globalErrorCode`` and the code it stands for."""

GLOBAL_FAMILIES: Final = {
    "ORG_ZSTACK_PORTAL_APIMEDIATOR_": CODES["SYS.1007"],
    "ORG_ZSTACK_AI_": Rule(
        _A,
        1,
        "an error of the AI plugin: zclone checks whether the clone exists, then retries once",
        "AI 插件错误：将先核实克隆是否存在，再重试一次",
        may_go_on=True,
    ),
}
"""Rules by prefix of a ``globalErrorCode``, or of a code, for errors without a known code."""

HTTP: Final = {
    "authorization": Rule(
        _F,
        0,
        "the format of the credentials was refused: check the ZSTACK_* settings",
        "凭据格式被拒绝：请检查 ZSTACK_* 设置",
    ),
    "skew": Rule(
        _F,
        0,
        "this machine's clock or time zone differs from the server's by more than 15 minutes",
        "本机时钟或时区与服务器相差超过 15 分钟",
    ),
    "access key": Rule(
        _F, 0, "check the AccessKey: wrong secret, deleted or disabled", "请检查 AccessKey：密钥错误、已删除或停用"
    ),
    "no api": Rule(
        _F,
        0,
        "wrong endpoint or context path, AIOS not installed, or a server older than 5.3.20",
        "端点或上下文路径错误、未安装 AIOS，或服务器版本低于 5.3.20",
    ),
    "unauthorized": Rule(_R, None, "a gateway refused the session", "网关拒绝了该会话"),
    "server error": Rule(
        _A,
        1,
        "the server failed on the request: malformed values or an internal error; its state is checked",
        "服务端处理异常：参数格式有误或服务端故障；将核实是否已执行",
    ),
    "refused": Rule(_P, 0, "the server or a gateway before it refused the request", "请求被服务器或前置网关拒绝"),
}
"""Immediate answers without a ZStack code."""

OWN_HINTS_ZH: Final[dict[str, str]] = {
    "ZCLONE.CONFLICT": "该 UUID 属于另一个服务",
    "ZCLONE.NOT_OURS": (
        "无法证明该克隆由本次运行创建，因此不移交：若确为您所有，请在服务器上共享并变更其所有者，"
        "然后从该目标中删除 owner 和 share_with"
    ),
    "ZCLONE.QUARANTINED": "多个进程在其进行中崩溃，已隔离：请先在服务器上查找，再运行 zclone retry --state uncertain",
    "ZCLONE.REPAIRED": "清单修复后结果未知：下次运行会先查询服务器",
    "ZCLONE.RESOURCE_UUID": "服务器不采用 resourceUuid：请查找该克隆，然后使用 --at-most-once",
    "ZCLONE.UNANSWERED": "所有尝试均无应答，也没有出现克隆：可用 zclone retry 重试",
    "ZCLONE.UNEXECUTED": "其 API 任务未被执行即已结束：下次运行会再次发送",
    "ZCLONE.UNCERTAIN": "结果未知：下次运行会先查询服务器",
}
"""Chinese hints for zclone's own codes, whose recorded texts are English and explain themselves."""
