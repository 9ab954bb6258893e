"""Runs untrusted Python in isolated sessions that keep state, cost milliseconds, and cannot reach the host or each other."""

from sandbox.pool import Pool
from sandbox.session import Session
from sandbox.types import Limits, Observer, Result, SandboxUnavailable, Status

__all__ = ["Limits", "Observer", "Pool", "Result", "SandboxUnavailable", "Session", "Status"]
