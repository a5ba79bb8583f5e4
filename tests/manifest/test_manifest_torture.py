"""Torture: no cut, bit flip or moved line ever yields a wrong state silently."""

from __future__ import annotations

import asyncio
import functools
import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from batch.errors import ManifestError
from batch.manifest.chain import DamagedError
from batch.manifest.fold import ManifestFold
from batch.model import UNKNOWN_JOB, State
from tests.manifest.manifest_world import PATH, FakeDisk, cloned, open_fake, sent, short, write_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.model import Intent


@functools.cache
def whole() -> bytes:
    """Write a manifest of 81 records in batches of different sizes."""
    disk = FakeDisk()
    # In a thread: the first caller may be a test with a running event loop.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, write_run(disk, 41, sent=functools.partial(short, State.SENT))).result()
    assert disk.data.count(b'"state":') == 81
    return disk.data


@functools.cache
def lines() -> tuple[bytes, ...]:
    return tuple(whole().splitlines(keepends=True))


@functools.cache
def batches() -> tuple[int, ...]:
    return tuple(int(re.findall(rb'"batch":(\d+)', line)[-1]) for line in lines())


@functools.cache
def folds() -> tuple[tuple[Mapping[str, Intent], Mapping[State, int]], ...]:
    """Return what the first n lines say, for every n."""
    past = ManifestFold()
    found = [(dict(past.intents), past.counts)]
    for line in lines()[1:]:
        past.add_all([line[:-19]])
        past.finish()
        found.append((dict(past.intents), past.counts))
    return tuple(found)


def outcome(data: bytes) -> int | None:
    """Open ``data``; return None if it is refused, else how many lines were kept, with a warning if any was cut.

    If it is unknown which targets the last batch was about, every one is in doubt.
    """
    disk = FakeDisk()
    disk.put(data)
    try:
        manifest = open_fake(disk)
    except ManifestError:
        assert disk.data == data, "a refused manifest is left as it is"
        return None
    past = manifest.past
    kept = disk.data.count(b"\n")
    if disk.data != data:
        assert "cut" in manifest.warnings[0] or not kept
        aside = disk.files[PATH.with_name(PATH.name + ".torn-1")]
        assert data.endswith(bytes(aside.data))
        assert aside.synced == aside.data
        kept = data[: len(data) - len(aside.data)].count(b"\n")
    known = {key: replace(intent, has_predecessor=False) for key, intent in past.intents.items()}
    intents, counts = folds()[kept - 1]
    lost = {key for key, intent in known.items() if UNKNOWN_JOB in intent.open_jobs}
    assert (known, past.counts) == (intents, counts) if not past.is_repaired else lost == known.keys() >= intents.keys()
    return kept


def line_of(offset: int) -> int:
    return whole().count(b"\n", 0, offset)


@pytest.mark.parametrize("part", range(8))
def test_cut_at_every_byte(part: int) -> None:
    """A manifest cut at any byte is read as its whole lines, never more or fewer, and the rest is kept aside."""
    for offset in range(len(lines()[0]) + part, len(whole()), 8):
        assert outcome(whole()[:offset]) == line_of(offset)


@pytest.mark.parametrize("offset", range(0, 160, 3))
def test_cut_inside_the_header(offset: int) -> None:
    """An unfinished header is written anew: nothing was ever sent under it."""
    disk = FakeDisk()
    disk.put(whole()[:offset])
    manifest = open_fake(disk)
    assert not manifest.past.counts
    assert disk.data == lines()[0]
    if offset:
        assert bytes(disk.files[PATH.with_name(PATH.name + ".torn-1")].data) == whole()[:offset]


def expected_after_damage(line: int) -> int | None:
    """Return the result of opening after damage that begins in ``line``: None (refused), or the lines kept."""
    return None if batches()[-1] > batches()[line] and line < len(lines()) - 1 else line


@pytest.mark.timeout(900)
def test_bit_flips() -> None:
    """After any bit flip the manifest is refused, or, if it hit the last batch, read without it with a warning."""
    draw = random.Random(7)
    for _ in range(10_000):
        place = draw.randrange(len(whole()))
        data = bytearray(whole())
        data[place] ^= 1 << draw.randrange(8)
        line = line_of(place)
        expected = expected_after_damage(line)
        assert outcome(bytes(data)) == (None if line == 0 else expected), (place, line)


