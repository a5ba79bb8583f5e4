"""The checks an API message passes before its service sees it; their errors show at the poll (wire: 3.2, 12-16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.simulator.resources import MODEL_SERVICE
from batch.simulator.wire import is_resource_uuid

if TYPE_CHECKING:
    from batch.simulator.api import Call, World
    from batch.simulator.options import Account

VALIDATION_ONLY: Final = "ephemeral::validationOnly"
_QUOTA: Final = "ai.modelService.num"


def check(world: World, call: Call, now: float) -> Account | None:
    """Check in interceptor order; who calls, None for open APIs. Raises ApiFailureError."""
    if world.options.session_first:
        _authorise(world, call, now)
    call.api.validate(world, call)
    account = _authorise(world, call, now)
    if account is not None:
        _permit(world, call, account)
    if call.api.creates:
        _check_resource_uuid(world, call)
        _check_system_tags(world, call)
        if account is not None:
            check_quota(world, account)
    return account


def is_validation_only(call: Call) -> bool:
    """Tell whether the message ends, successfully, after its checks."""
    return VALIDATION_ONLY in call.system_tags


def _authorise(world: World, call: Call, now: float) -> Account | None:
    if isinstance(call.credential, str):
        return world.directory.authorise(call.credential, now)
    return call.credential


def _permit(world: World, call: Call, account: Account) -> None:
    if call.api.admin_only and not account.is_admin:
        raise world.speech.fail("ID.1002", "admin", f"API{call.api.name}Msg")
    if call.api.name in account.denied:
        raise world.speech.fail("SYS.1006", "denied", f"API{call.api.name}Msg")
    call.api.permit(world, call, account)


def _check_resource_uuid(world: World, call: Call) -> None:
    uuid = call.fields.get("resourceUuid")
    if uuid is not None and world.options.strict_resource_uuid and not is_resource_uuid(uuid.strip()):
        raise world.speech.fail("SYS.1007", "uuid", uuid)


def _check_system_tags(world: World, call: Call) -> None:
    known = (VALIDATION_ONLY, *world.options.system_tags)
    for tag in dict.fromkeys(call.system_tags):
        if not tag.startswith(known):
            raise world.speech.fail("SYS.1007", "tag", tag)


def check_quota(world: World, account: Account) -> None:
    """Refuse one more model service of ``account``. Raises ApiFailureError ID.1003."""
    if account.is_admin or account.quota is None:
        return
    rows = world.estate.rows.values()
    used = sum(row.owner == account.uuid and row.kind == MODEL_SERVICE and not row.deleted for row in rows)
    if used >= account.quota:
        raise world.speech.fail("ID.1003", "quota", account.uuid, _QUOTA, account.quota, used)
