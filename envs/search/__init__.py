"""Text search and image search: one protocol each, and the backends behind it."""
