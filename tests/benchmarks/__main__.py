"""``python -m tests.benchmarks NAME``: print one benchmark's table."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Run the named benchmark; without one, list them."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith(("_", "test_")))
    if len(arguments) != 1 or arguments[0] not in names:
        print("usage: python -m tests.benchmarks NAME, with NAME one of", ", ".join(names), file=sys.stderr)
        return 2
    import_module(f"tests.benchmarks.{arguments[0]}").main()
    return 0


sys.exit(main(sys.argv[1:]))
