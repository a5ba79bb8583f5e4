"""What is done to the command line before typer reads it."""

from __future__ import annotations

from typing import Final

from batch.errors import UsageError

PRESETS: Final = ("calm", "flaky", "chaos")
"""The faults ``--simulate`` and ``simulate --faults`` know by name."""

_SECRET_FLAGS: Final = {
    "--password": "ZSTACK_PASSWORD or ZSTACK_PASSWORD_FILE",
    "--session-id": "ZSTACK_SESSION_ID or ZSTACK_SESSION_ID_FILE",
    "--access-key-secret": "ZSTACK_ACCESS_KEY_SECRET or ZSTACK_ACCESS_KEY_SECRET_FILE",
}


def prepared(arguments: list[str]) -> list[str]:
    """Give ``--simulate`` its optional value and refuse secrets on the command line.

    ``--simulate`` takes the next word only when that is a preset's name; a fault file is written
    ``--simulate=FILE``, so that ``--simulate jobs/x.yaml`` never takes the job for it.
    Raises UsageError for a secret's flag, without repeating its value.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags, rest = arguments[:end], arguments[end:]
    _refuse_secrets(flags)
    return [*_with_faults(flags), *rest]


def _refuse_secrets(flags: list[str]) -> None:
    for word in flags:
        flag = word.partition("=")[0]
        if flag in _SECRET_FLAGS:
            raise UsageError(
                f"{flag}: every user of this machine can read a command line; set {_SECRET_FLAGS[flag]} instead"
            )


def _with_faults(words: list[str]) -> list[str]:
    explicit: list[str] = []
    taken = False
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if taken:
            taken = False
        elif word == "--simulate":
            taken = following in PRESETS
            explicit.append(f"--simulate={following if taken else PRESETS[0]}")
        else:
            explicit.append(word)
    return explicit
