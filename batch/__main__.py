"""Entry point: ``python -m batch`` is the same as the command ``zclone``."""

from batch.cli import main

if __name__ == "__main__":
    main()
