"""A matrix: the cross product of its axes, less ``exclude``, plus ``include``, as in CI files."""

from __future__ import annotations

import math
import re
from itertools import product
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.jobfile.nodes import Mapping as MappingNode
from batch.jobfile.nodes import Node, Scalar, Sequence
from batch.jobfile.problems import Complaint, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_COMBINATIONS: Final = 20_000
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")
"""Names for ``${…}``."""


class Combination(NamedTuple):
    """One cell of a matrix."""

    values: Mapping[str, str]
    label: str
    """What its key adds to the source uuid, such as ``[size=s,tenant=acme]``: sorted, so that moved axes keep keys."""


class _Matrix(NamedTuple):
    axes: dict[str, list[str]]
    include: list[dict[str, str]]
    exclude: list[dict[str, str]]


def read_matrix(node: Node, complaints: list[Complaint]) -> tuple[Combination, ...]:
    """Turn the ``matrix`` node into its combinations, none of them where it has problems."""
    if not isinstance(node, MappingNode) or not node.pairs:
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
    return tuple(_combinations(matrix))


def _parse(node: MappingNode, complaints: list[Complaint]) -> _Matrix:
    matrix = _Matrix({}, [], [])
    for key, value in node.pairs:
        path = f"matrix.{key.text}"
        if key.text in {"include", "exclude"}:
            rows = _list(value, path, complaints)
            (matrix.include if key.text == "include" else matrix.exclude).extend(_rows(rows, path, complaints))
        elif not NAME.fullmatch(key.text):
            complaints.append(Complaint(path, f"{shorten(key.text)} is not a name for ${{…}}", at_key=True))
        else:
            matrix.axes[key.text] = _texts(_list(value, path, complaints), path, complaints)
    for index, row in enumerate(matrix.exclude):
        extra = [name for name in row if name not in matrix.axes]
        path = f"matrix.exclude[{index}]"
        complaints += [Complaint(f"{path}.{name}", "no axis has this name", at_key=True) for name in extra]
    return matrix


def _list(node: Node, path: str, complaints: list[Complaint]) -> list[Node]:
    if isinstance(node, Sequence) and node.items:
        return node.items
    complaints.append(Complaint(path, "must be a list with at least one element"))
    return []


def _texts(nodes: list[Node], path: str, complaints: list[Complaint]) -> list[str]:
    texts: list[str] = []
    for index, node in enumerate(nodes):
        text = _text(node, f"{path}[{index}]", complaints)
        if text in texts:
            complaints.append(Complaint(f"{path}[{index}]", f"{shorten(text)} is there twice"))
        texts.append(text)
    return texts


def _rows(nodes: list[Node], path: str, complaints: list[Complaint]) -> Iterator[dict[str, str]]:
    for index, node in enumerate(nodes):
        place = f"{path}[{index}]"
        if isinstance(node, MappingNode) and node.pairs:
            yield {key.text: _text(value, f"{place}.{key.text}", complaints) for key, value in node.pairs}
        else:
            complaints.append(Complaint(place, "must be a map of names to values"))


def _text(node: Node, path: str, complaints: list[Complaint]) -> str:
    if isinstance(node, Scalar) and not node.is_null:
        return node.text
    complaints.append(Complaint(path, "must be one value"))
    return ""


def _combinations(matrix: _Matrix) -> Iterator[Combination]:
    names = list(matrix.axes)
    cells = [dict(zip(names, values, strict=True)) for values in product(*matrix.axes.values())] if names else []
    cells = [cell for cell in cells if not any(row.items() <= cell.items() for row in matrix.exclude)]
    labels = [_label(cell) for cell in cells]
    extra: list[dict[str, str]] = []
    for row in matrix.include:
        shared = {name: value for name, value in row.items() if name in matrix.axes}
        fitting = [cell for cell in cells if shared.items() <= cell.items()]
        for cell in fitting:
            cell.update(row)
        if not fitting:
            extra.append(row)
    yield from (Combination(cell, label) for cell, label in zip(cells, labels, strict=True))
    yield from (Combination(row, _label(row)) for row in extra)


def _label(values: dict[str, str]) -> str:
    return f"[{','.join(f'{name}={value}' for name, value in sorted(values.items()))}]"
