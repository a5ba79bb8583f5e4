"""The fold: what a manifest says about every Clone, for every prefix of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batch.errors import ManifestError
from batch.keytable import digest_prefix
from batch.manifest import ManifestFold
from batch.manifest.kinds import RepairedLine, StartedLine
from batch.manifest.line import MAX_TIME, MIN_TIME, decode_line, encode_line
from batch.manifest.records import encode_planned, encode_record, parse_line, parse_record
from batch.model import UNKNOWN_JOB, Record, State
from tests.manifest.manifest_world import cloned, failed, hex_id, sent, short

if TYPE_CHECKING:
    from batch.manifest.kinds import Line

_KEYS = ["a", 'quote"d', "back\\slash", "名前", "\x7f\x00", "\ud800", "x" * 300]


def fold(records: list[Record], planned: list[str] | None = None) -> ManifestFold:
    past = ManifestFold()
    if planned:
        past.add_all([encode_planned([(key, key) for key in planned])])
    past.add_all(encode_record(record) + b',"batch":1' for record in records)
    past.finish()
    return past


def fold_lines(lines: list[Line]) -> ManifestFold:
    past = ManifestFold()
    for line in lines:
        past.add(line)
    return past


def view(past: ManifestFold) -> tuple[Any, ...]:
    finals, planned = [past.final(key) for key in _KEYS], [past.is_planned(key) for key in _KEYS]
    return past.counts, past.settled_counts, past.canary_passed, past.intents, finals, planned


@st.composite
def histories(draw: st.DrawFn) -> list[Record]:
    """Generate what an engine that keeps the protocol writes about some clones, interleaved."""
    records: list[Record] = []
    state = dict.fromkeys(_KEYS, State.PLANNED)
    attempts = dict.fromkeys(_KEYS, 0)
    for step in range(draw(st.integers(0, 30))):
        key = draw(st.sampled_from(_KEYS))
        at = float(step)
        if state[key].is_final:
            continue
        if state[key] is State.PLANNED:
            attempts[key] += 1
            choice = State.SENT
        else:
            choice = draw(st.sampled_from(list(set(State) - {State.UNDONE})))
        match choice:
            case State.SENT:
                attempts[key] += state[key] is not State.PLANNED
                records.append(sent(key, attempts[key], at=at))
            case State.PLANNED:
                attempts[key] -= 1
                records.append(Record(State.PLANNED, key, at, attempts[key], open_jobs=()))
            case State.ACCEPTED:
                records.append(Record(choice, key, at, attempts[key], deadline=at + 60))
            case _:
                records.append(Record(choice, key, at, attempts[key], error_code="X", error="why"))
        state[key] = choice
    return records


def expected_counts(records: list[Record]) -> dict[State, int]:
    last = {record.key: record.state for record in records}
    found: dict[State, int] = {}
    for state in last.values():
        found[state] = found.get(state, 0) + 1
    return found


@given(histories())
def test_counts_are_those_of_the_last_records(records: list[Record]) -> None:
    """Every target counts once, in the state of its last record."""
    assert fold(records).counts == expected_counts(records)


@given(histories(), st.data())
def test_fold_is_prefix_stable(records: list[Record], data: st.DataObject) -> None:
    """The fold of a prefix does not depend on what follows, and continuing it equals folding all at once."""
    cut = data.draw(st.integers(0, len(records)))
    past = fold(records[:cut])
    assert past.counts == expected_counts(records[:cut])
    past.add_all(encode_record(record) + b',"batch":1' for record in records[cut:])
    past.finish()
    assert view(past) == view(fold(records))


@given(histories())
def test_fold_is_idempotent(records: list[Record]) -> None:
    """Repeating the same records changes nothing."""
    assert view(fold(records + records)) == view(fold(records))


@given(histories())
def test_final_state_never_changes(records: list[Record]) -> None:
    """A later attempt or another end of a settled clone is an error, whoever wrote it."""
    past = fold(records)
    for record in records:
        if not record.state.is_final:
            continue
        other = State.FAILED if record.state is State.CLONED else State.CLONED
        with pytest.raises(ManifestError, match="cannot become"):
            fold([*records, Record(other, record.key, 99.0, record.attempt)])
        with pytest.raises(ManifestError, match="sent again"):
            fold([*records, sent(record.key, record.attempt + 1)])
        again = sent(record.key, record.attempt)
        with pytest.raises(ManifestError, match="settled"):
            past.add_written(again)
    assert view(past) == view(fold(records))


def _any_record(state: State, key: str, attempt: int, *, is_bare: bool) -> Record:
    if state is State.PLANNED and is_bare:
        return Record(state, key, 1.0, 0, retried=True)
    if is_bare:
        return Record(state, key, 1.0, attempt)
    made = {State.SENT: sent(key, attempt), State.CLONED: cloned(key, attempt)}
    return made.get(state, Record(state, key, 1.0, attempt, error_code="X"))


@settings(max_examples=500)
@given(
    st.lists(
        st.builds(
            _any_record,
            st.sampled_from(State),
            st.sampled_from(_KEYS),
            st.integers(0, 3) | st.integers(250, 260),
            is_bare=st.booleans(),
        ),
        max_size=40,
    )
)
def test_a_writer_folds_like_a_reader(records: list[Record]) -> None:
    """What a process accepts as it writes, up to the first record it refuses, is what the next one reads."""
    writing, written = ManifestFold(), list[Record]()
    for record in records:
        # Only an attempt that was sent is ever returned, and only a settled target is ever planned again.
        is_under_way = record.key in writing.intents
        if record.state is State.PLANNED and (record.retried if is_under_way else record.attempt):
            continue
        try:
            writing.add_written(record)
        except ManifestError:
            break
        written.append(record)
    assert view(writing) == view(fold(written))


def test_undone_follows_a_clone() -> None:
    """Only a rollback changes a final state, and the digest stays known."""
    past = fold([sent("a"), cloned("a"), short(State.UNDONE, "a")])
    assert past.final("a") == (State.UNDONE, digest_prefix(hex_id(0xD1 << 120)))
    assert past.counts == {State.UNDONE: 1}
    assert past.canary_passed


def test_final_remembers_the_digest_that_was_sent() -> None:
    """A settled clone keeps enough of its digest to detect an edit of the job file."""
    past = fold([sent("a"), cloned("a")])
    assert past.final("a") == (State.CLONED, digest_prefix(hex_id(0xD1 << 120)))
    assert past.final("b") is None
    assert fold([short(State.CLONED, "a")]).final("a") == (State.CLONED, 0)


def test_a_clone_whose_sent_line_is_lost_keeps_its_uuid() -> None:
    """No record shows that it was requested: it is no proof here, and the plan can decide whether it is one."""
    lost = cloned("a")
    past = fold([lost, sent("b"), cloned("b")])
    assert past.uuids_without_sent == {"a": lost.clone_uuid}
    assert fold([lost, sent("b")]).canary_passed is False
    assert fold([lost]).was_uuid_ignored is False


def test_a_server_may_honour_one_uuid_and_ignore_another() -> None:
    """The other one counts, whichever came first."""
    ignored = cloned("b")._replace(clone_uuid=hex_id(99))
    for records in ([sent("a"), cloned("a"), sent("b"), ignored], [sent("b"), ignored, sent("a"), cloned("a")]):
        past = fold(records)
        assert (past.canary_passed, past.was_uuid_ignored) == (True, True)


def test_a_uuid_that_a_lost_line_requested_is_not_called_ignored() -> None:
    """The job file was edited and the line of the second attempt was lost: its clone has another uuid than the first's.

    A clone that the server makes under a uuid of its own after the repair is a proof again.
    """
    other = cloned("a")._replace(clone_uuid=hex_id(99))
    lines: list[Line] = [sent("a"), other, RepairedLine(20.0, 1)]
    assert not fold_lines(lines).was_uuid_ignored
    assert fold_lines([*lines, sent("b"), cloned("b")._replace(clone_uuid=hex_id(98))]).was_uuid_ignored
    in_doubt = short(State.UNCERTAIN, "a")._replace(open_jobs=(UNKNOWN_JOB,))
    repaired = fold([sent("a"), in_doubt, other._replace(adopted=True)])
    assert not repaired.was_uuid_ignored
    assert repaired.uuids_without_sent == {"a": other.clone_uuid}
    # What the job of a line that is left shows was requested by that line.
    assert fold([sent("a"), in_doubt, other]).was_uuid_ignored
    accepted = short(State.ACCEPTED, "a")._replace(job_uuid=hex_id(97))
    assert not fold([sent("a"), accepted, other]).was_uuid_ignored


def test_the_longest_stated_api_timeout_is_kept() -> None:
    """Also of clones that are made since, as it applies to jobs that got no answer."""
    records = [
        short(State.ACCEPTED, key)._replace(job_uuid=hex_id(1), api_timeout=seconds)
        for key, seconds in (("a", 60.0), ("b", 36_000.0), ("c", None))
    ]
    assert fold([sent("a"), sent("b"), sent("c"), *records, cloned("b")]).api_timeout == 36_000.0
    assert fold([]).api_timeout == 0.0


def test_planned_target_is_not_an_intent() -> None:
    """A target that was only planned counts, and has no attempt."""
    past = fold([], planned=["a", "b"])
    assert past.counts == {State.PLANNED: 2}
    assert not past.intents
    assert past.final("a") is None
    assert past.is_planned("b")
    assert not past.canary_passed


def test_returned_attempt_is_not_charged() -> None:
    """A record ``planned`` takes an attempt back: without one before it the clone is untouched."""
    assert not fold([sent("a"), Record(State.PLANNED, "a", 11.0, 0, open_jobs=())]).intents
    again = fold([sent("a"), sent("a", 2), Record(State.PLANNED, "a", 11.0, 1, open_jobs=())])
    assert again.intents["a"].attempt == 1
    assert again.counts == {State.PLANNED: 1}


def test_intent_joins_the_records_of_its_attempts() -> None:
    """An intent has resource uuid, digest, last job uuid, the last attempt's deadline and the time of the first one."""
    accepted = Record(State.ACCEPTED, "a", 12.0, 1, job_uuid=hex_id(1), deadline=99.0)
    intent = fold([sent("a", at=10.0), accepted]).intents["a"]
    assert (intent.state, intent.job_uuid, intent.deadline) == (State.ACCEPTED, hex_id(1), 99.0)
    assert (intent.sent_at, intent.first_sent_at, intent.source_uuid) == (10.0, 10.0, "source")
    later = fold([sent("a", at=10.0), accepted, sent("a", 2, at=20.0)]).intents["a"]
    assert (later.attempt, later.job_uuid, later.deadline) == (2, hex_id(2), None)
    assert (later.sent_at, later.first_sent_at) == (20.0, 10.0)


