"""Changes to the command line before typer reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.app.options import PRESETS
from batch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

_SECRET_FLAGS: Final = {
    "--password": "ZSTACK_PASSWORD or ZSTACK_PASSWORD_FILE",
    "--session-id": "ZSTACK_SESSION_ID or ZSTACK_SESSION_ID_FILE",
    "--access-key-secret": "ZSTACK_ACCESS_KEY_SECRET or ZSTACK_ACCESS_KEY_SECRET_FILE",
}


def read_arguments(arguments: list[str], switches: Collection[str]) -> list[str]:
    """Give ``--simulate`` its optional value and refuse secrets on the command line.

    ``--simulate`` takes the next word when that is a preset's name, or when it is a YAML file and the command line
    names a job beside it; so ``--simulate jobs/x.yaml`` alone never takes the job for faults. ``switches``: the options
    that take no value.
    Raises UsageError for a secret's flag, without repeating its value.
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
