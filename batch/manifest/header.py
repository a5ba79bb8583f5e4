"""The first line of a manifest: whose it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from batch.errors import ManifestError, ManifestMismatchError
from batch.manifest.line import encode, fields

if TYPE_CHECKING:
    from batch.model import JsonValue

FORMAT: Final = "zclone-manifest"
VERSION: Final = 1
_IDENTITY: Final = ("job", "run", "endpoint", "simulated")


@dataclass(frozen=True, slots=True)
class Header:
    """The identity of the run a manifest belongs to, and who created it when."""

    job: str
    run: str
    endpoint: str
    simulated: bool
    tool: str = ""
    created_at: float = 0.0
    """Seconds since the epoch."""
    job_file: str = ""
    """The job file as it was named when the run began; it may have moved since."""

    def body(self) -> bytes:
        """Return the header as the open body of a line."""
        values: list[tuple[str, JsonValue]] = [("format", FORMAT), ("version", VERSION)]
        values += [(name, getattr(self, name)) for name in self.__slots__]
        return encode(values)


def parse_header(body: bytes) -> Header:
    """Return the header. Raises ManifestError for another format or a newer version; unknown fields are left alone."""
    found = fields(body)
    if found.get("format") != FORMAT:
        raise ManifestError("the file is no zclone manifest")
    version = found.get("version")
    if version != VERSION:
        raise ManifestError(f"the manifest has version {version}, this zclone reads version {VERSION}: use a newer one")
    created_at = found.get("created_at", 0.0)
    return Header(
        job=_text(found, "job"),
        run=_text(found, "run"),
        endpoint=_text(found, "endpoint"),
        simulated=found.get("simulated") is True,
        tool=_text(found, "tool"),
        created_at=float(created_at) if isinstance(created_at, int | float) else 0.0,
        job_file=_text(found, "job_file"),
    )


def _text(found: dict[str, Any], name: str) -> str:
    value = found.get(name, "")
    if not isinstance(value, str):
        raise ManifestError(f"the manifest's header has no text as {name}")
    return value


def require_same(found: Header, wanted: Header) -> None:
    """Raise ManifestMismatchError naming the first field in which the manifest is of something else."""
    for name in _IDENTITY:
        theirs, ours = getattr(found, name), getattr(wanted, name)
        if theirs == ours:
            continue
        if name == "simulated":
            kind = ("a real endpoint", "a rehearsal")
            raise ManifestMismatchError(
                f"simulated: this manifest is of {kind[theirs]}, this command is for {kind[ours]}; "
                "choose another file with --manifest"
            )
        raise ManifestMismatchError(
            f"{name}: this manifest is of {theirs!r}, this command is for {ours!r}; choose another file with --manifest"
        )
