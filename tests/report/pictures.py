"""Make README's pictures anew: ``python -m tests.report.pictures`` (Chromium for the report)."""

from __future__ import annotations

import asyncio
import io
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from rich.console import Console

from batch.model import Record, State
from batch.progress import Snapshot, picture
from batch.report.write import write_report
from tests.report.browser import CHROMIUM, browser
from tests.report.made_manifest import make_manifest

ASSETS: Final = Path(__file__).resolve().parents[2] / ".assets"
WIDTH: Final = 96
SEEN: Final = Snapshot(
    total=300,
    counts=Counter({State.CLONED: 187, State.FAILED: 2, State.UNCERTAIN: 1, State.SENT: 5, State.ACCEPTED: 11}),
    in_flight=16,
    calls_rate=19.8,
    limit=20.0,
    elapsed=41.0,
    eta=24.0,
    eta_late=29.0,
    failures=(
        Record(State.FAILED, "chat-041", 0.0, 1, error_code="SYS.1006", error="no host has 4 GPUs free"),
        Record(State.FAILED, "rerank-007", 0.0, 4, error_code="SYS.1007", error="the image is not Ready"),
        Record(State.UNCERTAIN, "chat-112", 0.0, 1, error_code="SYS.1000", error="asked about first in the next run"),
    ),
)


def live_view() -> str:
    """Draw the live view as SVG; the same each time."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(picture(SEEN, width=WIDTH))
    drawn = console.export_svg(title="zclone run migrate.yaml", unique_id="zclone")
    # The picture loads no font from anywhere.
    return re.sub(r"[ ]*@font-face \{.*?\}\n", "", drawn, flags=re.DOTALL)


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
    (ASSETS / "live.svg").write_text(live_view(), encoding="utf-8")
    if CHROMIUM is not None:
        asyncio.run(report(ASSETS / "report.png"))


if __name__ == "__main__":
    main()
