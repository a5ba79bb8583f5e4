"""A report with a section from the output of ``verify -o json``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import jsonschema
import pytest

from batch.cli.app import run_command
from batch.errors import UsageError
from batch.manifest import open_manifest
from batch.model import Plan
from batch.report.formats import report_schema
from batch.report.verification import Finding, Verdict, Verification, verification_document
from batch.report.write import write_report
from batch.zstack.params import Difference
from tests.manifest.manifest_world import HEADER, cloned, inline, sent

if TYPE_CHECKING:
    from pathlib import Path

TRAP = "<b>`|k"


async def write_files(folder: Path, **changes: object) -> tuple[Path, Path]:
    """Write a manifest of one clone and a verification of it; return the paths of both."""
    manifest = open_manifest(folder / "m.manifest.jsonl", HEADER, in_thread=inline, clock=lambda: 1_000.0)
    await manifest.write_plan(Plan("job", "run", "aa", 1, lambda: iter(()), inputs="in"), [(TRAP, "s")])
    await manifest.commit(sent(TRAP))
    manifest.note(cloned(TRAP))
    await manifest.close(0)
    found = Verification("job", "run", HEADER.endpoint, "m", "zclone test", 1.0, 2.0)
    found.counts[Verdict.DRIFTED] = 1
    found.findings = [Finding(Verdict.DRIFTED, TRAP, "s", "1" * 32, (Difference("requestCpu", 2, 3),))]
    document = json.loads("\n".join(verification_document(found))) | changes
    (folder / "v.json").write_text(json.dumps(document), encoding="utf-8")
    return folder / "m.manifest.jsonl", folder / "v.json"


@pytest.mark.parametrize("ending", [".html", ".md", ".json"])
async def test_a_report_has_the_findings(tmp_path: Path, ending: str) -> None:
    """Each finding is in the page, the Markdown and the document, and no foreign text is markup."""
    manifest, verified = await write_files(tmp_path)
    without, out = tmp_path / f"without{ending}", tmp_path / f"report{ending}"
    write_report(manifest, without, at=3.0)
    write_report(manifest, out, at=3.0, verified=verified)
    text = out.read_text(encoding="utf-8")
    assert "requestCpu" in text
    assert "requestCpu" not in without.read_text(encoding="utf-8")
    if ending == ".json":
        document = json.loads(text)
        jsonschema.validate(document, report_schema())
        assert document["verification"] == json.loads(verified.read_text(encoding="utf-8"))
    elif ending == ".html":
        assert "requestCpu: 2 -&gt; 3" in text
        assert TRAP not in text
    else:
        assert "requestCpu: 2 -> 3" in text
        assert "1970-01-01T00:00:02.000Z" in text


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"run": "other"}, "run 'other', not of the manifest's"),
        ({"format": "other"}, "is not output of"),
        ({"counts": 5}, "is not output of"),
        ({"counts": {"novel": 1}}, "is not output of"),
        ({"findings": [{}]}, "is not output of"),
    ],
)
async def test_another_document_is_refused(changes: dict[str, object], named: str, tmp_path: Path) -> None:
    """What is no verification, or is of another run, ends with an error that names the file; nothing is written."""
    manifest, verified = await write_files(tmp_path, **changes)
    with pytest.raises(UsageError, match=named):
        write_report(manifest, tmp_path / "r.html", at=3.0, verified=verified)
    assert not (tmp_path / "r.html").exists()


async def test_the_command_takes_a_verification(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`report --verified FILE` writes the section to a file or stdout, and never over its input."""
    manifest, verified = await write_files(tmp_path)
    assert run_command(["report", str(manifest), "-o", "md", "--verified", str(verified)]) == 0
    assert "## On the server" in capsys.readouterr().out
    assert run_command(["report", str(manifest), "--out", str(verified), "--verified", str(verified)]) == 2
    assert run_command(["report", str(manifest), "-o", "md", "--verified", str(tmp_path / "none.json")]) == 2
    assert "none.json: No such file" in capsys.readouterr().err
