"""Declaration of arguments and options; an option can also be set by its variable ZCLONE_<FLAG>."""

import os
from enum import StrEnum
from typing import Any, Final

import typer

from batch.cli import values
from batch.settings.sources import EndpointOptions


def environment_name(flag: str) -> str:
    """Return the variable that sets ``flag``, such as ZCLONE_LOG_FILE for --log-file."""
    return "ZCLONE_" + flag.removeprefix("--").replace("-", "_").upper()


def endpoint_options(flags: dict[str, Any]) -> EndpointOptions:
    """Build EndpointOptions from a command's ``flags`` and the environment."""
    names = ("context", "insecure", "ca_file", "trust_endpoint")
    return EndpointOptions(os.environ, **{name: flags.pop(name) for name in names if name in flags})


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


def flag(name: str, *short: str, text: str, **settings: Any) -> Any:
    """Declare an option with a ZCLONE_... variable."""
    VARIABLES.add(environment_name(name))
    return option(name, *short, text=text, envvar=environment_name(name), show_envvar=False, **settings)


def option(name: str, *short: str, text: str, **settings: Any) -> Any:
    """Declare an option without a variable, in its group of ``--help``; without ``metavar`` it shows no value."""
    group = next((title for title, names in GROUPS.items() if name in names), WHAT)
    return typer.Option(name, *short, help=text, rich_help_panel=group, **{"metavar": "", **settings})


def format_flag(kind: type[StrEnum], *, text: str, file: str = "use --out {}") -> Any:
    """Declare ``--output``; ``file``: the way to name an output file instead, for the error message."""
    names = values.names(kind)
    parse, complete = values.parser(kind, file=file), values.completer(kind)
    return flag("--output", "-o", metavar="|".join(names), text=text, parser=parse, autocompletion=complete)


def choice(kind: type[StrEnum], name: str, *, text: str, **settings: Any) -> Any:
    """Declare an option that takes the values of ``kind``, which are its default ``metavar``."""
    parse, complete = values.choice_parser(kind, name), values.completer(kind)
    settings = {"metavar": "|".join(values.names(kind)), **settings}
    return flag(name, text=text, parser=parse, autocompletion=complete, **settings)


def argument(metavar: str, text: str, complete: Any = None) -> Any:
    """Declare an argument; ``complete``: its shell completion."""
    return typer.Argument(metavar=metavar, help=text, show_default=False, autocompletion=complete)
