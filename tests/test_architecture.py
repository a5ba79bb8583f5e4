"""The house's walls, read from the source: who may import whom, where the outside comes in, how long things get."""

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[1]
HOUSE: Final = ROOT / "batch"
MODULES: Final = sorted(HOUSE.rglob("*.py"))

ALLOWED: Final[dict[str, frozenset[str]]] = {
    room: frozenset(rooms.split())
    for room, rooms in {
        "batch": "",
        "batch.model": "",
        "batch.errors": "batch.model",
        "batch.keytable": "",
        "batch.log": "batch.sink",
        "batch.sink": "",
        "batch.progress": "batch.model batch.log",
        "batch.zstack": "batch.model batch.errors",
        "batch.jobfile": "batch.model batch.errors batch.keytable batch.zstack.params",
        "batch.manifest": "batch.model batch.errors batch.keytable",
        "batch.report": "batch.model batch.errors batch.manifest",
        "batch.plan": "batch.model batch.errors batch.keytable batch.jobfile batch.zstack.params",
        "batch.engine": "batch.model batch.errors batch.zstack.answers",
        "batch.simulator": "batch.zstack.params",
        "batch.cli": "batch",
        "batch.__main__": "batch.cli",
    }.items()
}
"""Which of our modules a room may import; a package's name stands for everything in it, ``batch`` for all."""

THIRD_PARTY: Final[dict[str, tuple[str, ...]]] = {
    "aiohttp": ("batch.zstack.client", "batch.simulator"),
    "multidict": ("batch.zstack.client", "batch.simulator"),
    "yarl": ("batch.zstack.client", "batch.simulator"),
    "asyncio_throttle": ("batch.engine.gate",),
    "yaml": ("batch.jobfile", "batch.simulator", "batch.cli.settings"),
    "structlog": ("batch",),
    "pydantic": ("batch.jobfile",),
    "typer": ("batch.cli",),
    "rich": ("batch.progress", "batch.cli"),
    "orjson": ("batch",),
    "uvloop": ("batch.cli",),
    "opentelemetry": ("batch.cli.tracing",),
}
"""The only modules that may import a package from outside, by the start of their names."""

FOREIGN_SHAPES: Final = frozenset({"_show_version", "show_cursor"})
"""Functions that typer and rich call with a positional bool."""

ONLY_IN: Final[dict[str, str]] = {
    "structlog.configure": "batch.log",
    "os.environ": "batch.cli",
    "os.getenv": "batch.cli",
    "print": "batch.cli",
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """Map batch.engine.gate to batch.engine and batch.log to itself."""
    return ".".join(module.split(".")[:2])


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(module: str, rooms: tuple[str, ...] | frozenset[str]) -> bool:
    return any(module == room or module.startswith((f"{room}.", f"{room}_")) for room in rooms)


def used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


def functions(tree: ast.AST, text: str) -> Iterator[tuple[str, int]]:
    """Yield each function's name and its lines of code: without docstring, comments and empty lines."""
    lines = text.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            code = set(range(node.lineno, node.end_lineno + 1)) - set(docstring_lines(node))
            yield node.name, sum(1 for number in code if lines[number - 1].strip()[:1] not in ("", "#"))


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> range:
    if ast.get_docstring(node) is None:
        return range(0)
    return range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)


def read(path: Path) -> tuple[ast.Module, str]:
    text = path.read_text(encoding="utf-8")
    return ast.parse(text), text


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rooms_import_only_what_they_may(path: Path) -> None:
    """Imports go one way, by the one table, and no foreign package enters but by its own door."""
    name, (tree, _) = name_of(path), read(path)
    room = room_of(name)
    for imported in imports(tree):
        top = imported.split(".", maxsplit=1)[0]
        if top == "batch":
            within = is_within(imported, ALLOWED[room]) or room_of(imported) == room
            assert within, f"{name} may not import {imported}"
        elif top not in sys.stdlib_module_names and top != "__future__":
            assert is_within(name, THIRD_PARTY.get(top, ())), f"{name} may not import {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_process_is_touched_in_one_place_only(path: Path) -> None:
    """Environment, stdout and the log's configuration each have one owner."""
    name, (tree, _) = name_of(path), read(path)
    for use in used(tree):
        assert use not in ONLY_IN or is_within(name, (ONLY_IN[use],)), f"{name} uses {use}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_stay_short(path: Path) -> None:
    """No module is over 300 lines, no function over 40 lines of code."""
    tree, text = read(path)
    assert len(text.splitlines()) <= 300
    assert {function: size for function, size in functions(tree, text) if size > 40} == {}


def test_functions_are_short_as_a_rule() -> None:
    """Half of all functions have at most 8 lines of code."""
    sizes = [size for path in MODULES for _, size in functions(*read(path))]
    assert statistics.median(sizes) <= 8


def test_there_is_no_drawer_for_the_rest() -> None:
    """Every module has a subject: none is called utils, helpers or common."""
    assert not {path.stem for path in MODULES} & {"utils", "util", "helpers", "common", "misc"}


def test_the_table_knows_every_room() -> None:
    """A new room is entered in the table on purpose, and a room that went is taken out."""
    assert {room_of(name_of(path)) for path in MODULES} == set(ALLOWED)


def test_no_positional_booleans() -> None:
    """What is true or false is passed by its name."""
    for path in MODULES:
        for node in ast.walk(read(path)[0]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.decorator_list:
                kinds = [ast.unparse(arg.annotation) for arg in node.args.args if arg.annotation]
                assert "bool" not in kinds or node.name in FOREIGN_SHAPES, f"{path.name}: {node.name}"


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.stem)
def test_every_test_states_its_rule(path: Path) -> None:
    """Each test function's docstring is one sentence of the specification."""
    for node in ast.walk(read(path)[0]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            assert (ast.get_docstring(node) or "").endswith("."), f"{path.name}: {node.name} has no rule"
