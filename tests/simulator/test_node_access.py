"""Sessions, access keys, rights, quotas, languages (zstack/README.md 2, 3 and 10)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from batch.simulator.faults import FaultKind
from batch.simulator.options import ADMIN_UUID, SESSION, NodeAccessKey, NodeAccount, Source
from tests.simulator.simulator_bench import CLONE, QUICK, SERVICES, SOURCE, START, Bench, decoded, hit, job

TENANT = NodeAccount("a" * 32, "tenant", password="secret")
OTHER = NodeAccount("b" * 32, "other")
OWNED = Source("5" * 32, "owned", owner=OTHER.uuid, to_public=False)
KEY = NodeAccessKey("key-id", "key-secret", TENANT.uuid)


def _login(bench: Bench, name: str = "admin", password: str = "password") -> tuple[int, Any]:
    body = {"accountName": name, "password": hashlib.sha512(password.encode()).hexdigest()}
    return decoded(bench.send("PUT", "/v1/accounts/login", {"logInByAccount": body}, session=None))


def _session(bench: Bench, name: str, password: str = "password") -> str:
    return str(_login(bench, name, password)[1]["inventory"]["uuid"])


def test_login_opens_a_session_that_works() -> None:
    """PUT logInByAccount with the SHA-512 of the password answers the session at once."""
    bench = Bench(accounts=(TENANT,))
    status, answer = _login(bench, "tenant", "secret")
    assert (status, answer["inventory"]["accountUuid"]) == (200, TENANT.uuid)
    assert bench.clone({"resourceUuid": CLONE}, session=answer["inventory"]["uuid"])[0] == 200


def test_wrong_credentials_are_an_immediate_503() -> None:
    """ID.1000, with Chinese details by default."""
    status, answer = _login(Bench(), password="wrong")
    assert (status, answer["error"]["code"]) == (503, "ID.1000")
    assert answer["error"]["details"] == "错误信息: 错误的帐号或密码"


def test_the_documented_login_key_is_stale() -> None:
    """logIn on this path is an unknown key, so the message is empty and its first field is missing."""
    bench = Bench(locale="en_US")
    status, answer = decoded(bench.send("PUT", "/v1/accounts/login", {"logIn": {"accountName": "admin"}}, session=None))
    assert (status, answer["error"]["code"]) == (503, "SYS.1007")
    assert "field[accountName]" in answer["error"]["details"]


def test_the_newer_login_has_its_own_path() -> None:
    """PUT /v1/login takes logIn with username and loginType."""
    body = {"username": "admin", "password": hashlib.sha512(b"password").hexdigest(), "loginType": "account"}
    assert Bench().send("PUT", "/v1/login", {"logIn": body}, session=None).status == 200


def test_only_authorised_calls_slide_a_session() -> None:
    """Two hours of polls and validity checks let it die; a query keeps it."""
    bench = Bench()
    bench.clone()
    bench.wait(7000)
    bench.poll()
    bench.send("GET", f"/v1/accounts/sessions/{SESSION}/valid", session=None)
    bench.wait(300)
    assert decoded(bench.send("GET", f"/v1/accounts/sessions/{SESSION}/valid", session=None)) == (200, {"valid": False})
    kept = Bench()
    for _ in range(3):
        kept.wait(7000)
        assert kept.found() == []


def test_a_dead_session_is_reported_at_the_poll_for_posts_and_at_once_for_queries() -> None:
    """POST is 202 and the poll ID.1001; GET is an immediate 503 ID.1001; nothing was executed."""
    bench = Bench(locale="en_US", faults=hit(FaultKind.EXPIRE_SESSIONS))
    assert bench.error({"resourceUuid": CLONE}) == ("ID.1001", "Session expired")
    status, answer = decoded(bench.send("GET", f"{SERVICES}/{CLONE}"))
    assert (status, answer["error"]["code"]) == (503, "ID.1001")
    assert bench.node.ledger.clones == []


def test_sessions_are_limited_per_user() -> None:
    """The next login over the limit is ID.1006, until one logs out; logout needs no credential."""
    bench = Bench(max_sessions=3, session=None)
    opened = [_session(bench, "admin") for _ in range(3)]
    assert _login(bench)[1]["error"]["code"] == "ID.1006"
    assert decoded(bench.send("DELETE", f"/v1/accounts/sessions/{opened[0]}", session=None)) == (200, {})
    assert decoded(bench.send("DELETE", f"/v1/accounts/sessions/{'9' * 32}", session=None)) == (200, {})
    assert _login(bench)[0] == 200


def test_unique_sessions_end_each_other() -> None:
    """With the switch on, a login ends every other session of the user."""
    bench = Bench(unique_sessions=True)
    first = _session(bench, "admin")
    second = _session(bench, "admin")
    valid = [
        decoded(bench.send("GET", f"/v1/accounts/sessions/{uuid}/valid", session=None))[1]["valid"]
        for uuid in (first, second)
    ]
    assert valid == [False, True]


def test_a_session_can_be_renewed() -> None:
    """renewSession sets the duration; outside 60 s to a year it is SYS.1007."""
    bench = Bench()
    path = f"/v1/accounts/sessions/{SESSION}/renew"
    bench.send("PUT", path, {"renewSession": {"duration": 20_000}}, job=job(1))
    bench.wait(19_000)
    assert bench.poll(job(1)) == (200, {})
    bench.send("PUT", path, {"renewSession": {"duration": 5}}, job=job(2))
    bench.wait()
    assert bench.poll(job(2))[1]["error"]["code"] == "SYS.1007"


def _date(offset: float = 28800.0, zone: str = "CST") -> str:
    return datetime.fromtimestamp(START + offset, UTC).strftime(f"%a, %d %b %Y %H:%M:%S {zone}")


def _signed(
    date: str, *, secret: str = KEY.secret, key: str = KEY.id, path: str = f"{SERVICES}/{CLONE}"
) -> dict[str, str]:
    text = f"GET\n{date}\n{path}".encode()
    signature = base64.b64encode(hmac.new(secret.encode(), text, hashlib.sha1).digest()).decode()
    return {"authorization": f"ZStack {key}:{signature}", "date": date}


_KEYS: tuple[tuple[str, dict[str, str], int, str], ...] = (
    ("signed in the server's zone", _signed(_date()), 200, "inventories"),
    ("the zone's name is ignored", _signed(_date(zone="GMT")), 200, "inventories"),
    ("a GMT clock is eight hours off", _signed(_date(0, "GMT")), 403, "requestTimeTooSkewed"),
    ("14 minutes off", _signed(_date(28800 + 840)), 200, "inventories"),
    ("16 minutes off", _signed(_date(28800 - 960)), 403, "requestTimeTooSkewed"),
    ("no date", {"authorization": "ZStack a:b"}, 400, "'Date' must be incuded in request header"),
    ("numeric zone", _signed(_date(zone="+0800")), 400, "Date format"),
    ("nonsense date", _signed("yesterday"), 400, "Date format"),
    ("unknown zone", _signed(_date(zone="Nowhere/Land")), 400, "Date format"),
    ("no signature", {"authorization": "ZStack x", "date": _date()}, 400, "accessKey format is"),
    ("unknown key", _signed(_date(), key="nobody"), 403, "access key id: nobody does not existed or disabled"),
    ("wrong secret", _signed(_date(), secret="x"), 403, "wrong accessKey signature"),
    ("context path signed", _signed(_date(), path=f"/zstack{SERVICES}/{CLONE}"), 403, "wrong accessKey signature"),
)


@pytest.mark.parametrize(("headers", "status", "text"), [row[1:] for row in _KEYS], ids=[row[0] for row in _KEYS])
def test_access_keys(headers: dict[str, str], status: int, text: str) -> None:
    """HMAC-SHA1 over method, date and path; wall clocks are compared, 15 minutes apart at most."""
    bench = Bench(accounts=(TENANT,), access_keys=(KEY,))
    reply = bench.send("GET", f"{SERVICES}/{CLONE}", headers=headers)
    assert (reply.status, text in reply.body.decode()) == (status, True)


_NEWER: tuple[tuple[str, dict[str, str], int, str], ...] = (
    ("zone's name", _signed(_date()), 200, "inventories"),
    ("numeric offset", _signed(_date(zone="+0800")), 200, "inventories"),
    ("GMT with an offset", _signed(_date(zone="GMT+08:00")), 200, "inventories"),
    ("ISO 8601", _signed("2025-11-25T11:51:50+08:00"), 200, "inventories"),
    ("ISO 8601 without offset", _signed("2025-11-25T11:51:50"), 400, "Date format error. The 'Date' header must"),
    ("nonsense date", _signed("yesterday"), 400, "Date format error. The 'Date' header must conform to"),
    ("no signature", {"authorization": "ZStack x:", "date": _date()}, 400, "Invalid authKey format"),
    ("wrong secret", _signed(_date(zone="+0800"), secret="x"), 403, "wrong accessKey signature"),
)


@pytest.mark.parametrize(("headers", "status", "text"), [row[1:] for row in _NEWER], ids=[row[0] for row in _NEWER])
def test_13_2_newer_servers_read_more_dates(headers: dict[str, str], status: int, text: str) -> None:
    """Numeric offsets and ISO 8601 are read beside names of zones; refusals have newer words."""
    bench = Bench(accounts=(TENANT,), access_keys=(KEY,), newer_access_keys=True)
    reply = bench.send("GET", f"{SERVICES}/{CLONE}", headers=headers)
    assert (reply.status, text in reply.body.decode()) == (status, True)


def test_instants_are_compared_when_the_zone_is_checked() -> None:
    """With checkTimeZone a correct GMT date is accepted."""
    bench = Bench(accounts=(TENANT,), access_keys=(KEY,), check_time_zone=True)
    assert bench.send("GET", f"{SERVICES}/{CLONE}", headers=_signed(_date(0, "GMT"))).status == 200
    assert bench.send("GET", f"{SERVICES}/{CLONE}", headers=_signed(_date(zone="Asia/Shanghai"))).status == 200


def test_disabled_keys_are_refused() -> None:
    """A disabled key is answered like an unknown one."""
    bench = Bench(accounts=(TENANT,), access_keys=(NodeAccessKey(KEY.id, KEY.secret, TENANT.uuid, enabled=False),))
    assert bench.send("GET", f"{SERVICES}/{CLONE}", headers=_signed(_date())).status == 403


@pytest.mark.parametrize(("locale", "text"), [("zh_CN", "无法使用资源"), ("en_US", "has no access to the resources")])
def test_a_source_that_is_not_shared_cannot_be_cloned(locale: str, text: str) -> None:
    """SYS.1006 in the server's language, and the source is invisible to queries; admin may do it."""
    bench = Bench(accounts=(TENANT, OTHER), sources=(OWNED,), locale=locale)
    session = _session(bench, "tenant", "secret")
    code, details = bench.error(source=OWNED.uuid, session=session)
    assert (code, text in details) == ("SYS.1006", True)
    assert bench.found(OWNED.uuid, session=session) == []
    assert bench.clone(source=OWNED.uuid, job=job(2))[0] == 200


