"""What a plan and the records imply: which targets are open, edited, outdated or requested twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batch.engine.clone_records import first_step_of_new
from batch.engine.policy import Policy
from batch.engine.steps import Send
from batch.engine.survey import describe_outdated, keep_outdated, refuse_changes, refuse_taken, survey
from batch.errors import ManifestMismatchError
from batch.manifest import ManifestFold
from batch.model import Clone, Plan, Record, State
from tests.engine.scripted_api import RESOURCE_UUID
from tests.simulation.virtual import EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable

DIGEST = "d1" * 16
EDITED = "e2" * 16
SOURCE = "d76744cb53f9378abf42b907df3efb6e"


def clone(key: str, *, uuid: str = RESOURCE_UUID, digest: str = DIGEST, is_given: bool = False) -> Clone:
    return Clone(key, SOURCE, uuid, b"{}", digest, is_given=is_given)


def sent(key: str, *, uuid: str | None = RESOURCE_UUID) -> Record:
    return Record(State.SENT, key, EPOCH, 1, SOURCE, uuid, "7" * 32, DIGEST, open_jobs=())


def past_of(*records: Record) -> ManifestFold:
    past = ManifestFold()
    for record in records:
        past.add_written(record)
    past.finish()
    return past


def plan_of(*clones: Clone) -> Plan:
    return Plan("job", "run", "aa", len(clones), lambda: iter(clones), inputs="in")


def keys(count: int) -> tuple[str, ...]:
    return tuple(f"k{number}" for number in range(count))


@pytest.mark.parametrize(("digest", "changed"), [(DIGEST, ()), (EDITED, ("a",))])
def test_an_open_target_that_was_edited_is_changed(digest: str, changed: tuple[str, ...]) -> None:
    """An attempt in doubt with another body than the plan has is named, an untouched target is neither."""
    found = survey(plan_of(clone("a", digest=digest), clone("b")), past_of(sent("a")))
    assert found.changed == changed
    assert [one.key for one in found.open] == ["a"]
    assert not found.is_nothing_left


@pytest.mark.parametrize(("digest", "outdated"), [(DIGEST, ()), (EDITED, ("a",))])
def test_a_clone_made_before_an_edit_is_outdated(digest: str, outdated: tuple[str, ...]) -> None:
    """A settled target whose body was edited stays settled, and is named."""
    past = past_of(sent("a"), Record(State.CLONED, "a", EPOCH, 1, clone_uuid=RESOURCE_UUID))
    found = survey(plan_of(clone("a", digest=digest)), past)
    assert found.outdated == outdated
    assert found.is_nothing_left
    assert found.settled == {State.CLONED: 1}
    assert keep_outdated(["a"], plan_of(clone("a", digest=digest)), past) == outdated
    assert keep_outdated([], plan_of(clone("a", digest=digest)), past) == ()


@pytest.mark.parametrize(("uuid", "taken"), [(RESOURCE_UUID, ("b",)), ("9" * 32, ())])
def test_a_given_uuid_of_an_attempt_in_doubt_is_taken(uuid: str, taken: tuple[str, ...]) -> None:
    """A target may not be given the uuid that another one's attempt may still get."""
    past = past_of(sent("a"))
    assert survey(plan_of(clone("a"), clone("b", uuid=uuid, is_given=True)), past).taken == taken


@pytest.mark.parametrize(
    ("made", "is_given", "expected"),
    [(RESOURCE_UUID, False, True), (RESOURCE_UUID, True, False), ("9" * 32, False, False)],
)
def test_a_clone_under_the_derived_uuid_proves_without_its_record(made: str, *, is_given: bool, expected: bool) -> None:
    """If the record of the request is lost, a clone with the uuid that the plan derives still proves."""
    past = past_of(Record(State.CLONED, "a", EPOCH, 1, clone_uuid=made))
    assert survey(plan_of(clone("a", is_given=is_given), clone("b")), past).is_honoured is expected


def test_a_removed_open_target_comes_last() -> None:
    """It is queried as it was sent, and has no body to be sent again with."""
    found = survey(plan_of(clone("b")), past_of(sent("gone"), sent("b", uuid="8" * 32)))
    assert [(one.key, one.body) for one in found.open] == [("b", b"{}"), ("gone", b"")]


def test_targets_outside_a_part_are_queried_as_the_job_file_has_them() -> None:
    """An open target outside the part is its whole Clone if it was sent as such; edited, it counts as removed."""
    whole = plan_of(clone("a"), clone("b"), clone("c", digest=EDITED), clone("new"))
    past = past_of(sent("b", uuid="8" * 32), sent("c", uuid="9" * 32), sent("a"))
    found = survey(plan_of(clone("a")), past, whole=whole)
    assert [(one.key, one.body) for one in found.open] == [("a", b"{}"), ("b", b""), ("c", b"")]
    assert (found.outside_plan, found.changed) == ((), ())
    found = survey(plan_of(clone("a")), past_of(sent("b")), whole=whole)
    assert (found.open, found.outside_plan) == ((), (clone("b"),))
    assert not found.is_nothing_left


@pytest.mark.parametrize("refuse", [refuse_changes, refuse_taken])
def test_targets_that_stop_a_run_are_named(refuse: Callable[[tuple[str, ...]], None]) -> None:
    """The first ones by name, the others by number; with none nothing is refused."""
    refuse(())
    with pytest.raises(ManifestMismatchError, match="k0, k1"):
        refuse(keys(2))
    with pytest.raises(ManifestMismatchError, match=r"k0, .* and \d+ more"):
        refuse(keys(100))


def test_outdated_clones_are_reported_and_refused_if_strict() -> None:
    """Reported without ``--strict``, an error with it, nothing if there are none."""
    assert describe_outdated((), is_strict=True) is None
    message = describe_outdated(keys(100), is_strict=False)
    assert message is not None
    assert message.startswith("100 clones")
    with pytest.raises(ManifestMismatchError, match="100 clones"):
        describe_outdated(keys(100), is_strict=True)


def test_a_target_of_a_repaired_manifest_is_looked_up_first() -> None:
    """After lost lines any target may have been sent: without a lookup it is sent only in a whole manifest."""
    whole, repaired = ManifestFold(), ManifestFold()
    repaired.is_repaired = True
    assert isinstance(first_step_of_new(clone("a"), whole, Policy(), now=EPOCH), Send)
    assert not isinstance(first_step_of_new(clone("a"), repaired, Policy(), now=EPOCH), Send)
