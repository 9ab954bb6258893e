"""The index of one run as the server uses it, and the thread that fills the indexes of all runs while they are looked at."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rollout.store import name_of
from viewer.index.across import Averages, averages
from viewer.index.database import Database
from viewer.index.names import Name
from viewer.index.reading import FileState, Reader

log = logging.getLogger(__name__)

PIECE_S = 0.2
"""Time for which one file is read before it is looked whether another one is wanted more."""
SCAN_S = 1.0
LONGEST_SCAN_S = 60.0
"""Files are looked at so often: those of a run that is looked at or written, and those of one at which nothing happens."""
_ASKED_S = 10.0
_WAIT_S = 0.02


@dataclass(frozen=True, slots=True)
class Indexed:
    """How much of a run is indexed. `unreadable` counts lines that are no records; `cut` those with texts of which only the
    first 64 KiB are searched; `half` last lines without their end, which a running training may be writing; `left_out` files that
    are hidden, have names that cannot be printed, or are no regular files. `failure` says why the index goes no further, if it does
    not."""

    files: int
    of: int
    episodes: int
    unreadable: int
    cut: int
    half: int
    left_out: int
    temporary: str | None
    failure: str | None


class RunIndex:
    """`open`, `scan` and `work` are called by the thread of the `Indexer`; all else by any thread."""

    def __init__(self, run: Path, reads: str, question: Callable[[list[int]], str | None], cache: Path | None = None) -> None:
        self._run, self._reads, self._question, self._cache = run, reads, question, cache
        self._reader: Reader | None = None
        self._database: Database | None = None
        self._opened, self._progress = threading.Event(), threading.Condition()
        self._wanted: frozenset[str] = frozenset()
        self._episodes = 0
        self._failure: str | None = None
        self._written: float | None = None
        self._averages: dict[tuple[int, int], tuple[int, Averages]] = {}
        self.asked = 0.0
        """When something of this run was last asked for."""

    def open(self) -> None:
        """Open the index and look at the files."""
        self._database = Database(self._run, self._reads, self._cache)
        self._reader = Reader(self._run / "trajectories", self._database, self._question)
        self._reader.scan()
        self._count()
        self._opened.set()

    def fail(self, error: Exception) -> None:
        """Say that the index goes no further, and why. What was read stays; requests no longer wait for more."""
        log.error("the index of %s goes no further", self._run, exc_info=error)
        self._failure = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        if self._database is not None and self._database.writer.in_transaction:
            self._database.writer.execute("ROLLBACK")
        self._opened.set()
        with self._progress:
            self._progress.notify_all()

    @property
    def is_open(self) -> bool:
        """Whether `open` is done."""
        return self._opened.is_set()

    def scan(self) -> None:
        """Look at the files again."""
        assert self._reader is not None and self._database is not None
        self._database.touch()
        if self._reader.scan():
            self._count()

    @property
    def pause_s(self) -> float:
        """How long to wait before the files are looked at again: a shared disk is not asked each second for 300 runs that ended.

        Of a run that nobody asks for it is a sixtieth of the time since its newest file was written.
        """
        if self._written is None or time.monotonic() - self.asked < _ASKED_S:
            return SCAN_S
        return min(max(SCAN_S, (time.time() - self._written) / 60), LONGEST_SCAN_S)

    def work(self, stop: Callable[[], bool]) -> bool:
        """Read a piece: of a wanted name, else of the file that was written last. False if there is nothing to read."""
        assert self._reader is not None
        left = [state for state in self._reader.states.values() if not state.done]
        if not left:
            return False
        wanted = self._wanted
        state = max(left, key=lambda one: (name_of(Path(one.file)) in wanted, one.mtime, one.key))
        self._reader.read(state, PIECE_S, stop)
        self._count()
        with self._progress:
            self._progress.notify_all()
        return True

    def states(self, timeout: float = 5.0) -> Sequence[FileState]:
        """How far each file is read; waits until the index is open."""
        self._opened.wait(timeout)
        return list(self._reader.states.values()) if self._reader is not None else []

    def want(self, names: Collection[str], timeout: float) -> None:
        """Have these names read before all others, and wait for that for at most so many seconds."""
        self.asked = time.monotonic()
        self._opened.wait(timeout)
        until = time.monotonic() + timeout
        with self._progress:
            while not self._complete(names) and (left := until - time.monotonic()) > 0:
                self._wanted = frozenset(names)
                self._progress.wait(left)

    def indexed(self) -> Indexed:
        """How much is indexed."""
        states = self.states(0.0)
        done = sum(state.done for state in states)
        temporary = self._database.temporary if self._database is not None else None
        counts = (sum(getattr(state, name) for state in states) for name in ("unreadable", "cut", "half"))
        left_out = self._reader.left_out if self._reader is not None else 0
        return Indexed(done, len(states), self._episodes, *counts, left_out, temporary, self._failure)

    def names(self) -> list[tuple[Name, int, bool, bool]]:
        """Each name with its key, whether it is unfinished and whether it is read, in order."""
        files: dict[int, list[FileState]] = {}
        for state in self.states():
            files.setdefault(state.key, []).append(state)
        return [
            (
                Name.of(name_of(Path(states[0].file))),
                key,
                any(state.file.endswith(".part") for state in states),
                all(state.done for state in states),
            )
            for key, states in sorted(files.items())
        ]

    @contextmanager
    def reader(self) -> Generator[sqlite3.Connection]:
        """A connection for questions. Raises LookupError while the index is not open."""
        if not self._opened.wait(5) or self._database is None:
            raise LookupError(self._failure or "the index is being opened: ask again")
        with self._database.reader() as connection:
            yield connection

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()

    def averages(self, key: int, last: int | None = None) -> Averages:
        """The averages of a name, by its key, or of all names from that key to the `last` one; calculated again if more is read."""
        keys = key, key if last is None else last
        mark = hash(tuple((state.number, state.read) for state in self.states() if keys[0] <= state.key <= keys[1]))
        known = self._averages.get(keys)
        if known is None or known[0] != mark:
            with self.reader() as connection:
                known = mark, averages(connection, *keys)
            self._averages[keys] = known
        return known[1]

    def describe(self) -> dict[str, object]:
        """`indexed` for the page."""
        return asdict(self.indexed())

    def _complete(self, names: Collection[str]) -> bool:
        if self._failure is not None:
            return True
        states = self._reader.states.values() if self._reader is not None else ()
        return self._opened.is_set() and all(state.done for state in states if name_of(Path(state.file)) in names)

    def _count(self) -> None:
        assert self._database is not None and self._reader is not None
        self._written = max((state.mtime / 1e9 for state in self._reader.states.values()), default=None)
        (self._episodes,) = self._database.writer.execute("SELECT count(*) FROM facts").fetchone()


class Indexer:
    """The thread: the run that was asked for last comes first. It yields to requests while there are any."""

    def __init__(self) -> None:
        self._all: list[RunIndex] = []
        self._runs: list[RunIndex] = []
        self._ended = threading.Event()
        self._requests = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="index", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def add(self, run: RunIndex) -> None:
        """Have another run indexed."""
        self._all.append(run)
        self._runs = [*self._runs, run]

    def drop(self, run: RunIndex) -> None:
        """Have a run that is gone no longer indexed. A request may still ask its index, which is closed at the end."""
        self._runs = [other for other in self._runs if other is not run]

    @contextmanager
    def request(self) -> Generator[None]:
        """While a request is answered, the thread ends its piece soon and waits a little. What waits for the thread is none."""
        with self._lock:
            self._requests += 1
        try:
            yield
        finally:
            with self._lock:
                self._requests -= 1

    def stop(self) -> None:
        """End the thread. What is indexed can still be asked for."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def close(self) -> None:
        """End the thread and close all indexes."""
        self.stop()
        for run in self._all:
            run.close()

    def _is_pressed(self) -> bool:
        return bool(self._requests) or self._ended.is_set()

    def _work(self) -> None:
        looked: dict[RunIndex, float] = {}
        while not self._ended.is_set():
            busy = False
            for run in sorted(self._runs, key=lambda run: (not run.is_open, run.asked), reverse=True):
                try:
                    if not run.is_open:
                        run.open()
                    if time.monotonic() - looked.get(run, 0.0) > run.pause_s:
                        looked[run] = time.monotonic()
                        run.scan()
                    if run.work(self._is_pressed):
                        busy = True
                        break
                except Exception as error:  # the other runs are indexed nevertheless: they share this thread
                    self._runs = [other for other in self._runs if other is not run]
                    run.fail(error)
            self._ended.wait(_WAIT_S if self._requests else 0.0 if busy else 0.2)
