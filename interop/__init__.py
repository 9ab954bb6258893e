"""Runs in the formats that others read, and others' logs as runs."""
