"""Logs: one event is one line, no secret or control character is written, and no sink can stop a run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from batch import log, redaction
from batch.sink import Sink, to_descriptor
from batch.text import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STEERING = "\x1b[2J\x1b]0;title\x07\r\n\x9b2J\u202e\u2028\u2066\x7f\x00"


class Paper:
    """A sink's target that keeps what was written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, lines: bytes) -> None:
        self.data += lines


class Pad(Sink):
    """A sink without a thread."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def put(self, line: bytes) -> None:
        self.lines.append(line)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    log._BOUND.clear()


def logged(style: log.Format, act: Callable[[Any], None], *, level: int = log.INFO) -> list[bytes]:
    paper = Paper()
    sink = Sink(paper.write)
    log.configure(sink, style=style, level=level)
    act(structlog.get_logger())
    assert sink.close() == 0
    return paper.data.splitlines(keepends=True)


@pytest.mark.parametrize("style", list(log.Format))
def test_control_characters_are_escaped(style: log.Format) -> None:
    """Whatever a server puts into event, key or value, one event is one line of printable text."""
    name = "a" + STEERING
    lines = logged(style, lambda logger: logger.info(name, **{"k" + STEERING: "v" + STEERING}))
    assert len(lines) == 1
    text = lines[0].decode()
    assert text.endswith("\n")
    assert text[:-1].isprintable()


def test_a_console_line_has_its_fields_in_order() -> None:
    """On a console a clone's end is time, mark, key, state, code, attempt, seconds, text; job and run appear once."""
    paper = Pad()
    log.configure(paper, style=log.Format.CONSOLE, columns=lambda: 60)
    log.bind(job="migrate", run="default")
    logger = structlog.get_logger()
    logger.info("run.started", targets=2)
    failed = {"error_code": "SYS.1003", "error": "没有 such source, and a long text after it"}
    logger.info(
        "clone.settled", key="a", state="cloned", attempts=1, api_job="0123", clone_uuid="4" * 32, seconds=12.34
    )
    logger.warning("clone.settled", key="b", state="failed", attempts=2, seconds=0.5, **failed)
    logger.error("run.broke")
    lines = [line.decode()[9:] for line in paper.lines]
    assert lines == [
        "- run.started targets=2 job=migrate run=default\n",
        "- a  cloned  attempt 1  12.3 s\n",
        "! b  failed  SYS.1003  attempt 2  0.5 s  没有 such…\n",
        "x run.broke\n",
    ]


@pytest.mark.parametrize("columns", [0, None])
def test_a_console_line_is_not_cut_without_a_width(columns: int | None) -> None:
    """In a file, and on a terminal of unknown width, a console line keeps all of its text."""
    paper = Pad()
    log.configure(paper, style=log.Format.CONSOLE, columns=None if columns is None else lambda: 0)
    structlog.get_logger().info("x.done", text="t" * 500)
    assert paper.lines[0].decode().endswith("t" * 500 + "\n")


@given(st.text(alphabet=st.characters()), st.text())
def test_json_lines_keep_the_value(value: str, other: str) -> None:
    """A JSON line holds exactly the text that was logged."""
    (line,) = logged(log.Format.JSON, lambda logger: logger.info("clone.settled", value=value, other=other))
    decoded = json.loads(line)
    assert decoded["value"] == value
    assert decoded["other"] == other


AT = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
SECRET = "hün\"ter\\/2' "
CHARACTERS = st.characters() | st.sampled_from([*STEERING, "\ud800", "{", "[", '"', "\\"])
TEXTS = st.text(CHARACTERS, max_size=12) | st.builds(
    "{}{}{}".format, st.text(max_size=3), st.sampled_from(sorted(redaction._forms(SECRET))), st.text(max_size=3)
)
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.integers(0, 1 << 40).map(lambda number: number / 1000)
    | st.dates()
    | st.sampled_from(log.Format)
)
NAMES = st.sampled_from(["key", "at", "level", "job", "password", "Cookie", "error"]) | st.text(max_size=6)
VALUES = st.recursive(
    PLAIN | TEXTS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS | NAMES, inner, max_size=2)
)


def plainly(level: str, name: str, fields: dict[str, Any], bound: dict[str, str]) -> bytes:
    """Write an event step by step."""
    first = {"at": "[at]", "level": level, "event": name}
    behind = {key: value for key, value in bound.items() if key not in fields}
    text = json.dumps(
        log._without_secrets({**first, **fields, **first, **behind}), ensure_ascii=False, separators=(",", ":")
    )
    # JSON's own escapes are used for what ``escape`` would change.
    return "".join(json.dumps(char)[1:-1] if escape(char) != char else char for char in text).encode() + b"\n"


