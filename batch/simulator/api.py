"""Definition of an API, and the checks of its messages that a poll or an immediate 503 reports (zstack/README.md 5)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from batch.simulator.options import NodeAccount
from batch.simulator.query import NodeQuery
from batch.simulator.resources import MODEL_SERVICE
from batch.simulator.wire import is_resource_uuid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batch.simulator.api_errors import ErrorFactory
    from batch.simulator.directory import Directory
    from batch.simulator.faults import Fault
    from batch.simulator.ledger import Ledger
    from batch.simulator.options import NodeOptions
    from batch.simulator.resources import Resource, ResourceStore
    from batch.simulator.wire import Json, Request

LEGACY_ROW: Final = "legacy:"
"""Prefix of job rows of the legacy API; the real server keeps them in a separate table, for days."""
QUOTA: Final = "ai.modelService.num"
"""Name of the quota of model services."""
_VARIABLE: Final = re.compile(r"{(\w+)}")
_VALIDATION_ONLY: Final = "ephemeral::validationOnly"
_NOBODY: Final = NodeAccount("", "")
"""The caller of an API that requires no credential."""


@dataclass(frozen=True, slots=True)
class NodeContext:
    """Everything that an API may read or change."""

    options: NodeOptions
    errors: ErrorFactory
    directory: Directory
    resources: ResourceStore
    ledger: Ledger
    emit: Callable[[Json], None]
    """Emit an event for the state file."""
    draw_uuid: Callable[[], str]
    apis: Mapping[str, ApiDefinition]
    """All APIs of the node, by name."""


@dataclass(frozen=True, slots=True)
class Call:
    """An API message, routed and parsed, with its credential not yet checked."""

    api: ApiDefinition
    id: str
    """The job uuid."""
    request: Request
    path: Mapping[str, str]
    fields: Json
    """Fields as given: of the body, or of the query string, as lists of texts, for GET and DELETE."""
    credential: str | NodeAccount | None
    """A session uuid, the account of an access key, or None for open APIs."""
    query: NodeQuery = field(default_factory=NodeQuery)
    """Query of query APIs."""
    system_tags: tuple[str, ...] = ()
    user_tags: tuple[str, ...] = ()
    hook: str | None = None
    fault: Fault | None = None
    is_legacy: bool = False
    """Whether it came through the legacy API, whose results are stored separately."""

    @property
    def row(self) -> str:
        """Key of its job row; the legacy API has a separate table."""
        return LEGACY_ROW + self.id if self.is_legacy else self.id

    @property
    def is_validation_only(self) -> bool:
        """Whether the message ends, successfully, after its checks."""
        return _VALIDATION_ONLY in self.system_tags

    def values(self, name: str) -> list[str]:
        """Return all text values of a parameter."""
        given = self.fields.get(name)
        items = given if isinstance(given, list) else [given]
        return [item for item in items if isinstance(item, str)]


JobContent: TypeAlias = "Json | Resource"


def _validate_nothing(_context: NodeContext, _call: Call) -> None:
    return None


def _permit_all(_context: NodeContext, _call: Call, _account: NodeAccount) -> None:
    return None


def _as_given(fields: Json, _options: NodeOptions) -> Json:
    return fields


@dataclass(frozen=True, slots=True)
class ApiDefinition:
    """One API; errors of its functions are ApiFailureError, and RestError of ``read``."""

    name: str
    kind: str
    """Name in the ledger and in fault rules."""
    method: str
    pattern: str
    """Path below the context path, with ``{name}`` for variables."""
    run: Callable[[NodeContext, Call, NodeAccount, float], JobContent] = field(compare=False)
    action: str | None = None
    """The body's key for PUT."""
    parameter: str = "params"
    """The body's key for other verbs."""
    required: tuple[str, ...] = ()
    """Fields that must not be missing or null."""
    sync: bool = False
    is_open: bool = False
    """Whether it requires no credential."""
    is_query: bool = False
    admin_only: bool = False
    creates: bool = False
    """Whether it takes resourceUuid and tags, and counts against the quota."""
    shares_path: bool = False
    """Whether the real server has more APIs at this path than this node."""
    package: str = "org.zstack.ai.message"
    """Java package of its message, by which the legacy API names it."""
    reply: str | None = None
    """Its reply's Java class where that does not follow from its name."""
    inventory: str | None = None
    """Java class of its answer's ``inventory``, named where the caller asks for the schema."""
    read: Callable[[Json, NodeOptions], Json] = field(default=_as_given, compare=False)
    """Check the types of a body's fields and make them the message's."""
    validate: Callable[[NodeContext, Call], None] = field(default=_validate_nothing, compare=False)
    """Parameters and the existence of what they name; comes before the session's check."""
    permit: Callable[[NodeContext, Call, NodeAccount], None] = field(default=_permit_all, compare=False)

    @property
    def message_class(self) -> str:
        """The message's Java class."""
        return f"{self.package}.API{self.name}Msg"

    @property
    def reply_class(self) -> str:
        """The reply's Java class."""
        return self.reply or f"{self.package}.API{self.name}{'Reply' if self.sync else 'Event'}"


def check_message(context: NodeContext, call: Call, now: float) -> NodeAccount:
    """Check one in interceptor order; return the caller. Raises ApiFailureError."""
    if context.options.session_first:
        _authorise(context, call, now)
    _require_fields(context, call)
    call.api.validate(context, call)
    account = _authorise(context, call, now)
    if not call.api.is_open:
        _permit(context, call, account)
    if call.api.creates:
        _check_resource_uuid(context, call)
        _check_system_tags(context, call)
        check_quota(context, account)
    return account


def _require_fields(context: NodeContext, call: Call) -> None:
    """Refuse a missing field, and of the legacy API what a path names. Raises ApiFailureError SYS.1007."""
    variables = _VARIABLE.findall(call.api.pattern) if call.is_legacy and not call.api.is_query else []
    missing = [name for name in variables if not call.path[name]]
    missing += [name for name in call.api.required if call.fields.get(name) is None]
    if missing:
        raise context.errors.failure("SYS.1007", "mandatory", missing[0])


def _authorise(context: NodeContext, call: Call, now: float) -> NodeAccount:
    if isinstance(call.credential, str):
        return context.directory.authorise(call.credential, now)
    return call.credential or _NOBODY


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
    known = (_VALIDATION_ONLY, *context.options.system_tags)
    for tag in call.system_tags:
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


def text_values(context: NodeContext, call: Call, name: str) -> list[str]:
    """Read a list of texts; absent is empty. Raises ApiFailureError SYS.1007 for anything else."""
    value = call.fields.get(name) or []
    if not isinstance(value, list):
        raise context.errors.failure("SYS.1007", "choices", name, "list", value)
    return [str(item) for item in value]


def require_resource(context: NodeContext, uuid: object) -> Resource:
    """Look up a resource of any kind. Raises ApiFailureError SYS.1003."""
    row = context.resources.find(str(uuid))
    if row is None:
        raise context.errors.failure("SYS.1003", "missing", "resourceUuid", uuid, "ResourceVO")
    return row
