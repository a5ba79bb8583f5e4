"""The HTML report in a real browser: silent console, no network requests, both languages, both themes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from batch.report.write import write_report
from batch.text import escape
from batch.zstack.classify import hint_of
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


async def test_hints_are_in_the_language_of_the_page(tmp_path: Path) -> None:
    """The hint of an error is in the page's language: above the charts, in the table and in the search."""
    url = await asyncio.to_thread(written, tmp_path, 300)
    hint, advice = hint_of("SYS.1007", "image is not Ready"), hint_of("SYS.1007", "image is not Ready", "zh")
    async with browser(tmp_path) as page:
        for part, wanted, other in ((LOOKS["light"], hint, advice), (LOOKS["zh"], advice, hint)):
            await look(page, url, part)
            for place in ("failures", "rows"):
                text = await page.run(f"document.getElementById('{place}').innerText")
                assert f"({wanted})" in text
                assert other not in text
            await page.run(f"document.getElementById('search').value = {wanted.split()[0]!r}, null")
            await page.run("document.getElementById('search').dispatchEvent(new Event('input')), null")
            assert await page.run("document.getElementById('rows').rows.length") > 0
        await page.run("document.getElementById('language').click(), null")
        assert hint in await page.run("document.getElementById('failures').innerText")


async def test_the_timeline_shows_failures_retries_and_pauses(tmp_path: Path) -> None:
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


async def test_search_works_and_the_policy_holds(tmp_path: Path) -> None:
    """The table can be searched; hostile text is shown as text; network requests of a page script are refused."""
    url = await asyncio.to_thread(written, tmp_path, 300)
    async with browser(tmp_path) as page:
        await look(page, url, LOOKS["light"])
        assert await page.run("document.querySelectorAll('#rows tr').length") == 100
        await page.run("(() => { const s = document.getElementById('search'); s.value = 'svc-00001';"
                       " s.dispatchEvent(new Event('input')); })()")  # fmt: skip
        assert await page.run("document.querySelectorAll('#rows tr').length") == 1
        assert escape(HOSTILE) in await page.run("document.querySelector('#rows tr').innerText")
        assert await page.run("document.querySelectorAll('main img').length") == 0
        assert page.complaints == []
        fetched = await page.run("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')")
        assert fetched == "refused"
        assert any("Content Security Policy" in text for text in page.complaints)


async def test_failures_come_first(tmp_path: Path) -> None:
    """Failures are above the charts and at the top of the table, and the header has the times."""
    url = await asyncio.to_thread(written, tmp_path, 300)
    async with browser(tmp_path) as page:
        await look(page, url, LOOKS["light"])
        top = "document.getElementById('{}').getBoundingClientRect().top"
        assert await page.run(f"{top.format('failures')} < {top.format('progress')}")
        states = await page.run("[...document.querySelectorAll('#rows td.s')].map((cell) => cell.innerText)")
        assert states == ["failed"] * states.count("failed") + ["cloned"] * (100 - states.count("failed"))
        header = await page.run("document.querySelector('header').innerText")
        for text in ("run default", "2026-11-23 12:40:00", "wall clock"):
            assert text in header
        assert page.complaints == []


async def test_the_table_is_sorted_by_its_headings_and_printed_whole(tmp_path: Path) -> None:
    """A column's heading sorts by it, a second click reverses; every matching row is printed."""
    url = await asyncio.to_thread(written, tmp_path, 300)
    async with browser(tmp_path) as page:
        await look(page, url, LOOKS["light"])
        seconds = "[...document.querySelectorAll('#rows tr')].map((row) => Number(row.cells[6].innerText))"
        head = "document.querySelectorAll('#targets th')[6]"
        for way in ("ascending", "descending"):
            await page.run(f"{head}.firstChild.click()")
            assert await page.run(f"{head}.getAttribute('aria-sort')") == way
            shown = await page.run(seconds)
            assert shown == sorted(shown, reverse=way == "descending")
        assert await page.run("[...document.querySelectorAll('th')].every((head) => head.scope === 'col')")
        await page.run("window.dispatchEvent(new Event('beforeprint'))")
        assert await page.run("document.querySelectorAll('#rows tr').length") == 300
        await page.run("window.dispatchEvent(new Event('afterprint'))")
        assert await page.run("document.querySelectorAll('#rows tr').length") == 100


