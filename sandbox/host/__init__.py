"""Starts and limits the outer jail: nsjail, its process, its control groups."""
