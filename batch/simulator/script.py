"""Fault scripts: YAML files that configure a node and its faults, to reproduce a scenario.

```yaml
version: 1
preset: calm                  # start from calm (default), flaky or chaos
seed: 7
node:                         # any switch of NodeOptions
  version: 5.3.46
  latency: [0.05, 0.2]
accounts: [{uuid: ..., name: tenant, password: ..., quota: 10}]
access_keys: [{id: ..., secret: ..., account: <account uuid>}]
sources: [{uuid: ..., name: qwen, owner: <account uuid>, to_public: false, fields: {type: App}}]
faults:                       # before the preset's own; the first that fits wins
  - fault: lost_reply         # a FaultKind
    on: submit                # submit (default), poll, query, delete, login, ..., any
    requests: [3, 5]          # which calls of that kind, from 1; or one number
    source: d76744cb...       # the uuid in the URL
    probability: 0.02         # without it: always
    times: 1                  # at most so often
    seconds: 2                # what these mean stands with each FaultKind
    status: 504
    code: SYS.1001
    cause: SYS.1015
    executed: true
    host: http://192.0.2.10:8080
```
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from batch.simulator.faults import JOB_FAULTS, Fault, FaultKind, FaultRule
from batch.simulator.options import PRESETS, NodeAccessKey, NodeAccount, NodeOptions, Source

_TOP: Final = ("version", "preset", "seed", "node", "accounts", "access_keys", "sources", "faults")
_LISTS: Final = {"accounts": NodeAccount, "access_keys": NodeAccessKey, "sources": Source}
_NOT_SWITCHES: Final = frozenset({"seed", "accounts", "access_keys", "sources", "faults"})
_RULE: Final = ("on", "source", "probability", "times")
_LARGEST: Final = 1_000_000_000
_FAULT: Final = ("seconds", "status", "code", "cause", "executed", "host")


class _Loader(yaml.SafeLoader):
    """YAML where ``on``, ``yes`` and dates are text; only true and false are booleans."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":bool", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false"), list("tf"))


class ScriptError(Exception):
    """A fault script that cannot be used; the message names file, place and what is expected."""


class _ScriptValueError(Exception):
    """A wrong value, with the path to its place in the script."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


def load_faults(name: str, *, seed: int | None = None) -> NodeOptions:
    """Return the options of a preset or fault script; ``seed`` overrides the script's. Raises ScriptError."""
    if name in PRESETS:
        options = PRESETS[name]
    else:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            known = ", ".join(PRESETS)
            raise ScriptError(f"{name}: neither a preset ({known}) nor a readable fault script: {error}") from None
        options = read_script(text, name=name)
    return options if seed is None else dataclasses.replace(options, seed=seed)


def read_script(text: str, *, name: str) -> NodeOptions:
    """Read a script; ``name`` is used in messages. Raises ScriptError."""
    try:
        root = yaml.compose(text, Loader=_Loader)
        script = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader # nosec B506
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ScriptError(f"{name}: not YAML: {error}") from None
    try:
        return _options(script)
    except _ScriptValueError as error:
        line, column = _place(root, error.path)
        raise ScriptError(f"{name}:{line}:{column}: {error.path or 'script'}: {error}") from None


def _place(root: yaml.Node | None, path: str) -> tuple[int, int]:
    """Find line and column of the node that ``path`` (``faults.2.on``) names, or of the nearest one above it."""
    node = root
    for step in path.split(".") if path else []:
        inner = _step(node, step)
        if inner is None:
            break
        node = inner
    return (1, 1) if node is None else (node.start_mark.line + 1, node.start_mark.column + 1)


def _step(node: yaml.Node | None, step: str) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode):
        return node.value[int(step)] if step.isdigit() and int(step) < len(node.value) else None
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == step), None)
    return None


def _options(script: Any) -> NodeOptions:
    script = _mapping(script, "", _TOP)
    if script.get("version") != 1:
        raise _ScriptValueError("version", "expected version: 1")
    preset = script.get("preset", "calm")
    if preset not in PRESETS:
        raise _ScriptValueError("preset", f"expected one of {', '.join(PRESETS)}, not {preset!r}")
    base = PRESETS[preset]
    switches = _fields(NodeOptions, script.get("node", {}), "node", without=_NOT_SWITCHES)
    for key, cls in _LISTS.items():
        switches[key] = tuple(
            cls(**_fields(cls, item, f"{key}.{number}")) for number, item in enumerate(_list(script, key))
        )
    rules = tuple(_rule(item, f"faults.{number}") for number, item in enumerate(_list(script, "faults")))
    seed = _value(script.get("seed", base.seed), int, "seed")
    return dataclasses.replace(base, **switches, seed=seed, faults=rules + base.faults)