async def test_a_uuid_is_copied_by_its_button(tmp_path: Path) -> None:
    """Each uuid has a button that copies it, whose name is in the page's language."""
    url = await asyncio.to_thread(written, tmp_path, 300)
    async with browser(tmp_path) as page:
        await look(page, url, LOOKS["zh"])
        await page.run("document.addEventListener('copy', () => { window.taken = String(getSelection()); });"
                       "navigator.clipboard.writeText = async (text) => { window.taken = text; }")  # fmt: skip
        uuid = await page.run("document.querySelector('#rows tr').cells[1].innerText.trim()")
        assert await page.run("document.querySelector('#rows .copy').getAttribute('aria-label')") == f"复制 {uuid}"
        await page.run("document.querySelector('#rows .copy').click()")
        assert await page.run("window.taken") == uuid
        labels = await page.run("[...document.querySelectorAll('[data-a]')].map((item) => item.ariaLabel)")
        assert not [label for label in labels if label.isascii()]


async def test_the_timeline_is_zoomed_by_keys_and_buttons(tmp_path: Path) -> None:
    """Keys and buttons zoom, move and reset the timeline, which a mouse or finger drags."""
    url = await asyncio.to_thread(written, tmp_path, 300)
    async with browser(tmp_path) as page:
        await look(page, url, LOOKS["light"])
        picture = "document.getElementById('lanes').toDataURL()"
        whole = await page.run(picture)
        press = "document.getElementById('lanes').dispatchEvent(new KeyboardEvent('keydown', {{key: '{}'}}))"
        seen = {whole}
        for key in ("+", "ArrowRight", "+", "-"):
            await page.run(press.format(key))
            seen.add(await page.run(picture))
        assert len(seen) >= 4
        await page.run(press.format("Escape"))
        assert await page.run(picture) == whole
        await page.run("document.getElementById('closer').click()")
        assert await page.run(picture) != whole
        await page.run("document.getElementById('whole').click()")
        drag = "document.getElementById('lanes').dispatchEvent(new PointerEvent('{}', {{pointerId: 1, clientX: {}}}))"
        for name, at in (("pointerdown", 300), ("pointermove", 500), ("pointerup", 500)):
            await page.run(drag.format(name, at))
        assert await page.run(picture) != whole
        assert page.complaints == []


CONTRAST = """(() => {
  const light = (text) => {
    const parts = text.match(/[\\d.]+/g).map(Number).slice(0, 3).map((part) => part / 255);
    const [r, g, b] = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  const behind = (item) => {
    for (; item; item = item.parentElement) {
      const ground = getComputedStyle(item).backgroundColor;
      if (!/, 0\\)$/.test(ground)) return ground;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = [...document.querySelectorAll("body *")].filter((item) => item.offsetParent && !item.disabled
    && [...item.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  const probe = document.body.appendChild(document.createElement("i"));
  const named = (name) => { probe.style.color = `var(--${name})`; return light(getComputedStyle(probe).color); };
  return { bars: ratio(named("cloned"), named("failed")), texts: texts.map((item) =>
    [item.textContent.slice(0, 20), ratio(light(getComputedStyle(item).color), light(behind(item)))]) };
})()"""


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_the_report_is_readable_without_colour_and_on_a_phone(tmp_path: Path, theme: str) -> None:
    """Text has a contrast of 4.5 : 1, cloned and failed differ in lightness, and no phone scrolls sideways."""
    url = await asyncio.to_thread(written, tmp_path, 300)
    async with browser(tmp_path) as page:
        await page.open("about:blank")
        await page.open(f"{url}#lang=en&theme={theme}", width=390, height=844)
        found = await page.run(CONTRAST)
        assert [(text, ratio) for text, ratio in found["texts"] if ratio < 4.5] == []
        assert found["bars"] >= 2.5
        assert await page.run("document.documentElement.scrollWidth <= innerWidth")
        heights = await page.run("[...document.querySelectorAll('.tools button, .switches button')].map((button) =>"
                                 " button.offsetHeight)")  # fmt: skip
        assert max(heights) <= 40, "no button is broken into two lines"
        widths = await page.run("[0, 3, 7].map((i) => document.querySelector('#rows tr').cells[i].offsetWidth)")
        assert min(widths) >= 100, "no column is a sliver"
        assert await page.run("[...document.querySelectorAll('#rows td')].every((cell) =>"
                              " cell.scrollWidth <= cell.clientWidth + 1)"), "no cell lies over another"  # fmt: skip


async def test_the_table_downloads_as_csv(tmp_path: Path) -> None:
    """The download holds the matching rows, with the UTF-8 byte order mark and no formula."""
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