@given(
    level=st.sampled_from(["info", "warning", "error"]),
    name=TEXTS,
    bound=st.dictionaries(st.sampled_from(["job", "run", "token"]), TEXTS),
    fields=st.dictionaries(NAMES.filter(lambda key: key not in ("event", "exc_info", "self")), VALUES, max_size=4),
)
def test_every_event_equals_the_reference_encoding(
    level: str, name: str, bound: dict[str, str], fields: dict[str, Any]
) -> None:
    """Every line equals that of an encoder that merges, redacts, encodes and escapes one by one."""
    pad = Pad()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "SECRETS", secrets := redaction.Secrets())
        secrets.add(SECRET)
        log.configure(pad, style=log.Format.JSON)
        log.bind(**bound)
        getattr(structlog.get_logger(), level)(name, **fields)
        (line,) = pad.lines
        assert AT.sub(b"[at]", line, count=1) == plainly(level, name, fields, bound)


def test_the_time_is_written_to_the_microsecond() -> None:
    """A line's time is UTC in ISO 8601 and always of one length, so that lines sort by it."""
    before = datetime.now(UTC)
    (line,) = logged(log.Format.JSON, lambda logger: logger.info("x.done"))
    written = json.loads(line)["at"]
    assert AT.search(line)
    assert before <= datetime.fromisoformat(written) <= datetime.now(UTC)


