"""How far the rules of ``rearchitect:`` reach: sources they cover, sources they do not, rules that match nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from batch.jobfile.problems import Problems, shorten
from batch.jobfile.targets import read_targets
from batch.plan.rearchitect import SPECS, Images, UncoveredError, Vendors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batch.jobfile import Job
    from batch.jobfile.rearchitect import Rearchitect
    from batch.model import JsonValue, Pins, Place


class Coverage(NamedTuple):
    """Distinct sources that need something derived, and the rules none of them needs."""

    to: str
    """What they are derived for."""
    covered: int
    uncovered: tuple[str, ...]
    unused: tuple[tuple[Place, str], ...]
    """Where each idle rule stands, and what it is for."""

    def lines(self) -> Iterator[str]:
        """Yield the report; the uncovered are spelt out by the plan's problems."""
        total = self.covered + len(self.uncovered)
        rest = f", {len(self.uncovered)} are not" if self.uncovered else ""
        yield f"rearchitect to {self.to}: {self.covered} of {total} sources are covered{rest}"
        for place, rule in self.unused:
            yield f"{place.file}:{place.line}:{place.column}: rearchitect: the rule for {rule} matches nothing"


def coverage(job: Job, asked: Rearchitect, *, pins: Pins) -> Iterator[Coverage]:
    """Try the rules on every source; ``job`` is ``pinned``. Sources that do not exist are left to the plan."""
    if asked.to:
        images = Images(asked)
        covered, uncovered = _tried(job, pins, "architectureImages", lambda source: images.of(source, images.to))
        idle = [rule for rule in asked.rules if rule not in images.used]
        unused = tuple((rule.place, f"{rule.architecture} from {shorten(rule.prefix)}") for rule in idle)
        yield Coverage(", ".join(asked.to), covered, uncovered, unused)
    if asked.vendors:
        vendors = Vendors(asked.vendors)
        covered, uncovered = _tried(job, pins, SPECS, vendors.of)
        unwanted = [rule for rule in asked.vendors if rule not in vendors.used]
        unused = tuple((rule.place, f"the GPU vendor {shorten(rule.prefix)}") for rule in unwanted)
        names = ", ".join(dict.fromkeys(rule.to for rule in asked.vendors))
        yield Coverage(f"GPUs of {names}", covered, uncovered, unused)


def _tried(
    job: Job, pins: Pins, param: str, derive: Callable[[Mapping[str, JsonValue]], JsonValue]
) -> tuple[int, tuple[str, ...]]:
    """Derive ``param`` for every source of a target that does not give it; those that have nothing do not count."""
    covered: set[str] = set()
    uncovered: dict[str, None] = {}
    for target in read_targets(job, Problems()):
        params = {**target.entry.base.params, **target.layer.params}
        source = pins.sources.get(target.uuid)
        if source is None or params.get(param) is not None:
            continue
        try:
            if derive(source) is not None:
                covered.add(target.uuid)
        except UncoveredError:
            uncovered[target.uuid] = None
    return len(covered), tuple(uncovered)
