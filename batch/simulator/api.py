"""Definition of an API: its routes, checks and handler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from batch.simulator.jobs import LEGACY_ROW
from batch.simulator.query import NodeQuery

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batch.simulator.api_errors import ErrorFactory
    from batch.simulator.directory import Directory
    from batch.simulator.faults import Fault
    from batch.simulator.ledger import Ledger
    from batch.simulator.options import NodeAccount, NodeOptions
    from batch.simulator.resources import Resource, ResourceStore
    from batch.simulator.wire import Json, Request


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

    def values(self, name: str) -> list[str]:
        """Return all text values of a parameter."""
        given = self.fields.get(name)
        items = given if isinstance(given, list) else [given]
        return [item for item in items if isinstance(item, str)]

    def value(self, name: str) -> str | None:
        """Return the first value of a parameter."""
        return next(iter(self.values(name)), None)


Result: TypeAlias = "Json | Resource"


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
    run: Callable[[NodeContext, Call, NodeAccount | None, float], Result] = field(compare=False)
    action: str | None = None
    """The body's key for PUT."""
    parameter: str = "params"
    """The body's key for other verbs."""
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
        if self.reply is not None:
            return self.reply
        return f"{self.package}.API{self.name}{'Reply' if self.sync else 'Event'}"
