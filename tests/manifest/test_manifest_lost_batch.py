"""A last batch that is damaged as a whole may have been durable: what it may have sent is queried."""

from __future__ import annotations

import pytest

from batch.manifest.header import this_process
from batch.manifest.kinds import EndedLine, RepairedLine
from batch.manifest.line import seal
from batch.manifest.records import encode_ended, encode_record, encode_started, parse_line
from batch.manifest.repair import CODE
from batch.model import UNKNOWN_JOB, Record, State
from tests.manifest.manifest_world import PATH, FakeDisk, cloned, failed, open_fake, plan, sent

KEYS = ["a", "b", "c"]


async def write_batches(*batches: list[Record]) -> bytes:
    """Write a manifest with a plan of a, b and c, and then these batches."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    await manifest.write_plan(plan(KEYS), [(key, f"source of {key}") for key in KEYS])
    for batch in batches:
        for record in batch[:-1]:
            manifest.note(record)
        await manifest.commit(batch[-1])
    return disk.data


def open_data(data: bytes) -> tuple[FakeDisk, dict[str, tuple[str, ...]], bool]:
    """Open a manifest; return the disk, the targets that lost lines may have sent, and whether that may be any."""
    disk = FakeDisk()
    disk.put(data)
    past = open_fake(disk).past
    found = {key: intent.open_jobs for key, intent in past.intents.items() if UNKNOWN_JOB in intent.open_jobs}
    return disk, found, past.is_repaired


async def test_each_bit_of_a_sent_line_leaves_its_target_uncertain() -> None:
    """The last line is durable and one bit of it flips, its newline included: its target is queried first."""
    data = await write_batches([sent("a")])
    start = data.rindex(b'{"state":"sent"')
    anybody = 0
    for place in range(start, len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            disk, found, is_repaired = open_data(bytes(flipped))
            # One bit turns its key into another target's: only here, where keys are single letters.
            assert found == {"a": (UNKNOWN_JOB,)} or is_repaired or b'"key":"c"' in flipped, (place, bit)
            assert disk.data.startswith(data[:start])
            anybody += is_repaired
    # Only where the key itself is damaged.
    assert anybody < 8 * len(b'"key":"a"')


async def test_a_truncated_line_leaves_nothing_uncertain() -> None:
    """Its POST was never sent, as the write had not returned: cut at every byte nothing is queried."""
    data = await write_batches([sent("a")])
    start = data.rindex(b'{"state":"sent"')
    for end in range(start, len(data)):
        disk, found, is_repaired = open_data(data[:end])
        assert (found, is_repaired, disk.data) == ({}, False, data[:start])


async def test_a_batch_truncated_after_damage_was_never_durable() -> None:
    """A power cut left only some sectors of it: it does not end like a batch."""
    data = bytearray(await write_batches([sent("a"), sent("b")]))
    start = data.rindex(b'{"state":"sent","key":"a"')
    data[start + 30] ^= 1
    _, found, is_repaired = open_data(bytes(data[:-5]))
    assert (found, is_repaired) == ({}, False)


async def test_every_sent_line_of_the_batch_counts() -> None:
    """Also intact ones after a damaged one; what is recorded of each stays known."""
    data = bytearray(await write_batches([sent("a")], [cloned("a"), sent("b"), sent("c")]))
    data[data.rindex(b'"key":"b"') + 20] ^= 1
    disk, found, is_repaired = open_data(bytes(data))
    assert (set(found), is_repaired) == ({"b", "c"}, False)
    added = [parse_line(line[:-19]) for line in disk.data.splitlines(keepends=True)[-2:]]
    assert [(line.key, line.state, line.error_code) for line in added if isinstance(line, Record)] == [
        ("b", State.UNCERTAIN, CODE),
        ("c", State.UNCERTAIN, CODE),
    ]
    assert disk.files[PATH].synced == disk.data


async def test_an_earlier_attempt_stays_known() -> None:
    """The lost line was a second attempt: the first one's job is polled, and the lost one may be running too."""
    data = bytearray(await write_batches([sent("a")], [sent("a", 2)]))
    data[-100] ^= 1
    disk = FakeDisk()
    disk.put(bytes(data))
    intent = open_fake(disk).past.intents["a"]
    first = sent("a")
    assert (intent.job_uuid, intent.open_jobs, intent.attempt) == (first.job_uuid, (UNKNOWN_JOB,), 1)
    assert (intent.resource_uuid, intent.digest) == (first.resource_uuid, first.digest)


