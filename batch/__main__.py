"""``python -m batch`` is the command ``zclone``."""

from batch.cli import main

if __name__ == "__main__":
    main()
