"""A matrix: the cross product of its axes, without ``exclude``, plus ``include``, as in CI files."""

from __future__ import annotations

import math
import re
from itertools import product
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.jobfile.envelope import VARIABLE_PATTERN
from batch.jobfile.problems import Complaint, quote
from batch.jobfile.values import ListNode, MapNode, Scalar, YamlNode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_COMBINATIONS: Final = 20_000
MAX_CHANGES: Final = 1_000_000
"""Maximum number of combinations that all rows of ``include`` together match."""


class Combination(NamedTuple):
    """One combination of a matrix."""

    values: Mapping[str, str]
    label: str
    """Suffix of the key after the source uuid, such as ``[size=s,tenant=acme]``: sorted, so that reordered axes keep
    keys."""


class _Matrix(NamedTuple):
    axes: dict[str, list[str]]
    include: list[dict[str, str]]
    exclude: list[dict[str, str]]


def read_matrix(node: YamlNode, complaints: list[Complaint]) -> tuple[Combination, ...]:
    """Return the combinations of the ``matrix`` node, none where it has problems."""
    if not isinstance(node, MapNode) or not node.pairs:
        complaints.append(Complaint("matrix", "must be a map of lists, such as {tenant: [acme, globex]}"))
        return ()
    before = len(complaints)
    matrix = _parse(node, complaints)
    if len(complaints) > before:
        return ()
    if math.prod(map(len, matrix.axes.values())) > MAX_COMBINATIONS:
        complaints.append(
            Complaint("matrix", f"has more than {MAX_COMBINATIONS:,} combinations: use `from:` with a file")
        )
        return ()
    combinations = tuple(_combinations(matrix, complaints))
    return combinations if len(complaints) == before else ()


def _parse(node: MapNode, complaints: list[Complaint]) -> _Matrix:
    matrix = _Matrix({}, [], [])
    for key, value in node.pairs:
        path = f"matrix.{key.text}"
        if key.text in {"include", "exclude"}:
            rows = _list(value, path, complaints)
            (matrix.include if key.text == "include" else matrix.exclude).extend(_rows(rows, path, complaints))
        elif not re.fullmatch(VARIABLE_PATTERN, key.text):
            complaints.append(Complaint(path, f"{quote(key.text)} is not a name for ${{…}}", at_key=True))
        else:
            matrix.axes[key.text] = _texts(_list(value, path, complaints), path, complaints)
    for index, row in enumerate(matrix.exclude):
        extra = [name for name in row if name not in matrix.axes]
        path = f"matrix.exclude[{index}]"
        complaints += [Complaint(f"{path}.{name}", "no axis has this name", at_key=True) for name in extra]
    return matrix


def _list(node: YamlNode, path: str, complaints: list[Complaint]) -> list[YamlNode]:
    if isinstance(node, ListNode) and node.items:
        return node.items
    complaints.append(Complaint(path, "must be a list with at least one element"))
    return []


def _texts(nodes: list[YamlNode], path: str, complaints: list[Complaint]) -> list[str]:
    texts: dict[str, None] = {}
    for index, node in enumerate(nodes):
        text = _text(node, f"{path}[{index}]", complaints)
        if text in texts:
            complaints.append(Complaint(f"{path}[{index}]", f"{quote(text)} is listed twice"))
        texts[text] = None
    return list(texts)


def _rows(nodes: list[YamlNode], path: str, complaints: list[Complaint]) -> Iterator[dict[str, str]]:
    for index, node in enumerate(nodes):
        place = f"{path}[{index}]"
        if isinstance(node, MapNode) and node.pairs:
            yield {key.text: _text(value, f"{place}.{key.text}", complaints) for key, value in node.pairs}
        else:
            complaints.append(Complaint(place, "must be a map of names to values"))


def _text(node: YamlNode, path: str, complaints: list[Complaint]) -> str:
    if isinstance(node, Scalar) and not node.is_null:
        return node.text
    complaints.append(Complaint(path, "must be one value"))
    return ""


class _Cells:
    """The cross product of the axes; a set of its cells is an integer with one bit for each."""

    def __init__(self, axes: dict[str, list[str]]) -> None:
        self.rows = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())] if axes else []
        self._all = (1 << len(self.rows)) - 1
        self._bits: dict[tuple[str, str], int] = {}
        for index, row in enumerate(self.rows):
            for pair in row.items():
                self._bits[pair] = self._bits.get(pair, 0) | 1 << index

    def matching(self, values: Mapping[str, str]) -> int:
        """Return the cells that have all of ``values``."""
        bits = self._all
        for pair in values.items():
            bits &= self._bits.get(pair, 0)
        return bits


def _combinations(matrix: _Matrix, complaints: list[Complaint]) -> Iterator[Combination]:
    cells = _Cells(matrix.axes)
    excluded = 0
    for row in matrix.exclude:
        excluded |= cells.matching(row)
    labels = [_label(cell) for cell in cells.rows]
    extra: list[dict[str, str]] = []
    changes = 0
    for row in matrix.include:
        fitting = cells.matching({name: value for name, value in row.items() if name in matrix.axes}) & ~excluded
        changes += fitting.bit_count()
        if changes > MAX_CHANGES:
            message = f"adds values to combinations more than {MAX_CHANGES:,} times: use `from:` with a file"
            complaints.append(Complaint("matrix.include", message))
            return
        for index in _indices(fitting):
            cells.rows[index].update(row)
        if not fitting:
            extra.append(row)
    for index, (cell, label) in enumerate(zip(cells.rows, labels, strict=True)):
        if not excluded >> index & 1:
            yield Combination(cell, label)
    yield from (Combination(row, _label(row)) for row in extra)


def _indices(bits: int) -> Iterator[int]:
    return (index for index, bit in enumerate(reversed(f"{bits:b}")) if bit == "1")


def _label(values: dict[str, str]) -> str:
    return f"[{','.join(f'{name}={value}' for name, value in sorted(values.items()))}]"
