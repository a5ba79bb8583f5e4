"""The proof of a verification: a canonical JSON document that can be checked offline against the manifest.

Its form is ``{…,"sha256":"<64 hex digits>"}`` and a line break: sorted keys, no whitespace, ASCII. The hash covers all
bytes before ``,"sha256":``. It detects accidents, not forgery, since a forger can recompute the hash.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from batch.errors import ManifestError, ProofError, UsageError
from batch.jsoncodec import encode_canonical
from batch.manifest.targets import open_targets
from batch.model import State
from batch.report.verification import Verdict, exit_code_of
from batch.text import iso

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batch.manifest.target_state import TargetState
    from batch.manifest.targets import Targets
    from batch.model import JsonValue
    from batch.report.verification import Verification

FORMAT: Final = "zclone-proof"
VERSION: Final = 1
_SEAL: Final = b',"sha256":"'
_SEAL_SIZE: Final = len(_SEAL) + 64 + len(b'"}\n')
_ROW: Final = 3
_EXTRA: Final = 0
"""Index of the verdict in the row of a target and in that of an extra finding."""
_KNOWN: Final = frozenset(verdict.value for verdict in Verdict)
_OPEN: Final = frozenset({State.PLANNED, State.SENT, State.ACCEPTED, State.UNCERTAIN})
_OF_CLONES: Final = frozenset({Verdict.IN_SYNC, Verdict.DRIFTED, Verdict.MISSING, Verdict.UNKNOWN})


def proof_texts(verification: Verification, targets: Targets, verdict: Callable[[int], Verdict]) -> Iterator[str]:
    """Yield the document in pieces; ``verdict``: returns a target's verdict by ordinal."""
    total = hashlib.sha256()
    for text in _body(verification, targets, verdict):
        total.update(text.encode("ascii"))
        yield text
    yield f'{_SEAL.decode()}{total.hexdigest()}"}}\n'


def _body(verification: Verification, targets: Targets, verdict: Callable[[int], Verdict]) -> Iterator[str]:
    """Yield the document without its hash; the long ``targets`` array is streamed at its sorted position."""
    head = _head(verification, targets)
    before = {name: value for name, value in head.items() if name < "targets"}
    yield encode_canonical(before).removesuffix("}") + ',"targets":['
    for ordinal in range(len(targets)):
        yield ("," if ordinal else "") + encode_canonical(_row(targets.read(ordinal), verdict(ordinal)))
    after = {name: value for name, value in head.items() if name > "targets"}
    yield "]," + encode_canonical(after).removeprefix("{").removesuffix("}")


def _head(verification: Verification, targets: Targets) -> dict[str, JsonValue]:
    counts: dict[str, JsonValue] = {name.value: verification.counts[name] for name in Verdict}
    extra: list[JsonValue] = [[one.verdict.value, one.key, one.clone_uuid] for one in verification.extra_findings]
    manifest: JsonValue = {"lines": targets.lines, "checksum": targets.checksum, "sha256": targets.sha256()}
    server: JsonValue = {
        "address": verification.endpoint,
        "version": verification.server_version,
        "account": verification.account,
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "tool": verification.tool,
        "job": verification.job,
        "run": verification.run,
        "plan_digest": verification.plan_digest,
        "manifest": manifest,
        "server": server,
        "began_at": iso(verification.began_at),
        "ended_at": iso(verification.ended_at),
        "exit_code": int(verification.exit_code),
        "counts": counts,
        "strangers": extra,
        "unrecorded": verification.unrecorded,
    }


def _row(target: TargetState, verdict: Verdict) -> list[JsonValue]:
    uuid = target.clone_uuid if target.state is State.CLONED else None
    return [target.key, target.source_uuid, uuid, verdict.value]


