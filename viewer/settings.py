"""The settings of `toolwise view`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ViewConfig:
    """Where the page is served."""

    host: str = "127.0.0.1"
    """The address to listen at. At any other than loopback, whoever opens the page needs the token of the printed URL."""

    port: int = 8642
    """The port to listen at; if it is taken, the next free one. 0 takes any."""

    open: bool = False
    """Whether to open the page in this machine's browser."""
