"""Memory does not grow with the number of targets."""

from __future__ import annotations

import pytest

from tests.benchmarks.targets import measure


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_three_hundred_thousand_targets_stay_below_250_mib() -> None:
    """A run of 300,000 JSONL targets stays below 250 MiB, and within 40 MiB of one of 10,000."""
    small, large = measure(10_000), measure(300_000)
    assert large.peak_mib < 250
    assert large.peak_mib - small.peak_mib < 40
