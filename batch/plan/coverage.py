"""How far the rules of ``rearchitect:`` reach: sources they cover, sources they do not, rules that match nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from batch.jobfile.problems import Problems, shorten
from batch.jobfile.targets import read_targets
from batch.plan.rearchitect import Images, UncoveredError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.jobfile import Job
    from batch.jobfile.rearchitect import Rearchitect, Rule
    from batch.model import Pins


class Coverage(NamedTuple):
    """Distinct sources that need derived images, and the rules none of them needs."""

    covered: int
    uncovered: tuple[str, ...]
    unused: tuple[Rule, ...]

    def lines(self, asked: Rearchitect) -> Iterator[str]:
        """Yield the report; the uncovered are spelt out by the plan's problems."""
        total = self.covered + len(self.uncovered)
        rest = f", {len(self.uncovered)} are not" if self.uncovered else ""
        yield f"rearchitect to {', '.join(asked.to)}: {self.covered} of {total} sources are covered{rest}"
        for rule in self.unused:
            where = f"{rule.place.file}:{rule.place.line}:{rule.place.column}"
            yield f"{where}: rearchitect: the rule for {rule.architecture} from {shorten(rule.prefix)} matches nothing"


def coverage(job: Job, asked: Rearchitect, *, pins: Pins) -> Coverage:
    """Try the rules on every source; ``job`` is ``pinned``. Sources that do not exist are left to the plan."""
    images = Images(asked)
    covered: set[str] = set()
    uncovered: dict[str, None] = {}
    for target in read_targets(job, Problems()):
        params = {**target.entry.base.params, **target.layer.params}
        source = pins.sources.get(target.uuid)
        if source is None or params.get("architectureImages") is not None:
            continue
        try:
            images.of(source, images.to)
        except UncoveredError:
            uncovered[target.uuid] = None
        else:
            covered.add(target.uuid)
    unused = tuple(rule for rule in asked.rules if rule not in images.used)
    return Coverage(len(covered), tuple(uncovered), unused)
