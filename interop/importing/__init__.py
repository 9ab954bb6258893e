"""Others' logs as a run."""
