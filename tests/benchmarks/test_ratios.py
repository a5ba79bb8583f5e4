"""The benchmarks at small sizes, against bounds that hold on a busy machine: ``pytest -n 0 -m bench tests/benchmarks``.

The goals themselves need the tables and a quiet machine; these tests detect a slowdown by a factor.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import pytest

from tests.benchmarks import journal, lossy, polled, polls, processor, rate, report, resume, stalls, startup, throughput
from tests.benchmarks.plan import costs, write_list, write_rows
from tests.benchmarks.stage.manifests import write_finished
from tests.benchmarks.stage.processes import settings, spend, zclone
from tests.benchmarks.stage.rounds import interleaved, middle, ratio, share
from tests.crash.stage import write_job

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]
ROUNDS = 3
TARGETS = 4_000


@pytest.mark.parametrize("extras", [True, False])
def test_zclone_keeps_up_with_a_bare_loop(*, extras: bool) -> None:
    """Journal, log and rate cost at most twice the calls themselves: a third of a bare loop's speed at the least."""
    loop = partial(throughput.loop, "tuned")
    contenders = {
        "bare": partial(throughput.measure, loop, TARGETS, extras=extras),
        "zclone": partial(throughput.measure, throughput.ours, TARGETS, extras=extras),
    }
    found = interleaved(contenders, ROUNDS)
    assert ratio(found["zclone"], found["bare"], lambda one: one.rate) > 1 / 3


def test_polling_adds_only_the_cost_of_the_polls() -> None:
    """With api jobs zclone makes the calls of a bare loop with the same polls, at a third of its speed at least."""
    contenders = {
        "bare": partial(polled.measure, partial(throughput.loop, "tuned", workers=polled.WORKERS), TARGETS),
        "zclone": partial(polled.measure, throughput.ours, TARGETS),
    }
    found = interleaved(contenders, ROUNDS)
    assert ratio(found["zclone"], found["bare"], polled.rate) > 1 / 3


def test_a_run_at_the_servers_limit_leaves_the_core_to_others() -> None:
    """At 200 calls a second a run takes at most twice the processor time of a script without journal and log."""
    ours, _, script = (contender() for contender in processor.contenders(200).values())
    assert ours.core < 2 * script.core


@pytest.mark.parametrize(("set_rate", "waiters"), [(7.5, 1), (10, 8), (40, 64), (200, 512)])
def test_the_rate_is_reached_and_never_exceeded(set_rate: float, waiters: int) -> None:
    """The gate reaches at least 0.97 of the set rate, and exceeds it in no second by more than one call."""
    kept = rate.measure(set_rate, waiters, 3.0)
    assert kept.mean > 0.97
    assert kept.worst <= int(set_rate) + 1


def test_records_share_their_commits() -> None:
    """With 64 in flight the journal records at least three times as much as one after the other."""
    found = interleaved({"many": partial(journal.journal, 64, 4000), "one": partial(journal.journal, 1, 500)}, ROUNDS)
    assert ratio(found["many"], found["one"], lambda one: one.rate) > 3


def test_resuming_takes_no_memory_per_target() -> None:
    """A finished manifest of 50,000 targets is resumed within 16 MiB more than one of 5,000."""
    peaks = []
    for targets in (5_000, 50_000):
        with tempfile.TemporaryDirectory() as name:
            write_finished(Path(name), targets)
            peaks.append(resume.commands(Path(name))["run"]().peak_mib)
    assert peaks[1] - peaks[0] < 16


def test_a_list_costs_at_most_four_times_the_lines() -> None:
    """A target of a YAML list is planned in at most four times the time of a JSON line, without more memory."""
    lines, listed = costs(write_rows, 20_000), costs(write_list, 20_000)
    assert listed.planned < 4 * lines.planned
    assert listed.peak_mib < lines.peak_mib + 32


def test_help_imports_little(tmp_path: Path) -> None:
    """``zclone --help`` takes at most 40 times the processor time of an interpreter alone."""
    write_job(tmp_path, 1)
    commands = {name: startup.commands(tmp_path, tmp_path)[name] for name in ("python -c pass", "--help")}
    found = interleaved(commands, ROUNDS)
    assert ratio(found["--help"], found["python -c pass"], lambda one: one.processor) < 40


@pytest.mark.parametrize("ending", report.ENDINGS)
def test_reports_grow_with_their_rows_only(ending: str, tmp_path: Path) -> None:
    """Ten times the targets make a report of at most eleven times the size and 400 bytes a row."""
    sizes = []
    for targets in (500, 5_000):
        folder = tmp_path / str(targets)
        folder.mkdir()
        write_finished(folder, targets, failing=True)
        spend(zclone("report", "manifest.jsonl", "--out", f"report.{ending}"), cwd=folder, env=settings(folder))
        sizes.append((folder / f"report.{ending}").stat().st_size)
    assert sizes[1] < min(11 * sizes[0], 400 * 5_000)


def test_an_api_job_is_polled_a_few_times_and_not_late() -> None:
    """Jobs of a second are polled at most three times, and most ends are noticed within half of their length."""
    seen = polls.measure(1_000)
    assert seen.polls <= 3 * seen.posts
    assert share(seen.late, 0.5) < 0.5


def test_the_loop_never_stalls_for_long() -> None:
    """In a run of 20,000 targets nothing blocks the event loop for a quarter of a second."""
    found = interleaved({"run": partial(stalls.measure, 20_000)}, ROUNDS)["run"]
    assert middle(found, lambda stalled: max(one.processor for one in stalled)) < 0.25


def test_lost_answers_cause_no_duplicate_and_no_gap() -> None:
    """Of 300 clones with 2 % lost answers and 3 % failing jobs each is made once, with and without web hooks."""
    for name, run in lossy.contenders(300).items():
        if name.startswith("zclone"):
            found = run()
            assert (found.duplicates, found.holes, found.exit_code) == (0, 0, 0)
