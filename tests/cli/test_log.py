"""Logs: one event is one line, no secret and no control character gets out, and no sink can stop a run."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from batch import log
from batch.sink import Sink, to_descriptor

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
def test_steering_characters_are_escaped(style: log.Format) -> None:
    """Whatever a server puts into event, key or value, one event is one line of printable text."""
    name = "a" + STEERING
    lines = logged(style, lambda logger: logger.info(name, **{"k" + STEERING: "v" + STEERING}))
    assert len(lines) == 1
    text = lines[0].decode()
    assert text.endswith("\n")
    assert text[:-1].isprintable()


@given(st.text(alphabet=st.characters()), st.text())
def test_json_lines_keep_the_value(value: str, other: str) -> None:
    """A JSON line gives back exactly the text that was logged."""
    (line,) = logged(log.Format.JSON, lambda logger: logger.info("clone.settled", value=value, other=other))
    decoded = json.loads(line)
    assert decoded["value"] == value
    assert decoded["other"] == other


SECRET = "hün\"ter\\/2' "
CHARACTERS = st.characters() | st.sampled_from([*STEERING, "\ud800", "{", "[", '"', "\\"])
TEXTS = st.text(CHARACTERS, max_size=12) | st.builds(
    "{}{}{}".format, st.text(max_size=3), st.sampled_from(sorted(log._forms(SECRET))), st.text(max_size=3)
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
    return log._UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text).encode() + b"\n"


@pytest.mark.parametrize("json_by", ["orjson", "the standard library"])
@given(
    level=st.sampled_from(["info", "warning", "error"]),
    name=TEXTS,
    bound=st.dictionaries(st.sampled_from(["job", "run", "token"]), TEXTS),
    fields=st.dictionaries(NAMES.filter(lambda key: key not in ("event", "exc_info", "self")), VALUES, max_size=4),
)
def test_every_event_is_written_as_step_by_step(
    json_by: str, level: str, name: str, bound: dict[str, str], fields: dict[str, Any]
) -> None:
    """Whatever is told, the line is the one of an encoder that merges, redacts, encodes and escapes one by one."""
    pad = Pad()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "SECRETS", secrets := log.Secrets())
        secrets.add(SECRET)
        patch.setattr(log, "_now", lambda: "[at]")
        if json_by != "orjson":
            patch.setattr(log, "_ORJSON", None)
        log.configure(pad, style=log.Format.JSON)
        log.bind(**bound)
        getattr(structlog.get_logger(), level)(name, **fields)
        assert pad.lines == [plainly(level, name, fields, bound)]


@given(st.integers(0, 1 << 53) | st.integers(0, 1 << 33).map(lambda second: second * 1_000_000))
def test_the_time_is_written_to_the_microsecond(micros: int) -> None:
    """A line's time is UTC in ISO 8601 and always of one length, so that lines sort by it."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    elapsed = micros * 1000 + 999
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "time", SimpleNamespace(time_ns=lambda: elapsed))
        assert log._now() == moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def test_the_standard_library_writes_the_same_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without orjson the lines are the same, byte for byte."""

    def act(logger: Any) -> None:
        logger.info("clone.settled", key="模型\u202e", n=1, s=1.5, nothing=None, more={"a": ["\x1b"]})

    (fast,) = logged(log.Format.JSON, act)
    monkeypatch.setattr(log, "_ORJSON", None)
    (slow,) = logged(log.Format.JSON, act)
    assert slow.partition(b'"level"')[2] == fast.partition(b'"level"')[2]


@pytest.mark.parametrize("style", list(log.Format))
def test_secrets_are_redacted_in_every_form(style: log.Format, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered secret leaves in no form: raw, hashed, base64, url- or JSON-encoded, quoted, nor in a traceback."""
    secret = "hün\"ter\\/2' "
    secrets = log.Secrets()
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
    assert text.count(log.REDACTED) >= 3 * len(forms) + 1
    for form in forms:
        assert form not in text


def test_fields_named_like_secrets_are_redacted() -> None:
    """A field whose name says secret never shows its value."""
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


def test_a_form_within_another_is_looked_for_once() -> None:
    """Only the shortest forms are looked for: a base64 with its padding is found where it is without."""
    secrets = log.Secrets()
    secrets.add("hunter22")
    assert sorted(map(len, secrets._encoded)) == [8, 11, 128, 128]
    for form in log._forms("hunter22"):
        assert secrets.are_in(b'{"error":"%s"}' % form.encode())


def test_short_values_are_no_secrets() -> None:
    """A value under four characters is not registered: redacting it would redact the log away."""
    secrets = log.Secrets()
    secrets.add("abc")
    assert secrets.redact("abcdef") == "abcdef"


def test_a_dead_sink_loses_lines_and_nothing_else() -> None:
    """A sink that fails never raises into the run; what it lost is counted and its reason kept."""

    def dead(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    sink = Sink(dead)
    for _ in range(5):
        sink.put(b"line\n")
    assert sink.close() == 5
    assert "No space left" in sink.reason


def test_a_sink_that_sleeps_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
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
                # Let the writer come to its sleep.
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


def test_levels_below_the_asked_one_are_not_written() -> None:
    """Details are written only where they were asked for."""

    def act(logger: Any) -> None:
        logger.debug("clone.sent")
        logger.info("clone.settled")

    assert len(logged(log.Format.JSON, act)) == 1
    assert len(logged(log.Format.JSON, act, level=log.DEBUG)) == 2


def test_a_descriptor_that_takes_little_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one write leaves over is written by the next, to the last byte."""
    taken = bytearray()

    def take_three(_: int, data: memoryview) -> int:
        taken.extend(data[:3])
        return min(3, len(data))

    monkeypatch.setattr("batch.sink.os.write", take_three)
    to_descriptor(99)(b"one line\n")
    assert bytes(taken) == b"one line\n"


@pytest.mark.parametrize(("value", "shown"), [("lone \ud800", b"lone \\\\ud800"), (1 << 70, b"1180591620717411303424")])
def test_values_the_fast_encoder_refuses_are_logged(value: object, shown: bytes) -> None:
    """A lone surrogate or a huge number costs no line: the standard library's encoder writes it."""
    (line,) = logged(log.Format.JSON, lambda logger: logger.info("clone.settled", value=value))
    assert shown.replace(b"\\\\", b"\\") in line
    assert line.decode().isprintable() or line.endswith(b"\n")


def test_an_extra_that_is_absent_is_none() -> None:
    """Without the extra [speed] the log works on."""
    assert log._optional("a_package_that_does_not_exist") is None
