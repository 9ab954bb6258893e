"""The indexes in the user's cache, and temporary ones: which file is whose, who uses it, and which ones are removed.

Beside each index lies its lock, held (flock) by the viewer that uses it. The lock's text is the name of the machine and, on the
next line, the run's directory; its time is that of the last use. A temporary index has a directory of its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import socket
import stat
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

OLD_S = 30 * 86400.0
"""An index that was not used for so long is removed."""
ENDINGS = ("", "-wal", "-shm")
"""SQLite's files of an index."""
TEMPORARY = "toolwise-view-"
"""What the name of a temporary index's directory begins with."""
TEMPORARY_INDEX = "index.sqlite"
_LOCK = re.compile(r".*-[0-9a-f]{16}\.lock", re.DOTALL)
_LONGEST = 1 << 16


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many indexes were removed, and how many bytes they had."""

    count: int = 0
    size: int = 0


def cache_directory() -> Path:
    """The directory of indexes in the user's cache (XDG Base Directory Specification)."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "toolwise" / "view"


def index_path(run: Path, directory: Path) -> Path:
    """The path of a run's index."""
    name = re.sub(r"[^\w.-]", "_", run.name)[:60]
    return directory / f"{name}-{hashlib.sha256(os.fsencode(run)).hexdigest()[:16]}.sqlite"


def claim(path: Path, run: Path) -> BinaryIO:
    """The lock of an index, held until it is closed. Raises OSError if another process holds it, or locks do not work there."""
    while True:
        lock = path.with_suffix(".lock").open("a+b")
        try:
            if _hold(lock):
                lock.truncate(0)
                lock.write(os.fsencode(f"{socket.gethostname()}\n{run}"))
                lock.flush()
                return lock
        except BlockingIOError as error:
            lock.close()
            raise OSError(f"{path} belongs to another viewer of this run") from error
        except BaseException:
            lock.close()
            raise
        lock.close()


def prune(directory: Path, kept: Collection[Path], now: float) -> Pruned:
    """Remove indexes that nobody uses and whose run is gone, or that were not used for `OLD_S` at `now`, in Unix seconds; but not
    those of the `kept` runs. What cannot be removed stays.

    A run is gone if this machine knew its directory and knows it no more: others may see other disks.
    """
    spared = {index_path(run, directory).with_suffix(".lock") for run in kept}
    try:
        locks = [path for path in sorted(directory.iterdir()) if _LOCK.fullmatch(path.name) and path not in spared]
    except OSError:
        return Pruned()
    sizes = []
    for path in locks:
        with suppress(OSError), path.open("r+b") as lock:
            # Looked at twice: a viewer may have come and gone before it was held.
            if _is_useless(path, lock, now) and _hold(lock) and _is_useless(path, lock, now):
                sizes.append(_removed(path.with_suffix(".sqlite")))
                path.unlink()
    return Pruned(len(sizes), sum(sizes))


def prune_temporary(directory: Path) -> Pruned:
    """Remove the temporary indexes in a directory that killed viewers left there: this user's, made on this machine, whose lock
    was held once and is held no more. Without a lock, or with an empty one, a viewer may just be making it: it stays."""
    sizes = []
    for place in sorted(directory.glob(f"{TEMPORARY}*")):
        with suppress(OSError):
            about = place.lstat()
            if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
                continue
            with (place / TEMPORARY_INDEX).with_suffix(".lock").open("r+b") as lock:
                host = lock.read(_LONGEST).partition(b"\n")[0]
                if host == os.fsencode(socket.gethostname()) and _hold(lock):
                    size = _removed(place / TEMPORARY_INDEX)
                    shutil.rmtree(place)
                    sizes.append(size)
    return Pruned(len(sizes), sum(sizes))


def _hold(lock: BinaryIO) -> bool:
    """Hold a lock; False if its file has been removed meanwhile. Raises BlockingIOError if another process holds it."""
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(lock.name))
    except FileNotFoundError:
        return False


def _is_useless(path: Path, lock: BinaryIO, now: float) -> bool:
    used = [os.fstat(lock.fileno()).st_mtime]
    for ending in ENDINGS:
        with suppress(FileNotFoundError):
            used.append(os.stat(f"{path.with_suffix('.sqlite')}{ending}").st_mtime)
    if now - max(used) > OLD_S:
        return True
    lock.seek(0)
    host, _, run = lock.read(_LONGEST).partition(b"\n")
    return bool(run) and host == os.fsencode(socket.gethostname()) and _is_gone(run)


def _is_gone(run: bytes) -> bool:
    try:
        os.stat(run)
        return False
    except (FileNotFoundError, NotADirectoryError):
        return True


def _removed(index: Path) -> int:
    """Remove the files of an index; how many bytes they had."""
    size = 0
    for ending in ENDINGS:
        with suppress(FileNotFoundError):
            size += os.stat(f"{index}{ending}").st_size
            os.unlink(f"{index}{ending}")
    return size