@pytest.mark.parametrize(("locale", "text"), [("zh_CN", "不是资源"), ("en_US", "is not the owner of the resource")])
def test_only_the_owner_deletes(locale: str, text: str) -> None:
    """Another account's DELETE fails with SYS.1006."""
    bench = Bench(accounts=(TENANT, OTHER), sources=(OWNED,), locale=locale)
    bench.send("DELETE", f"{SERVICES}/{OWNED.uuid}", session=_session(bench, "tenant", "secret"), job=job())
    bench.wait()
    error = bench.poll()[1]["error"]
    assert (error["code"], text in error["details"]) == ("SYS.1006", True)


@pytest.mark.parametrize(("locale", "text"), [("zh_CN", "默认情况下拒绝操作"), ("en_US", "is denied by default")])
def test_a_denied_api_is_reported_as_a_failed_operation(locale: str, text: str) -> None:
    """RBAC denials appear as SYS.1006; checkApiPermission reports them beforehand."""
    denied = NodeAccount("c" * 32, "denied", denied=frozenset({"CloneModelService"}))
    bench = Bench(accounts=(denied,), locale=locale)
    session = _session(bench, "denied")
    code, details = bench.error(session=session)
    assert (code, text in details) == ("SYS.1006", True)
    name = "org.zstack.ai.message.APICloneModelServiceMsg"
    body = {"checkApiPermission": {"apiNames": [name]}}
    assert decoded(bench.send("PUT", "/v1/accounts/permissions/actions", body, session=session))[1] == {
        "inventory": {name: "Deny"}
    }


