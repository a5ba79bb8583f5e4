"""A manifest that is damaged on the simulated disk, and ``zclone repair`` of it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from batch.errors import ManifestError
from batch.manifest.repair import repair
from tests.simulation.booked import records
from tests.simulation.disk import SimFile
from tests.simulation.process import MANIFEST

if TYPE_CHECKING:
    from random import Random

    from tests.simulation.world import World


def damage(world: World, random: Random) -> None:
    """Flip bits, cut lines out or double them, anywhere behind the header."""
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
        case 1:
            del lines[chosen]
        case _:
            lines.insert(chosen, lines[chosen])
    world.is_damaged = True
    world.edit(world.ever.values())
    file.data[:] = b"".join(lines)
    file.synced = bytes(file.data)
    # What was told of lost records cannot be held against the next process.
    world.witness.stories.pop(MANIFEST, None)


def mended(world: World) -> list[str]:
    """Repair the manifest where its reader refuses it; the new file takes its place."""
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
        repair(path, out, clock=lambda: world.now)
        whole = out.read_bytes()
    world.disk.files[MANIFEST] = SimFile(bytearray(whole), whole, is_named=True)
    return _unreadable(whole)


def _unreadable(data: bytes) -> list[str]:
    try:
        records(data)
    except ManifestError as error:
        return [f"I5: a repaired manifest is refused: {error}"]
    return []