def test_uncertain_restarts_the_time() -> None:
    """The first attempt after ``uncertain`` sets a new deadline."""
    unknown = Record(State.UNCERTAIN, "a", 15.0, 1, error_code="X", error="lost")
    intent = fold([sent("a", at=10.0), unknown]).intents["a"]
    assert (intent.job_uuid, intent.error_code, intent.first_sent_at) == (hex_id(1), "X", 10.0)
    assert fold([sent("a", at=10.0), unknown, sent("a", 2, at=20.0)]).intents["a"].first_sent_at == 20.0


def test_unknown_state_is_refused() -> None:
    """A state of a newer zclone is not guessed."""
    for line in (
        b'{"state":"paused","key":"a","at":1.0,"attempt":1,"name":"b","batch":1',
        b'{"state":"paused","key":"a"',
    ):
        with pytest.raises(ManifestError, match="newer zclone"):
            ManifestFold().add_all([line])


@given(st.text(), st.text())
def test_every_text_survives(key: str, error: str) -> None:
    """Any key or text of a server is one line and is read back unchanged."""
    record = Record(State.FAILED, key, 1.5, 3, error=error)
    body = encode_record(record)
    assert b"\n" not in body
    assert parse_record(body) == record
    assert fold([record], planned=[key]).counts == {State.FAILED: 1}


