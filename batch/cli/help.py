"""How ``--help`` looks: options in groups, names of values without brackets; and the command ``help``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from batch.cli.declare import GROUPS, WHAT

if TYPE_CHECKING:
    from collections.abc import Iterable

OfCommand = Annotated[
    str | None, typer.Argument(metavar="COMMAND", help="Such as run; without it the list of all.", show_default=False)
]


class Command(TyperCommand):
    """A command of which ``--help`` shows the options by group."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters in the order of their groups."""
        return _in_groups(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words behind the command's name."""
        return _plain(super().collect_usage_pieces(ctx))


class Group(TyperGroup):
    """The command with the subcommands; its own options are one group."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters."""
        found = _without_values(super().get_params(ctx))
        for param in found:
            param.rich_help_panel = "Options"
        return found


def _without_values(params: Iterable[Any]) -> list[Any]:
    """Take away the word for a value from options that have none, such as --help, and the types of arguments."""
    found = list(params)
    for param in found:
        if param.param_type_name == "argument":
            # Its name stands there already; <path> or <list[str]> beside it says less.
            param.display_type_rich = _show_nothing
        elif param.is_flag:
            param.metavar = ""
    return found


def _show_nothing(ctx: object) -> None:
    """Return no type, as typer asks for it with the context of the command."""


def _in_groups(params: Iterable[Any]) -> list[Any]:
    """Sort options by group; those that typer adds are of the output."""
    found = _without_values(params)
    for param in found:
        if not param.rich_help_panel and param.param_type_name == "option":
            param.rich_help_panel = "Output"
    order = list(GROUPS)
    return sorted(found, key=lambda param: order.index(param.rich_help_panel or WHAT))


def _plain(pieces: Iterable[str]) -> list[str]:
    """Take the braces away that stand around the name of a whole argument."""
    return [piece.replace("{", "").replace("}", "") for piece in pieces]