def test_admin_only_apis_are_refused_to_others() -> None:
    """ID.1002 at the poll."""
    bench = Bench(accounts=(TENANT,))
    bench.clone({"resourceUuid": CLONE})
    body = {"params": {"resourceUuid": CLONE}}
    session = _session(bench, "tenant", "secret")
    bench.send("POST", f"/v1/account/{TENANT.uuid}/resources", body, session=session, job=job(2))
    bench.wait()
    assert bench.poll(job(2))[1]["error"]["code"] == "ID.1002"


@pytest.mark.parametrize(("locale", "text"), [("zh_CN", "配额超限"), ("en_US", "quota exceeding")])
def test_quotas_apply_to_normal_accounts_only(locale: str, text: str) -> None:
    """The clone over the quota is ID.1003; admin is never checked."""
    small = NodeAccount("d" * 32, "small", quota=1)
    bench = Bench(accounts=(small,), locale=locale)
    session = _session(bench, "small")
    assert bench.clone(session=session, job=job(1))[0] == 200
    code, details = bench.error(session=session, job=job(2))
    assert (code, text in details) == ("ID.1003", True)
    assert bench.clone(job=job(3))[0] == 200


def test_owners_change_and_resources_are_shared() -> None:
    """ChangeResourceOwner and ShareResource are async; GetResourceAccount returns the owner."""
    bench = Bench(accounts=(TENANT, OTHER))
    bench.clone({"resourceUuid": CLONE}, job=job(1))
    tenant, other = _session(bench, "tenant", "secret"), _session(bench, "other")
    assert bench.found(session=tenant) == []
    bench.send("POST", f"/v1/account/{TENANT.uuid}/resources", {"params": {"resourceUuid": CLONE}}, job=job(2))
    bench.wait()
    assert bench.poll(job(2))[1]["inventory"]["accountUuid"] == TENANT.uuid
    assert (len(bench.found(session=tenant)), bench.found(session=other)) == (1, [])
    share = {"shareResource": {"resourceUuids": [CLONE], "accountUuids": [OTHER.uuid], "toPublic": False}}
    bench.send("PUT", "/v1/accounts/resources/actions", share, session=tenant, job=job(3))
    bench.wait()
    assert bench.poll(job(3)) == (200, {})
    assert len(bench.found(session=other)) == 1
    owners = decoded(bench.send("GET", f"/v1/resources/accounts?resourceUuids={CLONE}"))[1]
    assert owners["inventories"][CLONE]["uuid"] == TENANT.uuid


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", f"/v1/account/{'9' * 32}/resources", {"params": {"resourceUuid": SOURCE}}),
        ("POST", f"/v1/account/{ADMIN_UUID}/resources", {"params": {"resourceUuid": CLONE}}),
        (
            "PUT",
            "/v1/accounts/resources/actions",
            {"shareResource": {"resourceUuids": [CLONE], "accountUuids": [ADMIN_UUID]}},
        ),
    ],
)
def test_owner_and_share_need_existing_accounts_and_resources(method: str, path: str, body: Any) -> None:
    """Unknown accounts and resources are SYS.1003 at the poll."""
    bench = Bench()
    bench.send(method, path, body, job=job())
    bench.wait()
    assert bench.poll()[1]["error"]["code"] == "SYS.1003"


