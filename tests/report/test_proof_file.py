"""A proof is checked offline: it holds for the manifest it was written of, and for nothing else."""

from __future__ import annotations

import hashlib
import json
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from batch.errors import ProofError, UsageError
from batch.manifest import open_manifest
from batch.manifest.targets import open_targets
from batch.model import Plan, State
from batch.report.proof import check_proof, proof_texts
from batch.report.verification import TAGS, Finding, Verdict, Verification
from tests.manifest.manifest_world import HEADER, cloned, failed, inline, sent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batch.manifest import Manifest

KEYS = [f"key-{number}" for number in range(8)]
FLIPS = 1000


async def write_manifest(folder: Path) -> Manifest:
    """Write six clones, a failure, and one target that was never sent."""
    manifest = open_manifest(folder / "m.jsonl", HEADER, in_thread=inline, clock=lambda: 1_000.0)
    await manifest.write_plan(Plan("job", "run", "aa", 8, lambda: iter(()), inputs="in"), ((key, "s") for key in KEYS))
    for key in KEYS[:-1]:
        await manifest.commit(sent(key))
        manifest.note(failed(key) if key == KEYS[3] else cloned(key))
    await manifest.flush()
    return manifest


def judge(state: State) -> Verdict:
    return {State.CLONED: Verdict.IN_SYNC, State.PLANNED: Verdict.OPEN}.get(state) or Verdict(state.value)


def write_proof(folder: Path) -> tuple[Path, Path]:
    """Write a proof of the manifest; return the paths of both."""
    manifest, proof = folder / "m.jsonl", folder / "p.json"
    found = Verification(
        "job", "run", HEADER.endpoint, str(manifest), "zclone test", 1.0, 2.0, "5.5.22", "a" * 32, is_admin=True
    )
    found.plan_digest = "aa"
    found.findings = [
        Finding(Verdict.EXTRA, "nobody", clone_uuid="1" * 32),
        Finding(Verdict.UNKNOWN, TAGS, detail="denied"),
    ]
    found.unrecorded = 2
    found.counts.update({Verdict.EXTRA: 1, Verdict.UNKNOWN: 1, Verdict.OPEN: 2})
    with open_targets(manifest) as targets:
        found.counts.update(judge(targets.read(ordinal).state) for ordinal in range(len(targets)))
        texts = proof_texts(found, targets, lambda ordinal: judge(targets.read(ordinal).state))
        proof.write_text("".join(texts), encoding="ascii")
    return proof, manifest


async def test_a_proof_still_holds_after_the_run_continued(tmp_path: Path) -> None:
    """It says in one line what holds; lines that came later are counted and no error."""
    manifest = await write_manifest(tmp_path)
    proof, path = write_proof(tmp_path)
    line = check_proof(proof, path)
    assert "holds: job, run run" in line
    assert "6 in-sync" in line
    assert line.endswith("0 were added later")
    manifest.note(sent(KEYS[-1]))
    await manifest.close(4)
    assert check_proof(proof, path).endswith("2 were added later")


