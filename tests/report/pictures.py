"""Render README's pictures with Chromium: ``python -m tests.report.pictures``."""

from __future__ import annotations

import asyncio
import html
import os
import re
import tempfile
import time
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch.report.write import write_report
from batch.text import width as width_of
from tests.report.browser import browser
from tests.report.made_manifest import make_manifest
from tests.report.terminal import COLOURS, Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyte.screens import Char

    from tests.report.terminal import Screen

ROOT: Final = Path(__file__).resolve().parents[2]
ASSETS: Final = ROOT / ".assets"
SIZE: Final = (96, 14)
_FRAME: Final = 0.2
"""Minimum seconds between two frames."""
_LAST: Final = 4.0
"""Seconds for which the last one is shown."""
_SIZE: Final = 14
_CELL: Final = 8.43
_LINE: Final = 19
_MARGIN: Final = 16
"""Pixels of the moving picture: the font, a column and a row of it, and the margin."""
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
    """Write a job of 60 targets, three of which fail for different reasons."""
    targets = "".join(
        f"  - {{uuid: {source(number)}, id: {NAMES[number % len(NAMES)]}-{number:03}}}\n" for number in range(TARGETS)
    )
    (folder / "migrate.yaml").write_text(JOB + targets, encoding="utf-8")
    faults = "".join(FAULT.format(code=code, source=source(number)) for number, code in FAILING.items())
    (folder / "faults.yaml").write_text(FAULTS + faults, encoding="utf-8")


def live_terminal(folder: Path, env: Mapping[str, str], *more: str, size: tuple[int, int] = SIZE) -> Terminal:
    """Start the run of ``write_job`` in a terminal; ``more``: options of ``run``."""
    write_job(folder)
    arguments = ["run", "--simulate=faults.yaml", "--log-file", "run.log", "migrate.yaml", *more]
    return Terminal(arguments, cwd=folder, env=env, size=size)


def is_telling(screen: Screen) -> bool:
    """Return whether half of the run is shown, with all of its failures."""
    settled = re.search(r"(\d+)/60 ", screen.text)
    return settled is not None and int(settled[1]) >= TARGETS // 2 and screen.text.count("hint: ") == len(FAILING)


def environment() -> dict[str, str]:
    """Return an environment without settings and with colours."""
    theirs = ("ZSTACK_", "ZCLONE_", "NO_COLOR", "FORCE_COLOR")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    return ours | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}


def record() -> list[tuple[float, Screen]]:
    """Run in a real terminal and return its screens, with their times in seconds."""
    frames: list[tuple[float, Screen]] = []
    with tempfile.TemporaryDirectory() as name, closing(live_terminal(Path(name), environment())) as terminal:
        began = time.monotonic()
        for screen in terminal.screens():
            at = time.monotonic() - began
            if frames and at - frames[-1][0] < _FRAME:
                # Of two that are too close the later one, so that the last one is always kept.
                frames[-1] = (frames[-1][0], screen)
            elif screen.text:
                frames.append((at, screen))
    return frames


def moving_picture(frames: list[tuple[float, Screen]]) -> str:
    """Return an SVG of the frames, one after the other at the speed of the run; the last stays for a few seconds.

    With reduced motion only the last one is shown. It has no script and loads nothing.
    """
    starts = [at - frames[0][0] for at, _ in frames]
    total = starts[-1] + _LAST
    columns, rows = len(frames[0][1].cells[0]), max(len(screen.text.splitlines()) for _, screen in frames)
    width, height = columns * _CELL + 2 * _MARGIN, rows * _LINE + 2 * _MARGIN
    styles, groups = [], []
    for number, (start, (_, screen)) in enumerate(zip(starts, frames, strict=True)):
        end = starts[number + 1] if number + 1 < len(starts) else total
        first, after = 100 * start / total, 100 * end / total
        styles.append(
            f"@keyframes f{number}{{0%{{opacity:0}}{first:.2f}%{{opacity:1}}{after:.2f}%{{opacity:0}}}}"
            f"#f{number}{{animation:f{number} {total:.2f}s step-end infinite}}"
        )
        groups.append(f'<g id="f{number}">{"".join(map(_row, range(rows), screen.cells))}</g>')
    last = len(frames) - 1
    still = f"@media (prefers-reduced-motion:reduce){{g{{animation:none!important}}#f{last}{{opacity:1}}}}"
    style = f"text{{font:{_SIZE}px monospace;white-space:pre}}g{{opacity:0}}{''.join(styles)}{still}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{style}</style><rect width="100%" height="100%" rx="6" fill="#171a1f"/>{"".join(groups)}</svg>\n'
    )


def _row(number: int, cells: tuple[Char, ...]) -> str:
    """Return one row: a text for each stretch of one colour, placed by its column."""
    found, column = [], 0
    for colour, stretch in groupby(cells, key=lambda cell: COLOURS.get(cell.fg, f"#{cell.fg}")):
        text = "".join(cell.data for cell in stretch)
        place = _MARGIN + column * _CELL
        # The second half of a wide character is an empty cell.
        column += sum(map(width_of, text))
        if text.strip():
            shown = html.escape(text.rstrip())
            found.append(f'<text x="{place:g}" y="{_MARGIN + (number + 0.8) * _LINE:g}" fill="{colour}">{shown}</text>')
    return "".join(found)


async def report(out: Path) -> None:
    """Take a picture of the report of 300 clones."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = make_manifest(folder / "migrate.manifest.jsonl", 300, slots=8, hostile=False)
        write_report(manifest, folder / "report.html", at=1_795_440_000.0)
        async with browser(folder) as page:
            await page.open((folder / "report.html").as_uri() + "#lang=en&theme=light", width=1040, height=760)
            await page.picture(out)


def main() -> None:
    """Write both pictures."""
    ASSETS.mkdir(exist_ok=True)
    (ASSETS / "live.svg").write_text(moving_picture(record()), encoding="utf-8")
    asyncio.run(report(ASSETS / "report.png"))


if __name__ == "__main__":
    main()