def test_terminal_sequences_are_escaped() -> None:
    """A manifest printed to a terminal moves no cursor and changes no text direction."""
    assert encode_line([("a", "\x1b[2J\x9b\u202e\u2028名")]) == '{"a":"\\u001b[2J\\u009b\\u202e\\u2028名"'.encode()


_NAME = st.none() | st.text(max_size=20)
_TIMES = st.floats(1.0, 1e15) | st.floats(allow_nan=False, allow_infinity=False)
_RECORDS = st.builds(
    Record,
    st.sampled_from(State),
    st.text(),
    _TIMES,
    st.integers(0, 10**6),
    deadline=st.none() | _TIMES,
    until=st.none() | _TIMES,
    api_timeout=st.none() | _TIMES,
    adopted=st.none() | st.booleans(),
    name=_NAME,
    source_uuid=_NAME,
    clone_uuid=_NAME,
)


@settings(max_examples=300)
@given(_RECORDS)
@example(Record(State.SENT, "a", 1e15 - 0.125, 1, deadline=1.0))
@example(Record(State.SENT, "a", 1e-5, 1))
@example(Record(State.SENT, "a", -1.5, 1, deadline=-1.0))
@example(Record(State.SENT, "a", 2.0, 1, api_timeout=-1.0))
@example(Record(State.SENT, "a", 2.0, 1, deadline=1e-5))
@example(Record(State.FAILED, "\x7f", 2.0, 1))
@example(Record(State.FAILED, "\x00\u2028/é", 2.0, 1))
@example(Record(State.FAILED, "\ud800", 2.0, 1 << 70))
def test_record_round_trip(record: Record) -> None:
    """Reading a record is the inverse of writing it, if its times lie in the years 1 to 9999."""
    times = (record.at, record.deadline or 0.0, record.until or 0.0, record.api_timeout or 0.0)
    if all(MIN_TIME <= time < MAX_TIME for time in times) and times[-1] >= 0:
        assert parse_line(encode_record(record)) == record
    else:
        with pytest.raises(ManifestError, match="impossible time"):
            parse_line(encode_record(record))


