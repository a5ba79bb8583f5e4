"""The grammar of the command line: how options are declared, parsed and shown by ``--help``.

An option can also be set by its variable ZCLONE_<FLAG>.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, get_args, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from batch.app.options import PRESETS
from batch.cli.terminal import has_colours
from batch.errors import UsageError
from batch.settings.sources import EndpointOptions
from batch.text import shell_path

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from enum import StrEnum

WHAT: Final = "What to run"
OUTPUT: Final = "Output"
GROUPS: Final = {
    WHAT: frozenset[str](),
    "How fast": frozenset({"--rate", "--concurrency", "--deadline", "--share"}),
    OUTPUT: frozenset(
        {"--progress", "--log-format", "--log-file", "--quiet", "--report", "--metrics-file", "--ping-url", "--output"}
        | {"--out", "--proof", "--verified", "--format", "--watch", "--columns", "--limit", "--details", "--help"}
    ),
    "Server": frozenset(
        {"--insecure", "--ca-file", "--trust-endpoint", "--context", "--server-check", "--host"}
        | {"--webhook-listen", "--webhook-url", "--port", "--faults", "--seed", "--sources", "--web-hooks-anywhere"}
    ),
}
"""Groups of ``--help`` in order, with their options; the first gets all others."""
VARIABLES: Final[set[str]] = set()
"""All variables that set a flag of some command."""


def environment_name(flag: str) -> str:
    """Return the variable that sets ``flag``, such as ZCLONE_LOG_FILE for --log-file."""
    return "ZCLONE_" + flag.removeprefix("--").replace("-", "_").upper()


def endpoint_options(flags: dict[str, Any]) -> EndpointOptions:
    """Build EndpointOptions from a command's ``flags`` and the environment."""
    names = ("context", "insecure", "ca_file", "trust_endpoint")
    return EndpointOptions(os.environ, **{name: flags.pop(name) for name in names if name in flags})


def argument(metavar: str, text: str, complete: Any = None) -> Any:
    """Declare an argument; ``complete``: its shell completion."""
    return typer.Argument(metavar=metavar, help=text, show_default=False, autocompletion=complete)


def flag(name: str, text: str, metavar: str = "", **settings: Any) -> Any:
    """Declare an option with a ZCLONE_... variable; the rest as ``option`` takes it."""
    VARIABLES.add(environment_name(name))
    return option(name, text, metavar, envvar=environment_name(name), show_envvar=False, **settings)


def option(name: str, text: str, metavar: str = "", *, short: str = "", complete: Any = None, **settings: Any) -> Any:
    """Declare an option without a variable, in its group of ``--help``; without ``metavar`` it shows no value.

    ``complete``: its shell completion; ``settings``: those of typer.
    """
    group = next((title for title, names in GROUPS.items() if name in names), WHAT)
    names = filter(None, (name, short))
    return typer.Option(*names, help=text, metavar=metavar, rich_help_panel=group, autocompletion=complete, **settings)


def format_flag(kind: type[StrEnum], text: str, *, file: str = "use --out {}") -> Any:
    """Declare ``--output``; ``file``: the way to name a file instead, with {} for its path, for the error message."""
    names = [form.value for form in kind]

    def refusal(word: str) -> str:
        takes, instead = f"{', '.join(names[:-1])} or {names[-1]}", file.format(shell_path(word))
        return f"-o/--output: {word!r} is not a format: it takes {takes}; to write to a file, {instead}"

    return _of_words("--output", text, "|".join(names), kind=kind, refusal=refusal, short="-o")


def choice_flag(kind: type[StrEnum], name: str, text: str, metavar: str | None = None) -> Any:
    """Declare an option that takes the values of ``kind``, which are its default ``metavar``."""
    names = [one.value for one in kind]

    def refusal(word: str) -> str:
        return f"{name}: {word!r:.60} is not one of {', '.join(names)}"

    return _of_words(name, text, metavar or "|".join(names), kind=kind, refusal=refusal)


def _of_words(
    name: str, text: str, metavar: str, *, kind: type[StrEnum], refusal: Callable[[str], str], **settings: Any
) -> Any:
    """Declare an option that takes the values of ``kind``; ``refusal``: the error for another word."""

    def parse(word: str) -> StrEnum:
        try:
            return kind(word)
        except ValueError:
            raise UsageError(refusal(word)) from None

    return flag(name, text, metavar, parser=parse, complete=complete_words(*kind), **settings)


def complete_words(*words: str) -> Callable[[str], list[str]]:
    """Return the completer for an option that takes ``words``, or other values."""
    return lambda incomplete: [str(word) for word in words if word.startswith(incomplete)]


def refuse_format(word: str | None) -> None:
    """Raise UsageError for ``--output`` of a command with only one format."""
    if word is not None:
        raise UsageError(f"-o/--output: a manifest has only one format; to name its file, use --out {shell_path(word)}")


_SECRET_FLAGS: Final = {
    "--password": "ZSTACK_PASSWORD or ZSTACK_PASSWORD_FILE",
    "--session-id": "ZSTACK_SESSION_ID or ZSTACK_SESSION_ID_FILE",
    "--access-key-secret": "ZSTACK_ACCESS_KEY_SECRET or ZSTACK_ACCESS_KEY_SECRET_FILE",
}
_WHOLE: Final = 1000
"""Characters to which no first sentence of a command is cut."""


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


class Command(TyperCommand):
    """A command of which ``--help`` shows the options by group."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments."""
        read_simple_values(self.get_params(ctx), self.callback)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the groups of options."""
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in ("Arguments", *GROUPS)}
        for param in self.get_params(ctx):
            is_argument = param.param_type_name == "argument"
            title = "Arguments" if is_argument else getattr(param, "rich_help_panel", None) or OUTPUT
            sections[title] += _rows([param], ctx)
        for title, rows in sections.items():
            _write_section(formatter, title, rows)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words behind the command's name, without braces around the name of an argument."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]


class Group(TyperGroup):
    """The command with the subcommands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments."""
        read_simple_values(self.get_params(ctx), self.callback)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, and the first sentence of each command."""
        _write_section(formatter, "Options", _rows(self.get_params(ctx), ctx))
        commands = [(name, command.get_short_help_str(_WHOLE)) for name, command in self.commands.items()]
        _write_section(formatter, "Commands", commands)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the last paragraphs at the margin: they do not belong to the section of the commands."""
        formatter.dedent()
        super().format_epilog(ctx, formatter)
        formatter.indent()


def _rows(params: Iterable[Any], ctx: Any) -> list[tuple[str, str]]:
    """Return the name and the text of each option or argument that is not hidden."""
    records = ((param, param.get_help_record(ctx)) for param in params)
    # Of an argument typer gives the type as well: <path> says less than its name.
    return [
        (param.metavar if param.param_type_name == "argument" else record[0], record[1])
        for param, record in records
        if record is not None
    ]


def _write_section(formatter: Any, title: str, rows: list[tuple[str, str]]) -> None:
    """Write a list of names and texts below ``title``, and nothing where it is empty."""
    if rows:
        with formatter.section(_style(title, bold=True)):
            formatter.write_dl([(_style(name, fg="cyan", bold=True), text) for name, text in rows])


def _style(text: str, **style: Any) -> str:
    return typer.style(text, **style) if has_colours() else text
