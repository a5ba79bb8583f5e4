"""``zclone repair`` as an operator uses it: a damaged manifest, the message, the repair, the same command again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crash.stage import finish, node, rows, write_job

if TYPE_CHECKING:
    from pathlib import Path

RUN = ["run", "job.yaml", "--progress", "none"]
MANIFEST = "job.manifest.jsonl"


@pytest.mark.parametrize("damage", ["flipped", "dropped", "swapped", "doubled"])
def test_a_damaged_manifest_is_refused_repaired_and_resumed(damage: str, tmp_path: Path) -> None:
    """The run refuses with the line and names repair; after it the server is queried: no clone twice."""
    write_job(tmp_path, 4, rate="500/s")
    with node("calm", cwd=tmp_path) as served:
        assert finish(RUN, cwd=tmp_path, url=served.url)[0] == 0
        lines = (tmp_path / MANIFEST).read_bytes().splitlines(keepends=True)
        match damage:
            case "flipped":
                lines[4] = lines[4].replace(b'"', b"'", 1)
            case "dropped":
                del lines[4]
            case "swapped":
                lines[4], lines[5] = lines[5], lines[4]
            case "doubled":
                lines.insert(4, lines[4])
        (tmp_path / MANIFEST).write_bytes(b"".join(lines))
        calls = served.ledger()["calls_total"]
        code, _, output = finish(RUN, cwd=tmp_path, url=served.url)
        assert code == 1, output
        assert "zclone repair" in output
        assert "line " in output
        assert served.ledger()["calls_total"] == calls
        code, _, output = finish(["repair", MANIFEST], cwd=tmp_path, url=None)
        assert code == 0, output
        assert (tmp_path / MANIFEST).read_bytes() == b"".join(lines)
        (tmp_path / "job.repaired.manifest.jsonl").replace(tmp_path / MANIFEST)
        code, _, output = finish(RUN, cwd=tmp_path, url=served.url)
        assert code == 0, output
        made = served.ledger()["clones"]
    assert sorted(clone["source"] for clone in made) == [f"{number:032x}" for number in range(1, 5)]
    assert sorted(row["clone_uuid"] for row in rows(MANIFEST, cwd=tmp_path)) == sorted(clone["uuid"] for clone in made)
