"""A last batch that is damaged as a whole may have been durable: what it may have sent is queried."""

from __future__ import annotations

import re

import pytest

from batch.errors import REPAIRED
from batch.manifest.kinds import EndedLine, RepairedLine
from batch.manifest.line import seal, this_process
from batch.manifest.records import encode_ended, encode_record, encode_started, parse_line
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


async def test_each_bit_of_a_sent_line_leaves_every_target_in_doubt() -> None:
    """The last line is durable and one bit of it flips, its key included: then any target may have been sent.

    Where only its newline is damaged, the line itself names its target.
    """
    data = await write_batches([sent("a")])
    start = data.rindex(b'{"state":"sent"')
    for place in range(start, len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            disk, found, is_repaired = open_data(bytes(flipped))
            is_newline = place == len(data) - 1
            assert (found, is_repaired) == ({"a": (UNKNOWN_JOB,)} if is_newline else {}, not is_newline), (place, bit)
            assert disk.data.startswith(data[:start])


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


async def test_a_whole_batch_before_a_truncated_one_was_durable() -> None:
    """A batch is written only once the one before it is durable: damage to that one hides a POST."""
    data = bytearray(await write_batches([sent("a")], [sent("b")]))
    data[data.rindex(b'{"state":"sent","key":"a"') + 30] ^= 1
    _, found, is_repaired = open_data(bytes(data[:-25]))
    assert (found, is_repaired) == ({}, True)


async def test_every_sent_line_of_the_batch_counts() -> None:
    """Also intact ones after a damaged one of another kind."""
    data = bytearray(await write_batches([sent("a")], [cloned("a"), sent("b"), sent("c")]))
    data[data.rindex(b'"clone of a"') + 1] ^= 1
    disk, found, is_repaired = open_data(bytes(data))
    assert (set(found), is_repaired) == ({"b", "c"}, False)
    added = [parse_line(line[:-19]) for line in disk.data.splitlines(keepends=True)[-2:]]
    assert [(line.key, line.state, line.error_code) for line in added if isinstance(line, Record)] == [
        ("b", State.UNCERTAIN, REPAIRED),
        ("c", State.UNCERTAIN, REPAIRED),
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
    """Nothing is sent because of a legible end: the recorded attempt is open again, and nothing else is in doubt."""
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
    for number in re.finditer(rb'"(pid|exit)":\d+', tail):
        damaged = bytearray(tail)
        damaged[number.end() - 1] ^= 1
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
    assert manifest.past.is_repaired
    assert [warning for warning in manifest.warnings if "may have been durable" in warning]
    await manifest.close(4)
    again = open_fake(disk)
    assert again.warnings == []
    assert again.past.is_repaired


async def test_two_lines_joined_by_damage_may_hide_a_post() -> None:
    """The end of one line and its newline are damaged: the line begins as another kind and hides a ``sent`` line."""
    data = bytearray(await write_batches([sent("a")], [Record(State.ACCEPTED, "a", 12.0, 1), sent("b")]))
    end = data.rindex(b'{"state":"sent"')
    data[end - 2 : end] = b"~~"
    _, found, is_repaired = open_data(bytes(data))
    assert (found, is_repaired) == ({"a": ("unknown",)}, True)


async def test_an_illegible_line_may_send_a_target_with_records_again() -> None:
    """It is in doubt too, and keeps what is recorded of its open attempt."""
    data = bytearray(await write_batches([sent("a")], [Record(State.UNCERTAIN, "a", 12.0, 1)], [sent("a", 2)]))
    data[data.rindex(b'"key":"a"') + 7] ^= 1
    disk = FakeDisk()
    disk.put(bytes(data))
    past = open_fake(disk).past
    intent = past.intents["a"]
    assert (intent.job_uuid, intent.open_jobs, past.is_repaired) == (sent("a").job_uuid, (UNKNOWN_JOB,), True)


async def test_an_illegible_line_may_retry_what_had_failed() -> None:
    """The planned and the sent line of a retry are both illegible: the failed target is in doubt, a cloned one not."""
    ended = [[sent("a")], [failed("a")], [sent("b")], [cloned("b")]]
    retry = [Record(State.PLANNED, "a", 30.0, retried=True), sent("a")]
    data = bytearray(await write_batches(*ended, retry))
    for place in [found.start() for found in re.finditer(b'"key":"a"', data)][-2:]:
        data[place + 1] ^= 0x80
    disk = FakeDisk()
    disk.put(bytes(data))
    past = open_fake(disk).past
    assert (past.final("a"), past.intents["a"].open_jobs) == (None, (UNKNOWN_JOB,))
    assert past.final("b") is not None
    _, found, is_repaired = open_data(disk.data)
    assert (found, is_repaired) == ({"a": (UNKNOWN_JOB,)}, True)


async def test_lost_lines_stay_lost_where_their_record_is_damaged() -> None:
    """The last batch says that lines were lost, and is damaged itself: the targets are in doubt all the same."""
    lost = Record(State.UNCERTAIN, "a", 12.0, 1, error_code=REPAIRED, open_jobs=(UNKNOWN_JOB,))
    data = bytearray(await write_batches([sent("a")], [lost]))
    data[data.rindex(b'"at":') + 6] ^= 1
    _, found, _ = open_data(bytes(data))
    assert found == {"a": (UNKNOWN_JOB,)}


async def test_a_damaged_longest_api_timeout_leaves_its_target_in_doubt() -> None:
    """Without it the POST would count as over too early; a shorter one changes nothing."""
    accepted = [Record(State.ACCEPTED, key, 12.0, 1, api_timeout=seconds) for key, seconds in (("a", 1e4), ("b", 1e3))]
    data = bytearray(await write_batches([sent("a")], [accepted[0]], [sent("b")], [accepted[1]]))
    shorter, longer = data.copy(), data[: data.rindex(b'{"state":"sent","key":"b"')]
    for damaged, is_lost in ((shorter, False), (longer, True)):
        damaged[damaged.rindex(b'"attempt":1') + 10] ^= 2
        _, found, is_repaired = open_data(bytes(damaged))
        assert (found.keys() >= {"a"}, is_repaired) == (is_lost, is_lost)


async def test_a_withdrawn_target_in_doubt_is_counted_once() -> None:
    """It left the job file before it was sent; the damaged batch may have sent it all the same."""
    data = bytearray(await write_batches([Record(State.WITHDRAWN, "a", 10.0)], [sent("b")]))
    data[data.rindex(b'"key":"b"') + 7] ^= 1
    disk = FakeDisk()
    disk.put(bytes(data))
    assert open_fake(disk).past.counts == {State.UNCERTAIN: 1, State.PLANNED: 2}
