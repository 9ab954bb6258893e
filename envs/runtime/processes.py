"""What this process finds on its machine, and the other processes there, of which another one may get the number later."""

from __future__ import annotations

import hashlib
import os
import socket
from errno import EADDRINUSE
from pathlib import Path

from envs.errors import UsageError


def require_surroundings() -> None:
    """Give a user of whom the system knows no home directory the root as one, as docker does.

    Raises UsageError if the current directory is gone.
    """
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/"
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(f"the current directory cannot be used ({error.strerror}): go to another one, as by `cd ~`") from None


def process_began(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine did; None if there is none, or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def claim(directory: str) -> socket.socket | None:
    """Hold a directory until what is returned is closed, or this process ends; None if another process of this machine holds it.

    What holds it is a name in the kernel, so that a process that is killed leaves nothing behind.
    """
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(f"\0toolwise-{hashlib.sha256(os.fsencode(os.path.realpath(directory))).hexdigest()}")
    except OSError as error:
        if error.errno == EADDRINUSE:
            held.close()
            return None
    return held


def pid_space() -> str:
    """What tells whether another process counts processes as this one does: the host's name, and its namespace of them, since
    containers may share a name."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()
