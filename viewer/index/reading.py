"""Reads the trajectory files of a run into its index, a piece at a time, and goes on with files that grow."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rollout.store import name_of
from viewer.index.database import FILE_BITS, LINE_BITS, MOST_FILES, MOST_LINES, Database
from viewer.index.lines import Chain, Unreadable, joined, read_line
from viewer.index.names import Name

LONGEST_LINE = 256 << 20
"""Bytes; a longer line is unreadable."""
PADDING = "\n\n"
"""Behind each text that is searched: every character then begins a piece of three, by which shorter queries are found."""
_EDGE = 256
_LEAST_LINES = 32
_LARGEST_CACHE = 20_000


@dataclass(slots=True)
class FileState:
    """How far a file is read. `head` and `tail` are its first bytes and the last ones that were read, `place` that of its last
    episode; `half` is 1 while its last line has no end."""

    file: str
    key: int
    number: int
    inode: int
    size: int
    mtime: int
    read: int = 0
    line: int = 0
    place: int | None = None
    head: bytes = b""
    tail: bytes = b""
    unreadable: int = 0
    cut: int = 0
    half: int = 0

    @property
    def done(self) -> bool:
        """Whether all that the file held when it was last looked at is read."""
        return self.read >= self.size or bool(self.half)

    @property
    def places(self) -> tuple[int, int]:
        """The first and the last place that an episode of this file can have."""
        first = first_place(self.key, self.number)
        return first, first + MOST_LINES - 1


def first_place(key: int, number: int = 0) -> int:
    """The first place of a name's files from this number on."""
    return key << (FILE_BITS + LINE_BITS) | number << LINE_BITS