def _rule(item: Any, path: str) -> FaultRule:
    given = _mapping(item, path, ("fault", "requests", *_RULE, *_FAULT))
    kind = _kind(given.get("fault"), f"{path}.fault")
    fault = Fault(kind, **_fields(Fault, {key: given[key] for key in _FAULT if key in given}, path))
    rule = FaultRule(
        fault,
        requests=_numbers(given.get("requests"), f"{path}.requests"),
        **_fields(FaultRule, {key: given[key] for key in _RULE if key in given}, path),
    )
    if kind in JOB_FAULTS and rule.on in {"poll", "query", "login", "any"}:
        raise _ScriptValueError(
            f"{path}.on", f"{kind.value} is a fault of api jobs; use on: submit or another call that makes one"
        )
    if rule.probability is not None and not 0 <= rule.probability <= 1:
        raise _ScriptValueError(f"{path}.probability", f"expected a number from 0 to 1, not {rule.probability}")
    return rule


def _kind(value: Any, path: str) -> FaultKind:
    try:
        return FaultKind(value)
    except ValueError:
        raise _ScriptValueError(path, f"expected one of {', '.join(FaultKind)}, not {value!r}") from None


def _numbers(value: Any, path: str) -> frozenset[int] | None:
    if value is None:
        return None
    numbers = value if isinstance(value, list) else [value]
    return frozenset(_value(number, int, path) for number in numbers)


def _list(script: Mapping[str, Any], key: str) -> list[Any]:
    value = script.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _ScriptValueError(key, "expected a list")
    return value


def _mapping(value: Any, path: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _ScriptValueError(path, "expected a mapping")
    for key in value:
        if key not in known:
            raise _ScriptValueError(f"{path}.{key}".lstrip("."), f"unknown; expected one of {', '.join(known)}")
    return value


def _fields(cls: type, value: Any, path: str, *, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Check a mapping against the fields of a dataclass."""
    hints = typing.get_type_hints(cls)
    names = tuple(field.name for field in dataclasses.fields(cls) if field.name not in without)
    given = _mapping(value, path, names)
    missing = [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name not in {*given, "fault", "kind"}
    ]
    if missing:
        raise _ScriptValueError(path, f"{', '.join(missing)} missing")
    return {key: _value(item, hints[key], f"{path}.{key}") for key, item in given.items()}


def _value(value: Any, hint: Any, path: str) -> Any:
    """Check one value against a type hint; lists become the tuple or frozenset that is declared."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return None if value is None else _value(value, inner[0], path)
    if origin is Literal:
        if value in inner:
            return value
        raise _ScriptValueError(path, f"expected one of {', '.join(inner)}, not {value!r}")
    if origin in {tuple, frozenset}:
        return _collection(value, origin, inner, path)
    if hint in {int, float} and isinstance(value, int | float) and not isinstance(value, bool):
        _require_in_range(value, path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        raise _ScriptValueError(path, f"expected text; put {value!r} in quotes")
    wanted = dict if origin is Mapping else hint
    if not isinstance(value, wanted) or (isinstance(value, bool) and hint is not bool):
        raise _ScriptValueError(path, f"expected {getattr(hint, '__name__', hint)}, not {value!r}")
    return value


def _require_in_range(value: float, path: str) -> None:
    """Reject NaN, infinity and out-of-range numbers."""
    if not -_LARGEST <= value <= _LARGEST:
        raise _ScriptValueError(path, f"expected a number of at most {_LARGEST:,}, not {value!r}")


def _collection(value: Any, origin: type, inner: tuple[Any, ...], path: str) -> Any:
    if not isinstance(value, list):
        raise _ScriptValueError(path, "expected a list")
    fixed = Ellipsis not in inner and origin is tuple
    if fixed and len(value) != len(inner):
        raise _ScriptValueError(path, f"expected {len(inner)} values")
    return origin(_value(item, inner[0], f"{path}.{number}") for number, item in enumerate(value))
