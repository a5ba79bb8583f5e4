"""Progress: a live view on a terminal, else a heartbeat in the log; both only read the manifest's counts."""
