"""Failed requires an unknown job to be older than the longest time the server stated for any job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.scripted_node import (
    A,
    ApiJob,
    B,
    Operator,
    ScriptedNode,
    accepted,
    queue,
    turn_away,
    with_clock_set,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.scripted_node import Act

LATER = 7200.0
TEN_HOURS = 36_000.0


def lose_row_of(seconds: float) -> Act:
    """202 with an apiTimeout; the work continues without a row."""

    def act(_: ScriptedNode, job: ApiJob) -> bytes:
        job.is_known = False
        return accepted(job, seconds)

    return act


@pytest.mark.parametrize(
    "acts",
    [
        pytest.param([lose_row_of(8 * 86_400.0)], id="eight days"),
        pytest.param(
            [lose_row_of(TEN_HOURS), queue],
            id="ten hours, then an attempt without an answer",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [lose_row_of(TEN_HOURS), turn_away(400, "a gateway does not like it")],
            id="ten hours, then a refused attempt",
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.both_engines
async def test_a_stated_api_timeout_is_waited_for(
    acts: list[Act], node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """Two hours after a POST that the server may work on for longer nothing is failed; then its clone appears."""
    node.acts[A] = acts
    operator.write_job(B, A, limits=f"attempts: {len(acts)}")
    assert await operator.run() == 4, operator.output
    later = with_clock_set(LATER, tmp_path / "flag")
    await operator.run(env=later)
    assert operator.states()[A] == "uncertain", operator.output
    node.execute(node.posts(A)[0])
    assert await operator.run(env=later) == 0, operator.output


async def test_one_jobs_api_timeout_applies_to_jobs_without_an_answer(
    node: ScriptedNode, operator: Operator, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """With an apiTimeout of ten hours recorded for another target, nothing is failed two hours after a lost POST."""

    def take_long(served: ScriptedNode, job: ApiJob) -> bytes:
        served.execute(job)
        return accepted(job, TEN_HOURS)

    node.acts = {A: [queue], B: [take_long]}
    operator.write_job(B, A, limits="attempts: 1")
    assert await operator.run() == 4, operator.output
    await operator.run(env=with_clock_set(LATER, tmp_path / "flag"))
    assert operator.states()[A] == "uncertain", operator.output