@pytest.mark.timeout(900)
def test_every_bit_of_the_last_lines() -> None:
    """Each bit of the last three lines, their newlines included, flipped alone: only the last batch may be cut."""
    start = sum(map(len, lines()[:-3]))
    for place in range(start, len(whole())):
        for bit in range(8):
            data = bytearray(whole())
            data[place] ^= 1 << bit
            assert outcome(bytes(data)) == expected_after_damage(line_of(place)), (place, bit)


@pytest.mark.parametrize("dropped", range(2, 9))
def test_a_line_dropped_before_the_last_batch(dropped: int) -> None:
    """A missing line is damage, also if only one line of a later batch follows, whose checksum then fails."""
    found = [line for line in lines() if b'"batch":' in line]
    later = json.loads(found[-1])["batch"]
    kept = [*found[:-dropped], *found[len(found) - dropped + 1 :]]
    if json.loads(found[-dropped])["batch"] < later:
        assert outcome(b"".join(kept)) is None
    # One line of the batch after it is enough.
    first = next(number for number, line in enumerate(found) if json.loads(line)["batch"] == later)
    assert outcome(b"".join([*found[: first - 1], found[first]])) is None


@pytest.mark.parametrize("first", range(0, 100, 3))
def test_zeroed_stretch(first: int) -> None:
    """A stretch of NUL bytes, as a file system leaves it after a power cut, is noticed anywhere."""
    line = min(first, len(lines()) - 12)
    start = sum(map(len, lines()[:line]))
    data = bytearray(whole())
    data[start + 20 : start + 300] = bytes(280)
    assert outcome(bytes(data)) == (None if line == 0 else expected_after_damage(line))


@pytest.mark.parametrize("line", range(1, 250, 11))
@pytest.mark.parametrize("change", ["dropped", "doubled", "swapped", "merged", "garbled"])
def test_moved_lines(change: str, line: int) -> None:
    """Dropped, duplicated, swapped, merged and garbled lines are noticed."""
    line = min(line, len(lines()) - 5)
    found = list(lines())
    match change:
        case "dropped":
            del found[line]
        case "doubled":
            found.insert(line, found[line])
        case "swapped":
            found[line], found[line + 1] = found[line + 1], found[line]
        case "merged":
            found[line] = found[line][:-1]
        case _:
            found[line] = b"\xff\xfe{]garbage\n"
    data = b"".join(found)
    assert outcome(data) is None


def test_the_error_names_the_line_and_the_repair() -> None:
    """Damage in the middle is refused with its line number and the command that helps."""
    data = bytearray(whole())
    data[sum(map(len, lines()[:50])) + 30] ^= 1
    disk = FakeDisk()
    disk.put(bytes(data))
    with pytest.raises(DamagedError, match=rf"line 51: damaged.*`zclone repair {PATH}`"):
        open_fake(disk)


def test_sectors_of_one_batch_may_be_lost_in_any_order() -> None:
    """Of a batch whose fsync never returned any part may be missing: the whole batch is cut."""
    disk = FakeDisk()

    async def run() -> None:
        manifest = open_fake(disk)
        await manifest.commit(sent("a"))
        for number in range(30):
            manifest.note(cloned(f"k{number}"))
        manifest.note(cloned("a"))
        manifest._flush()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(run())
    durable = disk.data.index(b'"key":"k0"') - len(b'{"state":"cloned",')
    data = bytearray(disk.data)
    data[durable : durable + 50] = bytes(50)
    again = FakeDisk()
    again.put(bytes(data))
    manifest = open_fake(again)
    assert set(manifest.past.intents) == {"a"}
    assert len(again.data) == durable


async def test_append_after_a_torn_tail() -> None:
    """What is appended after a torn tail was cut is a separate line, and the chain continues."""
    for cut in range(1, 60):
        disk = FakeDisk()
        disk.put(whole()[:-cut])
        manifest = open_fake(disk)
        await manifest.commit(sent("new"))
        await manifest.close(0)
        again = open_fake(disk)
        assert "new" in again.past.intents
        assert not again.warnings


def test_second_torn_tail_does_not_overwrite_the_first() -> None:
    """Every torn tail is kept under its own name."""
    disk = FakeDisk()
    for number in (1, 2):
        data = lines()[0] + b"torn %d" % number
        disk.put(data)
        open_fake(disk)
    assert [bytes(disk.files[PATH.with_name(f"{PATH.name}.torn-{number}")].data) for number in (1, 2)] == [
        b"torn 1",
        b"torn 2",
    ]


def test_the_intact_manifest_opens() -> None:
    """The manifest used here is valid."""
    assert outcome(whole()) == len(lines())
