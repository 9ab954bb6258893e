"""Weights, optimizer and files of a rank: saved, read back and sent to engines."""