def check_proof(file: Path, manifest: Path) -> str:
    """Check a proof offline and return one line that states what holds.

    Raises ProofError naming what does not hold, UsageError for an unreadable file.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None
    proof = _read(data, file)
    try:
        with open_targets(manifest, proof["manifest"]["lines"]) as targets:
            _require_same_lines(proof["manifest"], targets, manifest)
            _require_same_run(proof, targets, file)
            _require_same_targets(proof["targets"], targets, file)
            later = targets.later_lines
    except ManifestError as error:
        # The error names the line.
        raise ProofError(f"does not hold: {error}") from None
    counts = Counter(row[_ROW] for row in proof["targets"]) + Counter(row[_EXTRA] for row in proof["strangers"])
    counts[Verdict.OPEN] += proof["unrecorded"]
    if counts != Counter(proof["counts"]):
        raise _proof_error(file, "its counts do not match its list")
    if proof["exit_code"] != exit_code_of(counts):
        raise _proof_error(file, f"its counts mean exit code {exit_code_of(counts):d}")
    shown = ", ".join(f"{count} {name}" for name, count in proof["counts"].items() if count) or "no targets"
    return (
        f"{file} holds: {proof['job']}, run {proof['run']}, {proof['ended_at']}: {shown}; "
        f"lines 1 to {proof['manifest']['lines']} of {manifest} are unchanged, {later} were added later"
    )


def _proof_error(file: Path, why: str) -> ProofError:
    return ProofError(f"does not hold: the proof file itself, {file}: {why}")


def _read(data: bytes, file: Path) -> dict[str, Any]:
    """Parse the document. Raises ProofError if any byte has changed."""
    body, seal = data[:-_SEAL_SIZE], data[-_SEAL_SIZE:]
    if seal != _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"}\n':
        raise _proof_error(file, "its SHA-256 does not match its content")
    try:
        proof = json.loads(body + b"}")
    except ValueError:
        raise _proof_error(file, "is no JSON") from None
    if not isinstance(proof, dict) or (proof.get("format"), proof.get("version")) != (FORMAT, VERSION):
        raise UsageError(f"{file}: is not a proof that this version of zclone can read")
    if not _is_well_formed(proof):
        raise _proof_error(file, "lacks fields of a proof")
    return proof


def _is_well_formed(proof: dict[str, Any]) -> bool:
    """Return whether all fields that a check reads are present; a valid hash does not guarantee that."""
    manifest, server, counts = (proof.get(name) for name in ("manifest", "server", "counts"))
    if not (isinstance(manifest, dict) and isinstance(server, dict) and isinstance(counts, dict)):
        return False
    texts = [proof.get(name) for name in ("job", "run", "plan_digest", "ended_at")]
    texts += [server.get("address"), manifest.get("checksum"), manifest.get("sha256")]
    numbers = (manifest.get("lines"), proof.get("unrecorded"), *counts.values())
    is_typed = all(isinstance(text, str) for text in texts) and all(isinstance(number, int) for number in numbers)
    return is_typed and _are_rows(proof.get("targets"), _ROW) and _are_rows(proof.get("strangers"), _EXTRA)


def _are_rows(rows: Any, verdict: int) -> bool:
    """Return whether ``rows`` are lists with a verdict at index ``verdict``."""
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) > verdict for row in rows):
        return False
    return all(isinstance(row[verdict], str) and row[verdict] in _KNOWN for row in rows)


def _require_same_lines(recorded: dict[str, Any], targets: Targets, manifest: Path) -> None:
    if targets.lines < recorded["lines"]:
        raise ProofError(
            f"does not hold: {manifest}: ends at line {targets.lines}, but the proof covers {recorded['lines']}"
        )
    if (targets.checksum, targets.sha256()) != (recorded["checksum"], recorded["sha256"]):
        raise ProofError(f"does not hold: {manifest}: line {recorded['lines']} or an earlier one has changed")


def _require_same_run(proof: dict[str, Any], targets: Targets, file: Path) -> None:
    header, plan = targets.header, targets.plan
    digest = "" if plan is None else plan.digest
    theirs = (proof["job"], proof["run"], proof["server"]["address"], proof["plan_digest"])
    if theirs != (header.job, header.run, header.endpoint, digest):
        raise _proof_error(file, "is for another job, run, server or plan than the manifest")


def _require_same_targets(rows: list[Any], targets: Targets, file: Path) -> None:
    if len(rows) != len(targets):
        raise _proof_error(file, f"lists {len(rows)} targets, the manifest {len(targets)}")
    for ordinal, row in enumerate(rows):
        target, verdict = targets.read(ordinal), Verdict(row[_ROW])
        if row != _row(target, verdict) or verdict not in _possible(target.state):
            line = targets.line_of(ordinal)
            raise _proof_error(file, f"contradicts line {line} of the manifest about {target.key}")


def _possible(state: State) -> frozenset[Verdict]:
    if state is State.CLONED:
        return _OF_CLONES
    return frozenset({Verdict.OPEN if state in _OPEN else Verdict(state.value)})