async def test_a_proof_is_canonical(tmp_path: Path) -> None:
    """Its keys are sorted, it has no blanks, and it ends with the SHA-256 of everything before."""
    await (await write_manifest(tmp_path)).close(4)
    proof, path = write_proof(tmp_path)
    text = proof.read_text(encoding="ascii")
    body, _, seal = text.rpartition(',"sha256":"')
    assert seal == f'{hashlib.sha256(body.encode()).hexdigest()}"}}\n'
    document = json.loads(body + "}")
    assert json.dumps(document, sort_keys=True, separators=(",", ":")) == body + "}"
    assert document["manifest"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert document["manifest"]["lines"] == len(path.read_bytes().splitlines())
    assert document["targets"][0] == [KEYS[0], "s", f"{1:032x}", "in-sync"]
    assert document["targets"][-1] == [KEYS[-1], "s", None, "open"]


async def test_each_flipped_byte_is_found(tmp_path: Path) -> None:
    """Of 1,000 changed bytes of proof or manifest each is found: the message names the line or the proof itself."""
    await (await write_manifest(tmp_path)).close(4)
    proof, path = write_proof(tmp_path)
    rng, seen = Random(1), set()
    sizes = {proof: len(proof.read_bytes()), path: len(path.read_bytes())}
    places = [(file, place) for file, size in sizes.items() for place in range(size)]
    for file, place in rng.sample(places, FLIPS):
        whole = file.read_bytes()
        bad = bytearray(whole)
        bad[place] ^= 1 << rng.randrange(8)
        file.write_bytes(bad)
        with pytest.raises(ProofError, match=r"line \d+|the proof file itself") as caught:
            check_proof(proof, path)
        seen.add("itself" in str(caught.value))
        assert ("itself" in str(caught.value)) is (file == proof)
        file.write_bytes(whole)
    assert seen == {True, False}
    assert "holds" in check_proof(proof, path)


def resealed(proof: Path, change: Callable[[Any], None]) -> None:
    """Forge a proof with a valid hash."""
    document = json.loads(proof.read_text(encoding="ascii"))
    del document["sha256"]
    change(document)
    body = json.dumps(document, sort_keys=True, separators=(",", ":"))[:-1]
    proof.write_text(f'{body},"sha256":"{hashlib.sha256(body.encode()).hexdigest()}"}}\n', encoding="ascii")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda proof: proof.update(job="other"), "is for another job"),
        (lambda proof: proof["targets"].pop(), "lists 7 targets, the manifest 8"),
        (
            lambda proof: proof["targets"][3].__setitem__(3, "in-sync"),
            r"contradicts line \d+ of the manifest about key-3",
        ),
        (
            lambda proof: proof["targets"][0].__setitem__(2, "2" * 32),
            r"contradicts line \d+ of the manifest about key-0",
        ),
        (lambda proof: proof["counts"].update(drifted=1), "its counts do not match its list"),
        (lambda proof: proof.update(exit_code=0), "its counts mean exit code 4"),
        (lambda proof: proof.update(unrecorded=0), "its counts do not match its list"),
        (lambda proof: proof["manifest"].update(sha256="0" * 64), r"line \d+ or an earlier one has changed"),
        (lambda proof: proof["manifest"].update(lines=99), r"ends at line \d+, but the proof covers 99"),
    ],
)
async def test_a_deviation_from_the_manifest_is_reported(
    change: Callable[[Any], None], named: str, tmp_path: Path
) -> None:
    """Everything is recomputed from the manifest's lines, whatever hash the proof has."""
    await (await write_manifest(tmp_path)).close(4)
    proof, path = write_proof(tmp_path)
    resealed(proof, change)
    with pytest.raises(ProofError, match=named):
        check_proof(proof, path)


@pytest.mark.parametrize(
    "change",
    [
        lambda proof: proof.pop("manifest"),
        lambda proof: proof.pop("counts"),
        lambda proof: proof.pop("unrecorded"),
        lambda proof: proof["manifest"].update(lines="9"),
        lambda proof: proof["server"].pop("address"),
        lambda proof: proof["targets"].__setitem__(0, []),
        lambda proof: proof["targets"][0].__setitem__(3, "nonsense"),
        lambda proof: proof["targets"][0].__setitem__(3, []),
        lambda proof: proof.update(targets={}),
        lambda proof: proof["strangers"].append(["drifted?"]),
        lambda proof: proof.update(ended_at=None),
    ],
)
async def test_a_document_of_another_shape_is_no_proof(change: Callable[[Any], None], tmp_path: Path) -> None:
    """Whatever its hash, a document without a field of a proof is reported as the proof file's error."""
    await (await write_manifest(tmp_path)).close(4)
    proof, path = write_proof(tmp_path)
    resealed(proof, change)
    with pytest.raises(ProofError, match="the proof file itself, .*: lacks fields of a proof"):
        check_proof(proof, path)


async def test_an_invalid_proof_is_refused(tmp_path: Path) -> None:
    """A missing file, or a document of another kind, exits with 2."""
    await (await write_manifest(tmp_path)).close(4)
    proof, path = write_proof(tmp_path)
    with pytest.raises(UsageError, match="No such file"):
        check_proof(tmp_path / "none", path)
    with pytest.raises(UsageError, match="No such file"):
        check_proof(proof, tmp_path / "none")
    resealed(proof, lambda document: document.update(version=2))
    with pytest.raises(UsageError, match="not a proof that this version of zclone can read"):
        check_proof(proof, path)
    body = b"no json"
    proof.write_bytes(body + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n')
    with pytest.raises(ProofError, match="the proof file itself"):
        check_proof(proof, path)
