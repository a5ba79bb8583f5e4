"""Values of options: output formats, parsers, and shell completion."""

import os
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

import typer

from batch.app import completion
from batch.app.options import Overlap
from batch.errors import UsageError
from batch.text import shell_path


class ProblemFormat(StrEnum):
    """The formats of job-file problems."""

    TEXT = "text"
    GITHUB = "github"


class PlanOutput(StrEnum):
    """The formats of ``plan``."""

    TABLE = "table"
    JSON = "json"
    CURL = "curl"


class ListOutput(StrEnum):
    """The formats of ``list``."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


class VerifyOutput(StrEnum):
    """The formats of ``verify``."""

    TABLE = "table"
    JSON = "json"


class DiscoverOutput(StrEnum):
    """The formats of ``discover``."""

    YAML = "yaml"
    JSON = "json"


class ReportOutput(StrEnum):
    """The formats of ``report``."""

    HTML = "html"
    MARKDOWN = "md"
    CSV = "csv"
    JUNIT = "xml"
    JSON = "json"


def names(kind: type[StrEnum]) -> list[str]:
    """Return the values of ``kind``."""
    return [form.value for form in kind]


def parser(kind: type[StrEnum], *, file: str) -> Callable[[str], StrEnum]:
    """Return the parser of ``--output``; ``file``: the way to name a file instead, with {} for its path.

    It raises UsageError for an unknown format, such as a file name.
    """

    def parse(word: str) -> StrEnum:
        known = names(kind)
        if word in known:
            return kind(word)
        takes = f"{', '.join(known[:-1])} or {known[-1]}"
        instead = file.format(shell_path(word))
        raise UsageError(f"-o/--output: {word!r} is not a format: it takes {takes}; to write to a file, {instead}")

    return parse


def choice_parser(kind: type[StrEnum], flag: str) -> Callable[[str], StrEnum]:
    """Return the parser of ``flag``, which raises UsageError for values that are not of ``kind``."""

    def parse(word: str) -> StrEnum:
        if word not in names(kind):
            raise UsageError(f"{flag}: {word!r:.60} is not one of {', '.join(names(kind))}")
        return kind(word)

    return parse


def completer(kind: type[StrEnum]) -> Callable[[str], list[str]]:
    """Return the completer for values of ``kind``."""
    return lambda incomplete: [name for name in names(kind) if name.startswith(incomplete)]


def refuse(word: str | None) -> None:
    """Raise UsageError for ``--output`` of a command with only one format."""
    if word is not None:
        raise UsageError(f"-o/--output: a manifest has only one format; to name its file, use --out {shell_path(word)}")


def read_overlap(text: str) -> Overlap:
    """Parse ``--on-overlap``. Raises UsageError."""
    from batch.jobfile.units import read_duration

    if text in {"fail", "skip"}:
        return Overlap(is_skipped=text == "skip")
    word, _, max_wait = text.partition(":")
    if word != "wait":
        raise UsageError(f"--on-overlap: must be fail, skip or wait:TIME such as wait:10m, not {text!r:.60}")
    try:
        return Overlap(max_wait=read_duration(max_wait))
    except ValueError as error:
        raise UsageError(f"--on-overlap: wait: {error}") from None


def complete_jobs(incomplete: str) -> list[str]:
    """Return the job files that begin with ``incomplete``."""
    return completion.files(incomplete, completion.JOBS)


def complete_runs(incomplete: str) -> list[str]:
    """Return the manifests and job files that begin with ``incomplete``."""
    return completion.files(incomplete, (*completion.MANIFESTS, *completion.JOBS))


def complete_manifests(incomplete: str) -> list[str]:
    """Return the manifests that begin with ``incomplete``."""
    return completion.files(incomplete, completion.MANIFESTS)


def complete_contexts(incomplete: str) -> list[str]:
    """Return the contexts that begin with ``incomplete``."""
    return completion.contexts(incomplete, os.environ)


def complete_words(*words: str) -> Callable[[str], list[str]]:
    """Return the completer for an option that takes ``words``, or other values."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def complete_keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the keys that begin with ``incomplete``, from the given manifest or those of the job file."""
    return completion.keys(incomplete, _manifests(ctx))


def complete_codes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the error codes that begin with ``incomplete``, from the given manifest or those of the job file."""
    return completion.codes(incomplete, _manifests(ctx))


def _manifests(ctx: typer.Context) -> Iterator[Path]:
    # Words before an incomplete option are not parsed yet; the first is the command's only argument.
    first = next(iter(ctx.args), None)
    given = ctx.params.get("manifest") or ctx.params.get("job") or first
    if given is not None and Path(given).suffix in completion.JOBS:
        yield from sorted(Path().glob(f"{Path(given).stem}.*manifest.jsonl"))
    elif given is not None:
        yield Path(given)
