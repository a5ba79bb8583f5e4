# ruff: noqa: INP001 - a script, no package
"""Hatchling's hook: of a checkout only what git tracks gets into wheel and sdist, whatever else lies in its folders."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class TrackedFiles(BuildHookInterface[Any]):
    """Names the files itself, as git lists them; an unpacked sdist has no others."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add every tracked file that is one of the target's ``only``, or below one of them.

        What is below a folder that is ``moved`` lies below another one there. An editable install holds none: a
        copy would hide the checkout that it is to follow.
        """
        if version == "editable":
            return
        root = Path(self.root)
        only = tuple(self.config["only"])
        moved = dict(self.config.get("moved", {}))
        names = self._tracked(root) if (root / ".git").exists() else _all(root, only)
        for name in names:
            if name in only or name.startswith(tuple(f"{folder}/" for folder in only)):
                folder, slash, rest = name.partition("/")
                build_data["force_include"][str(root / name)] = f"{moved.get(folder, folder)}{slash}{rest}"

    def _tracked(self, root: Path) -> list[str]:
        # A checkout of another user is read too: nothing in it is run.
        command = ["git", "-c", "safe.directory=*", "-C", str(root), "ls-files", "-z", "--cached"]
        try:
            listed = subprocess.run(command, capture_output=True, check=True).stdout  # noqa: S603 - git's own list
        except (OSError, subprocess.CalledProcessError):
            self.app.display_warning("git cannot say what it tracks: files are taken as they lie there")
            return _all(root, tuple(self.config["only"]))
        return [name for name in listed.decode().split("\0") if name and (root / name).is_file()]


def _all(root: Path, only: tuple[str, ...]) -> list[str]:
    places = [path for name in only for path in (root / name, *(root / name).rglob("*")) if path.is_file()]
    return [path.relative_to(root).as_posix() for path in places if not _is_stray(path)]


def _is_stray(path: Path) -> bool:
    return "__pycache__" in path.parts or path.suffix in {".secret", ".pyc"} or path.name.startswith(".env")
