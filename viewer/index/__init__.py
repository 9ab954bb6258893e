"""An index of a run's trajectory files: what to filter by, where each record is, and full text."""
