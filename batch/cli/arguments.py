"""Preprocessing of the command line before typer parses it, and value parsers without pydantic."""

from __future__ import annotations

from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, get_args, get_type_hints

from batch.app.options import PRESETS
from batch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_SECRET_FLAGS: Final = {
    "--password": "ZSTACK_PASSWORD or ZSTACK_PASSWORD_FILE",
    "--session-id": "ZSTACK_SESSION_ID or ZSTACK_SESSION_ID_FILE",
    "--access-key-secret": "ZSTACK_ACCESS_KEY_SECRET or ZSTACK_ACCESS_KEY_SECRET_FILE",
}


def read_arguments(arguments: list[str], switches: Collection[str]) -> list[str]:
    """Resolve the optional value of ``--simulate`` and reject secrets on the command line.

    ``--simulate`` takes the next word when that is a preset's name, or when it is a YAML file and the command line
    names a job beside it; so ``--simulate jobs/x.yaml`` alone never takes the job for faults. ``switches``: the options
    that take no value.
    Raises UsageError for the flag of a secret, without repeating its value.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags, rest = arguments[:end], arguments[end:]
    _refuse_secrets(flags)
    return [*_with_faults(flags, switches), *rest]


def _refuse_secrets(flags: list[str]) -> None:
    for word in flags:
        flag = word.partition("=")[0]
        if flag in _SECRET_FLAGS:
            raise UsageError(
                f"{flag}: every user of this machine can read a command line; set {_SECRET_FLAGS[flag]} instead"
            )


def _with_faults(words: list[str], switches: Collection[str]) -> list[str]:
    explicit: list[str] = []
    taken = False
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else ""
        if taken:
            taken = False
        elif word == "--simulate":
            taken = following in PRESETS or _is_fault_file(following, [*words[:place], *words[place + 2 :]], switches)
            explicit.append(f"--simulate={following if taken else PRESETS[0]}")
        else:
            explicit.append(word)
    return explicit


def _is_fault_file(word: str, others: list[str], switches: Collection[str]) -> bool:
    return word.endswith((".yaml", ".yml")) and len(_positional(others, switches)) > 1


def _positional(words: list[str], switches: Collection[str]) -> list[str]:
    """Return the words that are neither options nor their values: the command and its job."""
    found: list[str] = []
    is_value = False
    for word in words:
        if is_value:
            is_value = False
        elif word.startswith("-"):
            is_value = "=" not in word and word not in switches
        else:
            found.append(word)
    return found


def read_simple_values(params: list[Any], command: Callable[..., object] | None) -> None:
    """Have single words, defaults and absent values of ``params`` read here instead of by typer.

    Typer reads each of them with pydantic, which takes longer to import than most commands to run. ``command``: the
    function whose arguments they become.
    """
    hints = get_type_hints(command)
    for param in params:
        param.process_value = _reader(param, _word_type(hints.get(param.name)), param.process_value)


def _word_type(hint: Any) -> type | None:
    """Return the type of a text, path or choice, which may be absent; None for another."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if isinstance(hint, UnionType) else [hint]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, str | Path)), None)


def _reader(param: Any, kind: type | None, process: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return what reads a value of ``param``; ``kind``: the type of a word, ``process``: how typer reads it."""

    def read(ctx: Any, value: Any) -> Any:
        found = value
        if kind is not None and isinstance(value, str):
            try:
                found = kind(value)
            except ValueError:  # no choice: the option's own parser has a message
                return process(ctx, value)
        elif value is not None or param.required:
            return process(ctx, value)
        return found if param.callback is None else param.callback(ctx, param, found)

    return read
