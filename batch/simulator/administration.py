"""The APIs of login, sessions and the node itself (zstack/README.md 2 and 9)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from batch.simulator.api import ApiDefinition, Call, NodeContext, text_values
from batch.simulator.wire import Json, timestamp

if TYPE_CHECKING:
    from batch.simulator.directory import Session
    from batch.simulator.options import NodeAccount

_DURATION: Final = (60, 31_536_000)


def _login(context: NodeContext, call: Call, _account: NodeAccount, now: float) -> Json:
    """Open a session; the first two required fields are the account's name and its password."""
    name, password = (str(call.fields[field]) for field in call.api.required[:2])
    context.ledger.counts["login_attempts"] += 1
    session = context.directory.login(name, password, uuid=context.draw_uuid(), now=now)
    context.ledger.counts["logins"] += 1
    context.emit({"e": "session", "u": session.uuid, "a": session.account.uuid})
    return {"inventory": _session(context, session, now)}


def _login_by_user(context: NodeContext, _call: Call, _account: NodeAccount, _now: float) -> Json:
    """Refuse: this node has accounts and no users of accounts."""
    context.ledger.counts["login_attempts"] += 1
    raise context.errors.failure("ID.1000", "login")


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


def _logout(context: NodeContext, call: Call, _account: NodeAccount, _now: float) -> Json:
    context.directory.close(call.path["sessionUuid"])
    context.ledger.counts["logouts"] += 1
    context.emit({"e": "logout", "u": call.path["sessionUuid"]})
    return {}


def _valid(context: NodeContext, call: Call, _account: NodeAccount, now: float) -> Json:
    return {"valid": context.directory.is_valid(call.path["sessionUuid"], now)}


def _validate_renew(context: NodeContext, call: Call) -> None:
    duration = call.fields.get("duration")
    low, high = _DURATION
    if not isinstance(duration, int | float) or not low <= duration <= high:
        raise context.errors.failure("SYS.1007", "choices", "duration", f"{low} ~ {high}", duration)


def _renew(context: NodeContext, call: Call, _account: NodeAccount, now: float) -> Json:
    context.directory.renew(call.path["sessionUuid"], float(call.fields["duration"]), now)
    return {}


def _version(context: NodeContext, _call: Call, _account: NodeAccount, _now: float) -> Json:
    return {"version": context.options.version}


def _time(_context: NodeContext, _call: Call, _account: NodeAccount, now: float) -> Json:
    return {"currentTime": {"MillionSeconds": int(now * 1000), "Seconds": int(now)}}


def _zone(context: NodeContext, _call: Call, _account: NodeAccount, _now: float) -> Json:
    minutes = int(context.options.utc_offset // 60)
    sign = "-" if minutes < 0 else "+"
    return {"timezone": context.options.timezone, "offset": f"{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"}


def _ready(_context: NodeContext, _call: Call, _account: NodeAccount, _now: float) -> Json:
    return {}


def _support_apis(context: NodeContext, _call: Call, _account: NodeAccount, _now: float) -> Json:
    return {"supportApis": sorted(f"API{name}Msg" for name in context.apis)}


def _permissions(context: NodeContext, call: Call, account: NodeAccount, _now: float) -> Json:
    names = text_values(context, call, "apiNames")
    return {"inventory": {name: "Allow" if _may(context, account, name) else "Deny" for name in names}}


def _may(context: NodeContext, account: NodeAccount, class_name: str) -> bool:
    name = class_name.rpartition(".")[2].removeprefix("API").removesuffix("Msg")
    api = context.apis.get(name)
    return name not in account.denied and (account.is_admin or api is None or not api.admin_only)


def _progress(_context: NodeContext, _call: Call, _account: NodeAccount, _now: float) -> Json:
    return {"inventories": []}


_SESSIONS: Final = "/v1/accounts/sessions/{sessionUuid}"
_NODE: Final = "/v1/management-nodes"
_IDENTITY: Final = "org.zstack.header.identity"
_api = partial(ApiDefinition, package=_IDENTITY)
_open_api = partial(_api, sync=True, is_open=True)
_login_api = partial(_open_api, reply=f"{_IDENTITY}.APILogInReply", inventory=f"{_IDENTITY}.SessionInventory")
_node_api = partial(_open_api, package="org.zstack.header.managementnode")
APIS: Final = (
    _login_api(
        "LogInByAccount",
        "login",
        "PUT",
        "/v1/accounts/login",
        _login,
        "logInByAccount",
        required=("accountName", "password"),
    ),
    _login_api(
        "LogIn",
        "login",
        "PUT",
        "/v1/login",
        _login,
        "logIn",
        required=("username", "password", "loginType"),
        package=f"{_IDENTITY}.login",
    ),
    _login_api(
        "LogInByUser",
        "login",
        "PUT",
        "/v1/accounts/users/login",
        _login_by_user,
        "logInByUser",
        required=("userName", "password"),
    ),
    _open_api("LogOut", "logout", "DELETE", _SESSIONS, _logout),
    _open_api("ValidateSession", "valid", "GET", _SESSIONS + "/valid", _valid),
    _api("RenewSession", "renew", "PUT", _SESSIONS + "/renew", _renew, "renewSession", validate=_validate_renew),
    _node_api("GetVersion", "version", "PUT", _NODE + "/actions", _version, "getVersion"),
    _node_api("GetCurrentTime", "time", "PUT", _NODE + "/actions", _time, "getCurrentTime"),
    _node_api("GetSupportAPIs", "apis", "PUT", _NODE + "/actions", _support_apis, "getSupportAPIs"),
    _node_api("IsManagementNodeReady", "ready", "GET", _NODE + "/ready", _ready),
    _node_api("GetPlatformTimeZone", "zone", "GET", _NODE + "/platform-timezone", _zone, is_open=False),
    _api(
        "CheckApiPermission",
        "permission",
        "PUT",
        "/v1/accounts/permissions/actions",
        _permissions,
        "checkApiPermission",
        sync=True,
    ),
    _api(
        "GetTaskProgress",
        "progress",
        "GET",
        "/v1/task-progresses/{apiId}",
        _progress,
        sync=True,
        package="org.zstack.core.progress",
    ),
)
