"""Makes the Clones of one Target: merge, render, check, identify, encode. Pure and deterministic."""

from __future__ import annotations

import json
from collections import ChainMap
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from batch.jobfile.check import check_tags, check_uuid, check_value, convert
from batch.jobfile.job import is_plain, union
from batch.jobfile.problems import Complaint, quote, wide_characters
from batch.model import Clone, HandOver
from batch.plan.identity import Identities, clone_digest, encode_body
from batch.plan.rearchitect import SPECS, Images, UncoveredError, Vendors
from batch.plan.render import MissingSourceError, RenderError, Scope, render, render_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from batch.jobfile import Job
    from batch.jobfile.job import Target
    from batch.jobfile.problems import Problems
    from batch.model import JsonValue, Problem

    SourceReader = Callable[[str], Mapping[str, JsonValue] | None]
    """Returns the inventory of a source uuid as the server shows it, None where the source does not exist."""

MAX_KEY: Final = 255


class CloneBuilder:
    """Makes the Clones of one run of one job."""

    def __init__(self, job: Job, run: str, names: Mapping[str, str], source: SourceReader) -> None:
        """Start with ``run`` as ``run_id`` returns it and ``names``, those for ``${…}`` that all targets have."""
        self._identities = Identities(job.name, run)
        self._names = names
        self._read_source = source
        requested = job.rearchitect
        self._images = Images(requested) if requested is not None and requested.to else None
        self._vendors = Vendors(requested.vendors) if requested is not None and requested.vendors else None

    def pairs(self, target: Target, report: Callable[[Problem], None]) -> Iterable[tuple[Target, Clone]]:
        """Return the target with its Clone, or one pair for each combination of its matrix.

        The values of a combination are columns of its target. A clone that has problems is reported instead.
        """
        if target.entry.combinations:
            return self._combinations(target, report)
        complaints: list[Complaint] = []
        clone = self._clone(target, "", complaints)
        return _report(target, complaints, report) if complaints else ((target, clone),)

    def _combinations(self, target: Target, report: Callable[[Problem], None]) -> Iterator[tuple[Target, Clone]]:
        for combination in target.entry.combinations:
            complaints: list[Complaint] = []
            combined = target._replace(columns={**combination.values, **target.columns})
            clone = self._clone(combined, combination.label, complaints)
            if complaints:
                _report(combined, complaints, report)
            else:
                yield combined, clone

    def _clone(self, target: Target, label: str, complaints: list[Complaint]) -> Clone:
        """Return the clone; ``label``: what the combination of a matrix adds to the key."""
        params, system_tags, user_tags = self._merge(target, complaints)
        source = target.uuid
        key = (target.id or source) + label
        if len(key) > MAX_KEY or not key.isprintable():
            complaints.append(Complaint("", f"its key must be at most {MAX_KEY} printable characters: {quote(key)}"))
        if "cpuArchitectures" in params and "architectureImages" in params and not complaints:
            _check_architectures(params, complaints)
        requested = target.layer.hand_over or target.entry.base.hand_over
        hand_over = None if requested is None else _render_hand_over(requested, self._scope(target), complaints)
        own_uuid = params.pop("resourceUuid", None)
        uuid = own_uuid if isinstance(own_uuid, str) else self._identities.of(key)
        body = encode_body({**params, "resourceUuid": uuid}, system_tags, user_tags)
        return Clone(key, source, uuid, body, clone_digest(source, body), params, hand_over, isinstance(own_uuid, str))

    def _merge(
        self, target: Target, complaints: list[Complaint]
    ) -> tuple[dict[str, JsonValue], tuple[str, ...], tuple[str, ...]]:
        layer, base = target.layer, target.entry.base
        params = {**base.params, **layer.params}
        if None in params.values():
            params = {name: value for name, value in params.items() if value is not None}
        system_tags: tuple[str, ...] = ()
        user_tags: tuple[str, ...] = ()
        if not (target.entry.is_plain and is_plain(layer)):
            system_tags = union(base.system_tags, layer.system_tags)
            user_tags = union(base.user_tags, layer.user_tags)
            scope = self._scope(target)
            self._render_params(params, scope, target, complaints)
            system_tags = _render_tags("systemTags", system_tags, scope, complaints)
            user_tags = _render_tags("userTags", user_tags, scope, complaints)
            if base.keep or layer.keep:
                self._keep(params, target, complaints)
        if self._images is not None and "architectureImages" not in params:
            self._rearchitect(self._images, params, target, complaints)
        if self._vendors is not None and SPECS not in params:
            self._respecify(self._vendors, params, target, complaints)
        return params, system_tags, user_tags

    def _scope(self, target: Target) -> Scope:
        names: Any = ChainMap(target.columns, self._names) if target.columns else self._names  # type: ignore[arg-type]
        return Scope(names, target.uuid, self._source)

    def _source(self, uuid: str) -> Mapping[str, JsonValue]:
        fields = self._read_source(uuid)
        if fields is None:
            raise MissingSourceError(f"the source {uuid} does not exist on the server")
        return fields

    def _render_params(
        self, params: dict[str, JsonValue], scope: Scope, target: Target, complaints: list[Complaint]
    ) -> None:
        for name in {*target.entry.base.templates, *target.layer.templates}:
            value = params.get(name)
            if value is None or (name not in target.layer.templates and name in target.layer.params):
                continue
            try:
                filled = render_tree(value, scope)
            except RenderError as error:
                _complain(f"params.{name}", error, complaints)
                continue
            params[name] = convert(name, filled) if isinstance(filled, str) else filled
            check_value(name, params[name], complaints)

    def _keep(self, params: dict[str, JsonValue], target: Target, complaints: list[Complaint]) -> None:
        for name in union(target.entry.base.keep, target.layer.keep):
            if name in params:
                continue
            try:
                value = self._source(target.uuid).get(name)
            except RenderError as error:
                _complain("keep", error, complaints)
                continue
            if value is not None:
                params[name] = value
                check_value(name, value, complaints)

    def _rearchitect(
        self, images: Images, params: dict[str, JsonValue], target: Target, complaints: list[Complaint]
    ) -> None:
        given = params.get("cpuArchitectures")
        architectures = tuple(map(str, given)) if isinstance(given, list) else images.to
        try:
            rows = images.of(self._source(target.uuid), architectures)
        except RenderError as error:
            _complain("", error, complaints)
            return
        except UncoveredError as error:
            complaints.append(Complaint("", f"rearchitect: {error}"))
            return
        params["cpuArchitectures"] = list(architectures)
        params["architectureImages"] = rows
        check_value("architectureImages", rows, complaints)

    def _respecify(
        self, vendors: Vendors, params: dict[str, JsonValue], target: Target, complaints: list[Complaint]
    ) -> None:
        try:
            specs = vendors.of(self._source(target.uuid))
        except RenderError as error:
            _complain("", error, complaints)
            return
        except UncoveredError as error:
            complaints.append(Complaint("", f"rearchitect: {error}"))
            return
        if specs is not None:
            params[SPECS] = specs
            check_value(SPECS, specs, complaints)


