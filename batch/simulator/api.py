"""What an API is: where it is routed to, how it is checked and what it does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batch.simulator.codes import Speech
    from batch.simulator.directory import Directory
    from batch.simulator.faults import Fault
    from batch.simulator.ledger import Ledger
    from batch.simulator.options import Account, NodeOptions
    from batch.simulator.resources import Estate, Resource
    from batch.simulator.wire import Json, Request


@dataclass(frozen=True, slots=True)
class World:
    """Everything an API may look at or change."""

    options: NodeOptions
    speech: Speech
    directory: Directory
    estate: Estate
    ledger: Ledger
    emit: Callable[[Json], None]
    """Note a change, for the state file."""
    draw_uuid: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Call:
    """An API message: routed, parsed and with its credential, not yet checked."""

    api: Api
    id: str
    """The job uuid."""
    request: Request
    path: Mapping[str, str]
    fields: Json
    credential: str | Account | None
    """A session uuid, the account of an access key, or None for open APIs."""
    system_tags: tuple[str, ...] = ()
    user_tags: tuple[str, ...] = ()
    hook: str | None = None
    fault: Fault | None = None


Result: TypeAlias = "Json | Resource"


def _nothing(_world: World, _call: Call) -> None:
    return None


def _allowed(_world: World, _call: Call, _account: Account) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Api:
    """One API; errors of its three functions are ApiFailureError."""

    name: str
    kind: str
    """What the ledger and fault rules call it."""
    method: str
    pattern: str
    """Path below the context path, ``{name}`` for a part that varies."""
    run: Callable[[World, Call, Account | None, float], Result] = field(compare=False)
    action: str | None = None
    """The body's key for PUT."""
    unique: bool = False
    """The path's only API: a missing action key is an empty message instead of 400."""
    sync: bool = False
    is_open: bool = False
    """No credential is asked for."""
    admin_only: bool = False
    creates: bool = False
    """Has resourceUuid, tags and quota."""
    validate: Callable[[World, Call], None] = field(default=_nothing, compare=False)
    """Parameters and the existence of what they name; comes before the session's check."""
    permit: Callable[[World, Call, Account], None] = field(default=_allowed, compare=False)
