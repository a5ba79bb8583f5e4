"""The APIs of login, sessions and the node itself (zstack/README.md 2 and 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.simulator.api import ApiDefinition, Call, NodeContext
from batch.simulator.ownership import require, texts
from batch.simulator.wire import Json, timestamp

if TYPE_CHECKING:
    from batch.simulator.directory import Session
    from batch.simulator.options import NodeAccount

_DURATION: Final = (60, 31_536_000)


def _validate_login(context: NodeContext, call: Call) -> None:
    require(context, call, "accountName", "password")


def _login(context: NodeContext, call: Call, _account: NodeAccount | None, now: float) -> Json:
    return _open(context, str(call.fields["accountName"]), str(call.fields["password"]), now)


def _validate_user_login(context: NodeContext, call: Call) -> None:
    require(context, call, "username", "password", "loginType")


def _user_login(context: NodeContext, call: Call, _account: NodeAccount | None, now: float) -> Json:
    return _open(context, str(call.fields["username"]), str(call.fields["password"]), now)


def _validate_old_user_login(context: NodeContext, call: Call) -> None:
    require(context, call, "userName", "password")


def _old_user_login(context: NodeContext, _call: Call, _account: NodeAccount | None, _now: float) -> Json:
    """Refuse: this node has accounts and no users of accounts."""
    context.ledger.counts["login_attempts"] += 1
    raise context.errors.failure("ID.1000", "login")


def _open(context: NodeContext, name: str, password: str, now: float) -> Json:
    context.ledger.counts["login_attempts"] += 1
    session = context.directory.login(name, password, uuid=context.draw_uuid(), now=now)
    context.ledger.counts["logins"] += 1
    context.emit({"e": "session", "u": session.uuid, "a": session.account.uuid})
    return {"inventory": _session(context, session, now)}


def _session(context: NodeContext, session: Session, now: float) -> Json:
    offset = context.options.utc_offset
    return {
        "uuid": session.uuid,
        "accountUuid": session.account.uuid,
        "userUuid": session.account.uuid,
        "userType": "account",
        "expiredDate": timestamp(session.expires, offset),
        "createDate": timestamp(now, offset),
    }


def _logout(context: NodeContext, call: Call, _account: NodeAccount | None, _now: float) -> Json:
    context.directory.close(call.path["sessionUuid"])
    context.ledger.counts["logouts"] += 1
    context.emit({"e": "logout", "u": call.path["sessionUuid"]})
    return {}


def _valid(context: NodeContext, call: Call, _account: NodeAccount | None, now: float) -> Json:
    return {"valid": context.directory.is_valid(call.path["sessionUuid"], now)}


def _validate_renew(context: NodeContext, call: Call) -> None:
    duration = call.fields.get("duration")
    low, high = _DURATION
    if not isinstance(duration, int | float) or not low <= duration <= high:
        raise context.errors.failure("SYS.1007", "choices", "duration", f"{low} ~ {high}", duration)


def _renew(context: NodeContext, call: Call, _account: NodeAccount | None, now: float) -> Json:
    context.directory.renew(call.path["sessionUuid"], float(call.fields["duration"]), now)
    return {}


def _version(context: NodeContext, _call: Call, _account: NodeAccount | None, _now: float) -> Json:
    return {"version": context.options.version}


def _time(_context: NodeContext, _call: Call, _account: NodeAccount | None, now: float) -> Json:
    return {"currentTime": {"MillionSeconds": int(now * 1000), "Seconds": int(now)}}


def _zone(context: NodeContext, _call: Call, _account: NodeAccount | None, _now: float) -> Json:
    minutes = int(context.options.utc_offset // 60)
    sign = "-" if minutes < 0 else "+"
    return {"timezone": context.options.timezone, "offset": f"{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"}


def _ready(_context: NodeContext, _call: Call, _account: NodeAccount | None, _now: float) -> Json:
    return {}


def _support_apis(context: NodeContext, _call: Call, _account: NodeAccount | None, _now: float) -> Json:
    return {"supportApis": sorted(f"API{name}Msg" for name in context.apis)}


def _permissions(context: NodeContext, call: Call, account: NodeAccount | None, _now: float) -> Json:
    assert account is not None
    names = texts(context, call, "apiNames")
    return {"inventory": {name: "Allow" if _may(context, account, name) else "Deny" for name in names}}


def _may(context: NodeContext, account: NodeAccount, class_name: str) -> bool:
    name = class_name.rpartition(".")[2].removeprefix("API").removesuffix("Msg")
    api = context.apis.get(name)
    return name not in account.denied and (account.is_admin or api is None or not api.admin_only)


def _progress(_context: NodeContext, _call: Call, _account: NodeAccount | None, _now: float) -> Json:
    return {"inventories": []}


_SESSION: Final = "org.zstack.header.identity.SessionInventory"
_SESSIONS: Final = "/v1/accounts/sessions/{sessionUuid}"
_NODE: Final = "/v1/management-nodes"

_IDENTITY: Final = "org.zstack.header.identity"
_LOGIN_REPLY: Final = f"{_IDENTITY}.APILogInReply"
_MANAGEMENT: Final = "org.zstack.header.managementnode"

APIS: Final = (
    ApiDefinition(
        "LogInByAccount",
        "login",
        "PUT",
        "/v1/accounts/login",
        _login,
        "logInByAccount",
        sync=True,
        is_open=True,
        package=_IDENTITY,
        reply=_LOGIN_REPLY,
        inventory=_SESSION,
        validate=_validate_login,
    ),
    ApiDefinition(
        "LogIn",
        "login",
        "PUT",
        "/v1/login",
        _user_login,
        "logIn",
        sync=True,
        is_open=True,
        package=f"{_IDENTITY}.login",
        reply=_LOGIN_REPLY,
        inventory=_SESSION,
        validate=_validate_user_login,
    ),
    ApiDefinition(
        "LogInByUser",
        "login",
        "PUT",
        "/v1/accounts/users/login",
        _old_user_login,
        "logInByUser",
        sync=True,
        is_open=True,
        package=_IDENTITY,
        reply=_LOGIN_REPLY,
        inventory=_SESSION,
        validate=_validate_old_user_login,
    ),
    ApiDefinition("LogOut", "logout", "DELETE", _SESSIONS, _logout, sync=True, is_open=True, package=_IDENTITY),
    ApiDefinition(
        "ValidateSession", "valid", "GET", _SESSIONS + "/valid", _valid, sync=True, is_open=True, package=_IDENTITY
    ),
    ApiDefinition(
        "RenewSession",
        "renew",
        "PUT",
        _SESSIONS + "/renew",
        _renew,
        "renewSession",
        package=_IDENTITY,
        validate=_validate_renew,
    ),
    ApiDefinition(
        "GetVersion",
        "version",
        "PUT",
        _NODE + "/actions",
        _version,
        "getVersion",
        sync=True,
        is_open=True,
        package=_MANAGEMENT,
    ),
    ApiDefinition(
        "GetCurrentTime",
        "time",
        "PUT",
        _NODE + "/actions",
        _time,
        "getCurrentTime",
        sync=True,
        is_open=True,
        package=_MANAGEMENT,
    ),
    ApiDefinition(
        "GetSupportAPIs",
        "apis",
        "PUT",
        _NODE + "/actions",
        _support_apis,
        "getSupportAPIs",
        sync=True,
        is_open=True,
        package=_MANAGEMENT,
    ),
    ApiDefinition(
        "IsManagementNodeReady", "ready", "GET", _NODE + "/ready", _ready, sync=True, is_open=True, package=_MANAGEMENT
    ),
    ApiDefinition(
        "GetPlatformTimeZone", "zone", "GET", _NODE + "/platform-timezone", _zone, sync=True, package=_MANAGEMENT
    ),
    ApiDefinition(
        "CheckApiPermission",
        "permission",
        "PUT",
        "/v1/accounts/permissions/actions",
        _permissions,
        "checkApiPermission",
        sync=True,
        package=_IDENTITY,
    ),
    ApiDefinition(
        "GetTaskProgress",
        "progress",
        "GET",
        "/v1/task-progresses/{apiId}",
        _progress,
        sync=True,
        package="org.zstack.core.progress",
    ),
)
