"""Derives a clone's images and GPU specs for other hardware from its source's, and measures the rules' coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from batch.jobfile.problems import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from batch.jobfile.job import Target
    from batch.jobfile.rearchitect import ImageRule, Rearchitect, VendorRule
    from batch.model import JsonValue, Pins, Place

IMAGES_FIELD = "modelServiceImages"
"""Field of a source's inventory."""
SPECS = "vendorToSpecUuidsMap"
"""The parameter, and the field of a source's inventory that it would copy."""


class UncoveredError(Exception):
    """The source's images or GPUs do not give what the clone needs; the message says which and why."""


class Images:
    """Applies the rules; ``used`` has those that ever matched."""

    def __init__(self, requested: Rearchitect) -> None:
        """Sort the rules of each architecture by the length of their prefix."""
        self.to = requested.to
        self.used: set[ImageRule] = set()
        self._rules: dict[str, dict[str, ImageRule]] = {name: {} for name in requested.to}
        for rule in requested.rules:
            self._rules[rule.architecture][rule.prefix] = rule
        self._lengths = {
            name: sorted({len(prefix) for prefix in rules}, reverse=True) for name, rules in self._rules.items()
        }

    def of(self, source: Mapping[str, JsonValue], architectures: tuple[str, ...]) -> list[JsonValue]:
        """Return the clone's ``architectureImages``, one for each architecture. Raises UncoveredError."""
        value = source.get(IMAGES_FIELD)
        if not isinstance(value, list):
            return [{"cpuArchitecture": name, "dockerImage": "assumed"} for name in architectures]
        images = [row for row in value if isinstance(row, dict)]
        if not images:
            raise UncoveredError("the source has no images to derive the clone's from: give it architectureImages")
        return [self._image(name, images) for name in architectures]

    def _image(self, architecture: str, images: list[dict[str, JsonValue]]) -> JsonValue:
        """Derive one image from all source images that a rule matches, or use the source's own for the architecture."""
        # zstack/README.md 4: answers write x86_64 where requests write X86_64.
        own = [row for row in images if str(row.get("cpuArchitecture", "")).upper() == architecture]
        derived = [self._derive(str(row.get("dockerImage") or ""), architecture) for row in own or images]
        made: list[JsonValue] = [image for image in derived if image is not None]
        if len(own) == 1 and not made:
            kept = {name: own[0][name] for name in ("vmImageUuid", "dockerImage") if own[0].get(name)}
            return {"cpuArchitecture": architecture, **kept}
        if len(made) < len(derived):
            name = next(
                str(row.get("dockerImage")) for row, image in zip(own or images, derived, strict=True) if not image
            )
            raise UncoveredError(f"no rule matches the source's image {quote(name)}, so {architecture} has no image")
        if any(image != made[0] for image in made):
            raise UncoveredError(f"the source's images give {len(made)} different ones for {architecture}")
        return made[0]

    def _derive(self, name: str, architecture: str) -> JsonValue:
        rules = self._rules.get(architecture, {})
        for length in self._lengths.get(architecture, ()):
            rule = rules.get(name[:length])
            if rule is not None:
                self.used.add(rule)
                image: dict[str, JsonValue] = {
                    "cpuArchitecture": architecture,
                    "dockerImage": rule.to + name[len(rule.prefix) :],
                }
                return image if rule.vm_image is None else image | {"vmImageUuid": rule.vm_image}
        return None


class Vendors:
    """Applies the rules for GPU vendors; ``used`` has those that ever matched."""

    def __init__(self, rules: tuple[VendorRule, ...]) -> None:
        """Sort the rules by the length of their prefix: the longest wins."""
        self.used: set[VendorRule] = set()
        self._rules = sorted(rules, key=lambda rule: len(rule.prefix), reverse=True)
        self._wanted = {rule.to.casefold(): rule.to for rule in rules}

    def of(self, source: Mapping[str, JsonValue]) -> dict[str, JsonValue] | None:
        """Return the clone's ``vendorToSpecUuidsMap``, None where the source has none. Raises UncoveredError."""
        value = source.get(SPECS)
        if isinstance(value, str | list) and value:
            raise UncoveredError(f"the source's {SPECS} is not a map")
        if not isinstance(value, dict) or not value:
            return None
        derived: dict[str, dict[str, None]] = {}
        for vendor, own in value.items():
            name, specs = self._derive(vendor, own)
            derived.setdefault(name, {}).update(dict.fromkeys(specs))
        return {name: list(specs) for name, specs in derived.items()}

    def _derive(self, vendor: str, own: JsonValue) -> tuple[str, tuple[str, ...]]:
        folded = vendor.casefold()
        for rule in self._rules:
            if folded.startswith(rule.prefix.casefold()):
                self.used.add(rule)
                return rule.to, rule.specs
        if folded in self._wanted and isinstance(own, list):
            return self._wanted[folded], tuple(map(str, own))
        raise UncoveredError(f"no rule matches the source's GPU vendor {quote(vendor)}")


class Coverage(NamedTuple):
    """Distinct sources that need something derived, and the rules that none of them needs."""

    to: str
    """The target architectures or vendors."""
    covered: int
    uncovered: tuple[str, ...]
    unused: tuple[tuple[Place, str], ...]
    """Place of each unused rule, and its description."""

    def lines(self) -> Iterator[str]:
        """Yield the report; the plan's problems describe the uncovered sources."""
        total = self.covered + len(self.uncovered)
        rest = f", {len(self.uncovered)} are not" if self.uncovered else ""
        yield f"rearchitect to {self.to}: {self.covered} of {total} sources are covered{rest}"
        for place, rule in self.unused:
            yield f"{place.file}:{place.line}:{place.column}: rearchitect: the rule for {rule} matches nothing"


def measure_coverage(requested: Rearchitect, pins: Pins, targets: Callable[[], Iterable[Target]]) -> Iterator[Coverage]:
    """Try the rules on every pinned source; ``targets`` yields the job's targets."""
    if requested.to:
        images = Images(requested)
        covered, uncovered = _count(targets(), pins, "architectureImages", lambda source: images.of(source, images.to))
        idle = [rule for rule in requested.rules if rule not in images.used]
        unused = tuple((rule.place, f"{rule.architecture} from {quote(rule.prefix)}") for rule in idle)
        yield Coverage(", ".join(requested.to), covered, uncovered, unused)
    if requested.vendors:
        vendors = Vendors(requested.vendors)
        covered, uncovered = _count(targets(), pins, SPECS, vendors.of)
        unwanted = [rule for rule in requested.vendors if rule not in vendors.used]
        unused = tuple((rule.place, f"the GPU vendor {quote(rule.prefix)}") for rule in unwanted)
        names = ", ".join(dict.fromkeys(rule.to for rule in requested.vendors))
        yield Coverage(f"GPUs of {names}", covered, uncovered, unused)


def _count(
    targets: Iterable[Target], pins: Pins, param: str, derive: Callable[[Mapping[str, JsonValue]], JsonValue]
) -> tuple[int, tuple[str, ...]]:
    """Derive ``param`` for every source of a target that does not set it; sources without a value do not count."""
    covered: set[str] = set()
    uncovered: dict[str, None] = {}
    for target in targets:
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
