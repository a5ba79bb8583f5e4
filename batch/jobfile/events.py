"""Parses bytes into nodes: PyYAML's C event stream with limits, one target at a time and never a constructor.

The stream has the text of scalars, lines and columns, so that one pass provides types, places and duplicate keys with
constant memory; PyYAML's C *constructor* crashes the process at a nesting of about 25,000, the event stream does not.
"""

from __future__ import annotations

import codecs
import contextlib
from typing import TYPE_CHECKING, Any, Final

import yaml

from batch.jobfile.input_files import MAX_BYTES, MOVE
from batch.jobfile.problems import Problems, fail, quote
from batch.jobfile.values import MAX_DEPTH, TOO_DEEP, ListNode, MapNode, Scalar, YamlNode
from batch.model import Place, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from batch.jobfile.input_files import Content

MAX_ALIASED_NODES: Final = 1_000_000
"""Nodes that all aliases of a file may expand to: sharing is allowed, a bomb is not."""
STREAMED: Final = "targets"
"""The top-level list whose elements are read one at a time."""


class _TooLongError(Exception):
    """A part of the file is larger than allowed."""


class _Part:
    """The stream as the parser reads it; it ends where one part of the file is too large."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.left = MAX_BYTES
        """Bytes that may be read before the next part must begin."""

    def read(self, size: int) -> bytes:
        chunk = self._stream.read(size)
        self.left -= len(chunk)
        if self.left < 0:
            raise _TooLongError
        return chunk


class _Prefix:
    """The first characters of a stream."""

    def __init__(self, stream: BinaryIO, length: int) -> None:
        self._text = codecs.getreader("utf-8")(stream)
        self._left = length

    def read(self, size: int) -> str:
        chunk = self._text.read(size, min(size, self._left))
        self._left -= len(chunk)
        return chunk


def walk(content: Content, file: str, problems: Problems) -> Iterator[tuple[Scalar, YamlNode]]:
    """Yield the top-level pairs of a job file.

    ``targets`` is yielded with an empty list first, then once more for each element. Duplicate keys are added to
    ``problems``; a problem that makes the rest unreadable raises JobFileError.
    """
    with content.open() as stream:
        part = _Part(stream)
        composer = _Composer(_events(content, part, file), part, file, problems)
        try:
            yield from composer.walk()
        except _TooLongError:
            message = f"no target ends in the next 16 MiB: {MOVE}"
            raise fail(file, message, at=composer.place) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            at = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            deep = _first_too_deep(content, mark.index) if mark else None
            if deep is not None:
                raise fail(file, TOO_DEEP, at=deep) from None
            text = ": ".join(part for part in (error.context, error.problem) if part)
            hint = content.hint(at[0])
            raise fail(file, f"not YAML: {text}{hint}", at=at) from None
        except yaml.reader.ReaderError as error:
            at = content.position(max(int(error.position), 0))
            raise fail(file, f"not YAML: {error.reason}", at=at) from None
        content.check(stream)


def _events(content: Content, part: _Part, file: str) -> Iterator[Any]:
    json_text = content.json()
    if json_text is None:
        return yaml.parse(part, Loader=yaml.CSafeLoader)  # type: ignore[arg-type]  # only read() is used
    return json_text.events(yaml.parse(json_text.as_yaml, Loader=yaml.CSafeLoader), file)


def _first_too_deep(content: Content, length: int) -> tuple[int, int] | None:
    """Return line and column of the first node in ``length`` characters that is nested too deeply; None without one.

    The parser reads ahead of its events, and some versions reject deep nesting there with their own message.
    """
    depth = 0
    with content.open() as stream, contextlib.suppress(yaml.YAMLError):
        events: Iterator[Any] = yaml.parse(_Prefix(stream, length), Loader=yaml.CSafeLoader)  # type: ignore[arg-type]  # only read() is used
        for event in events:
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    mark: Any = event.start_mark
                    return mark.line + 1, mark.column + 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    return None


class _Composer:
    """Turns events into nodes; keeps anchored nodes, and nothing else, between top-level values."""

    def __init__(self, events: Iterator[Any], part: _Part, file: str, problems: Problems) -> None:
        self._part = part
        self._events = events
        self._file = file
        self._problems = problems
        self._anchors: dict[str, YamlNode] = {}
        self._aliased = 0
        self._is_anchored = False
        self.place = (1, 1)
        """Line and column of the last target that ended, or of the list."""

    def walk(self) -> Iterator[tuple[Scalar, YamlNode]]:
        self._open_document()
        seen: dict[str, int] = {}
        for event in self._events:
            if event.__class__ is yaml.MappingEndEvent:
                break
            key = self._key(event)
            if self._is_refused(key, seen):
                self._node(next(self._events), 1)
            elif key.text == STREAMED:
                yield from self._streamed(key)
            else:
                yield key, self._node(next(self._events), 1)
        self._close_document()

    def _open_document(self) -> None:
        next(self._events)
        if next(self._events).__class__ is yaml.StreamEndEvent:
            raise fail(self._file, "is empty: `zclone init` writes a job file to start from")
        root = next(self._events)
        if root.__class__ is not yaml.MappingStartEvent:
            kind = "a list" if root.__class__ is yaml.SequenceStartEvent else "one value"
            raise self._error(root, f"a job file is a map with version, name and targets, not {kind}")
        self._refuse_tag(root)

    def _close_document(self) -> None:
        next(self._events)
        event = next(self._events)
        if event.__class__ is not yaml.StreamEndEvent:
            raise self._error(event, "a second document starts here: a job file is one document")

    def _streamed(self, key: Scalar) -> Iterator[tuple[Scalar, YamlNode]]:
        event = next(self._events)
        if event.__class__ is yaml.AliasEvent:
            raise self._error(event, "the list of targets must be written here, not as an alias")
        if event.__class__ is not yaml.SequenceStartEvent:
            yield key, self._node(event, 1)
            return
        self._refuse_tag(event)
        mark: Any = event.start_mark
        self.place = (mark.line + 1, mark.column + 1)
        yield key, ListNode([], mark.line + 1, mark.column + 1, 1, 1)
        yield from self._elements(key, mark)

    def _elements(self, key: Scalar, start: Any) -> Iterator[tuple[Scalar, YamlNode]]:
        kept = 0
        self._is_anchored = False
        for item in self._events:
            mark = item.start_mark
            if self._is_anchored:
                kept += mark.index - start.index
                if kept > MAX_BYTES:
                    raise self._error(item, "targets with anchors, which are kept in memory, are larger than 16 MiB")
                self._is_anchored = False
            if item.__class__ is yaml.SequenceEndEvent:
                return
            start = mark
            node = self._node(item, 2)
            self._part.left = MAX_BYTES
            self.place = (node.line, node.column)
            yield key, node

    def _node(self, event: Any, depth: int) -> YamlNode:
        kind = event.__class__
        if kind is yaml.AliasEvent:
            return self._alias(event, depth)
        if event.tag is not None:
            self._refuse_tag(event)
        mark = event.start_mark
        node: YamlNode
        if kind is yaml.ScalarEvent:
            node = Scalar(event.value, not event.style, mark.line + 1, mark.column + 1)
        elif depth >= MAX_DEPTH:
            raise self._error(event, TOO_DEEP)
        elif kind is yaml.MappingStartEvent:
            node = self._mapping(mark, depth)
        else:
            node = self._sequence(mark, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
            self._is_anchored = True
        return node

    def _sequence(self, mark: Any, depth: int) -> ListNode:
        items: list[YamlNode] = []
        size, height = 1, 1
        for event in self._events:
            if event.__class__ is yaml.SequenceEndEvent:
                break
            item = self._node(event, depth + 1)
            items.append(item)
            size, height = _measure(item, size, height)
        return ListNode(items, mark.line + 1, mark.column + 1, size, height)

    def _mapping(self, mark: Any, depth: int) -> MapNode:
        pairs: list[tuple[Scalar, YamlNode]] = []
        seen: dict[str, int] = {}
        size, height = 1, 1
        for event in self._events:
            if event.__class__ is yaml.MappingEndEvent:
                break
            key = self._key(event)
            value = self._node(next(self._events), depth + 1)
            size, height = _measure(value, size + 1, height)
            if not self._is_refused(key, seen):
                pairs.append((key, value))
        return MapNode(pairs, mark.line + 1, mark.column + 1, size, height)

    def _key(self, event: Any) -> Scalar:
        if event.__class__ is yaml.ScalarEvent or event.__class__ is yaml.AliasEvent:
            node = self._node(event, MAX_DEPTH - 1)
            if isinstance(node, Scalar):
                return node
        hint = (
            ": values are written ${name}, in quotes, and not {{ }}"
            if event.__class__ is yaml.MappingStartEvent
            else ""
        )
        raise self._error(event, f"a key must be a text{hint}")

    def _is_refused(self, key: Scalar, seen: dict[str, int]) -> bool:
        first = seen.get(key.text)
        if key.plain and key.text == "<<":
            message = "merge keys (<<) are not supported: write the keys here, or under `defaults`"
            self._problems.add(Problem(Place(self._file, key.line, key.column), "", message))
            return True
        if first is None:
            seen[key.text] = key.line
            return False
        message = f"duplicate key {quote(key.text)}: first on line {first}, again on line {key.line}"
        self._problems.add(Problem(Place(self._file, key.line, key.column), "", message))
        return True

    def _alias(self, event: Any, depth: int) -> YamlNode:
        node = self._anchors.get(event.anchor)
        if node is None:
            raise self._error(event, f"alias *{event.anchor} is used before or inside its anchor")
        if not isinstance(node, Scalar):
            self._aliased += node.size
            if self._aliased > MAX_ALIASED_NODES:
                raise self._error(event, f"aliases expand to more than {MAX_ALIASED_NODES:,} values")
            if depth + node.height > MAX_DEPTH:
                raise self._error(event, TOO_DEEP)
        return node

    def _refuse_tag(self, event: Any) -> None:
        if event.tag is not None:
            raise self._error(
                event, f"tags such as {quote(event.tag)} are not supported: values have the type of their key"
            )

    def _error(self, event: Any, message: str) -> Exception:
        mark = event.start_mark
        return fail(self._file, message, at=(mark.line + 1, mark.column + 1))


def _measure(item: YamlNode, size: int, height: int) -> tuple[int, int]:
    if item.__class__ is Scalar:
        return size + 1, height
    assert not isinstance(item, Scalar)
    return size + item.size, max(height, item.height + 1)