def give(bench: Bench, account: str, number: int) -> str | None:
    """Give CLONE to an account; return the code of the error, or None after a success."""
    bench.send("POST", f"/v1/account/{account}/resources", {"params": {"resourceUuid": CLONE}}, job=job(number))
    bench.wait()
    error = bench.poll(job(number))[1].get("error")
    return None if error is None else str(error["code"])


def test_an_owner_is_not_made_owner_again() -> None:
    """Giving a normal account what it has is ID.1004; admin may get its own again."""
    bench = Bench(accounts=(TENANT, OTHER))
    bench.clone({"resourceUuid": CLONE}, job=job(1))
    codes = [give(bench, TENANT.uuid, 2), give(bench, TENANT.uuid, 3), give(bench, OTHER.uuid, 4)]
    assert codes == [None, "ID.1004", None]
    assert [give(bench, ADMIN_UUID, 5), give(bench, ADMIN_UUID, 6)] == [None, None]
    assert bench.node.ledger.json()["clones"][0]["given"] == 4


def test_the_new_owner_needs_quota() -> None:
    """The quota of the receiving account is checked, whoever gives; sharing with nobody is SYS.1007."""
    bench = Bench(accounts=(replace(TENANT, quota=0),))
    bench.clone({"resourceUuid": CLONE}, job=job(1))
    assert give(bench, TENANT.uuid, 2) == "ID.1003"
    share = {"shareResource": {"resourceUuids": [CLONE], "accountUuids": []}}
    bench.send("PUT", "/v1/accounts/resources/actions", share, job=job(3))
    bench.wait()
    assert bench.poll(job(3))[1]["error"]["code"] == "SYS.1007"


