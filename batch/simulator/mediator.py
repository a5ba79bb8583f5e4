"""The checks of an API message before its service receives it; polls return their errors (zstack/README.md 5)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from batch.simulator.resources import MODEL_SERVICE
from batch.simulator.wire import is_resource_uuid

if TYPE_CHECKING:
    from batch.simulator.api import Call, NodeContext
    from batch.simulator.options import NodeAccount

_VARIABLE: Final = re.compile(r"{(\w+)}")
VALIDATION_ONLY: Final = "ephemeral::validationOnly"
QUOTA: Final = "ai.modelService.num"
"""Name of the quota of model services."""


def check_message(context: NodeContext, call: Call, now: float) -> NodeAccount | None:
    """Check in interceptor order; return the caller, None for open APIs. Raises ApiFailureError."""
    if context.options.session_first:
        _authorise(context, call, now)
    _require_path(context, call)
    call.api.validate(context, call)
    account = _authorise(context, call, now)
    if account is not None:
        _permit(context, call, account)
    if call.api.creates:
        _check_resource_uuid(context, call)
        _check_system_tags(context, call)
        if account is not None:
            check_quota(context, account)
    return account


def _require_path(context: NodeContext, call: Call) -> None:
    """Refuse a message of the legacy API without what a path names. Raises ApiFailureError SYS.1007."""
    if not call.is_legacy or call.api.is_query:
        return
    for name in _VARIABLE.findall(call.api.pattern):
        if not call.path[name]:
            raise context.errors.failure("SYS.1007", "mandatory", name)


def is_validation_only(call: Call) -> bool:
    """Return whether the message ends, successfully, after its checks."""
    return VALIDATION_ONLY in call.system_tags


def _authorise(context: NodeContext, call: Call, now: float) -> NodeAccount | None:
    if isinstance(call.credential, str):
        return context.directory.authorise(call.credential, now)
    return call.credential


def _permit(context: NodeContext, call: Call, account: NodeAccount) -> None:
    if call.api.admin_only and not account.is_admin:
        raise context.errors.failure("ID.1002", "admin", f"API{call.api.name}Msg")
    if call.api.name in account.denied:
        raise context.errors.denial("denied", f"API{call.api.name}Msg")
    call.api.permit(context, call, account)


def _check_resource_uuid(context: NodeContext, call: Call) -> None:
    uuid = call.fields.get("resourceUuid")
    if uuid is not None and context.options.strict_resource_uuid and not is_resource_uuid(uuid.strip()):
        raise context.errors.failure("SYS.1007", "uuid", uuid)


def _check_system_tags(context: NodeContext, call: Call) -> None:
    known = (VALIDATION_ONLY, *context.options.system_tags)
    for tag in dict.fromkeys(call.system_tags):
        if not tag.startswith(known):
            raise context.errors.failure("SYS.1007", "tag", tag)


def check_quota(context: NodeContext, account: NodeAccount) -> None:
    """Refuse one more model service of ``account``. Raises ApiFailureError ID.1003."""
    if account.is_admin or account.quota is None:
        return
    used = services_of(context, account)
    if used >= account.quota:
        raise context.errors.failure("ID.1003", "quota", account.uuid, QUOTA, account.quota, used)


def services_of(context: NodeContext, account: NodeAccount) -> int:
    """Count the model services that an account owns."""
    return sum(row.owner == account.uuid for row in context.resources.of_kind(MODEL_SERVICE))
