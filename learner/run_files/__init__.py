"""The run directory: settings, progress, checkpoints, metrics."""
