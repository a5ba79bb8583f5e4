"""Loads a Job from a path: the envelope is checked completely, the targets stay in the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from batch.errors import JobFileError
from batch.jobfile.envelope import (
    AuthModel,
    EndpointModel,
    EnvelopeModel,
    LimitsModel,
    SecretModel,
)
from batch.jobfile.events import STREAMED, walk
from batch.jobfile.input_files import read_content
from batch.jobfile.job import LAYER_KEYS, AuthSettings, EndpointSettings, Job, Layer, SecretRef, Target, read_layer
from batch.jobfile.problems import Complaint, NodeOrigin, Problems, complain_of_unknown, quote, unknown
from batch.jobfile.targets import LONG_LIST, TargetList
from batch.jobfile.values import ListNode, MapNode, Scalar, YamlNode, text_tree
from batch.model import Limits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batch.jobfile.input_files import Content
    from batch.jobfile.rearchitect import Rearchitect
    from batch.model import JsonValue

TOP_LEVEL: Final = (*EnvelopeModel.model_fields, "defaults", STREAMED, "rearchitect")

_PLACEHOLDERS: Final = {"version": "1", "name": "job"}
"""Replacements for these where they are missing or wrong, to check the rest."""
_MODELS: Final = {
    "": TOP_LEVEL,
    "endpoint": tuple(EndpointModel.model_fields),
    "endpoint.auth": tuple(AuthModel.model_fields),
    "limits": tuple(LimitsModel.model_fields),
}


def load(path: Path, *, check: Callable[[Job, Problems], None] | None = None) -> Job:
    """Read the envelope of a job file. Raises JobFileError with all its problems, then with those of its targets too.

    ``check``: adds the problems of the targets of a job that has others; None: those that need no rendering are added.
    """
    content = read_content(path)
    problems = Problems()
    origin = NodeOrigin(str(path), MapNode(_envelope_pairs(content, str(path), problems), 1, 1, 0, 0), "")
    model = _validate(origin, problems)
    targets = TargetList(path, content, *_defaults(origin, problems))
    before = len(problems)
    rearchitect = _rearchitect(origin, path, problems)
    job = None if model is None else _job(path, origin, model, targets, None if len(problems) > before else rearchitect)
    if len(problems):
        if check is None or job is None:
            _add_target_problems(targets, problems)
        else:
            check(job, problems)
        problems.raise_any()
    assert job is not None
    return job


def _job(
    path: Path, origin: NodeOrigin, model: EnvelopeModel, targets: TargetList, rearchitect: Rearchitect | None
) -> Job:
    return Job(
        path=path,
        name=model.name,
        run=model.run,
        run_place=origin.problem(Complaint("run", "")).place,
        limits=Limits(**dict(model.limits)),
        is_rate_set="rate" in model.limits.model_fields_set,
        endpoint=_read_endpoint(model.endpoint, path.parent) if model.endpoint else None,
        vars=model.vars,
        rearchitect=rearchitect,
        resume_within=model.resume_within,
        timezone=model.timezone,
        tag=model.tag,
        targets=targets,
    )


def _envelope_pairs(content: Content, file: str, problems: Problems) -> list[tuple[Scalar, YamlNode]]:
    pairs: list[tuple[Scalar, YamlNode]] = []
    for key, node in walk(content, file, problems):
        if key.text != STREAMED:
            pairs.append((key, node))
            continue
        if pairs and pairs[-1][0] is key:
            # The second pair of the streamed list is its first element: the list is not empty.
            pairs[-1] = (key, ListNode([node], node.line, node.column, 1, 1))
            if content.ends_with_targets:
                break
        elif not any(known is key for known, _ in pairs):
            pairs.append((key, node))
    return pairs


def _validate(origin: NodeOrigin, problems: Problems) -> EnvelopeModel | None:
    """Return the envelope without the parts that have problems; None where the targets cannot be checked then."""
    tree = _without_nulls(text_tree(origin.node))
    assert isinstance(tree, dict)
    for name in ("defaults", "rearchitect", STREAMED):
        tree.pop(name, None)
    _check_targets(origin, problems)
    try:
        return EnvelopeModel.model_validate(tree)
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems.place(details, lambda detail: origin.problem(_to_complaint(dict(detail))))
    faulty = {detail["loc"][0] for detail in details}
    if "vars" in faulty:
        # Its names have no values, so no target can be rendered.
        return None
    return EnvelopeModel.model_validate({**_PLACEHOLDERS, **{name: tree[name] for name in tree if name not in faulty}})


def _without_nulls(value: JsonValue) -> JsonValue:
    """Remove keys without a value, so that a section whose lines are all comments counts as absent."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return value


