"""Damage to a manifest on the simulated disk, and ``zclone repair`` of it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch.errors import ManifestError
from batch.manifest.repair import repair_manifest
from tests.simulation.disk import SimFile
from tests.simulation.manifest_reader import records
from tests.simulation.process import MANIFEST
from tests.simulation.virtual import EPOCH

if TYPE_CHECKING:
    from random import Random

    from tests.simulation.world import World

_BATCH: Final = re.compile(rb'"batch":(\d+)')
_JOB: Final = re.compile(rb'"job_uuid":"([0-9a-f]+)"')


def damage(world: World, random: Random, *, cuts_end: bool = True) -> None:
    """Flip bits, cut lines out or duplicate them, anywhere after the header.

    ``cuts_end``: whether the last line may be cut out. That leaves no trace: the file is the manifest as it was before,
    and no reader can detect it. Derived uuids hold even then; a given uuid and --at-most-once rely on it.
    """
    file = world.disk.files.get(MANIFEST)
    lines = [] if file is None else bytes(file.data).splitlines(keepends=True)
    if file is None or len(lines) < 2:
        return
    chosen = random.randrange(1, len(lines))
    match random.randrange(3):
        case 0:
            line = bytearray(lines[chosen])
            line[random.randrange(len(line))] ^= 1 << random.randrange(8)
            lines[chosen] = bytes(line)
        case 1 if cuts_end or chosen < len(lines) - 1:
            del lines[chosen]
        case _:
            lines.insert(chosen, lines[chosen])
    _replace(world, file, b"".join(lines))


def damage_last_job(world: World) -> None:
    """Damage the lines that name the job uuid of the last POST so that their target is unknown."""
    file = world.disk.files.get(MANIFEST)
    lines = [] if file is None else bytes(file.data).splitlines(keepends=True)
    jobs = [found[1] for line in lines if b'"state":"sent"' in line and (found := _JOB.search(line))]
    if file is None or not jobs:
        return
    for number, line in enumerate(lines):
        if jobs[-1] in line:
            lines[number] = b"#" * (len(line) - 1) + b"\n"
    world.is_damaged = True
    file.data[:] = b"".join(lines)
    file.synced = bytes(file.data)
    # The next process cannot be judged by what was reported of the lost records.
    world.witness.stories.pop(MANIFEST, None)


def damage_last_batch(world: World, random: Random) -> None:
    """Flip bits of the last batch, and sometimes join two of its lines; it ends like a batch all the same."""
    file = world.disk.files.get(MANIFEST)
    lines = [] if file is None else bytes(file.data).splitlines(keepends=True)
    if file is None or len(lines) < 4 or not lines[-1].endswith(b"\n"):
        return
    number = _BATCH.findall(lines[-1])
    first = next(at for at, line in enumerate(lines) if _BATCH.findall(line)[-1:] == number[-1:])
    data = bytearray(b"".join(lines[first:]))
    for _ in range(random.choice((1, 2, 20))):
        data[random.randrange(len(data) - 1)] ^= 1 << random.randrange(8)
    ends = [at for at, byte in enumerate(data[:-1]) if byte == ord("\n")]
    if ends and random.random() < 0.3:
        end = random.choice(ends)
        data[end - 1 : end + 1] = b"~~"
    _replace(world, file, b"".join(lines[:first]) + bytes(data))


def _replace(world: World, file: SimFile, data: bytes) -> None:
    world.is_damaged = True
    world.edit(world.ever.values())
    file.data[:] = data
    file.synced = data
    # The next process cannot be judged by what was reported of the lost records.
    world.witness.stories.pop(MANIFEST, None)


def repair_if_refused(world: World) -> list[str]:
    """Repair the manifest if its reader refuses it; the new file replaces it."""
    data = world.manifest(MANIFEST)
    try:
        records(data)
    except ManifestError:
        pass
    else:
        return []
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder, "damaged"), Path(folder, "repaired")
        path.write_bytes(data)
        repair_manifest(path, out, clock=lambda: EPOCH + world.now + world.clock_error)
        whole = out.read_bytes()
    world.disk.files[MANIFEST] = SimFile(bytearray(whole), whole, is_named=True)
    return _unreadable(whole)


def _unreadable(data: bytes) -> list[str]:
    try:
        records(data)
    except ManifestError as error:
        return [f"I5: a repaired manifest is refused: {error}"]
    return []
