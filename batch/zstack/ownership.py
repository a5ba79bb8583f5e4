"""Giving clones away: what the engine's hand-overs ask of ZStack, answered as values (wire: section 6.1).

Source: AccountManagerImpl of the server. ShareResource of what is shared already changes nothing. ChangeResourceOwner
to who is the owner already fails as ID.1004, so what a lost answer left behind is told from a failure by asking whose
the resource is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.zstack.surroundings import Surroundings
from batch.zstack.wire import CallFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch.zstack.answers import NoAnswer, NotSent, Refused
    from batch.zstack.client import Client


OWNER_MESSAGE: Final = "org.zstack.header.identity.APIChangeResourceOwnerMsg"
SHARE_MESSAGE: Final = "org.zstack.header.identity.APIShareResourceMsg"


class Ownership:
    """Shares and gives resources over one client; every call passes its gate."""

    def __init__(self, client: Client) -> None:
        """Share the client's gate, credentials and connections."""
        self._surroundings = Surroundings(client)

    async def share(self, uuid: str, accounts: Sequence[str]) -> Refused | NotSent | NoAnswer | None:
        """Let accounts use a resource; None: done."""
        try:
            await self._surroundings.share_resource([uuid], accounts)
        except CallFailedError as failed:
            return failed.answer
        return None

    async def give(self, uuid: str, account: str) -> Refused | NotSent | NoAnswer | None:
        """Make an account the owner of a resource; None: it is."""
        try:
            await self._surroundings.change_owner(uuid, account)
        except CallFailedError as failed:
            return None if await self._is_owner(uuid, account) else failed.answer
        return None

    async def _is_owner(self, uuid: str, account: str) -> bool:
        try:
            owner = (await self._surroundings.owners([uuid])).get(uuid)
        except CallFailedError:
            return False
        return owner is not None and owner.uuid == account
