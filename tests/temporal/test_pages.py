"""The division of a run into pages."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from batch.engine.survey import survey
from batch.errors import UsageError
from batch.manifest import ManifestFold
from batch.model import Clone, HandOver, Limits, Plan, Record, State, Wave
from batch.temporal.messages import Page, Part
from batch.temporal.page import LANES, MAX_BYTES, MAX_CLONES, Work, pages_of, parts_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def clone(number: int, *, size: int = 40) -> Clone:
    body = b'{"params": {"name": "' + b"x" * size + b'"}}'
    return Clone(f"k{number}", "s", f"{number:032x}", body, f"{number:032x}", hand_over=HandOver("o"))


def work(count: int, past: ManifestFold | None = None, *, size: int = 40, **limits: Any) -> Work:
    clones = [clone(number, size=size) for number in range(count)]
    plan = Plan("job", "run", "digest", count, lambda: iter(clones))
    past = past or ManifestFold()
    return Work(plan, survey(plan, past), past, Limits(**limits), at_most_once=False, made=lambda: iter(()))


def pages(of: Work) -> list[Page]:
    return [page for _, page in pages_of(of, parent="p")]


@pytest.mark.parametrize("count", [1, 3, 4, 5, 199, 800, 801, 2000])
def test_each_clone_is_on_one_page(count: int) -> None:
    """No page has more than 200 clones, all have about as many, and there is one for each lane at a time."""
    found = pages(work(count, concurrency=8))
    sizes = [len(page.clones) for page in found]
    assert [one.key for page in found for one in page.clones] == [f"k{number}" for number in range(count)]
    assert max(sizes) <= MAX_CLONES
    assert len(sizes) % LANES == 0 or count < LANES * LANES
    assert [page.number for page in found] == list(range(len(found)))


def test_a_page_has_at_most_a_megabyte() -> None:
    """Large bodies make pages of fewer clones, so that each stays below Temporal's limit."""
    found = pages(work(40, size=100_000))
    assert max(sum(len(one.body) for one in page.clones) for page in found) <= MAX_BYTES
    assert sum(len(page.clones) for page in found) == 40


def test_a_body_above_temporals_limit_is_refused() -> None:
    """It is an error of the command, with the target's key."""
    with pytest.raises(UsageError, match="k0"):
        pages(work(1, size=2_000_000))


def test_no_page_is_in_two_waves() -> None:
    """Pages end where waves do; a wave is judged before it begins unless an earlier start began it."""
    past = ManifestFold()
    past.add(Record(State.SENT, "k0", 1.0, 1, "s", f"{0:032x}", "j", f"{0:032x}"))
    past.add(Record(State.CLONED, "k0", 2.0, 1, clone_uuid=f"{0:032x}"))
    waves = (Wave(2), Wave(share=0.5))
    fresh, gone_on = work(20, waves=waves, concurrency=1), work(20, past, waves=waves, concurrency=1)
    assert parts_of(fresh) == (Part(1, 1), Part(2, 1, is_new=True), Part(3, 1, is_new=True))
    assert parts_of(gone_on) == (Part(1, 1), Part(2, 1, is_new=True), Part(3, 1, is_new=True))
    assert [len(page.clones) for page in pages(gone_on)] == [1, 10, 8]


def test_open_clones_come_first_and_removed_targets_last() -> None:
    """Open clones are on the first pages with what is known of them, targets that left the job file on the last."""
    past = ManifestFold()
    for key in ("k7", "gone"):
        past.add(Record(State.SENT, key, 1.0, 1, "s", "r", "j", "d"))
    found = pages(work(10, past, concurrency=1))
    assert found[0].clones[0].key == "k7"
    assert [intent.key for intent in found[0].intents] == ["k7"]
    assert (found[-1].clones, [intent.key for intent in found[-1].intents]) == ((), ["gone"])


def test_open_clones_outside_the_part_are_on_a_page_for_comparison() -> None:
    """Such a clone has its body on a page, apart from the clones that may be sent."""
    past = ManifestFold()
    past.add(Record(State.SENT, "k7", 1.0, 1, "s", f"{7:032x}", "j", f"{7:032x}"))
    part, whole = work(2, past), work(10, past).plan
    *_, page = pages(replace(part, survey=survey(part.plan, past, whole=whole)))
    assert (page.clones, page.outside) == ((), (clone(7),))
    assert [intent.key for intent in page.intents] == ["k7"]


def test_clones_waiting_for_their_hand_over_are_on_a_page() -> None:
    """A clone that is made and not handed over is on a page with its uuid, and is not sent again."""

    def made() -> Iterator[tuple[Clone, str]]:
        yield clone(0), "u"

    past = ManifestFold()
    past.add(Record(State.CLONED, "k0", 2.0, 1, clone_uuid="u"))
    (page,) = pages(replace(work(1, past), made=made))
    assert ([one.key for one in page.clones], page.made) == (["k0"], {"k0": "u"})
