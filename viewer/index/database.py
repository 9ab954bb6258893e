"""The file of an index: SQLite, in the user's cache, one for each run. It can be deleted at any time: it is made again.

An episode has a *place*, an integer that orders episodes as they were played: the key of its name (stage, then step), the number of
the file among those read of that name, the line. A file that is written anew gets a new number, so that no place is used twice: the
full-text tables, which cannot forget, then name places that no longer are.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from viewer.index.cache import ENDINGS, TEMPORARY, TEMPORARY_INDEX, cache_directory, claim, index_path

VERSION = 5
FILE_BITS, LINE_BITS = 12, 22
"""With those of a name's key (`viewer.index.names`) 62: SQLite's integers have 63."""
MOST_FILES, MOST_LINES = 1 << FILE_BITS, 1 << LINE_BITS
_KEPT_READERS = 2
_TOUCH_S = 3600.0

_SCHEMA = """
CREATE TABLE about(key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE names(key INTEGER PRIMARY KEY, name TEXT UNIQUE, files INTEGER);
CREATE TABLE files(file TEXT PRIMARY KEY, key INTEGER, number INTEGER, inode INTEGER, size INTEGER, mtime INTEGER, read INTEGER,
    line INTEGER, place INTEGER, head BLOB, tail BLOB, unreadable INTEGER, cut INTEGER, half INTEGER);
CREATE TABLE words(id INTEGER PRIMARY KEY, kind TEXT, value TEXT, UNIQUE(kind, value));
CREATE TABLE tasks(id INTEGER PRIMARY KEY, task_id TEXT UNIQUE);
CREATE TABLE questions(id INTEGER PRIMARY KEY, digest BLOB UNIQUE, text TEXT);
CREATE TABLE groups(id INTEGER PRIMARY KEY, key INTEGER, group_id TEXT, task INTEGER, question INTEGER, UNIQUE(group_id, key));
CREATE TABLE facts(place INTEGER PRIMARY KEY, task INTEGER, grp INTEGER, question INTEGER, abilities INTEGER, tools INTEGER,
    statuses INTEGER, stop INTEGER, need INTEGER, correct INTEGER, failed INTEGER, reward REAL, calls INTEGER, tokens INTEGER);
CREATE INDEX facts_task ON facts(task);
CREATE INDEX facts_grp ON facts(grp);
CREATE TABLE rows(place INTEGER PRIMARY KEY, file TEXT, offset INTEGER, length INTEGER, episode_id TEXT, row TEXT);
CREATE INDEX rows_episode ON rows(episode_id);
CREATE TABLE chains(place INTEGER PRIMARY KEY, episode INTEGER);
CREATE VIRTUAL TABLE texts USING fts5(text, content='', columnsize=0, tokenize='trigram');
CREATE VIRTUAL TABLE question_texts USING fts5(text, content='', columnsize=0, tokenize='trigram');
CREATE VIRTUAL TABLE text_pieces USING fts5vocab(texts, row);
CREATE VIRTUAL TABLE question_pieces USING fts5vocab(question_texts, row);
"""


class Database:
    """The index of one run on disk, with one writer, the thread that reads files, and as many readers as ask.

    `temporary` says why it is in a temporary directory and goes with this object: None if it is in the cache.
    """

    def __init__(self, run: Path, reads: str, directory: Path | None = None) -> None:
        """Opens the index of `run` below `directory`, by default the user's cache. `reads` says with what its texts are read: an
        index that was made with something else is made again."""
        self._readers: list[sqlite3.Connection] = []
        self._lock: BinaryIO | None = None
        self._touched = time.monotonic()
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self.temporary: str | None = None
        try:
            self._path = self._claimed(run, directory or cache_directory())
            self._writer = self._opened(reads)
        except (OSError, sqlite3.Error) as error:
            self.temporary = " ".join(str(error).split())
            self._directory = tempfile.TemporaryDirectory(prefix=TEMPORARY)
            self._path = Path(self._directory.name, TEMPORARY_INDEX)
            if self._lock is not None:
                self._lock.close()
                self._lock = None
            with suppress(OSError):  # where locks do not work nobody removes it after a kill
                self._lock = claim(self._path, run)
            self._writer = self._opened(reads)

    @property
    def writer(self) -> sqlite3.Connection:
        """For the thread that reads files, and no other."""
        return self._writer

    @contextmanager
    def reader(self) -> Generator[sqlite3.Connection]:
        """A connection that cannot write, for one thread at a time."""
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = self._connected()
        connection.execute("PRAGMA query_only = 1")
        try:
            yield connection
        finally:
            if len(self._readers) < _KEPT_READERS:
                self._readers.append(connection)
            else:
                connection.close()

    def touch(self) -> None:
        """The index is still used: its lock tells when that was last so."""
        if self._lock is not None and time.monotonic() - self._touched > _TOUCH_S:
            self._touched = time.monotonic()
            with suppress(OSError):
                os.utime(self._lock.fileno())

    def close(self) -> None:
        """Close the file; one in a temporary directory is removed."""
        for connection in (*self._readers, self._writer):
            connection.close()
        if self._directory is not None:
            self._directory.cleanup()
        if self._lock is not None:
            self._lock.close()

    def _claimed(self, run: Path, directory: Path) -> Path:
        """The path of the index, if no other process writes to it. Raises OSError."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = index_path(run, directory)
        self._lock = claim(path, run)
        return path

    def _opened(self, reads: str) -> sqlite3.Connection:
        """The writer. An index that is broken, of another version or made with something else gives way to an empty one."""
        with suppress(sqlite3.DatabaseError):
            connection = self._connected()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == VERSION and connection.execute("SELECT value FROM about").fetchone() == (reads,):
                return connection
            connection.close()
        for ending in ENDINGS:
            Path(f"{self._path}{ending}").unlink(missing_ok=True)
        self._path.touch(mode=0o600)
        connection = self._connected()
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_SCHEMA)
        connection.execute("INSERT INTO about VALUES ('reads', ?)", (reads,))
        connection.execute(f"PRAGMA user_version = {VERSION}")
        return connection

    def _connected(self) -> sqlite3.Connection:
        # Autocommit: transactions are begun where they are meant.
        connection = sqlite3.connect(self._path, timeout=5, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -4000")
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection
