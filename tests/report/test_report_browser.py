"""The HTML report in a real browser: silent console, nothing asked of the network, both languages, both themes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from batch.report.text import clean
from batch.report.write import write_report
from tests.report.browser import CHROMIUM, Page, browser
from tests.report.made_manifest import HOSTILE, make_manifest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
LOOKS = {"light": "#lang=en&theme=light", "dark": "#lang=en&theme=dark", "zh": "#lang=zh&theme=light"}
INK = """(() => {
  const c = document.getElementById("lanes"), d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
  const seen = new Set();
  for (let i = 0; i < d.length; i += 4) if (d[i + 3] === 255) seen.add(`${d[i]},${d[i + 1]},${d[i + 2]}`);
  return [...seen];
})()"""


def written(folder: Path, targets: int) -> str:
    manifest = make_manifest(folder / "made.manifest.jsonl", targets, slots=64 if targets > 1000 else 8)
    write_report(manifest, folder / "report.html", at=1_795_440_000.0)
    return (folder / "report.html").as_uri()


async def look(page: Page, url: str, part: str) -> None:
    await page.open("about:blank")
    page.requests.clear()
    await page.open(url + part)


@pytest.mark.parametrize("targets", [300, pytest.param(20_000, marks=pytest.mark.slow)])
async def test_the_report_opens_without_a_complaint(tmp_path: Path, targets: int) -> None:
    """Light, dark and Chinese, at 300 and 20,000 clones: no console message, no request but for the file."""
    url = await asyncio.to_thread(written, tmp_path, targets)
    async with browser(tmp_path) as page:
        shots = {}
        for name, part in LOOKS.items():
            await look(page, url, part)
            shots[name] = await page.picture(tmp_path / f"{targets}-{name}.png")
            assert page.requests == [url + part] or page.requests == [url]
            assert await page.run("Number(document.documentElement.dataset.ready) > 0")
        assert page.complaints == []
        assert len(set(shots.values())) == len(shots)
        assert await page.run("document.documentElement.lang") == "zh-CN"
        assert "失败" in await page.run("document.getElementById('failures').innerText")


async def test_the_lane_picture_shows_failures_retries_and_pauses(tmp_path: Path) -> None:
    """Cloned, failed and waiting clones and further attempts each have their colour in the picture."""
    url = await asyncio.to_thread(written, tmp_path, 300)
    async with browser(tmp_path) as page:
        await look(page, url, LOOKS["light"])
        seen = set(await page.run(INK))
        for name in ("cloned", "failed", "sent", "retry"):
            hexed = await page.run(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()")
            assert ",".join(str(int(hexed[at : at + 2], 16)) for at in (1, 3, 5)) in seen, name
        gap = "JSON.parse(document.getElementById('data').textContent).pauses.length"
        assert await page.run(gap) == 1


async def test_search_finds_and_the_policy_holds(tmp_path: Path) -> None:
    """The table can be searched; hostile text is shown as text; what a page script asks of the network is refused."""
    url = await asyncio.to_thread(written, tmp_path, 300)
    async with browser(tmp_path) as page:
        await look(page, url, LOOKS["light"])
        assert await page.run("document.querySelectorAll('#rows tr').length") == 100
        await page.run("(() => { const s = document.getElementById('search'); s.value = 'svc-00001';"
                       " s.dispatchEvent(new Event('input')); })()")  # fmt: skip
        assert await page.run("document.querySelectorAll('#rows tr').length") == 1
        assert clean(HOSTILE) in await page.run("document.querySelector('#rows tr').innerText")
        assert await page.run("document.querySelectorAll('main img').length") == 0
        assert page.complaints == []
        fetched = await page.run("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')")
        assert fetched == "refused"
        assert any("Content Security Policy" in text for text in page.complaints)


async def test_the_table_downloads_as_csv(tmp_path: Path) -> None:
    """The download holds the rows that were found, with the mark of UTF-8 and no formula."""
    url = await asyncio.to_thread(written, tmp_path, 300)
    async with browser(tmp_path) as page:
        await look(page, url, LOOKS["light"])
        await page.do("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        await page.run("document.getElementById('csv').click()")
        target = tmp_path / "made.csv"
        for _ in range(100):
            if await asyncio.to_thread(target.exists):
                break
            await asyncio.sleep(0.05)
        text = target.read_bytes().decode("utf-8")
    assert text.startswith('\ufeff"key","source_uuid"')
    assert len(text.splitlines()) == 301
