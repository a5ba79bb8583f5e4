"""How ``--help`` looks: arguments, then options in groups; and the command ``help``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from batch.cli.arguments import read_simple_values
from batch.cli.declare import GROUPS, OUTPUT
from batch.cli.terminal import has_colours

if TYPE_CHECKING:
    from collections.abc import Iterable

OfCommand = Annotated[
    str | None, typer.Argument(metavar="COMMAND", help="Such as run; without it the list of all.", show_default=False)
]
_WHOLE: Final = 1000
"""Characters to which no first sentence of a command is cut."""


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
