"""``rearchitect:`` in a job file: by which rules a source's images, and its GPU specs, become the clone's."""

from __future__ import annotations

import csv
from io import TextIOWrapper
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.jobfile.check import check_params
from batch.jobfile.content import MAX_BYTES
from batch.jobfile.inputs import open_input
from batch.jobfile.nodes import Mapping, Node, Scalar, Sequence, text_tree
from batch.jobfile.origins import NodeOrigin
from batch.jobfile.problems import Complaint, shorten, unknown
from batch.jobfile.vendors import VendorRule, read_vendors
from batch.model import Place, Problem

if TYPE_CHECKING:
    from pathlib import Path

    from batch.jobfile.problems import Problems
    from batch.model import JsonValue

KEYS: Final = ("to", "images", "file", "vendors")
RULE_KEYS: Final = ("from", "to", "vmImageUuid", "cpuArchitecture")


class Rule(NamedTuple):
    """Images that start with ``prefix`` start with ``to`` in the clone."""

    prefix: str
    to: str
    vm_image: str | None
    architecture: str
    place: Place


class Rearchitect(NamedTuple):
    """Whole and checked: every rule is for one of the architectures ``to``."""

    to: tuple[str, ...]
    """Empty where only GPU vendors are to change."""
    rules: tuple[Rule, ...]
    vendors: tuple[VendorRule, ...] = ()


def read_rearchitect(origin: NodeOrigin, folder: Path, problems: Problems) -> Rearchitect | None:
    """Read the section at ``origin`` and the mapping file it names in ``folder``; None where it has problems."""
    before = len(problems)
    if not isinstance(origin.node, Mapping):
        problems.add(origin.problem(Complaint("", "must be a map of to, images, file and vendors")))
        return None
    keys = {key.text: value for key, value in origin.node.pairs}
    for name in keys:
        if name not in KEYS:
            problems.add(origin.problem(Complaint(name, unknown(name, KEYS), at_key=True)))
    vendors = [] if "vendors" not in keys else read_vendors(keys["vendors"], origin, problems)
    if vendors and not keys.keys() & {"to", "images", "file"}:
        return Rearchitect((), (), tuple(vendors)) if len(problems) == before else None
    to = _architectures(keys.get("to"), origin, problems)
    rules = [
        *_inline(keys.get("images"), origin, to, problems),
        *_filed(keys.get("file"), origin, folder, to, problems),
    ]
    if not rules and len(problems) == before:
        problems.add(origin.problem(Complaint("", "needs `images`, a list of rules, or `file`, a CSV file of them")))
    _refuse_twins(rules, problems)
    return Rearchitect(to, tuple(rules), tuple(vendors)) if len(problems) == before else None


def _architectures(node: Node | None, origin: NodeOrigin, problems: Problems) -> tuple[str, ...]:
    value = None if node is None else text_tree(node)
    if not isinstance(value, list) or not value:
        problems.add(origin.problem(Complaint("to", "must be a list of architectures, such as [AARCH64]")))
        return ()
    complaints: list[Complaint] = []
    check_params({"cpuArchitectures": value}, complaints)
    problems.extend(
        origin.problem(Complaint(found.path.replace("params.cpuArchitectures", "to"), found.message))
        for found in complaints
    )
    return tuple(map(str, value))


def _inline(node: Node | None, origin: NodeOrigin, to: tuple[str, ...], problems: Problems) -> list[Rule]:
    if node is None:
        return []
    if not isinstance(node, Sequence):
        problems.add(origin.problem(Complaint("images", "must be a list of rules with from and to")))
        return []
    rules = []
    for index, item in enumerate(node.items):
        own = NodeOrigin(origin.file, item, f"{origin.path}.images[{index}]")
        value = text_tree(item)
        if not isinstance(value, dict):
            problems.add(own.problem(Complaint("", "must be a map of from, to, vmImageUuid and cpuArchitecture")))
            continue
        row: dict[str, JsonValue] = value
        complaints: list[Complaint] = []
        rule = _rule(row, own.problem(Complaint("", "")).place, to, complaints)
        problems.extend(map(own.problem, complaints))
        if rule is not None:
            rules.append(rule)
    return rules


def _filed(node: Node | None, origin: NodeOrigin, folder: Path, to: tuple[str, ...], problems: Problems) -> list[Rule]:
    if node is None:
        return []
    path = folder / (node.text if isinstance(node, Scalar) else "")
    rules: list[Rule] = []
    try:
        with TextIOWrapper(open_input(path, folder, largest=MAX_BYTES), encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True, restkey="", restval=None)
            for cells in reader:
                place = Place(str(path), reader.line_num, 1)
                complaints: list[Complaint] = []
                row: dict[str, JsonValue] = {name: value for name, value in cells.items() if value}
                rule = _rule(row, place, to, complaints)
                problems.extend(Problem(place, complaint.path, complaint.message) for complaint in complaints)
                if rule is not None:
                    rules.append(rule)
    except OSError as error:
        problems.add(origin.problem(Complaint("file", f"{path} cannot be read: {error.strerror or error}")))
    except (csv.Error, UnicodeDecodeError) as error:
        problems.add(origin.problem(Complaint("file", f"{path} is no CSV file of rules: {error}")))
    return rules


def _rule(row: dict[str, JsonValue], place: Place, to: tuple[str, ...], complaints: list[Complaint]) -> Rule | None:
    before = len(complaints)
    complaints += [Complaint(name, unknown(name, RULE_KEYS), at_key=True) for name in row if name not in RULE_KEYS]
    for name in ("from", "to"):
        if not isinstance(row.get(name), str) or not row[name]:
            complaints.append(
                Complaint(name, "must be the start of an image's name, such as registry.example.com/x86_64/")
            )
    architecture = row.get("cpuArchitecture", to[0] if len(to) == 1 else None)
    if to and architecture not in to:
        complaints.append(
            Complaint("cpuArchitecture", f"must be one of {', '.join(to)}, those of `to`; not {shorten(architecture)}")
        )
    vm_image = row.get("vmImageUuid")
    if vm_image is not None:
        image: JsonValue = {"cpuArchitecture": "AARCH64", "vmImageUuid": vm_image}
        found: list[Complaint] = []
        check_params({"architectureImages": [image]}, found)
        complaints += [Complaint("vmImageUuid", complaint.message) for complaint in found]
    if len(complaints) > before:
        return None
    return Rule(str(row["from"]), str(row["to"]), None if vm_image is None else str(vm_image), str(architecture), place)


def _refuse_twins(rules: list[Rule], problems: Problems) -> None:
    first: dict[tuple[str, str], Rule] = {}
    for rule in rules:
        known = first.setdefault((rule.architecture, rule.prefix), rule)
        if known is not rule:
            where = f"{known.place.file}:{known.place.line}"
            message = f"{shorten(rule.prefix)} has a rule for {rule.architecture} already, at {where}"
            problems.add(Problem(rule.place, "rearchitect", message))
