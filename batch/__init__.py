"""zclone clones ZStack AIOS model services in bulk, exactly once."""
