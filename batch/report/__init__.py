"""Reports: pure functions from a manifest's rows and figures to text and exit code."""
