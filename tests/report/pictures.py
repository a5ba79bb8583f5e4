"""Make README's pictures anew, with Chromium: ``python -m tests.report.pictures``."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch.report.write import write_report
from tests.report.browser import browser
from tests.report.made_manifest import make_manifest
from tests.report.terminal import Terminal, photograph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.report.terminal import Screen

ROOT: Final = Path(__file__).resolve().parents[2]
ASSETS: Final = ROOT / ".assets"
SIZE: Final = (96, 14)
TARGETS: Final = 60
NAMES: Final = ("chat", "rerank", "向量检索", "embed")
FAULTS: Final = """\
version: 1
seed: 3
node: {latency: [0.02, 0.2], locale: en_US}
faults:
"""
FAULT: Final = "  - {{fault: fail, code: {code}, source: {source}}}\n"
FAILING: Final = {3: "SYS.1007", 9: "SYS.1003", 14: "ID.1003"}
JOB: Final = """\
version: 1
name: migrate
limits: {rate: 50/s, concurrency: 8}
targets:
"""


def source(number: int) -> str:
    return f"{number:012x}4aaa8{number:015x}"


def write_job(folder: Path) -> None:
    """Write a job of 60 targets, three of which fail for reasons of their own."""
    targets = "".join(
        f"  - {{uuid: {source(number)}, id: {NAMES[number % len(NAMES)]}-{number:03}}}\n" for number in range(TARGETS)
    )
    (folder / "migrate.yaml").write_text(JOB + targets, encoding="utf-8")
    faults = "".join(FAULT.format(code=code, source=source(number)) for number, code in FAILING.items())
    (folder / "faults.yaml").write_text(FAULTS + faults, encoding="utf-8")


def live_terminal(folder: Path, env: Mapping[str, str], *, size: tuple[int, int] = SIZE) -> Terminal:
    """Start the run of ``write_job`` in a terminal."""
    write_job(folder)
    return Terminal(
        ["run", "--simulate=faults.yaml", "--log-file", "run.log", "migrate.yaml"], cwd=folder, env=env, size=size
    )


def is_telling(screen: Screen) -> bool:
    """Whether half of the run is shown, with all of its failures."""
    settled = re.search(r"(\d+)/60 ", screen.text)
    return settled is not None and int(settled[1]) >= TARGETS // 2 and screen.text.count("hint: ") == len(FAILING)


def environment() -> dict[str, str]:
    """Return an environment without settings and with colours."""
    theirs = ("ZSTACK_", "ZCLONE_", "NO_COLOR", "FORCE_COLOR")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    return ours | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}


async def live_view(out: Path) -> None:
    """Photograph a real run in a real terminal, halfway."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with closing(live_terminal(folder, environment())) as terminal:
            screen = terminal.until(is_telling)
        async with browser(folder) as page:
            await photograph(screen, page, out, drafts=folder)


async def report(out: Path) -> None:
    """Photograph the report of 300 clones."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = make_manifest(folder / "migrate.manifest.jsonl", 300, slots=8, hostile=False)
        write_report(manifest, folder / "report.html", at=1_795_440_000.0)
        async with browser(folder) as page:
            await page.open((folder / "report.html").as_uri() + "#lang=en&theme=light", width=1040, height=760)
            await page.picture(out)


def main() -> None:
    """Write both."""
    ASSETS.mkdir(exist_ok=True)
    asyncio.run(live_view(ASSETS / "live.png"))
    asyncio.run(report(ASSETS / "report.png"))


if __name__ == "__main__":
    main()