@pytest.mark.parametrize("last", [cloned("a"), failed("a")], ids=["cloned", "failed"])
async def test_a_lost_end_is_queried_as_usual(last: Record) -> None:
    """Nothing is sent because of an end: the recorded attempt is open again, and nothing else is in doubt."""
    data = bytearray(await write_batches([sent("a")], [last]))
    data[-60] ^= 1
    disk = FakeDisk()
    disk.put(bytes(data))
    past = open_fake(disk).past
    assert (past.intents["a"].state, past.is_repaired) == (State.SENT, False)
    assert UNKNOWN_JOB not in past.intents["a"].open_jobs


async def test_settled_targets_stay_settled() -> None:
    """A line that names a target with a recorded end cannot have sent it; an undone one may be made again."""
    undone = Record(State.UNDONE, "b", 30.0)
    data = await write_batches([sent("a")], [cloned("a")], [sent("b")], [cloned("b")], [undone])
    tail, _ = seal([encode_record(sent("a", 2)), encode_record(sent("b", 2))], int(data[-11:-3], 16), batch=7)
    damaged = bytearray(tail)
    damaged[40] ^= 1
    disk = FakeDisk()
    disk.put(data + bytes(damaged))
    past = open_fake(disk).past
    assert past.final("a") is not None
    assert past.intents.keys() == {"b"}
    assert UNKNOWN_JOB in past.intents["b"].open_jobs


async def test_lines_of_processes_leave_nothing_uncertain() -> None:
    """Starts and ends of processes send nothing; an illegible line may have sent any target."""
    data = await write_batches([sent("a")], [cloned("a")])
    crc = int(data[-11:-3], 16)
    lines = [
        encode_started(this_process(1.0, "", (), at_most_once=False, remote=None)),
        encode_ended(EndedLine(2.0, 0, None)),
    ]
    tail, _ = seal(lines, crc, batch=int(data.rpartition(b'"batch":')[2].partition(b",")[0]) + 1)
    for place in (30, len(tail) - 30):
        damaged = bytearray(tail)
        damaged[place] ^= 1
        _, found, is_repaired = open_data(data + bytes(damaged))
        assert (found, is_repaired) == ({}, False)
    disk, found, is_repaired = open_data(data + b"\0" * 40 + b"\n")
    assert (found, is_repaired) == ({}, True)
    assert isinstance(parse_line(disk.data.splitlines(keepends=True)[-1][:-19]), RepairedLine)


async def test_nothing_is_uncertain_before_there_is_a_plan() -> None:
    """No POST is sent before the plan is durable."""
    data = await write_batches()
    lines = data.splitlines(keepends=True)
    _, found, is_repaired = open_data(lines[0] + b"\0" * 40 + b"\n")
    assert (found, is_repaired) == ({}, False)


async def test_it_is_reported_once() -> None:
    """A message says that what was cut may have been durable; the next process finds nothing to cut."""
    data = bytearray(await write_batches([sent("a")]))
    data[-60] ^= 1
    disk = FakeDisk()
    disk.put(bytes(data))
    manifest = open_fake(disk)
    assert [warning for warning in manifest.warnings if "may have been durable" in warning]
    await manifest.close(4)
    again = open_fake(disk)
    assert again.warnings == []
    assert again.past.intents["a"].open_jobs == (UNKNOWN_JOB,)
