"""The ``targets`` list, one element at a time: bare uuids, overrides, matrices and ``from:`` files."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from batch.jobfile.check import check_uuid
from batch.jobfile.events import STREAMED, walk
from batch.jobfile.input_files import InputFiles
from batch.jobfile.job import (
    HAND_OVER_KEYS,
    LAYER_KEYS,
    Entry,
    Layer,
    QueryEntry,
    Target,
    merge_layers,
    read_hand_over,
    read_layer,
)
from batch.jobfile.problems import MAX_KEPT, Complaint, NodeOrigin, Problems, fold, quote, unknown
from batch.jobfile.rows import RowFile, check_id, read_rows
from batch.jobfile.tables import TABLE_KEYS, read_format
from batch.jobfile.values import MapNode, Scalar, YamlNode, text_tree
from batch.zstack.params import BODY_PARAMS, QUERY_OPERATORS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batch.jobfile.input_files import Content
    from batch.jobfile.matrix import Combination

LONG_LIST: Final = 20_000
"""Elements of a YAML list above which a file of rows is recommended, which is read several times faster."""
TARGET_KEYS: Final = ("uuid", "id", *LAYER_KEYS, "matrix", "from", *TABLE_KEYS, "query", *HAND_OVER_KEYS)

_EMPTY: Final = Layer()
_PARAMS: Final = {fold(name): name for name in BODY_PARAMS}
_ADVICE: Final = (
    "a JSON Lines or CSV file, named with `- from: targets.jsonl`, is read in a fraction of the time: move them there"
)


class TargetList:
    """The targets of one job file, streamed for every pass and the same in each: a changed file is rejected."""

    def __init__(self, path: Path, content: Content, defaults: Layer, defaults_origin: NodeOrigin | None) -> None:
        """Start with the ``content`` of the file at ``path``; ``defaults`` apply to every target."""
        self._path = path
        self._content = content
        self._files = InputFiles()
        self._entry = Entry(merge_layers(_EMPTY, defaults), defaults_origin=defaults_origin)

    def read(self, problems: Problems) -> Iterator[Target | QueryEntry]:
        """Yield the targets without problems; problems are added to ``problems``.

        A very long list is warned of at its end.

        Raises JobFileError where a file can no longer be read, or was changed since it was first read.
        """
        reader = _Reader(self._path, self._entry, self._files, problems)
        count, start = -1, None
        for key, node in walk(self._content, str(self._path), problems):
            if key.text != STREAMED:
                continue
            start = start or key
            if count >= 0:
                yield from reader.read(node, f"{STREAMED}[{count}]")
            count += 1
        if count > LONG_LIST and start is not None:
            warning = Complaint("", f"warning: {count:,} targets in one YAML list: {_ADVICE}")
            problems.warn(NodeOrigin(str(self._path), start, STREAMED).problem(warning))

    def files(self) -> Iterator[Path]:
        """Yield the ``from:`` files in the order of the job file.

        Raises JobFileError where it can no longer be read.
        """
        if not self._content.may_name_files:
            # A long list of targets need not be read once more.
            return
        for key, node in walk(self._content, str(self._path), Problems()):
            if key.text == STREAMED and isinstance(node, MapNode):
                for name, value in node.pairs:
                    if name.text == "from" and isinstance(value, Scalar):
                        yield self._path.parent / value.text

    def digests(self) -> Iterator[bytes]:
        """Yield the SHA-256 of the job file, then of each ``from:`` file. Raises OSError and JobFileError."""
        yield self._content.digest
        for path in self.files():
            with self._files.open(path, self._path.parent) as stream:
                yield hashlib.file_digest(stream, "sha256").digest()


class _Reader:
    """Reads elements; shares one Entry among all without settings of their own."""

    def __init__(self, path: Path, entry: Entry, files: InputFiles, problems: Problems) -> None:
        self._path = path
        self._entry = entry
        self._files = files
        self._problems = problems

    def read(self, node: YamlNode, path: str) -> Iterator[Target | QueryEntry]:
        """Yield the targets of one element of the list."""
        origin = NodeOrigin(str(self._path), node, path)
        complaints: list[Complaint] = []
        if isinstance(node, Scalar):
            check_uuid("", text_tree(node), complaints)
            targets: Iterator[Target | QueryEntry] = iter((Target(self._entry, _EMPTY, node.text, None, {}, origin),))
        elif isinstance(node, MapNode):
            targets = self._read_mapping(node, origin, complaints)
        else:
            complaints.append(Complaint("", "must be a source uuid or a map, not a list"))
            targets = iter(())
        if complaints:
            self._problems.place(complaints, origin.problem)
        else:
            yield from targets

    def _read_mapping(
        self, node: MapNode, origin: NodeOrigin, complaints: list[Complaint]
    ) -> Iterator[Target | QueryEntry]:
        keys = {key.text: value for key, value in node.pairs}
        _check_keys(keys, complaints)
        layer = read_layer(node, complaints)._replace(hand_over=read_hand_over(keys, complaints))
        combinations = _read_combinations(keys, complaints)
        uuid = _text("uuid", keys, complaints)
        if uuid is not None:
            check_uuid("uuid", uuid, complaints)
        identity = _text("id", keys, complaints)
        if identity is not None:
            check_id(identity, complaints)
        form = read_format(keys, complaints)
        if "from" in keys:
            path = self._path.parent / (_text("from", keys, complaints) or "")
            file = RowFile(path, self._shared(layer, combinations, origin), uuid, form, self._files)
            return read_rows(file, self._problems)
        if "query" in keys:
            conditions = _read_conditions(keys["query"], complaints)
            return iter((QueryEntry(self._shared(layer, combinations, origin), conditions, origin),))
        if uuid is None and "uuid" not in keys:
            complaints.append(Complaint("", "needs `uuid`, the source to clone, or `from`, a file of targets"))
        if not combinations:
            return iter((Target(self._entry, layer, uuid or "", identity, {}, origin),))
        entry = Entry(self._entry.base, combinations, {}, None, self._entry.defaults_origin)
        return iter((Target(entry, layer, uuid or "", identity, {}, origin),))

    def _shared(self, layer: Layer, combinations: tuple[Combination, ...], origin: NodeOrigin) -> Entry:
        """Return the common part of all targets of one element."""
        base = merge_layers(self._entry.base, layer)
        return Entry(base, combinations, layer.params, origin, self._entry.defaults_origin)


def _read_combinations(keys: dict[str, YamlNode], complaints: list[Complaint]) -> tuple[Combination, ...]:
    """Return the combinations of an element's matrix; none without one."""
    if "matrix" not in keys:
        return ()
    from batch.jobfile.matrix import read_matrix  # noqa: PLC0415 - few job files have one

    return read_matrix(keys["matrix"], complaints)