@pytest.mark.parametrize(
    "body",
    [
        b'{"state":"sent","key":7,"at":1.0,"attempt":1',
        b'{"state":"sent","key":"a","at":"x","attempt":1',
        b'{"state":"sent","key":"a","at":1.0,"attempt":true',
        b'{"state":"sent","key":"a","at":true,"attempt":1',
        b'{"planned":[7]',
        b'{"planned":7',
        b'{"started":1.0,"pid":"x"',
        b"[1",
        b"{nonsense",
        b'"text"',
    ],
)
def test_wrong_types_are_refused(body: bytes) -> None:
    """A line with a valid checksum and wrong content was not written by zclone: an error, not a guess."""
    with pytest.raises(ManifestError):
        parse_line(body)


def test_unknown_kinds_and_fields_are_ignored() -> None:
    """Lines and fields that a later version of the same format adds do no harm."""
    past = ManifestFold()
    past.add_all([b'{"weather":"fine","batch":1', encode_record(cloned("a")) + b',"later":[1],"batch":2'])
    past.finish()
    assert past.counts == {State.CLONED: 1}
    assert encode_line([("a", None), ("b", 1)]) == b'{"b":1'


@pytest.mark.parametrize("record", [sent("a"), cloned("a"), failed("a")], ids=lambda record: record.state)
def test_a_record_in_any_order_of_fields_is_read_or_refused(record: Record) -> None:
    """Another writer's record is never skipped: state first is read, anything else is refused."""
    body = decode_line(encode_record(record))
    before = [encode_planned([("a", "a")]), *([] if record.state is State.SENT else [encode_record(sent("a"))])]
    ends = {"state": body.pop("state"), "key": body.pop("key")}
    past = ManifestFold()
    past.add_all([*before, encode_line([*ends.items(), *reversed(body.items())])])
    past.finish()
    assert past.counts == {record.state: 1}
    with pytest.raises(ManifestError, match="not written by zclone"):
        ManifestFold().add_all([*before, encode_line([*body.items(), *ends.items()])])


def test_other_number_types_are_refused() -> None:
    """What JSON lines of a manifest never hold is refused when written."""
    with pytest.raises(TypeError):
        encode_line([("a", {"b": b"1"})])  # type: ignore[dict-item]


def test_failed_is_final() -> None:
    """A rerun leaves failed clones alone."""
    assert fold([sent("a"), failed("a")]).counts == {State.FAILED: 1}


def test_what_processes_without_the_flag_sent_is_known_to_the_first_with_it() -> None:
    """Targets sent twice, charged while planned, or failed; those of processes with the flag only after a conflict."""
    plain, flagged = (StartedLine(at, 1, "host", "", at_most_once=at > 1.0) for at in (1.0, 50.0))
    past = ManifestFold()
    lines: list[Line] = [plain, sent("a"), sent("a", 2), sent("b"), Record(State.PLANNED, "b", 30.0, 1, open_jobs=())]
    lines += [sent("c"), failed("c"), Record(State.PLANNED, "c", 31.0, retried=True), sent("d"), flagged, sent("d", 2)]
    lines += [
        sent("e"),
        failed("e"),
        sent("f"),
        Record(State.CONFLICT, "f", 60.0, 1),
        Record(State.CONFLICT, "g", 61.0),
    ]
    for line in [*lines, flagged]:
        past.add(line)
    past.finish()
    assert past.repeated == {"a", "b", "c", "f"}
    assert {key for key, intent in past.intents.items() if intent.was_repeated} == {"a", "b"}
    assert past.is_at_most_once


@pytest.mark.parametrize("code", ["ZCLONE.UNANSWERED", None])
def test_an_unanswered_attempt_outlives_a_withdrawal(code: str | None) -> None:
    """What appears under its uuid may be its clone; after an attempt with a definite end it is not."""
    ended = Record(State.PLANNED, "a", 30.0, 1, error_code=code, open_jobs=())
    past = fold([sent("a"), ended, short(State.WITHDRAWN, "a"), Record(State.PLANNED, "a", 40.0)])
    assert past.has_predecessor("a", "") is (code is not None)
