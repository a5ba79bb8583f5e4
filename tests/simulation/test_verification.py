"""verify never reports in-sync for what is not, nor missing for what exists; and these schedules would find it."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest

from batch.app import verifier
from batch.app.verifier import Verifier
from batch.report.verification import Verdict
from batch.zstack.params import Comparison
from tests.simulation.verification_world import broken_promises

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCHEDULES: Final = 150
_report_absent: Final = Verifier._report_absent
_is_maker: Final = Verifier._is_maker


def test_every_verdict_is_true(tmp_path: Path) -> None:
    """Whatever happened to the clones, for every account and whatever the answers lack, each verdict is true."""
    for seed in range(SCHEDULES):
        assert broken_promises(Random(seed), tmp_path / "m") == [], f"seed {seed}"


def absent_is_missing(self: Any, item: Any, *, is_complete: bool) -> None:
    del is_complete
    self._report(item, Verdict.MISSING)


def cut_answers_are_whole(self: Any, item: Any, *, is_complete: bool) -> None:
    del is_complete
    _report_absent(self, item, is_complete=True)


def owners_never_change(self: Any, item: Any) -> bool:
    account = self._identity.account
    return account is not None and account.uuid == item.target.account


def anybody_is_the_maker(self: Any, item: Any) -> bool:
    return _is_maker(self, item._replace(target=item.target._replace(account=self._identity.account.uuid)))


def nothing_is_null(self: Any) -> None:
    self._unseen.clear()
    for ordinal, differences in sorted(self._drifts.items()):
        item = verifier.Item(ordinal, self._targets.read(ordinal), None)
        self._report(item, Verdict.DRIFTED, differences=differences)


MUTANTS: Final[dict[str, tuple[object, str, Callable[..., object]]]] = {
    "whatever is not seen is missing": (Verifier, "_report_absent", absent_is_missing),
    "an answer that was cut is complete": (Verifier, "_report_absent", cut_answers_are_whole),
    "what was given away is still the maker's": (Verifier, "_is_maker", owners_never_change),
    "whoever asks has made it": (Verifier, "_is_maker", anybody_is_the_maker),
    "a field that became null is not shown": (Verifier, "_resolve", nothing_is_null),
    "every field is as it was asked for": (verifier, "compare", lambda _params, _fields: Comparison()),
    "tags and owners are not compared": (Verifier, "_metadata_differences", lambda _self, _item, _answers: iter(())),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_each_planted_mistake_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the mistakes that would make a verdict untrue each one is found by the same schedules."""
    owner, attribute, mutant = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, mutant)
    assert any(broken_promises(Random(seed), tmp_path / "m") for seed in range(SCHEDULES)), name