def _check_keys(keys: dict[str, YamlNode], complaints: list[Complaint]) -> None:
    for name in keys:
        if name not in TARGET_KEYS:
            message = _unknown_key(name) if len(complaints) < MAX_KEPT else "unknown key"
            complaints.append(Complaint(name, message, at_key=True))
    _check_query(keys, complaints)
    complaints += [
        Complaint(name, f"`{name}` is of a {ending} file that `from` names", at_key=True)
        for name, ending in TABLE_KEYS.items()
        if name in keys and not _names_file(keys, ending)
    ]
    if "from" in keys and "id" in keys:
        complaints.append(Complaint("id", "would be the same for every row: make it a column of the file", at_key=True))


def _names_file(keys: dict[str, YamlNode], ending: str) -> bool:
    name = keys.get("from")
    return isinstance(name, Scalar) and name.text.lower().endswith(ending)


def _unknown_key(name: str) -> str:
    near = _PARAMS.get(fold(name))
    return unknown(name, TARGET_KEYS) if near is None else f"unknown key {quote(name)}; did you mean params.{near}?"


def _check_query(keys: dict[str, YamlNode], complaints: list[Complaint]) -> None:
    """Reject keys that cannot be used with a query, whose services are the sources and whose uuids are the keys."""
    if "query" in keys:
        complaints += [
            Complaint(name, f"`{name}` beside `query`: the sources are those that it finds", at_key=True)
            for name in ("uuid", "id", "from")
            if name in keys
        ]


def _read_conditions(node: YamlNode, complaints: list[Complaint]) -> tuple[str, ...]:
    """Check the conditions of a ``query``; none where there are problems."""
    tree = text_tree(node)
    texts = tree if isinstance(tree, list) else [tree]
    before = len(complaints)
    for index, text in enumerate(texts):
        path = f"query[{index}]" if isinstance(tree, list) else "query"
        if not isinstance(text, str) or not text.isprintable():
            complaints.append(Complaint(path, "must be a condition such as type=Endpoint or name~=qwen%"))
        elif not any(operator in text for operator in QUERY_OPERATORS):
            complaints.append(Complaint(path, f"{quote(text)} has no operator: write it like name~=qwen%"))
    if not texts:
        complaints.append(Complaint("query", "must be a list of conditions, such as [type=Endpoint]"))
    return tuple(map(str, texts)) if len(complaints) == before else ()


def _text(name: str, keys: dict[str, YamlNode], complaints: list[Complaint]) -> str | None:
    node = keys.get(name)
    if node is None:
        return None
    if (
        isinstance(node, Scalar)
        and not node.is_null
        and node.text.strip() == node.text != ""
        and node.text.isprintable()
    ):
        return node.text
    shown = quote(node.text) if isinstance(node, Scalar) else "a list or map"
    complaints.append(Complaint(name, f"must be a text without control characters, not {shown}"))
    return None
