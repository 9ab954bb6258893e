"""A file of questions as a source of tasks. All rows are checked before anything runs; a row is read again when it is drawn."""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from cachetools import LRUCache

from envs.datasets.columns import NAMES, absent, cleaned, number_of, renames, unread
from envs.datasets.formats import question
from envs.datasets.pictures import listed
from envs.datasets.published import PLAIN, Reading
from envs.datasets.rows import open_rows
from envs.datasets.splits import checksum, split_of
from envs.datasets.types import Question, report_malformed
from envs.errors import DatasetError, ItemError, RowError
from envs.pictures import Source, decode, require_whole
from envs.scoring.types import Kind
from envs.types import SPLITS, Task

log = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".json", ".parquet", ".tsv", ".csv")
_PACKED = (".gz", ".zip", ".zst", ".bz2", ".xz", ".7z", ".tar", ".tgz")
_LONGEST_INDEX = 64  # characters: an image in base64 has more
_TENTHS = 10
_KNOWN_PICTURES = 4096  # files known to be whole: neighbouring rows often ask about the same picture


def is_dataset(tasks: str) -> bool:
    """Whether `tasks` names a file of questions, which need not exist, or an existing directory, rather than an environment."""
    return tasks.endswith(SUFFIXES) or Path(tasks).is_dir()


def unknown_suffix(path: str | Path) -> str:
    """What to write in place of a file whose suffix is none of `SUFFIXES`."""
    name = Path(path).name
    if name.endswith(_PACKED):
        return f"{path} is packed: unpack it first, and write the file that was in it"
    return f"{path}: the format is not known; write a file that ends in {' or '.join(SUFFIXES)}"


@dataclass(frozen=True, slots=True)
class OneRow:
    """A source of one task: a row of a file, which is read when it is drawn."""

    read: Callable[[int], Task]
    row: int
    reads_files: ClassVar[bool] = True

    def __call__(self, rng: np.random.Generator) -> Task:
        return self.read(self.row)


