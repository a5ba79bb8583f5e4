"""A clone's images and GPU specs for other hardware, derived from its source's own, and which rules that took."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.jobfile.problems import shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.jobfile.rearchitect import Rearchitect, Rule
    from batch.jobfile.vendors import VendorRule
    from batch.model import JsonValue

IMAGES_FIELD = "modelServiceImages"
"""Of a source's inventory."""
SPECS = "vendorToSpecUuidsMap"
"""The parameter, and the field of a source's inventory that it would copy."""


class UncoveredError(Exception):
    """What a source has does not give what the clone needs; the message says which image or vendor and why."""


class Images:
    """Applies the rules; ``used`` tells which of them ever matched."""

    def __init__(self, asked: Rearchitect) -> None:
        """Sort the rules of each architecture by the length of their prefix."""
        self.to = asked.to
        self.used: set[Rule] = set()
        self._rules: dict[str, dict[str, Rule]] = {name: {} for name in asked.to}
        for rule in asked.rules:
            self._rules[rule.architecture][rule.prefix] = rule
        self._lengths = {
            name: sorted({len(prefix) for prefix in rules}, reverse=True) for name, rules in self._rules.items()
        }

    def of(self, source: Mapping[str, JsonValue], architectures: tuple[str, ...]) -> list[JsonValue]:
        """Return the clone's ``architectureImages``, one for each architecture. Raises UncoveredError."""
        found = source.get(IMAGES_FIELD)
        if not isinstance(found, list):
            return [{"cpuArchitecture": name, "dockerImage": "assumed"} for name in architectures]
        images = [row for row in found if isinstance(row, dict)]
        if not images:
            raise UncoveredError("the source has no images to derive the clone's from: give it architectureImages")
        return [self._image(name, images) for name in architectures]

    def _image(self, architecture: str, images: list[dict[str, JsonValue]]) -> JsonValue:
        """Derive one image from all of the source's that a rule matches, or take the source's own for it."""
        # wire: answers write x86_64 where requests write X86_64.
        own = [row for row in images if str(row.get("cpuArchitecture", "")).upper() == architecture]
        derived = [self._derived(str(row.get("dockerImage") or ""), architecture) for row in own or images]
        made: list[JsonValue] = [image for image in derived if image is not None]
        if len(own) == 1 and not made:
            kept = {name: own[0][name] for name in ("vmImageUuid", "dockerImage") if own[0].get(name)}
            return {"cpuArchitecture": architecture, **kept}
        if len(made) < len(derived):
            name = next(
                str(row.get("dockerImage")) for row, image in zip(own or images, derived, strict=True) if not image
            )
            raise UncoveredError(f"no rule matches the source's image {shorten(name)}, so {architecture} has no image")
        if any(image != made[0] for image in made):
            raise UncoveredError(f"the source's images give {len(made)} different ones for {architecture}")
        return made[0]

    def _derived(self, name: str, architecture: str) -> JsonValue:
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
    """Applies the rules for GPU vendors; ``used`` tells which of them ever matched."""

    def __init__(self, rules: tuple[VendorRule, ...]) -> None:
        """Sort the rules by the length of their prefix: the longest wins."""
        self.used: set[VendorRule] = set()
        self._rules = sorted(rules, key=lambda rule: len(rule.prefix), reverse=True)
        self._wanted = {rule.to.casefold(): rule.to for rule in rules}

    def of(self, source: Mapping[str, JsonValue]) -> dict[str, JsonValue] | None:
        """Return the clone's ``vendorToSpecUuidsMap``, None where the source has none. Raises UncoveredError."""
        found = source.get(SPECS)
        if isinstance(found, str | list) and found:
            raise UncoveredError(f"the source's {SPECS} is no map")
        if not isinstance(found, dict) or not found:
            return None
        made: dict[str, dict[str, None]] = {}
        for vendor, own in found.items():
            name, specs = self._derived(vendor, own)
            made.setdefault(name, {}).update(dict.fromkeys(specs))
        return {name: list(specs) for name, specs in made.items()}

    def _derived(self, vendor: str, own: JsonValue) -> tuple[str, tuple[str, ...]]:
        folded = vendor.casefold()
        for rule in self._rules:
            if folded.startswith(rule.prefix.casefold()):
                self.used.add(rule)
                return rule.to, rule.specs
        if folded in self._wanted and isinstance(own, list):
            return self._wanted[folded], tuple(map(str, own))
        raise UncoveredError(f"no rule matches the source's GPU vendor {shorten(vendor)}")