def _check_targets(origin: NodeOrigin, problems: Problems) -> None:
    assert isinstance(origin.node, MapNode)
    node = next((value for key, value in origin.node.pairs if key.text == STREAMED), None)
    if node is None:
        problems.add(origin.problem(Complaint(STREAMED, "is required: the list of what to clone")))
    elif not isinstance(node, ListNode):
        problems.add(origin.problem(Complaint(STREAMED, "must be a list", at_key=True)))
    elif not node.items:
        problems.add(origin.problem(Complaint(STREAMED, "is empty: nothing to clone", at_key=True)))


def _to_complaint(detail: dict[str, Any]) -> Complaint:
    steps = [str(step) for step in detail["loc"] if step != "[key]"]
    path, parent, kind = ".".join(steps), ".".join(steps[:-1]), detail["type"]
    if kind == "extra_forbidden":
        message = unknown(steps[-1], _MODELS.get(parent, ("env", "file")))
        return Complaint(path, message, at_key=True)
    if path.startswith("endpoint.auth") and kind in {"model_type", "dataclass_type"}:
        return Complaint(path, "never a secret in this file: write {env: NAME} or {file: PATH}")
    if path.startswith("endpoint.auth") and kind == "string_pattern_mismatch":
        # The value is not repeated: it may be the secret itself.
        return Complaint(path, "must be the name of an environment variable")
    return Complaint(path, _message(kind, detail))


def _message(kind: str, detail: dict[str, Any]) -> str:
    context = detail.get("ctx", {})
    messages = {
        "missing": "is required",
        "model_type": "must be a map",
        "dict_type": "must be a map",
        "string_type": "must be text, not a list or map",
        "string_too_short": "must not be empty",
        "greater_than_equal": f"must be at least {context.get('ge')}",
        "less_than_equal": f"must be at most {context.get('le')}",
        "literal_error": f"this zclone reads version 1, not {quote(detail['input'])}",
        "string_pattern_mismatch": f"must be letters, digits, . _ or -, not {quote(detail['input'])}",
    }
    return messages.get(kind) or str(detail["msg"]).removeprefix("Value error, ")


def _rearchitect(origin: NodeOrigin, path: Path, problems: Problems) -> Rearchitect | None:
    assert isinstance(origin.node, MapNode)
    node = next((value for key, value in origin.node.pairs if key.text == "rearchitect"), None)
    if node is None or (isinstance(node, Scalar) and node.is_null):
        return None
    from batch.jobfile.rearchitect import read_rearchitect  # noqa: PLC0415 - few job files have it

    return read_rearchitect(NodeOrigin(origin.file, node, "rearchitect"), path.parent, problems)


def _defaults(origin: NodeOrigin, problems: Problems) -> tuple[Layer, NodeOrigin | None]:
    assert isinstance(origin.node, MapNode)
    node = next((value for key, value in origin.node.pairs if key.text == "defaults"), None)
    if node is None or (isinstance(node, Scalar) and node.is_null):
        return Layer(), None
    own = NodeOrigin(origin.file, node, "defaults")
    complaints: list[Complaint] = []
    layer = Layer()
    if isinstance(node, MapNode):
        layer = read_layer(node, complaints)
        complain_of_unknown((key.text for key, _ in node.pairs), LAYER_KEYS, complaints)
    else:
        complaints.append(Complaint("", f"must be a map of {', '.join(LAYER_KEYS)}"))
    problems.place(complaints, own.problem)
    return layer, own


def _read_endpoint(model: EndpointModel, folder: Path) -> EndpointSettings:
    auth = (
        None
        if model.auth is None
        else AuthSettings(
            session=_secret(model.auth.session, folder),
            account=model.auth.account,
            password=_secret(model.auth.password, folder),
            access_key_id=model.auth.access_key_id,
            access_key_secret=_secret(model.auth.access_key_secret, folder),
        )
    )
    return EndpointSettings(model.url, folder / model.ca_file if model.ca_file else None, model.insecure, auth, folder)


def _secret(model: SecretModel | None, folder: Path) -> SecretRef | None:
    return None if model is None else SecretRef(model.env, folder / model.file if model.file else None)


def _add_target_problems(targets: TargetList, problems: Problems) -> None:
    first: dict[str, Target] = {}
    try:
        for target in targets.read(problems):
            if isinstance(target, Target):
                _find_repeat(target, first, problems)
    except JobFileError as error:
        problems.extend(error.problems)


def _find_repeat(target: Target, first: dict[str, Target], problems: Problems) -> None:
    """Report two targets with one key; checks that need more memory or rendering are left to the plan."""
    key = target.id or target.uuid
    if target.entry.combinations or "$" in key:
        return
    if key in first:
        problems.add(target.repeat_problem("key", key, first[key]))
    elif len(first) < LONG_LIST:
        first[key] = target
