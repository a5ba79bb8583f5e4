"""``rearchitect.vendors``: rules by which the GPU specs of a source's vendors become those of the clone's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from batch.jobfile.check import check_uuid
from batch.jobfile.nodes import Node, Sequence, text_tree
from batch.jobfile.origins import NodeOrigin
from batch.jobfile.problems import Complaint, shorten, unknown
from batch.model import Place, Problem

if TYPE_CHECKING:
    from batch.jobfile.problems import Problems
    from batch.model import JsonValue

VENDOR_KEYS: Final = ("from", "to", "specUuids")


class VendorRule(NamedTuple):
    """GPU vendors that start with ``prefix``, in any case, become ``to`` with the given specs."""

    prefix: str
    to: str
    specs: tuple[str, ...]
    place: Place


def read_vendors(node: Node, origin: NodeOrigin, problems: Problems) -> list[VendorRule]:
    """Read the list below ``origin``; rules with problems are left out."""
    if not isinstance(node, Sequence) or not node.items:
        problems.add(origin.problem(Complaint("vendors", "must be a list of rules with from, to and specUuids")))
        return []
    rules: dict[str, VendorRule] = {}
    for index, item in enumerate(node.items):
        own = NodeOrigin(origin.file, item, f"{origin.path}.vendors[{index}]")
        value = text_tree(item)
        complaints: list[Complaint] = []
        rule = _rule(value, own, complaints)
        problems.extend(map(own.problem, complaints))
        if rule is None:
            continue
        known = rules.setdefault(rule.prefix.casefold(), rule)
        if known is not rule:
            message = f"{shorten(rule.prefix)} has a rule already, at {known.place.file}:{known.place.line}"
            problems.add(Problem(rule.place, own.path, message))
    return list(rules.values())


def _rule(row: JsonValue, own: NodeOrigin, complaints: list[Complaint]) -> VendorRule | None:
    before = len(complaints)
    if not isinstance(row, dict):
        complaints.append(Complaint("", "must be a map of from, to and specUuids"))
        return None
    complaints += [Complaint(name, unknown(name, VENDOR_KEYS), at_key=True) for name in row if name not in VENDOR_KEYS]
    for name in ("from", "to"):
        text = row.get(name)
        if not isinstance(text, str) or not text or not text.isprintable():
            complaints.append(Complaint(name, "must be a GPU vendor, such as NVIDIA"))
    specs = row.get("specUuids")
    if not isinstance(specs, list) or not specs:
        complaints.append(Complaint("specUuids", "must be a list of the uuids of GPU specs"))
        return None
    for index, uuid in enumerate(specs):
        check_uuid(f"specUuids[{index}]", uuid, complaints)
    if len(complaints) > before:
        return None
    return VendorRule(str(row["from"]), str(row["to"]), tuple(map(str, specs)), own.problem(Complaint("", "")).place)
