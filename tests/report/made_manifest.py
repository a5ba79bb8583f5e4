"""A manifest of any size as a run that was killed once and resumed would leave it; written without a run."""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING, Final

from batch.manifest import Header
from batch.manifest.kinds import EndedLine, PlanLine, StartedLine
from batch.manifest.line import seal
from batch.manifest.records import encode_ended, encode_plan, encode_planned, encode_record, encode_started
from batch.model import Record, State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BEGAN: Final = 1_795_437_600.0
PAUSE: Final = 20.0
ERRORS: Final = (
    ("SYS.1006", "操作失败: no host has 4 GPUs free for {uuid}"),
    ("SYS.1007", "image {uuid} is not Ready"),
    ("ZCLONE.UNANSWERED", "every attempt went unanswered and no clone appeared"),
)
HOSTILE: Final = "</script><img src=x onerror=alert(1)>=cmd|'/c calc'!A0 \x1b[31m\u202ered"


class Maker:
    """Writes the lines of one run; everything follows from the seed."""

    def __init__(self, targets: int, *, slots: int, seed: int, crash: bool, hostile: bool) -> None:
        self.random = random.Random(seed)
        self.targets = targets
        self.slots = slots
        self.hostile = hostile
        self.crash_at = BEGAN + targets / slots * 0.5 if crash else float("inf")

    def uuid(self) -> str:
        return f"{self.random.getrandbits(128):032x}"

    def bodies(self) -> Iterator[bytes]:
        yield Header(
            "migrate", "default", "https://zstack:8080/zstack", False, "zclone 0.1.0", BEGAN, "migrate.yaml"
        ).body()
        keys = [(f"svc-{number:05}" if number % 3 else self.uuid(), self.uuid()) for number in range(self.targets)]
        keys = [(key, source if key.startswith("svc") else key) for key, source in keys]
        yield encode_started(StartedLine(BEGAN, 4711, "ops-1", "zclone 0.1.0"))
        for start in range(0, len(keys), 256):
            yield encode_planned(keys[start : start + 256])
        yield encode_plan(PlanLine("48e8b0bcb62ec9bdff0351303e8f55cc", "2e" * 32, len(keys), BEGAN))
        records = sorted(self.records(keys), key=lambda record: record.at)
        crashed = False
        for record in records:
            if record.at >= self.crash_at and not crashed:
                crashed = True
                yield encode_started(StartedLine(self.crash_at + PAUSE, 4712, "ops-1", "zclone 0.1.0"))
            yield encode_record(record._replace(at=record.at + PAUSE) if crashed else record)
        end = (records[-1].at if records else BEGAN) + (PAUSE if crashed else 0.0) + 0.1
        yield encode_ended(EndedLine(end, 3, None))

    def records(self, keys: list[tuple[str, str]]) -> Iterator[Record]:
        slots = [BEGAN + 0.1] * self.slots
        for number, (key, source) in enumerate(keys):
            at = heapq.heappop(slots)
            attempts = 3 if self.random.random() < 0.03 else 1
            fails = self.random.random() < 0.04 or (number == 1 and self.hostile)
            resource = self.uuid()
            for attempt in range(1, attempts + 1):
                yield Record(State.SENT, key, at, attempt, source, resource, self.uuid(), self.uuid())
                at += self.random.uniform(0.05, 0.2) + (0.6 if attempt < attempts else 0)
            accepted = Record(State.ACCEPTED, key, at, attempts)
            at += self.random.uniform(0.3, 1.2)
            if fails:
                code, text = ERRORS[number % len(ERRORS)]
                error = HOSTILE if number == 1 and self.hostile else text.format(uuid=self.uuid())
                yield Record(State.FAILED, key, at, attempts, error_code=code, error=error)
            else:
                yield accepted
                yield Record(State.CLONED, key, at, attempts, clone_uuid=resource, name=f"qwen-{number}-arm64 中文")
            heapq.heappush(slots, at + 0.01)


def make_manifest(
    path: Path, targets: int, *, slots: int = 16, seed: int = 1, crash: bool = True, hostile: bool = True
) -> Path:
    """Write the manifest and return its path."""
    crc, lines = 0, []
    for batch, body in enumerate(Maker(targets, slots=slots, seed=seed, crash=crash, hostile=hostile).bodies()):
        sealed, crc = seal([body], crc, batch=batch)
        lines.append(sealed)
    path.write_bytes(b"".join(lines))
    return path
