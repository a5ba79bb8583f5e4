"""``owner`` and ``share_with`` of a target: accounts that get the clone once it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.jobfile.check import check_uuid
from batch.jobfile.nodes import text_tree
from batch.jobfile.problems import Complaint
from batch.model import HandOver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.jobfile.nodes import Node

HAND_OVER_KEYS: Final = ("owner", "share_with")


def read_hand_over(keys: Mapping[str, Node], complaints: list[Complaint]) -> HandOver | None:
    """Check the two keys as far as they need no rendering; None where they ask for nothing."""
    owner, shares = (text_tree(keys[name]) if name in keys else None for name in HAND_OVER_KEYS)
    texts = [] if shares is None else [shares] if isinstance(shares, str) else shares
    if not isinstance(owner, str | None):
        complaints.append(Complaint("owner", "must be the uuid of one account"))
        return None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        complaints.append(Complaint("share_with", "must be a list of account uuids"))
        return None
    found = HandOver(owner, tuple(map(str, texts)))
    check_hand_over(found, complaints)
    return found if owner is not None or texts else None


def check_hand_over(wanted: HandOver, complaints: list[Complaint]) -> None:
    """Check that these are uuids; texts that hold ``$`` are left to the plan."""
    if wanted.owner is not None and "$" not in wanted.owner:
        check_uuid("owner", wanted.owner, complaints)
    for index, uuid in enumerate(wanted.share_with):
        if "$" not in uuid:
            check_uuid(f"share_with[{index}]", uuid, complaints)
