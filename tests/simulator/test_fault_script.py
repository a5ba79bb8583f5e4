"""Fault scripts and presets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batch.simulator import __main__ as child
from batch.simulator.faults import Fault, FaultKind, FaultRule
from batch.simulator.options import FLAKY, PRESETS, NodeOptions
from batch.simulator.script import ScriptError, load_faults, read_script
from batch.simulator.wire import Drop
from tests.simulator.simulator_bench import CLONE, SOURCE, Bench, job

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = f"""
version: 1
preset: calm
seed: 7
node:
  version: 5.3.46
  latency: [0.1, 0.2]
  locale: en_US
accounts: [{{uuid: {"a" * 32}, name: tenant, password: x, quota: 3, denied: [DeleteModelService]}}]
access_keys: [{{id: k, secret: s}}]
sources: [{{uuid: {SOURCE}, name: qwen, to_public: false, fields: {{requestCpu: 8}}}}]
faults:
  - fault: lost_reply
    requests: [2, 3]
    times: 1
  - {{fault: fail_created, source: {SOURCE}, code: SYS.1001, cause: SYS.1015}}
  - {{fault: proxy, on: poll, probability: 0.5, status: 504, executed: false}}
"""


def test_a_script_configures_everything() -> None:
    """Node switches, accounts, keys, sources and rules are read as the module describes."""
    options = read_script(SCRIPT, name="story.yaml")
    assert (options.seed, options.release, options.latency, options.locale) == (7, (5, 3, 46), (0.1, 0.2), "en_US")
    assert (options.accounts[0].quota, options.accounts[0].denied) == (3, frozenset({"DeleteModelService"}))
    assert options.access_keys[0].secret == "s"
    assert options.sources[0].fields == {"requestCpu": 8}
    assert options.faults == (
        FaultRule(Fault(FaultKind.LOST_REPLY), requests=frozenset({2, 3}), times=1),
        FaultRule(Fault(FaultKind.FAIL_CREATED, code="SYS.1001", cause="SYS.1015"), source=SOURCE),
        FaultRule(Fault(FaultKind.PROXY, status=504, executed=False), on="poll", probability=0.5),
    )


def test_rules_match_by_number_and_source() -> None:
    """The first rule that matches wins, and a rule with times is removed when used up."""
    bench = Bench(read_script(SCRIPT, name="s"), accounts=())
    other = "e" * 32
    first = bench.post({"resourceUuid": CLONE}, job=job(1))
    assert not isinstance(first, Drop)
    assert bench.post(source=other, job=job(2)) == Drop()
    assert not isinstance(bench.post(source=other, job=job(3)), Drop)
    assert bench.node.ledger.faults == {"lost_reply": 1, "fail_created": 1}


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("version: 2", "s:1:10: version: expected version: 1"),
        ("- x", "s:1:1: script: expected a mapping"),
        ("version: 1\nnod: {}", "s:2:6: nod: unknown; expected one of version, preset"),
        ("version: 1\npreset: wild", "s:2:9: preset: expected one of calm, flaky, chaos, not 'wild'"),
        ("version: 1\nnode: {latency: 3}", "s:2:17: node.latency: expected a list"),
        ("version: 1\nnode: {latency: [1, 2, 3]}", "s:2:17: node.latency: expected 2 values"),
        ("version: 1\nnode: {version: 5.3}", "s:2:17: node.version: expected text; put 5.3 in quotes"),
        ("version: 1\nnode: {locale: de}", "node.locale: expected one of zh_CN, en_US, not 'de'"),
        ("version: 1\nnode: {workers: true}", "s:2:17: node.workers: expected int, not True"),
        ("version: 1\nnode: {seed: 1}", "node.seed: unknown"),
        ("version: 1\nfaults: {}", "s:2:9: faults: expected a list"),
        ("version: 1\nfaults:\n  - {fault: explode}", "s:3:13: faults.0.fault: expected one of drop, lost_reply"),
        ("version: 1\nfaults:\n  - {}", "faults.0.fault: expected one of"),
        ("version: 1\nfaults:\n  - {fault: drop, often: 1}", "s:3:26: faults.0.often: unknown"),
        ("version: 1\nfaults:\n  - {fault: drop, requests: [x]}", "faults.0.requests: expected int, not 'x'"),
        ("version: 1\nfaults:\n  - {fault: drop, probability: 2}", "expected a number from 0 to 1, not 2.0"),
        ("version: 1\nfaults:\n  - {fault: orphan, on: poll}", "s:3:25: faults.0.on: orphan is a fault of api jobs"),
        ("version: 1\nsources: [{name: x}]", "s:2:11: sources.0: uuid missing"),
        ("version: [", "s: not YAML: "),
        ("version: !!python/name:os.system x", "s: not YAML: "),
        ("[" * 3000, "s: not YAML: "),
    ],
)
def test_errors_are_reported_with_their_place(script: str, message: str) -> None:
    """file:line:column: path: what is expected."""
    with pytest.raises(ScriptError) as caught:
        read_script(script, name="s")
    assert message in str(caught.value)


def test_a_name_is_a_preset_or_a_file(tmp_path: Path) -> None:
    """load_faults takes both, and the caller's seed wins."""
    file = tmp_path / "story.yaml"
    file.write_text(SCRIPT)
    assert load_faults("flaky") == FLAKY
    assert load_faults("flaky", seed=9).seed == 9
    assert load_faults(str(file)).seed == 7
    with pytest.raises(ScriptError, match="neither a preset"):
        load_faults(str(tmp_path / "missing.yaml"))


def test_the_node_of_a_rehearsal_is_that_of_its_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded node of a run has every switch of the fault file, also its seed."""
    served: list[NodeOptions] = []

    async def run_forever(options: NodeOptions, **_: object) -> None:
        served.append(options)

    monkeypatch.setattr(child, "run_forever", run_forever)
    (tmp_path / "story.yaml").write_text(SCRIPT, encoding="utf-8")
    assert child.main(str(tmp_path / "story.yaml"), str(tmp_path / "state")) == 0
    assert served == [load_faults(str(tmp_path / "story.yaml"))]
    assert served[0].seed == 7


@pytest.mark.parametrize("name", ["flaky", "chaos"])
def test_presets_keep_their_probabilities_below_one(name: str) -> None:
    """Faults of one kind of call exclude each other, so their chances add up."""
    rules = PRESETS[name].faults
    for call in {rule.on for rule in rules}:
        assert sum(rule.probability or 0 for rule in rules if rule.on in {call, "any"}) < 0.6


def test_flaky_is_ambiguous_for_a_tenth_of_the_posts() -> None:
    """It also fails about three in a hundred temporarily, executing nothing."""
    rules = [rule for rule in FLAKY.faults if rule.on == "submit"]
    failing = sum(rule.probability or 0 for rule in rules if rule.fault.kind is FaultKind.FAIL)
    assert failing == pytest.approx(0.03)
    assert 0.09 < sum(rule.probability or 0 for rule in rules) - failing < 0.13
