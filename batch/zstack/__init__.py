"""zstack."""