def _complain(path: str, error: RenderError, complaints: list[Complaint]) -> None:
    """Complain of a missing source once for the target, of other errors at ``path``."""
    if isinstance(error, MissingSourceError):
        complaints.append(Complaint("", str(error), kind=str(error)))
    else:
        complaints.append(Complaint(path, str(error)))


def _report(target: Target, complaints: list[Complaint], report: Callable[[Problem], None]) -> tuple[()]:
    for complaint in complaints:
        report(target.problem(complaint))
    return ()


def _render_tags(path: str, tags: tuple[str, ...], scope: Scope, complaints: list[Complaint]) -> tuple[str, ...]:
    if not any("$" in tag for tag in tags):
        return tags
    try:
        rendered = [render(tag, scope) for tag in tags]
    except RenderError as error:
        _complain(path, error, complaints)
        return ()
    check_tags(path, list(rendered), complaints)
    return union(rendered, ())


def _render_hand_over(requested: HandOver, scope: Scope, complaints: list[Complaint]) -> HandOver | None:
    """Render the hand-over; None where it requests nothing.

    A text of ``share_with`` may render to several uuids separated by ``;``, or to none, as a cell of a CSV file does.
    """
    owner = None if requested.owner is None else _render_text("owner", requested.owner, scope, complaints)
    if owner is not None:
        check_uuid("owner", owner, complaints)
    uuids: dict[str, None] = {}
    for index, text in enumerate(requested.share_with):
        path = f"share_with[{index}]"
        for uuid in filter(None, map(str.strip, (_render_text(path, text, scope, complaints) or "").split(";"))):
            check_uuid(path, uuid, complaints)
            uuids[uuid] = None
    return HandOver(owner, tuple(uuids)) if owner is not None or uuids else None


def _render_text(path: str, text: str, scope: Scope, complaints: list[Complaint]) -> str | None:
    try:
        return render(text, scope)
    except RenderError as error:
        _complain(path, error, complaints)
        return None


def _check_architectures(params: dict[str, JsonValue], complaints: list[Complaint]) -> None:
    requested, images = params["cpuArchitectures"], params["architectureImages"]
    assert isinstance(requested, list)
    assert isinstance(images, list)
    named = [row["cpuArchitecture"] for row in images if isinstance(row, dict)]
    for architecture in requested:
        if architecture not in named:
            message = f"{architecture} of cpuArchitectures has no image, needs one"
            complaints.append(Complaint("params.architectureImages", message))
    for index, architecture in enumerate(named):
        if architecture not in requested:
            path = f"params.architectureImages[{index}].cpuArchitecture"
            complaints.append(Complaint(path, f"{architecture} is not among cpuArchitectures"))


def warn_of_wide(target: Target, clone: Clone, problems: Problems) -> None:
    """Warn once of each place whose characters many servers' databases refuse."""
    body = json.loads(clone.body)
    for name in ("params", "systemTags", "userTags"):
        for complaint in wide_characters(name, body.get(name)):
            problem = target.problem(complaint)
            if not any(wide_characters("", dict(target.columns))):
                # A text that is the same in every row is warned of once, without naming a row.
                problem = replace(problem, message=complaint.message)
            problems.warn(problem)
