"""The extra [otel]: one span per settled clone, made from its record; without a provider there is none."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from batch.app.logs import LoggingJournal
from batch.app.observe import Tracing
from batch.model import Intent, Record, State
from tests.app.test_journal import AcceptingJournal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Tracer

JOB_UUID = "0123456789abcdef" * 2
AT = 1_700_000_000.0
WITH_A_PROVIDER = """\
import sys
from pathlib import Path
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
provider = TracerProvider()
to_file = ConsoleSpanExporter(out=Path("spans").open("w"), formatter=lambda span: span.to_json(indent=None) + "\\n")
provider.add_span_processor(SimpleSpanProcessor(to_file))
trace.set_tracer_provider(provider)
"""
RUN = """
from batch.cli.app import run_command
code = run_command(["run", "--simulate", "job.yaml"])
print(sorted(name for name in sys.modules if name.split(".")[0] == "opentelemetry")[:1])
sys.exit(code)
"""


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    yield exporter
    exporter.shutdown()


def tracer_to(exporter: Any) -> Tracer:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider.get_tracer("test")


def sent(key: str, at: float, attempt: int = 1) -> Record:
    return Record(State.SENT, key, at, attempt, "source", "r" * 32, JOB_UUID, "d" * 32)


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


async def test_each_settled_clone_is_one_span(exporter: InMemorySpanExporter) -> None:
    """A span lasts from first POST to end, its status and attributes are the record's, job uuids are shortened."""
    with Tracing(tracer_to(exporter), job="nightly", run="r1") as tracing:
        journal = LoggingJournal(AcceptingJournal(), failed=lambda _: None, settled=tracing.queue_span, open_before=())
        journal.note(sent("a", AT))
        journal.note(sent("b", AT + 1))
        journal.note(sent("a", AT + 5, attempt=2))
        journal.note(Record(State.CLONED, "a", AT + 9, 2, clone_uuid="c" * 32, name="hidden"))
        journal.note(Record(State.FAILED, "b", AT + 3, 1, error_code="SYS.1006", error="hidden"))
    made, failed = exporter.get_finished_spans()
    assert (made.name, made.start_time, made.end_time) == ("clone", int(AT * 1e9), int((AT + 9) * 1e9))
    assert attributes(made) == {
        "zclone.job": "nightly",
        "zclone.run": "r1",
        "zclone.key": "a",
        "zclone.state": "cloned",
        "zclone.attempts": 2,
        "zclone.clone_uuid": "c" * 32,
        "zclone.api_job": JOB_UUID[:8],
    }
    assert attributes(failed)["zclone.error_code"] == "SYS.1006"
    assert (made.status.status_code, failed.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert "hidden" not in made.to_json() + failed.to_json()
    assert JOB_UUID not in made.to_json()


async def test_a_resumed_clones_span_begins_with_its_first_post(exporter: InMemorySpanExporter) -> None:
    """What an earlier process sent begins at the time that process recorded."""
    before = Intent("a", State.ACCEPTED, "source", "r" * 32, "d" * 32, 1, JOB_UUID, AT + 2, AT)
    with Tracing(tracer_to(exporter), job="nightly", run="r1") as tracing:
        journal = LoggingJournal(
            AcceptingJournal(), failed=lambda _: None, settled=tracing.queue_span, open_before=[before]
        )
        journal.note(Record(State.CLONED, "a", AT + 9, 1))
    (span,) = exporter.get_finished_spans()
    assert span.start_time == int(AT * 1e9)


def test_a_failing_exporter_loses_only_spans(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing the tracer raises reaches the run; the number of lost spans is reported at the end."""

    class Broken:
        def start_span(self, *_: object, **__: object) -> object:
            raise RuntimeError("collector")

    broken: Any = Broken()
    with Tracing(broken, job="nightly", run="r1") as tracing:
        for _ in range(3):
            tracing.queue_span(Record(State.CLONED, "a", AT, 1), sent_at=None, api_job="")
    assert capsys.readouterr().err == "3 spans were lost: the exporter cannot keep up\n"


@pytest.mark.parametrize("has_provider", [True, False])
def test_a_run_is_traced_only_with_a_provider(
    tmp_path: Path,
    child_env: dict[str, str],
    has_provider: bool,  # noqa: FBT001 - a parameter
) -> None:
    """With a provider set by the process a run leaves a span per clone; without one it does not import the extra."""
    (tmp_path / "job.yaml").write_text(
        "version: 1\nname: job\ntargets: [90d425a802ff44eeb530f21587633700]\n", encoding="utf-8"
    )
    script = (WITH_A_PROVIDER if has_provider else "import sys") + RUN
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=child_env,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("['opentelemetry']\n" if has_provider else "[]\n")
    spans = (tmp_path / "spans").read_text(encoding="utf-8") if has_provider else ""
    assert spans.count('"name": "clone"') == has_provider
