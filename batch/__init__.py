"""zclone clones ZStack AIOS model services in bulk, exactly once."""

__version__ = "0.1.0"
