"""The section of a report made from the output of ``verify -o json``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from batch.errors import UsageError
from batch.jsoncodec import decode_own
from batch.report.verification import FORMAT, VERSION, Finding, Verdict, Verification, verification_lines
from batch.zstack.drift import Difference

if TYPE_CHECKING:
    from pathlib import Path

    from batch.manifest.header import Header


class VerificationSection(NamedTuple):
    """A verification for display in a report."""

    document: dict[str, Any]
    """The document as written."""
    lines: tuple[str, ...]
    """The summary, then one line per finding."""

    @property
    def ended_at(self) -> str:
        """End of the verification, in ISO 8601."""
        return str(self.document.get("ended_at"))


def read_verification(path: Path, header: Header) -> VerificationSection:
    """Read the document of ``verify -o json``. Raises UsageError for another document, or one of another run."""
    try:
        document = decode_own(path.read_bytes())
        found = _verification(document)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path}: is not output of `zclone verify -o json`") from None
    if (found.job, found.run, found.endpoint) != (header.job, header.run, header.endpoint):
        raise UsageError(f"{path}: is of the job {found.job!r}, run {found.run!r}, not of the manifest's")
    return VerificationSection(document, tuple(verification_lines(found, next_command=f"zclone run {header.job_file}")))


def _verification(document: dict[str, Any]) -> Verification:
    """Parse the document. Raises ValueError, KeyError, TypeError or AttributeError for anything else."""
    if (document["format"], document["version"]) != (FORMAT, VERSION):
        raise ValueError("another format")
    job, run, endpoint, manifest, tool = (
        str(document[name]) for name in ("job", "run", "endpoint", "manifest", "tool")
    )
    found = Verification(job, run, endpoint, manifest, tool, 0.0, has_intent=document["has_intent"] is True)
    found.edited, found.shard = int(document["edited"]), str(document["shard"] or "")
    found.counts = Counter({Verdict(name): int(count) for name, count in document["counts"].items()})
    found.not_shown = Counter({str(name): int(count) for name, count in document["not_shown"].items()})
    found.findings = [_finding(finding) for finding in document["findings"]]
    return found


def _finding(finding: dict[str, Any]) -> Finding:
    uuid = finding["clone_uuid"]
    return Finding(
        Verdict(finding["verdict"]),
        str(finding["key"]),
        str(finding["source_uuid"] or ""),
        None if uuid is None else str(uuid),
        tuple(Difference(str(one["field"]), one["wanted"], one["found"]) for one in finding["differences"]),
        finding["edited"] is True,
        str(finding["detail"] or ""),
    )
