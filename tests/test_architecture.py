"""The architecture, read from the source: which package may import which, who touches the process, sizes."""

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
PACKAGE: Final = ROOT / "batch"
MODULES: Final = sorted(PACKAGE.rglob("*.py"))

ALLOWED: Final[dict[str, frozenset[str]]] = {
    importer: frozenset(names.split())
    for importer, names in {
        "batch": "",
        "batch.model": "",
        "batch.errors": "batch.model",
        "batch.text": "batch.model",
        "batch.jsoncodec": "batch.model",
        "batch.keytable": "",
        "batch.schema": "",
        "batch.redaction": "",
        "batch.log": "batch.sink batch.text batch.redaction",
        "batch.sink": "",
        "batch.outputs": "batch.errors",
        "batch.progress": "batch.model batch.text batch.zstack.classify",
        "batch.zstack": "batch.model batch.jsoncodec batch.errors batch.text batch.clock batch.redaction",
        "batch.jobfile": "batch.model batch.errors batch.schema batch.text batch.keytable batch.zstack.params",
        "batch.manifest": "batch.model batch.jsoncodec batch.errors batch.schema batch.text batch.keytable "
        "batch.outputs",
        "batch.report": "batch.model batch.jsoncodec batch.errors batch.schema batch.text batch.manifest batch.outputs "
        "batch.zstack.classify batch.zstack.params",
        "batch.plan": "batch.model batch.errors batch.jsoncodec batch.keytable batch.jobfile batch.zstack.params",
        "batch.engine": "batch.model batch.errors batch.clock batch.keytable batch.zstack.answers",
        "batch.simulator": "batch.errors batch.zstack.params batch.outputs",
        "batch.clock": "",
        "batch.settings": "batch.model batch.errors batch.text batch.redaction batch.jobfile batch.zstack.settings",
        "batch.temporal": "batch.model batch.errors batch.clock batch.engine batch.zstack",
        "batch.app": "batch.__version__ batch.model batch.errors batch.text batch.schema batch.clock batch.keytable "
        "batch.redaction batch.sink batch.log batch.outputs batch.zstack batch.jobfile batch.manifest batch.settings "
        "batch.plan batch.engine batch.report batch.progress batch.simulator batch.temporal",
        "batch.cli": "batch",
        "batch.__main__": "batch.cli",
    }.items()
}
"""Which of our modules a package or module may import; a name stands for everything in it, ``batch`` for all."""

THIRD_PARTY: Final[dict[str, tuple[str, ...]]] = {
    "aiohttp": ("batch.zstack.client", "batch.zstack.webhook", "batch.simulator"),
    "yarl": ("batch.zstack.client", "batch.simulator"),
    "asyncio_throttle": ("batch.engine.gate",),
    "yaml": ("batch.jobfile", "batch.simulator"),
    "openpyxl": ("batch.jobfile.tables",),
    "structlog": ("batch",),
    "pydantic": ("batch.jobfile",),
    "typer": ("batch.cli",),
    "rich": ("batch.progress", "batch.app.live_view"),
    "orjson": ("batch",),
    "uvloop": ("batch.app",),
    "opentelemetry": ("batch.app.observe",),
    "temporalio": ("batch.temporal",),
    "cryptography": ("batch.temporal.payloads",),
}
"""The only modules that may import a package from outside, by the start of their names."""

WRITERS: Final[dict[str, frozenset[str]]] = {
    module: frozenset(calls.split())
    for module, calls in {
        # The one way to open an output, ``replace`` being Path's.
        "batch.outputs": "os.open os.link tempfile.NamedTemporaryFile replace",
        "batch.app.messages": "os.open",  # /dev/null
        "batch.cli.terminal": "os.open",  # the same
        "batch.app.live_view": "io.FileIO",  # stderr, which is open already
    }.items()
}
"""The modules that open a file for writing, and by which calls; any other calls ``batch.outputs``."""

OPENERS: Final = frozenset(
    f"{module}.{name}"
    for module, names in {
        "os": ("truncate", "rename", "renames", "replace", "link", "symlink", "mkfifo", "mknod"),
        "tempfile": ("NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile", "mkstemp"),
        "shutil": ("copy", "copy2", "copyfile", "copytree", "move"),
        "io": ("FileIO",),
        "logging": ("FileHandler",),
        "sqlite3": ("connect",),
    }.items()
    for name in names
)
"""Functions whose names say that they create or change files."""

