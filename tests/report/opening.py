"""The time until the report is ready in a browser: ``python -m tests.report.opening [TARGETS...]``, in ms."""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Final

from batch.report.write import write_report
from tests.report.browser import browser
from tests.report.made_manifest import make_manifest

SIZES: Final = (300, 1_000, 20_000)
ROUNDS: Final = 3


async def ready(targets: int) -> float:
    """Return the milliseconds from navigation until the page's scripts are done, the middle of three."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_report(make_manifest(folder / "made.manifest.jsonl", targets, slots=64), folder / "report.html", at=0.0)
        async with browser(folder) as page:
            took = []
            for _ in range(ROUNDS):
                await page.open("about:blank")
                await page.open((folder / "report.html").as_uri())
                took.append(float(await page.run("document.documentElement.dataset.ready")))
    return statistics.median(took)


def main() -> None:
    """Print a line per size."""
    for targets in [int(word) for word in sys.argv[1:]] or SIZES:
        print(f"{targets:>7} clones  {asyncio.run(ready(targets)):>6.0f} ms")


if __name__ == "__main__":
    main()
