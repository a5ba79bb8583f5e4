"""``timezone:``: the date and time of day that name a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from batch.errors import JobFileError
from batch.jobfile import load
from batch.plan import run_id

if TYPE_CHECKING:
    from pathlib import Path


def job_file(folder: Path, zone: str) -> Path:
    path = folder / "job.yaml"
    head = "version: 1\nname: j\nrun: ${date}-${time}\n"
    path.write_text(f"{head}{zone}\ntargets: [d76744cb53f9378abf42b907df3efb6e]\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("zone", "at", "name"),
    [
        ("", "2026-11-23T16:30:00", "2026-11-23-163000"),
        ("timezone: UTC", "2026-11-23T16:30:00", "2026-11-23-163000"),
        ("timezone: Asia/Shanghai", "2026-11-23T16:30:00", "2026-11-24-003000"),
        ("timezone: Asia/Kathmandu", "2026-11-23T18:14:59", "2026-11-23-235959"),
        # Clocks go forward on 29 March 2026 at 01:00 UTC in Berlin, and back on 25 October at 01:00 UTC.
        ("timezone: Europe/Berlin", "2026-03-29T00:59:59", "2026-03-29-015959"),
        ("timezone: Europe/Berlin", "2026-03-29T01:00:00", "2026-03-29-030000"),
        ("timezone: Europe/Berlin", "2026-10-25T00:30:00", "2026-10-25-023000"),
        ("timezone: Europe/Berlin", "2026-10-25T01:30:00", "2026-10-25-023000b"),
        ("timezone: Europe/Berlin", "2026-10-25T22:59:59", "2026-10-25-235959"),
        ("timezone: Europe/Berlin", "2026-10-25T23:00:00", "2026-10-26-000000"),
    ],
)
def test_a_run_is_named_by_the_time_of_its_zone(zone: str, at: str, name: str, tmp_path: Path) -> None:
    """``${date}`` and ``${time}`` are in the job's time zone, UTC by default, on days of clock changes too."""
    moment = datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp()
    assert run_id(load(job_file(tmp_path, zone)), run=None, started_at=moment) == name


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"])
def test_no_two_hours_have_one_name(zone: str, tmp_path: Path) -> None:
    """Of a year of runs, one every half hour, no two have the same name."""
    job, begin = load(job_file(tmp_path, f"timezone: {zone}")), datetime(2026, 1, 1, tzinfo=UTC)
    starts = [(begin + timedelta(minutes=30 * number)).timestamp() for number in range(365 * 48)]
    assert len({run_id(job, run=None, started_at=at) for at in starts}) == len(starts)


@pytest.mark.parametrize("zone", ["Asia/Shanghia", "Asia", "CST8", "+08:00", "../etc/passwd", "/etc/localtime", "''"])
def test_an_unknown_zone_is_reported_with_its_place(zone: str, tmp_path: Path) -> None:
    """An invalid IANA name is a problem of the file, with line and column, and a near miss with its correction."""
    with pytest.raises(JobFileError) as caught:
        load(job_file(tmp_path, f"timezone: {zone}"))
    (problem,) = caught.value.problems
    assert (problem.path, problem.place.line) == ("timezone", 4)
    assert "IANA" in problem.message
    if zone == "Asia/Shanghia":
        assert "Asia/Shanghai?" in problem.message
