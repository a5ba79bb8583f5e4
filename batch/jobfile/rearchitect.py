"""``rearchitect:`` in a job file: the rules that derive the clone's images and GPU specs from its source's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from batch.errors import JobFileError
from batch.jobfile.check import check_params, check_uuid
from batch.jobfile.input_files import MAX_BYTES, open_input
from batch.jobfile.problems import Complaint, NodeOrigin, complain_of_unknown, quote
from batch.jobfile.tables import TABLE_KEYS, TableFormat, read_format, read_table
from batch.jobfile.values import ListNode, MapNode, Scalar, YamlNode, text_tree
from batch.model import Place, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batch.jobfile.problems import Problems
    from batch.model import JsonValue

KEYS: Final = ("to", "images", "file", *TABLE_KEYS, "vendors")
RULE_KEYS: Final = ("from", "to", "vmImageUuid", "cpuArchitecture")
VENDOR_KEYS: Final = ("from", "to", "specUuids")

_Rule = TypeVar("_Rule", "ImageRule", "VendorRule")


class ImageRule(NamedTuple):
    """Images that start with ``prefix`` start with ``to`` in the clone."""

    prefix: str
    to: str
    vm_image: str | None
    architecture: str
    place: Place


class VendorRule(NamedTuple):
    """GPU vendors that start with ``prefix``, in any case, become ``to`` with the given specs."""

    prefix: str
    to: str
    specs: tuple[str, ...]
    place: Place


class Rearchitect(NamedTuple):
    """Complete and checked: every rule is for one of the architectures ``to``."""

    to: tuple[str, ...]
    """Empty where only GPU vendors change."""
    rules: tuple[ImageRule, ...]
    vendors: tuple[VendorRule, ...] = ()


def read_rearchitect(origin: NodeOrigin, folder: Path, problems: Problems) -> Rearchitect | None:
    """Read the section at ``origin`` and its mapping file in ``folder``; None where it has problems."""
    before = len(problems)
    if not isinstance(origin.node, MapNode):
        problems.add(origin.problem(Complaint("", "must be a map of to, images, file and vendors")))
        return None
    keys = {key.text: value for key, value in origin.node.pairs}
    complaints: list[Complaint] = []
    complain_of_unknown(keys, KEYS, complaints)
    form = read_format(keys, complaints)
    problems.place(complaints, origin.problem)
    vendors = [] if "vendors" not in keys else _read_vendors(keys["vendors"], origin, problems)
    if vendors and not keys.keys() & {"to", "images", "file"}:
        return Rearchitect((), (), tuple(vendors)) if len(problems) == before else None
    to = _read_architectures(keys.get("to"), origin, problems)
    rules = [
        *_read_images(keys.get("images"), origin, to, problems),
        *_read_file(keys.get("file"), form, origin, folder, to, problems),
    ]
    if not rules and len(problems) == before:
        problems.add(
            origin.problem(Complaint("", "needs `images`, a list of rules, or `file`, a CSV or Excel file of them"))
        )
    first: dict[tuple[str, str], ImageRule] = {}
    for rule in rules:
        known = first.setdefault((rule.architecture, rule.prefix), rule)
        if known is not rule:
            problems.add(_repeat(rule, known, f" for {rule.architecture}", "rearchitect"))
    return Rearchitect(to, tuple(rules), tuple(vendors)) if len(problems) == before else None


def _repeat(rule: _Rule, known: _Rule, what: str, path: str) -> Problem:
    where = f"{known.place.file}:{known.place.line}"
    return Problem(rule.place, path, f"{quote(rule.prefix)} has a rule{what} already, at {where}")


def _read_architectures(node: YamlNode | None, origin: NodeOrigin, problems: Problems) -> tuple[str, ...]:
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


def _read_vendors(node: YamlNode, origin: NodeOrigin, problems: Problems) -> list[VendorRule]:
    if not isinstance(node, ListNode) or not node.items:
        problems.add(origin.problem(Complaint("vendors", "must be a list of rules with from, to and specUuids")))
        return []
    rules: dict[str, VendorRule] = {}
    for own, rule in _read_list(node, origin, "vendors", _vendor_rule, problems):
        known = rules.setdefault(rule.prefix.casefold(), rule)
        if known is not rule:
            problems.add(_repeat(rule, known, "", own.path))
    return list(rules.values())


def _read_images(
    node: YamlNode | None, origin: NodeOrigin, to: tuple[str, ...], problems: Problems
) -> Iterator[ImageRule]:
    if isinstance(node, ListNode):

        def read(row: JsonValue, place: Place, complaints: list[Complaint]) -> ImageRule | None:
            return _image_rule(row, place, to, complaints)

        for _, rule in _read_list(node, origin, "images", read, problems):
            yield rule
    elif node is not None:
        problems.add(origin.problem(Complaint("images", "must be a list of rules with from and to")))


def _read_list(
    node: ListNode,
    origin: NodeOrigin,
    name: str,
    read: Callable[[JsonValue, Place, list[Complaint]], _Rule | None],
    problems: Problems,
) -> Iterator[tuple[NodeOrigin, _Rule]]:
    """Yield the rules without problems of the list ``name`` below ``origin``, each with its place."""
    for index, item in enumerate(node.items):
        own = NodeOrigin(origin.file, item, f"{origin.path}.{name}[{index}]")
        complaints: list[Complaint] = []
        rule = read(text_tree(item), own.place, complaints)
        problems.extend(map(own.problem, complaints))
        if rule is not None:
            yield own, rule


def _read_file(
    node: YamlNode | None,
    form: TableFormat,
    origin: NodeOrigin,
    folder: Path,
    to: tuple[str, ...],
    problems: Problems,
) -> Iterator[ImageRule]:
    if node is None:
        return
    path = folder / (node.text if isinstance(node, Scalar) else "")
    try:
        with open_input(path, folder, largest=MAX_BYTES) as stream:
            for own, cells in read_table(stream, str(path), form, _check_header, problems):
                complaints: list[Complaint] = []
                row: JsonValue = {name: cell for name, cell in cells.items() if cell}
                rule = _image_rule(row, own.place, to, complaints)
                problems.place(complaints, own.problem)
                if rule is not None:
                    yield rule
    except OSError as error:
        problems.add(origin.problem(Complaint("file", f"{path} cannot be read: {error.strerror or error}")))
    except JobFileError as error:
        problems.extend(error.problems)


def _check_header(names: list[str], complaints: list[Complaint]) -> None:
    complain_of_unknown(names, RULE_KEYS, complaints)


def _image_rule(row: JsonValue, place: Place, to: tuple[str, ...], complaints: list[Complaint]) -> ImageRule | None:
    before = len(complaints)
    if not isinstance(row, dict):
        complaints.append(Complaint("", "must be a map of from, to, vmImageUuid and cpuArchitecture"))
        return None
    complain_of_unknown(row, RULE_KEYS, complaints)
    complaints += [
        Complaint(name, "must be the start of an image's name, such as registry.example.com/x86_64/")
        for name in ("from", "to")
        if not isinstance(row.get(name), str) or not row[name]
    ]
    architecture = row.get("cpuArchitecture", to[0] if len(to) == 1 else None)
    if to and architecture not in to:
        complaints.append(
            Complaint("cpuArchitecture", f"must be one of {', '.join(to)}, those of `to`; not {quote(architecture)}")
        )
    vm_image = row.get("vmImageUuid")
    if vm_image is not None:
        check_uuid("vmImageUuid", vm_image, complaints)
    if len(complaints) > before:
        return None
    image = None if vm_image is None else str(vm_image)
    return ImageRule(str(row["from"]), str(row["to"]), image, str(architecture), place)


def _vendor_rule(row: JsonValue, place: Place, complaints: list[Complaint]) -> VendorRule | None:
    before = len(complaints)
    if not isinstance(row, dict):
        complaints.append(Complaint("", "must be a map of from, to and specUuids"))
        return None
    complain_of_unknown(row, VENDOR_KEYS, complaints)
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
    return VendorRule(str(row["from"]), str(row["to"]), tuple(map(str, specs)), place)
