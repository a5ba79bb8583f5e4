"""How many processes crashed with a clone in flight, according to the manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.manifest.fold import ManifestFold
from batch.manifest.kinds import EndedLine, RemoteEngine, StartedLine, TakenUpLine
from batch.manifest.operations import encode_operation
from batch.manifest.records import encode_ended, encode_record, encode_started, parse_line
from batch.model import Record, State

if TYPE_CHECKING:
    from collections.abc import Iterable

STARTED = encode_started(StartedLine(1.0, 1, "h", "t"))
ENDED = encode_ended(EndedLine(2.0, 4, None))


def taken_up(*keys: str) -> bytes:
    return encode_operation(TakenUpLine(keys, 3.0))


def record(state: State, key: str = "a") -> bytes:
    return encode_record(Record(state, key, 4.0, 1, "s", "r" * 32, "j" * 32, "d" * 32, 5.0))


def folded(bodies: Iterable[bytes]) -> ManifestFold:
    past = ManifestFold()
    past.add_all(bodies)
    past.finish()
    return past


def test_a_start_without_an_end_is_a_crash() -> None:
    """Only of the last process: its successor counted the crashes before."""
    assert not folded([]).is_cut_off
    assert folded([STARTED]).is_cut_off
    assert not folded([STARTED, ENDED]).is_cut_off
    assert folded([STARTED, STARTED, ENDED, STARTED]).is_cut_off


def test_a_process_that_follows_another_engine_crashes_alone() -> None:
    """Nothing is in flight with it, so its start without an end is no crash; its engine is known."""
    remote = RemoteEngine("temporal", "127.0.0.1:7233", "default", "zclone/u/job/run")
    followed = encode_started(StartedLine(1.0, 1, "h", "t", remote=remote))
    assert folded([STARTED, followed]).remote == remote
    assert not folded([STARTED, followed]).is_cut_off
    assert folded([followed, STARTED]).is_cut_off
    assert folded([followed, STARTED]).remote is None


def test_each_start_that_takes_up_a_clone_is_a_crash() -> None:
    """Also if nothing else was recorded of the clone in between."""
    past = folded([STARTED, record(State.SENT), STARTED, taken_up("a"), STARTED, taken_up("a", "b")])
    assert past.intents["a"].deaths == 2


def test_an_uncertain_end_resets_the_count() -> None:
    """The count begins anew."""
    bodies = [record(State.SENT), taken_up("a"), taken_up("a"), record(State.UNCERTAIN)]
    assert folded(bodies).intents["a"].deaths == 0
    assert folded([*bodies, taken_up("a")]).intents["a"].deaths == 1


def test_a_reopened_clone_has_no_crashes() -> None:
    """Those before its failure no longer count."""
    long = [record(State.SENT), record(State.ACCEPTED), taken_up("a"), record(State.FAILED)]
    again = encode_record(Record(State.PLANNED, "a", 6.0, 0, retried=True))
    assert folded([*long, again, record(State.SENT)]).intents["a"].deaths == 0


def test_keys_like_words_of_the_format_are_keys() -> None:
    """Whatever the names of the targets, a line about several is no clone record."""
    keys = ("a", "key", "b", "c", "attempt", "d")
    assert folded([taken_up(*keys), taken_up("x", "a", *keys)]).counts == {}
    assert parse_line(taken_up(*keys)) == TakenUpLine(keys, 3.0)
