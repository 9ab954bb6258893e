"""Searches for texts."""