PATH_WRITERS: Final = frozenset({"write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "rename"})
"""The same for Path; its ``replace`` is the one with a single argument."""

FOREIGN_SHAPES: Final = frozenset({"_show_version", "show_cursor"})
"""Functions that typer and rich call with a positional bool."""

ONLY_IN: Final[dict[str, tuple[str, ...]]] = {
    "structlog.configure": ("batch.log",),
    "os.environ": ("batch.cli",),
    "os.getenv": ("batch.cli",),
    "print": ("batch.cli",),
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
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


def is_within(module: str, packages: tuple[str, ...] | frozenset[str]) -> bool:
    return any(module == package or module.startswith((f"{package}.", f"{package}_")) for package in packages)


def used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


def writing_calls(tree: ast.AST) -> Iterator[str]:
    """Yield each call that can open a file for writing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from (name for name in (ast.unparse(node.func),) if is_writing(node, name))
            if isinstance(node.func, ast.Attribute) and is_paths_own(node.func.attr, node):
                yield node.func.attr


def is_writing(call: ast.Call, name: str) -> bool:
    if name == "os.open":
        return not is_reading(call.args[1])
    if name in {"open", "io.open", "os.fdopen"} or (name.endswith(".open") and name != "os.open"):
        modes = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        texts = [mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
        return any(set(text) & set("wax+") and not set(text) - set("wax+rbt") for text in texts)
    return name in OPENERS


def is_reading(flags: ast.expr) -> bool:
    """Whether the flags of ``os.open`` are all literal, and none of them permits writing."""
    names = {ast.unparse(node) for node in ast.walk(flags) if isinstance(node, ast.Attribute | ast.Name)} - {"os"}
    harmless = {f"os.O_{flag}" for flag in ("RDONLY", "CLOEXEC", "NONBLOCK", "NOFOLLOW", "DIRECTORY")}
    return bool(names) and names <= harmless


def is_paths_own(method: str, call: ast.Call) -> bool:
    return method in PATH_WRITERS or (method == "replace" and len(call.args) == 1 and not call.keywords)


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
def test_packages_import_only_what_they_may(path: Path) -> None:
    """Imports go one way, by the one table, and only the listed modules import a foreign package."""
    name, (tree, _) = name_of(path), read(path)
    package = package_of(name)
    for imported in imports(tree):
        top = imported.split(".", maxsplit=1)[0]
        if top == "batch":
            within = is_within(imported, ALLOWED[package]) or package_of(imported) == package
            assert within, f"{name} may not import {imported}"
        elif top not in sys.stdlib_module_names and top != "__future__":
            assert is_within(name, THIRD_PARTY.get(top, ())), f"{name} may not import {imported}"


def test_temporal_is_an_extra() -> None:
    """temporalio is imported by three modules of the application, once it is needed."""
    for path in MODULES:
        name, (tree, _) = name_of(path), read(path)
        at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        imported = {package_of(found) for node in at_once for found in imports(node)}
        assert "batch.temporal" not in imported or package_of(name) == "batch.temporal", name
        if any(package_of(found) == "batch.temporal" for found in imports(tree)):
            users = {"batch.app.doctor", "batch.app.remote", "batch.app.temporal"}
            assert package_of(name) == "batch.temporal" or name in users, name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_process_is_touched_in_one_place_only(path: Path) -> None:
    """Environment, stdout and the log's configuration each have one owner."""
    name, (tree, _) = name_of(path), read(path)
    for use in used(tree):
        assert use not in ONLY_IN or is_within(name, ONLY_IN[use]), f"{name} uses {use}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_are_opened_for_writing_in_one_way(path: Path) -> None:
    """Every caller that opens a file for writing is listed, and a new one uses ``batch.outputs``."""
    assert set(writing_calls(read(path)[0])) == WRITERS.get(name_of(path), frozenset())


@pytest.mark.parametrize(
    "line",
    [
        "open(p, 'w')",
        "p.open('ab')",
        "p.open(mode='x')",
        "io.open(p, 'r+')",
        "os.fdopen(d, 'w')",
        "p.write_text('')",
        "p.touch()",
        "p.replace(q)",
        "os.replace(p, q)",
        "os.open(p, os.O_RDONLY | os.O_CREAT)",
        "os.open(p, flags)",
        "os.open(p, 1)",
        "tempfile.mkstemp()",
        "shutil.move(p, q)",
    ],
)
def test_every_way_to_write_is_detected(line: str) -> None:
    """A line that can open a file for writing is found in a module, whichever call it makes."""
    assert list(writing_calls(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    ["open(p)", "p.open('rb')", "os.open(p, os.O_RDONLY | os.O_CLOEXEC)", "t.replace('a', 'b')", "d.replace(hour=1)"],
)
def test_reading_is_not_writing(line: str) -> None:
    """A line that opens a file for reading is not taken for one that writes."""
    assert list(writing_calls(ast.parse(line))) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_stay_short(path: Path) -> None:
    """No module is over 300 lines, no function over 40 lines of code."""
    tree, text = read(path)
    assert len(text.splitlines()) <= 300
    assert {function: size for function, size in functions(tree, text) if size > 40} == {}


def test_half_of_all_functions_are_short() -> None:
    """Half of all functions have at most 8 lines of code."""
    sizes = [size for path in MODULES for _, size in functions(*read(path))]
    assert statistics.median(sizes) <= 8


def test_no_module_is_called_utils() -> None:
    """No module is called utils, helpers or common."""
    assert not {path.stem for path in MODULES} & {"utils", "util", "helpers", "common", "misc"}


def test_the_table_has_every_package() -> None:
    """A new package is added to the table on purpose, and one that is gone is removed."""
    assert {package_of(name_of(path)) for path in MODULES} == set(ALLOWED)


def test_no_positional_booleans() -> None:
    """Booleans are passed by name."""
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