class Dataset:
    """A source of tasks from the rows of a file, each by its `number` in it; called with a generator, of any row.

    Whoever runs many episodes names the row of each: see `rollout.specs`, which draws them epoch by epoch. With `checked`, the rows
    have been checked already: the file is only indexed, nothing is reported, and `row` is all that can be asked for.

    `split` takes a tenth of the rows for "validation", a tenth for "test", the rest for "train", by checksum of the question, and
    of its pictures if other rows ask the same; None takes all. If a directory has splits, `split` names one of them. `malformed`
    says whether rows that cannot be used are an error or are skipped with a log message; `skipped` counts them, `usable` those of
    all splits that can be used, `judged` those that need a judge, `blind` those without a picture, `choices` those with options.
    `tools` are the names of tools that rows may use, None for any. `columns` maps our names of columns to the file's, or a name to
    None to leave that column out. Columns that are not read are logged. `reading` says what else is done with rows; `left_out`
    counts those that its form leaves out.

    Raises DatasetError if the file is missing, its format or a setting is unknown, rows are malformed, or no row can be used.
    """

    def __init__(
        self,
        path: str | Path,
        split: str | None = None,
        malformed: str = "error",
        tools: frozenset[str] | None = None,
        columns: Mapping[str, Any] | Iterable[Any] | None = None,
        checked: bool = False,
        reading: Reading = PLAIN,
    ) -> None:
        self.path = Path(path)
        if not self.path.is_dir() and self.path.suffix not in SUFFIXES:
            raise DatasetError(unknown_suffix(path))
        if not self.path.exists():
            raise DatasetError(f"{path}: there is no such file")
        self._folder = self.path if self.path.is_dir() else self.path.parent
        self._columns = renames(columns)
        self._rows = open_rows(self.path, split)
        own_splits = (self.path / "dataset_dict.json").is_file()
        if split is not None and split not in SPLITS and not own_splits:
            raise DatasetError(f"split is {split!r}: write one of {', '.join(SPLITS)}")
        self._tools = tools
        self._reading = reading
        self._by_index: dict[str, int] = {}
        self._unread: set[str] = set()
        self.judged = self.left_out = self.blind = self.choices = self.usable = 0
        if checked:
            self._index()
            return
        self.numbers, self._texts, bad = self._check(None if own_splits else split)
        self.skipped = len(bad)
        if self._unread:
            names = ", ".join(sorted(self._unread))
            log.warning("%s: columns that are not read: %s (+options.columns={ours: theirs} names one that should be)", path, names)
        report_malformed(self.path, bad, malformed)
        if not self.numbers:
            if split is None or own_splits:
                raise DatasetError(f"{path}: the file has no rows" + (f" of the split {split}" if split else ""))
            raise DatasetError(
                f"{path}: the file has no rows of the split {split}, a tenth or eight of them by the text of their questions: add "
                "rows, or give each split a file of its own, with split=null (docs/questions.md#splits)"
            )

    reads_files = True
    """See `ToolEnv`."""

    def __len__(self) -> int:
        return len(self.numbers)

    def __call__(self, rng: np.random.Generator) -> Task:
        return self.task(int(rng.integers(len(self))))

    def task(self, index: int) -> Task:
        """The task at `index`, counted from 0 over the usable rows of the split; as `row`."""
        return self.row(self.numbers[index])

    def question(self, number: int) -> Question:
        """The question of a row, by its number in the file; its pictures are not opened. Raises ItemError as `row`."""
        try:
            return self._question(self._rows[number])
        except (RowError, OSError) as error:
            raise ItemError(f"{self.path}, row {number}: {error}") from None

    def record(self, number: int) -> Mapping[str, Any]:
        """A row as it stands in the file. Raises ItemError as `row`."""
        try:
            return self._rows[number]
        except (RowError, OSError) as error:
            raise ItemError(f"{self.path}, row {number}: {error}") from None

    def clusters(self, columns: Sequence[str]) -> dict[str, str]:
        """By task id, what the row has in common with the others that ask the same: checksums of its values in the file's
        `columns`, of which "images" is its pictures. Raises ItemError as `row`, OSError if a picture cannot be read."""
        named = [name for name in columns if name != "images"]
        pictured = named != [*columns]
        return {
            self._name(number): f"{checksum(repr([self.record(number).get(name) for name in named])):08x}"
            + (f"-{checksum('', self.question(number).pictures):08x}" if pictured else "")
            for number in self.numbers
        }

    def row(self, number: int) -> Task:
        """The task of a row by its number in the file, counted from 1 as in all messages about rows.

        Raises ItemError if the row was usable and cannot be read now; the others still are.
        """
        parsed = self.question(number)
        try:
            images, views = (tuple(map(decode, sources)) for sources in (parsed.pictures, parsed.views))
        except RowError as error:
            raise ItemError(f"{self.path}, row {number}: {error}") from None
        return Task(
            task_id=self._name(number),
            question=parsed.text,
            answer=parsed.answer,
            abilities=parsed.abilities,
            source=parsed.source or self.path.stem,
            images=images,
            views=views,
            needed_tools=parsed.needed_tools,
            tools=parsed.tools,
            scoring=parsed.scoring,
            system=parsed.system,
        )

    def _name(self, number: int) -> str:
        return f"{self.path.stem}-{number}"

    def _index(self) -> None:
        """Find the rows, and the pictures that others name by their index."""
        for number, row in self._rows:
            if not isinstance(row, RowError):
                self._remember(row, number)

    def _check(self, split: str | None) -> tuple[array[int], array[int], list[tuple[int, str]]]:
        """The numbers of the split's rows, checksums of their texts, and the rows of the file that cannot be used, each with the
        reason."""
        numbers, texts, bad = array("q"), array("L"), []
        whole: LRUCache[Source, bool] = LRUCache(_KNOWN_PICTURES)
        for number, row in self._rows:
            try:
                if isinstance(row, RowError):
                    raise row
                self._remember(row, number)
                read = self._read(row)
                if read is None:
                    self.left_out += 1
                    continue
                parsed = self._question_of(read)
                for picture in (*parsed.pictures, *parsed.views):
                    if isinstance(picture, bytes) or picture not in whole:
                        require_whole(picture)
                    if isinstance(picture, Path):
                        whole[picture] = True
            except RowError as error:
                bad.append((number, str(error)))
                continue
            self._unread |= unread(cleaned(read, self._columns))
            self.judged += parsed.scoring.kind in (Kind.JUDGE, Kind.RUBRIC)
            self.blind += not parsed.shown
            self.choices += parsed.scoring.kind is Kind.CHOICE
            numbers.append(number)
            texts.append(checksum(parsed.text))
        self.usable = len(numbers)
        if split is not None:
            places = self._of_split(split, numbers, texts)
            return array("q", (numbers[place] for place in places)), array("L", (texts[place] for place in places)), bad
        return numbers, texts, bad

    def _of_split(self, split: str, numbers: array[int], texts: array[int]) -> list[int]:
        """The places of a split's rows. The text decides if no other row asks it, else the text and the pictures.

        If that tells fewer than ten items apart among many rows, so that no tenth can be taken, the number of the row decides.
        """
        counts, checksums = Counter(texts), texts[:]
        for place, number in enumerate(numbers):
            if counts[texts[place]] > 1:
                parsed = self._question(self._rows[number])
                checksums[place] = checksum(parsed.text, parsed.pictures)
        items = len(set(checksums))
        if items < _TENTHS and len(numbers) >= _TENTHS * items:
            checksums = array("L", (checksum(str(number)) for number in numbers))
        return [place for place, value in enumerate(checksums) if split_of(value) == split]

    def asked_by(self, other: Dataset) -> list[int]:
        """The rows, by their numbers in the file, whose text and pictures a row of `other` has as well.

        Raises ItemError if a row cannot be read any more, OSError if a picture cannot.
        """
        texts = {*self._texts} & {*other._texts}
        mine, theirs = (
            [number for number, text in zip(data.numbers, data._texts, strict=True) if text in texts] for data in (self, other)
        )
        # Rows that ask the same are often of different pictures, which are read only where others have their sizes.
        for key in (_sizes, checksum):
            keys = [
                {number: key(asked.text, asked.pictures) for number in numbers for asked in [data.question(number)]}
                for data, numbers in ((self, mine), (other, theirs))
            ]
            common = {*keys[0].values()} & {*keys[1].values()}
            mine, theirs = ([number for number, value in of.items() if value in common] for of in keys)
        return mine

    def _question(self, row: Mapping[str, Any]) -> Question:
        read = self._read(row)
        if read is None:
            raise RowError(f"the form {self._reading.form} leaves this row out: choose another")
        return self._question_of(read)

    def _read(self, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The row as `reading` has it, with the picture that it names by its index."""
        image = row.get("image")
        if self._by_index and isinstance(image, str):
            row = dict(row) | {"image": [self._referred(item) for item in listed(image)]}
        read = self._reading.row(row)
        if read is None or not self._reading.form:
            return read
        # A form picks columns by their published names: one that `columns` names is read all the same.
        named = {theirs.partition(".")[0] for _, theirs in self._columns if theirs is not None}
        if not any(name in NAMES["images"] or number_of(name) for name in (*read, *dict(self._columns))):
            lost = next((name for name in NAMES["images"] if not absent(row.get(name))), None)
            if lost is not None:
                raise RowError(
                    f"the form {self._reading.form} does not read the column {lost}, and the row has no other picture: write "
                    f"columns={{images: {lost}}} to read it, or columns={{{lost}: null}} to leave it out"
                )
        return {name: row[name] for name in named if name in row} | read

    def _question_of(self, row: Mapping[str, Any]) -> Question:
        made = question(row, self._folder, self._tools, self._columns)
        return replace(made, text=self._reading.asked(made.text, made.scoring.options))

    def _remember(self, row: Mapping[str, Any], number: int) -> None:
        """Notes a row whose image others may name by its `index`, as in VLMEvalKit's tables."""
        image = row.get("image")
        if "index" in row and isinstance(image, str) and len(image) > _LONGEST_INDEX:
            self._by_index.setdefault(str(row["index"]), number)

    def _referred(self, item: Any) -> Any:
        number = self._by_index.get(item) if isinstance(item, str) and len(item) <= _LONGEST_INDEX else None
        return item if number is None else self._rows[number]["image"]


def _sizes(text: str, pictures: Iterable[Source]) -> tuple[str, tuple[int, ...]]:
    """The question and the sizes of its pictures in bytes."""
    return text, tuple(len(picture) if isinstance(picture, bytes) else picture.stat().st_size for picture in pictures)
