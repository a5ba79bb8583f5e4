"""``python -m tests.benchmarks NAME [--rounds N] [SIZE...]``: print one benchmark's table."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path


def main() -> None:
    """Run the named benchmark with its own sizes and rounds, or the given ones."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith(("_", "test_")))
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("name", choices=names)
    parser.add_argument("sizes", nargs="*", type=int, help="what a size is, the benchmark's first lines say")
    parser.add_argument("--rounds", type=int, help="medians are taken over so many interleaved rounds")
    arguments = parser.parse_intermixed_args()
    given = {name: value for name, value in (("rounds", arguments.rounds), ("sizes", arguments.sizes)) if value}
    import_module(f"tests.benchmarks.{arguments.name}").main(**given)


main()
