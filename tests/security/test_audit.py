"""The criterion for CI's audit of the locked versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
LOCK: Final = "one==1.0 \\\n    --hash=sha256:00\ntwo-more==2.0 \\\n    --hash=sha256:00\n"
ONE: Final = '{"name": "one", "version": "1.0", "vulns": []}'
TWO: Final = '{"name": "two-more", "version": "2.0", "vulns": []}'
BAD: Final = '{"name": "two-more", "version": "2.0", "vulns": [{"id": "X-1"}]}'
SKIPPED: Final = '{"name": "two-more", "skip_reason": "unknown"}'


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("", 75),
        ("{}", 75),
        ("[]", 75),
        ("null", 75),
        ('{"dependencies": []}', 75),
        (f'{{"dependencies": [{ONE}]}}', 75),
        (f'{{"dependencies": [{SKIPPED}]}}', 75),
        (f'{{"dependencies": [{BAD}]}}', 1),
        (f'{{"dependencies": [{ONE}, {BAD}]}}', 1),
        (f'{{"dependencies": [{ONE}, {TWO}]}}', 0),
        (f'{{"dependencies": [{ONE}, {SKIPPED}]}}', 75),
    ],
)
def test_an_empty_answer_does_not_pass(answer: str, code: int, tmp_path: Path) -> None:
    """Only an answer about every locked version passes; nothing, an empty list or a partial one never does."""
    (tmp_path / "lock.txt").write_text(LOCK, encoding="utf-8")
    (tmp_path / "answer").write_text(answer, encoding="utf-8")
    fake = tmp_path / "pip-audit"
    fake.write_text(f'#!/bin/sh\ncat "{tmp_path}/answer"\n', encoding="utf-8")
    fake.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, str(ROOT / ".ci" / "audit.py"), str(tmp_path / "lock.txt")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    assert ("NOT AUDITED" in done.stdout) is (code == 75 or (code == 1 and '"one"' not in answer))
