"""Verified demonstrations: recorded ones from files, and the check that every demonstration must pass."""
