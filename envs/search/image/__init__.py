"""Searches for what an image shows."""
