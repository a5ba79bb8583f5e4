"""Reports: pure folds of a manifest's rows and figures into text, and the exit code they mean."""
