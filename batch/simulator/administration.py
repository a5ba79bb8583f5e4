"""The APIs of login, sessions and the node itself (wire: sections 2, 6.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.simulator.api import Api, Call, World
from batch.simulator.ownership import APIS as OWNERSHIP_APIS
from batch.simulator.ownership import require, texts
from batch.simulator.services import APIS as SERVICE_APIS
from batch.simulator.wire import Json, timestamp

if TYPE_CHECKING:
    from batch.simulator.directory import Session
    from batch.simulator.options import Account

_DURATION: Final = (60, 31_536_000)


def _validate_login(world: World, call: Call) -> None:
    require(world, call, "accountName", "password")


def _login(world: World, call: Call, _account: Account | None, now: float) -> Json:
    return _open(world, str(call.fields["accountName"]), str(call.fields["password"]), now)


def _validate_user_login(world: World, call: Call) -> None:
    require(world, call, "username", "password", "loginType")


def _user_login(world: World, call: Call, _account: Account | None, now: float) -> Json:
    return _open(world, str(call.fields["username"]), str(call.fields["password"]), now)


def _open(world: World, name: str, password: str, now: float) -> Json:
    world.ledger.counts["login_attempts"] += 1
    session = world.directory.login(name, password, uuid=world.draw_uuid(), now=now)
    world.ledger.counts["logins"] += 1
    world.emit({"e": "session", "u": session.uuid, "a": session.account.uuid})
    return {"inventory": _session(world, session, now)}


def _session(world: World, session: Session, now: float) -> Json:
    offset = world.options.utc_offset
    return {
        "uuid": session.uuid,
        "accountUuid": session.account.uuid,
        "userUuid": session.account.uuid,
        "userType": "account",
        "expiredDate": timestamp(session.expires, offset),
        "createDate": timestamp(now, offset),
    }


def _logout(world: World, call: Call, _account: Account | None, _now: float) -> Json:
    world.directory.close(call.path["uuid"])
    world.ledger.counts["logouts"] += 1
    world.emit({"e": "logout", "u": call.path["uuid"]})
    return {}


def _valid(world: World, call: Call, _account: Account | None, now: float) -> Json:
    return {"valid": world.directory.is_valid(call.path["uuid"], now)}


def _validate_renew(world: World, call: Call) -> None:
    duration = call.fields.get("duration")
    low, high = _DURATION
    if not isinstance(duration, int | float) or not low <= duration <= high:
        raise world.speech.fail("SYS.1007", "choices", "duration", f"{low} ~ {high}", duration)


def _renew(world: World, call: Call, _account: Account | None, now: float) -> Json:
    world.directory.renew(call.path["uuid"], float(call.fields["duration"]), now)
    return {}


def _version(world: World, _call: Call, _account: Account | None, _now: float) -> Json:
    return {"version": world.options.version}


def _time(_world: World, _call: Call, _account: Account | None, now: float) -> Json:
    return {"currentTime": {"MillionSeconds": int(now * 1000), "Seconds": int(now)}}


def _zone(world: World, _call: Call, _account: Account | None, _now: float) -> Json:
    minutes = int(world.options.utc_offset // 60)
    sign = "-" if minutes < 0 else "+"
    return {"timezone": world.options.timezone, "offset": f"{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"}


def _ready(_world: World, _call: Call, _account: Account | None, _now: float) -> Json:
    return {}


def _supported(_world: World, _call: Call, _account: Account | None, _now: float) -> Json:
    return {"supportApis": sorted({f"API{api.name}Msg" for api in APIS})}


def _permissions(world: World, call: Call, account: Account | None, _now: float) -> Json:
    assert account is not None
    names = texts(world, call, "apiNames")
    return {"inventory": {name: "Allow" if _may(account, name) else "Deny" for name in names}}


def _may(account: Account, class_name: str) -> bool:
    name = class_name.rpartition(".")[2].removeprefix("API").removesuffix("Msg")
    admin_only = any(api.admin_only for api in APIS if api.name == name)
    return name not in account.denied and (account.is_admin or not admin_only)


_SESSIONS: Final = "/v1/accounts/sessions/{uuid}"
_NODE: Final = "/v1/management-nodes"

APIS: Final = (
    *SERVICE_APIS,
    *OWNERSHIP_APIS,
    Api(
        "LogInByAccount",
        "login",
        "PUT",
        "/v1/accounts/login",
        _login,
        "logInByAccount",
        unique=True,
        sync=True,
        is_open=True,
        validate=_validate_login,
    ),
    Api(
        "LogIn",
        "login",
        "PUT",
        "/v1/login",
        _user_login,
        "logIn",
        unique=True,
        sync=True,
        is_open=True,
        validate=_validate_user_login,
    ),
    Api("LogOut", "logout", "DELETE", _SESSIONS, _logout, sync=True, is_open=True),
    Api("ValidateSession", "valid", "GET", _SESSIONS + "/valid", _valid, sync=True, is_open=True),
    Api(
        "RenewSession",
        "renew",
        "PUT",
        _SESSIONS + "/renew",
        _renew,
        "renewSession",
        unique=True,
        validate=_validate_renew,
    ),
    Api("GetVersion", "version", "PUT", _NODE + "/actions", _version, "getVersion", sync=True, is_open=True),
    Api("GetCurrentTime", "time", "PUT", _NODE + "/actions", _time, "getCurrentTime", sync=True, is_open=True),
    Api("GetSupportAPIs", "apis", "PUT", _NODE + "/actions", _supported, "getSupportAPIs", sync=True, is_open=True),
    Api("IsManagementNodeReady", "ready", "GET", _NODE + "/ready", _ready, sync=True, is_open=True),
    Api("GetPlatformTimeZone", "zone", "GET", _NODE + "/platform-timezone", _zone, sync=True),
    Api(
        "CheckApiPermission",
        "permission",
        "PUT",
        "/v1/accounts/permissions/actions",
        _permissions,
        "checkApiPermission",
        sync=True,
    ),
)
"""Every API the node knows."""
