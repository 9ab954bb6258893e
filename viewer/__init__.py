"""A local page that shows runs: curves, groups side by side, pictures, tokens."""
