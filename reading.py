"""The commands that look at runs without touching them."""

from __future__ import annotations
