"""The ``targets`` list, one element at a time: bare uuids, overrides, matrices and ``from:`` files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.jobfile.check import check_uuid
from batch.jobfile.events import STREAMED, walk
from batch.jobfile.handover import HAND_OVER_KEYS, read_hand_over
from batch.jobfile.job import ConditionError, Entry, Layer, Target
from batch.jobfile.layers import LAYER_KEYS, merge, read_layer
from batch.jobfile.matrix import Combination, read_matrix
from batch.jobfile.nodes import Mapping, Node, Scalar, text_tree
from batch.jobfile.origins import NodeOrigin
from batch.jobfile.problems import Complaint, Problems, shorten, unknown
from batch.jobfile.rows import RowFile, read_rows
from batch.zstack.params import QUERY_OPERATORS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.jobfile.job import Job

LONG_LIST: Final = 20_000
"""Elements of a YAML list; more belong into a file of rows, which is read several times faster."""
TARGET_KEYS: Final = ("uuid", "id", *LAYER_KEYS, "matrix", "from", "query", *HAND_OVER_KEYS)

_EMPTY: Final = Layer()
_ADVICE: Final = (
    "a JSON Lines or CSV file, named with `- from: targets.jsonl`, is read in a fraction of the time: move them there"
)


def read_targets(job: Job, problems: Problems, *, is_believed: bool = False) -> Iterator[Target]:
    """Stream the Targets of ``job`` that have no problem; problems go to ``problems``.

    A very long list is warned of at its end. ``is_believed``: all targets were read before and had none, so that the
    values of rows need no second check.
    Raises JobFileError where a file cannot be read on, or was changed since it was first read.
    """
    reader = _Reader(job, problems, is_believed=is_believed)
    file = str(job.path)
    count, start = -1, None
    for key, node in walk(job.content, file, problems):
        if key.text != STREAMED:
            continue
        start = start or key
        if count >= 0:
            yield from reader.read(node, f"{STREAMED}[{count}]")
        count += 1
    if count > LONG_LIST and start is not None:
        told = Complaint("", f"warning: {count:,} targets in one YAML list: {_ADVICE}")
        problems.warn(NodeOrigin(file, start, STREAMED).problem(told))


class _Reader:
    """Reads elements; shares one Entry among all that bring nothing to share."""

    def __init__(self, job: Job, problems: Problems, *, is_believed: bool) -> None:
        self._job = job
        self._is_believed = is_believed
        self._file = str(job.path)
        self._problems = problems
        self._entry = Entry(merge(_EMPTY, job.defaults), defaults_origin=job.defaults_origin)

    def read(self, node: Node, path: str) -> Iterator[Target]:
        """Yield the targets of one element of the list."""
        origin = NodeOrigin(self._file, node, path)
        complaints: list[Complaint] = []
        if isinstance(node, Scalar):
            check_uuid("", text_tree(node), complaints)
            found: Iterator[Target] = iter((Target(self._entry, _EMPTY, node.text, None, {}, origin),))
        elif isinstance(node, Mapping):
            found = self._read_mapping(node, origin, complaints)
        else:
            complaints.append(Complaint("", "must be a source uuid or a map, not a list"))
            found = iter(())
        if complaints:
            self._problems.extend(map(origin.problem, complaints))
        else:
            yield from found

    def _read_mapping(self, node: Mapping, origin: NodeOrigin, complaints: list[Complaint]) -> Iterator[Target]:
        keys = {key.text: value for key, value in node.pairs}
        _check_keys(keys, complaints)
        layer = read_layer(node, complaints)._replace(hand_over=read_hand_over(keys, complaints))
        combinations = read_matrix(keys["matrix"], complaints) if "matrix" in keys else ()
        uuid = _text("uuid", keys, complaints)
        if uuid is not None:
            check_uuid("uuid", uuid, complaints)
        identity = _text("id", keys, complaints)
        if "from" in keys:
            return self._read_file(_text("from", keys, complaints), layer, combinations, origin, uuid)
        if "query" in keys:
            conditions = read_conditions(keys["query"], complaints)
            base = merge(self._entry.base, layer)
            entry = Entry(base, combinations, layer.params, origin, self._job.defaults_origin)
            return self._ask(conditions, entry, origin)
        if uuid is None and "uuid" not in keys:
            complaints.append(Complaint("", "needs `uuid`, the source to clone, or `from`, a file of targets"))
        if not combinations:
            return iter((Target(self._entry, layer, uuid or "", identity, {}, origin),))
        entry = Entry(self._entry.base, combinations, {}, None, self._job.defaults_origin)
        return iter((Target(entry, layer, uuid or "", identity, {}, origin),))

    def _ask(self, conditions: tuple[str, ...], entry: Entry, origin: NodeOrigin) -> Iterator[Target]:
        """Yield what the conditions find, as the server told before."""
        if self._job.found is None:
            self._problems.add(origin.problem(Complaint("query", "needs the server: it was not asked here")))
            return
        try:
            found = self._job.found(conditions) if conditions else ()
        except ConditionError as error:
            self._problems.add(origin.problem(Complaint(f"query[{error.index}]", str(error))))
            return
        if conditions and not found:
            self._problems.add(origin.problem(Complaint("query", "finds no model service")))
        for uuid in found:
            yield Target(entry, _EMPTY, uuid, None, {}, origin)

    def _read_file(
        self,
        name: str | None,
        layer: Layer,
        combinations: tuple[Combination, ...],
        origin: NodeOrigin,
        uuid: str | None,
    ) -> Iterator[Target]:
        base = merge(self._entry.base, layer)
        entry = Entry(base, combinations, layer.params, origin, self._job.defaults_origin)
        path = self._job.path.parent / (name or "")
        return read_rows(RowFile(path, entry, uuid, self._job.files, self._is_believed), self._problems)


def _check_keys(keys: dict[str, Node], complaints: list[Complaint]) -> None:
    for name in keys:
        if name == "<<":
            complaints.append(Complaint(name, "merge keys are not read: use `defaults`", at_key=True))
        elif name not in TARGET_KEYS:
            complaints.append(Complaint(name, unknown(name, TARGET_KEYS), at_key=True))
    _check_query(keys, complaints)
    if "from" in keys and "id" in keys:
        complaints.append(Complaint("id", "would be the same for every row: make it a column of the file", at_key=True))


def _check_query(keys: dict[str, Node], complaints: list[Complaint]) -> None:
    """Refuse what cannot stand beside a query, whose services are the sources and whose uuids are the keys."""
    if "query" in keys:
        complaints += [
            Complaint(name, f"`{name}` beside `query`: the sources are those that it finds", at_key=True)
            for name in ("uuid", "id", "from")
            if name in keys
        ]


def read_conditions(node: Node, complaints: list[Complaint]) -> tuple[str, ...]:
    """Check the conditions of a ``query``; none where there are problems."""
    tree = text_tree(node)
    texts = tree if isinstance(tree, list) else [tree]
    before = len(complaints)
    for index, text in enumerate(texts):
        path = f"query[{index}]" if isinstance(tree, list) else "query"
        if not isinstance(text, str) or not text.isprintable():
            complaints.append(Complaint(path, "must be a condition such as type=Endpoint or name~=qwen%"))
        elif not any(operator in text for operator in QUERY_OPERATORS):
            complaints.append(Complaint(path, f"{shorten(text)} has no operator: write it like name~=qwen%"))
    if not texts:
        complaints.append(Complaint("query", "must be a list of conditions, such as [type=Endpoint]"))
    return tuple(map(str, texts)) if len(complaints) == before else ()


def _text(name: str, keys: dict[str, Node], complaints: list[Complaint]) -> str | None:
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
    shown = shorten(node.text) if isinstance(node, Scalar) else "a list or map"
    complaints.append(Complaint(name, f"must be a text without control characters, not {shown}"))
    return None