@pytest.mark.parametrize("style", list(log.Format))
def test_secrets_are_redacted_in_every_form(style: log.Format, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered secret is written in no form: raw, hashed, base64, url- or JSON-encoded, quoted, in a traceback."""
    secret = "hün\"ter\\/2' "
    secrets = redaction.Secrets()
    secrets.add(secret)
    monkeypatch.setattr(log, "SECRETS", secrets)
    raw = secret.encode()
    forms = {
        secret,
        hashlib.sha512(raw).hexdigest(),
        base64.b64encode(raw).decode(),
        quote(raw, safe=""),
        json.dumps(secret)[1:-1],
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
        quote(raw, safe="").replace("%C3%BC", "%c3%bc").replace("%2F", "%2f").replace("%5C", "%5c"),
        repr(secret)[1:-1],
        repr(raw)[2:-1],
    }

    def act(logger: Any) -> None:
        for form in forms:
            logger.info(form, **{f"key {form}": {"deep": [form]}})
        try:
            int(f"refused {secret}")
        except ValueError:
            logger.exception("run.broken")

    text = b"".join(logged(style, act)).decode()
    assert text.count(redaction.REDACTED) >= 3 * len(forms) + 1
    for form in forms:
        assert form not in text


def test_fields_named_like_secrets_are_redacted() -> None:
    """A field whose name denotes a secret never shows its value."""
    names = ("password", "Authorization", "session_id", "sessionUuid", "access_key_secret", "token", "cookie")
    flat = dict.fromkeys(names, "visible")
    for fields in (flat, {"headers": flat}, {"calls": [{"headers": flat}]}):
        (line,) = logged(log.Format.JSON, lambda logger, fields=fields: logger.info("x.done", **fields))  # type: ignore[misc]
        assert b"visible" not in line


def test_tracebacks_have_no_locals() -> None:
    """A traceback names files and lines, never the values of local variables."""

    def act(logger: Any) -> None:
        hidden = "local value"
        try:
            int("x" * len(hidden))
        except ValueError:
            logger.exception("run.broken")

    assert b"local value" not in b"".join(logged(log.Format.JSON, act))


def test_a_form_that_contains_another_is_redacted_whole() -> None:
    """Where a form of a secret contains a shorter one, nothing of the longer one stays."""
    secrets = redaction.Secrets()
    secrets.add("hunter22")
    for form in redaction._forms("hunter22"):
        assert secrets.redact(f'{{"error":"{form}"}}') == f'{{"error":"{redaction.REDACTED}"}}'


def test_text_after_a_key_id_is_redacted() -> None:
    """Whatever follows an access key's id and a colon is redacted, plain, percent-encoded, in hex and in base64."""
    secrets = redaction.Secrets()
    for _ in range(2):
        secrets.add_key_id("AKID0123")
    header = b"ZStack AKID0123:c2lnbmF0dXJlIG9mIGEgY2FsbA=="
    for form in (header.decode(), quote(header, safe=""), header.hex(), base64.b64encode(header).decode()):
        shown = secrets.redact(f"no {form} here")
        assert shown.startswith("no ")
        assert shown.endswith(f"{redaction.REDACTED} here")
        assert form[-12:] not in shown
    assert secrets.redact("AKID0123 is disabled") == "AKID0123 is disabled"


def test_a_flush_returns_when_all_is_written() -> None:
    """What was logged before a flush has reached the reader after it, without waiting for more lines."""
    written: list[bytes] = []
    sink = Sink(written.append)
    log.configure(sink, style=log.Format.JSON)
    try:
        structlog.get_logger().warning("operator.warned", text="in clear")
        log.flush()
        assert b"in clear" in b"".join(written)
    finally:
        sink.close()
        structlog.reset_defaults()


def test_short_values_are_no_secrets() -> None:
    """A value under four characters is not registered: redacting it would redact most of the log."""
    secrets = redaction.Secrets()
    secrets.add("abc")
    assert secrets.redact("abcdef") == "abcdef"


def test_a_failing_sink_only_loses_lines() -> None:
    """A sink that fails never raises into the run; lost lines are counted and the reason is kept."""

    def dead(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    sink = Sink(dead)
    for _ in range(5):
        sink.put(b"line\n")
    assert sink.close() == 5
    assert "No space left" in sink.reason


def test_a_sleeping_writer_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of several threads are all written soon, each thread's in its order, whenever the writer fell asleep."""
    monkeypatch.setattr("batch.sink._LINGER", 0.0)
    paper, complete = Paper(), threading.Event()

    def write(lines: bytes) -> None:
        paper.write(lines)
        if paper.data.count(b"\n") == 3 * 400:
            complete.set()

    target = Sink(write)

    def tell(thread: int) -> None:
        for number in range(400):
            target.put(b"%d %d\n" % (thread, number))
            if number % 3 == thread:
                # Let the writer fall asleep.
                threading.Event().wait(1e-5)

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    assert complete.wait(30)
    assert target.close() == 0
    for number in range(3):
        mine = [line for line in paper.data.splitlines() if line.startswith(b"%d " % number)]
        assert mine == [b"%d %d" % (number, line) for line in range(400)]


def test_a_stalled_sink_never_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that stops reading costs lines beyond the queue, never time."""
    monkeypatch.setattr("batch.sink._QUEUE_LINES", 10)
    monkeypatch.setattr("batch.sink._CLOSE_SECONDS", 0.01)
    reading, stalled = threading.Event(), threading.Event()

    def stall(_: bytes) -> None:
        stalled.set()
        reading.wait()

    sink = Sink(stall)
    sink.put(b"first\n")
    stalled.wait()
    for _ in range(30):
        sink.put(b"line\n")
    assert sink.close() == 31
    reading.set()


def test_levels_below_the_set_one_are_not_written() -> None:
    """Details are written only if enabled."""

    def act(logger: Any) -> None:
        logger.debug("clone.sent")
        logger.info("clone.settled")

    assert len(logged(log.Format.JSON, act)) == 1
    assert len(logged(log.Format.JSON, act, level=log.DEBUG)) == 2


def test_short_writes_are_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one write leaves over is written by the next, to the last byte."""
    taken = bytearray()

    def take_three(_: int, data: memoryview) -> int:
        taken.extend(data[:3])
        return min(3, len(data))

    monkeypatch.setattr("batch.sink.os.write", take_three)
    to_descriptor(99)(b"one line\n")
    assert bytes(taken) == b"one line\n"


@pytest.mark.parametrize(("value", "shown"), [("lone \ud800", b"lone \\\\ud800"), (1 << 70, b"1180591620717411303424")])
def test_values_without_a_common_json_form_are_logged(value: object, shown: bytes) -> None:
    """A lone surrogate or a huge number costs no line."""
    (line,) = logged(log.Format.JSON, lambda logger: logger.info("clone.settled", value=value))
    assert shown.replace(b"\\\\", b"\\") in line
    assert line.decode().isprintable() or line.endswith(b"\n")


def test_separate_and_overlapping_secrets_are_redacted_once_each() -> None:
    """Two overlapping secrets become one mark, two separate ones one each, and the text between them stays."""
    secrets = redaction.Secrets()
    secrets.add_all(["hunter22", "er22secret"])
    assert secrets.redact('{"error":"none"}') == '{"error":"none"}'
    shown = secrets.redact("a hunter22secret and hunter22 or er22secret")
    assert shown == f"a {redaction.REDACTED} and {redaction.REDACTED} or {redaction.REDACTED}"