def test_accounts_are_invented_if_enabled() -> None:
    """A node that invents accounts accepts any uuid as an owner; another one does not know it."""
    stranger = "7" * 32
    for invents, expected in ((True, None), (False, "SYS.1003")):
        bench = Bench(invent_accounts=invents)
        bench.clone({"resourceUuid": CLONE}, job=job(1))
        assert give(bench, stranger, 2) == expected


def test_errors_nest_their_cause() -> None:
    """A failure carries the code of its cause inside."""
    bench = Bench(faults=hit(FaultKind.FAIL, code="SYS.1006", cause="SYS.1015"))
    error = bench.clone()[1]["error"]
    assert (error["code"], error["cause"]["code"]) == ("SYS.1006", "SYS.1015")
    assert "globalErrorCode" not in error


def test_newer_servers_write_global_codes_and_causes() -> None:
    """With the switch on, globalErrorCode and a list of causes stand beside cause."""
    bench = Bench(global_error_codes=True, faults=hit(FaultKind.FAIL, code="SYS.1006", cause="SYS.1015"))
    assert [cause["code"] for cause in bench.clone()[1]["error"]["causes"]] == ["SYS.1015"]
    expired = Bench(QUICK, global_error_codes=True).clone(session="0" * 32)[1]["error"]
    assert expired["globalErrorCode"] == "ORG_ZSTACK_IDENTITY_10020"


def test_details_are_localised_and_descriptions_are_not() -> None:
    """details follow the server's locale, Chinese by default; description stays English."""
    chinese, english = (Bench(locale=locale).clone({"type": "x"})[1]["error"] for locale in ("zh_CN", "en_US"))
    assert chinese["description"] == english["description"] == "One or more API argument is invalid"
    assert "有效值" in chinese["details"]
    assert "valid value for field[type]" in english["details"]
