"""Verified demonstrations: recorded ones from files, and the check that any demonstration must pass."""