class Reader:
    """The writing side of an index. All methods are called by one thread, but for `states`, which is replaced whole.

    `left_out` counts files that end as those of trajectories do and are none: hidden ones, those whose names have characters that
    cannot be printed, or bytes that are no UTF-8, and what is no regular file.
    """

    def __init__(self, directory: Path, database: Database, question: Callable[[list[int]], str | None]) -> None:
        """`directory` is a run's `trajectories`; `question` reads the text of a prompt's tokens."""
        self._directory, self._connection, self._question = directory, database.writer, question
        names = ", ".join(field.name for field in fields(FileState))
        rows = self._connection.execute(f"SELECT {names} FROM files")
        self.states: dict[str, FileState] = {row[0]: FileState(*row) for row in rows}
        self.left_out = 0
        self._words: dict[tuple[str, str], int] = {}
        self._groups: dict[tuple[int, str], tuple[int, int, int | None]] = {}
        self._tasks: dict[str, int] = {}

    def scan(self) -> bool:
        """Look at the files: which are new, longer, written anew or gone. Returns whether any is."""
        found: dict[str, os.stat_result] = {}
        left_out = 0
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    if not entry.name.endswith((".jsonl", ".jsonl.part")):
                        continue
                    if not _is_shown(entry.name) or not entry.is_file():
                        left_out += 1
                        continue
                    with suppress(OSError):  # it went between the two looks
                        found[entry.name] = entry.stat()
        except OSError:
            found = {}
        states, changed = dict(self.states), self.states.keys() != found.keys() or left_out != self.left_out
        self.left_out = left_out
        self._connection.execute("BEGIN")
        for file in states.keys() - found.keys():
            self._forget(states.pop(file))
        for file, stat in sorted(found.items()):
            state = states.get(file)
            if state is not None and (state.size, state.mtime, state.inode) == (stat.st_size, stat.st_mtime_ns, _inode(stat)):
                continue
            changed = True
            if state is not None and self._grew(state, stat):
                state.size, state.mtime, state.half = stat.st_size, stat.st_mtime_ns, 0
                continue
            if state is not None:
                self._forget(state)
            key, number = self._numbered(file)
            states[file] = FileState(file, key, number, _inode(stat), stat.st_size, stat.st_mtime_ns)
        self._connection.execute("COMMIT")
        self.states = states
        return changed

    def read(self, state: FileState, seconds: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Read on in a file for about so long, or until `stop` says so. A file that cannot be opened counts as unreadable."""
        until = time.monotonic() + seconds
        # Others see how far a file is read once what was read is there for them.
        state = replace(state)
        batch, taken = _Batch(), 0
        self._connection.execute("BEGIN")
        try:
            with (self._directory / state.file).open("rb") as file:
                if not state.head:
                    state.head = file.read(_EDGE)
                file.seek(state.read)
                for line in _lines(file):
                    if line is None:
                        state.unreadable += 1
                    elif not line.endswith(b"\n") and not self._is_whole(line):
                        state.half = 1
                        break
                    elif line.strip():
                        self._take(line, state, batch)
                    state.read = file.tell()
                    state.line += 1
                    taken += 1
                    if time.monotonic() > until or (taken >= _LEAST_LINES and stop()):
                        break
                else:
                    state.size = min(state.size, state.read)
                file.seek(max(0, state.read - _EDGE))
                state.tail = file.read(min(_EDGE, state.read))
        except OSError:
            state.read, state.unreadable = state.size, state.unreadable + 1
        self._write(batch)
        marks = ", ".join("?" * len(fields(FileState)))
        self._connection.execute(f"INSERT OR REPLACE INTO files VALUES ({marks})", astuple(state))
        self._connection.execute("COMMIT")
        self.states[state.file] = state

    def _take(self, line: bytes, state: FileState, batch: _Batch) -> None:
        place = first_place(state.key, state.number) + state.line
        if state.line >= MOST_LINES:
            state.unreadable += 1
            return
        try:
            chain = read_line(line)
        except Unreadable:
            state.unreadable += 1
            return
        state.cut += chain.cut
        batch.texts.append((place, chain.text + PADDING))
        if chain.number and state.place is not None and self._extend(state.place, place, len(line), state.read, chain, batch):
            return
        state.place = place
        row = chain.row
        group, task, question = self._group(state.key, chain)
        kinds = ("abilities", "tools", "tool_statuses")
        sets = [self._word(kind, json.dumps(sorted(set(row[kind])), ensure_ascii=False)) for kind in kinds]
        need = -1 if row["needs_tool"] is None else int(row["needs_tool"])
        stop = self._word("stop", row["stop_reason"])
        outcome = (need, row["correct"], row["stop_reason"] == "INFRASTRUCTURE", row["reward"], row["calls"], row["tokens"])
        batch.facts[place] = (place, task, group, question, *sets, stop, *outcome)
        batch.rows[place] = (place, state.file, state.read, len(line), row["episode_id"], row)

    def _extend(self, episode: int, place: int, length: int, offset: int, chain: Chain, batch: _Batch) -> bool:
        """Add a chain to the episode before it; False if it belongs to another one."""
        if episode in batch.rows:
            _, file, begin, _, episode_id, row = batch.rows[episode]
            fact = batch.facts[episode]
        else:
            kept = self._connection.execute("SELECT * FROM rows WHERE place = ?", (episode,)).fetchone()
            fact = self._connection.execute("SELECT * FROM facts WHERE place = ?", (episode,)).fetchone()
            if kept is None:
                return False
            _, file, begin, _, episode_id, row = (*kept[:5], json.loads(kept[5]))
        if episode_id != chain.row["episode_id"]:
            return False
        row = joined(row, chain.row)
        sets = [self._word(kind, json.dumps(sorted(set(row[kind])), ensure_ascii=False)) for kind in ("tools", "tool_statuses")]
        batch.facts[episode] = (*fact[:5], *sets, *fact[7:12], row["calls"], row["tokens"])
        batch.rows[episode] = (episode, file, begin, offset + length - begin, episode_id, row)
        batch.chains.append((place, episode))
        return True

    def _write(self, batch: _Batch) -> None:
        write = self._connection.executemany
        marks = ", ".join("?" * 14)
        write(f"INSERT OR REPLACE INTO facts VALUES ({marks})", batch.facts.values())
        rows = ((*row[:5], json.dumps(row[5], ensure_ascii=False)) for row in batch.rows.values())
        write("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?)", rows)
        write("INSERT INTO chains VALUES (?, ?)", batch.chains)
        write("INSERT INTO texts(rowid, text) VALUES (?, ?)", batch.texts)

    def _group(self, key: int, chain: Chain) -> tuple[int, int, int | None]:
        """The numbers of the group of an episode, its task and its question."""
        group_id, task_id = chain.row["group_id"], chain.row["task_id"]
        if known := self._groups.get((key, group_id)):
            return known if self._task(task_id) == known[1] else (known[0], self._task(task_id), known[2])
        select = "SELECT id, task, question FROM groups WHERE key = ? AND group_id = ?"
        found = self._connection.execute(select, (key, group_id)).fetchone()
        if found is None:
            task, question = self._task(task_id), self._asked(chain)
            insert = "INSERT INTO groups(key, group_id, task, question) VALUES (?, ?, ?, ?)"
            number = self._connection.execute(insert, (key, group_id, task, question)).lastrowid or 0
            found = number, task, question
        _remember(self._groups, (key, group_id), found)
        return found

    def _task(self, task_id: str) -> int:
        if task_id not in self._tasks:
            self._connection.execute("INSERT OR IGNORE INTO tasks(task_id) VALUES (?)", (task_id,))
            (number,) = self._connection.execute("SELECT id FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
            _remember(self._tasks, task_id, number)
        return self._tasks[task_id]

    def _asked(self, chain: Chain) -> int | None:
        try:
            text = self._question(chain.prompt())
        except ValueError:
            return None
        if text is None:
            return None
        digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()[:16]
        if found := self._connection.execute("SELECT id FROM questions WHERE digest = ?", (digest,)).fetchone():
            return found[0]
        number = self._connection.execute("INSERT INTO questions(digest, text) VALUES (?, ?)", (digest, text)).lastrowid
        self._connection.execute("INSERT INTO question_texts(rowid, text) VALUES (?, ?)", (number, text + PADDING))
        return number

    def _word(self, kind: str, value: str) -> int:
        if (kind, value) not in self._words:
            self._connection.execute("INSERT OR IGNORE INTO words(kind, value) VALUES (?, ?)", (kind, value))
            (number,) = self._connection.execute("SELECT id FROM words WHERE kind = ? AND value = ?", (kind, value)).fetchone()
            _remember(self._words, (kind, value), number)
        return self._words[kind, value]

    def _numbered(self, file: str) -> tuple[int, int]:
        """The key of a file's name, and the number of the file among those read of that name."""
        name = name_of(Path(file))
        row = self._connection.execute("SELECT key, files FROM names WHERE name = ?", (name,)).fetchone()
        if row is None:
            keys = Name.of(name).keys
            select = "SELECT max(key) FROM names WHERE key BETWEEN ? AND ?"
            (last,) = self._connection.execute(select, (keys[0], keys[-1])).fetchone()
            row = (keys[0] if last is None else last + 1), 0
            self._connection.execute("INSERT INTO names VALUES (?, ?, 0)", (row[0], name))
        key, number = row
        if number >= MOST_FILES:
            raise sqlite3.DataError(f"{name} has been written anew {number} times")
        self._connection.execute("UPDATE names SET files = ? WHERE key = ?", (number + 1, key))
        return key, number

    def _grew(self, state: FileState, stat: os.stat_result) -> bool:
        """Whether a file is the one that was read, with more behind it."""
        if (
            _inode(stat) != state.inode
            or stat.st_size < state.read
            or (stat.st_size == state.size and state.done and not state.half)
        ):
            return False
        try:
            with (self._directory / state.file).open("rb") as file:
                if file.read(len(state.head)) != state.head:
                    return False
                file.seek(max(0, state.read - _EDGE))
                return file.read(min(_EDGE, state.read)) == state.tail
        except OSError:
            return False

    def _forget(self, state: FileState) -> None:
        for table in ("facts", "rows", "chains"):
            self._connection.execute(f"DELETE FROM {table} WHERE place BETWEEN ? AND ?", state.places)
        self._connection.execute("DELETE FROM files WHERE file = ?", (state.file,))

    @staticmethod
    def _is_whole(line: bytes) -> bool:
        """Whether a last line that lacks its end is a record nevertheless."""
        try:
            json.loads(line)
            return True
        except (ValueError, RecursionError):
            return False


class _Batch:
    """What is written at once."""

    def __init__(self) -> None:
        self.facts: dict[int, tuple[Any, ...]] = {}
        self.rows: dict[int, tuple[Any, ...]] = {}
        self.chains: list[tuple[int, int]] = []
        self.texts: list[tuple[int, str]] = []


def _is_shown(name: str) -> bool:
    """Whether a file is not hidden, and has a name that the index and JSON can hold: bytes that are no UTF-8 are none."""
    return not name.startswith(".") and name.isprintable()


def _inode(stat: os.stat_result) -> int:
    """The number of a file; SQLite has 63 bits for it, and some network file systems use 64."""
    return stat.st_ino & (1 << 63) - 1


def _lines(file: Any) -> Iterator[bytes | None]:
    """The lines from here on; None for one that is too long."""
    while line := file.readline(LONGEST_LINE):
        if len(line) < LONGEST_LINE:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(LONGEST_LINE)
        yield None


def _remember(cache: dict[Any, Any], key: Any, value: Any) -> None:
    if len(cache) >= _LARGEST_CACHE:
        cache.clear()
    cache[key] = value
