"""Logs of Inspect (`inspect view`): a `.eval` file for each name, whose samples are tasks and whose epochs are their episodes.

A `.eval` file is a ZIP archive of JSON: `header.json`, `summaries.json` and one file for each sample (version 2 of the schema that
`inspect log schema` prints). Images, and texts of events that are longer than 100 characters, are attachments of their sample, as
Inspect keeps them.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections import Counter, defaultdict
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import IO, Any

from interop.exporting.conversation import Conversation
from interop.exporting.inspect_sample import InspectSample, summary
from interop.exporting.writing import Writer, dumped

SCHEMA_VERSION = 2


class InspectWriter(Writer):
    """Writes `NAME.eval` for each name."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._log: _Log | None = None
        self._written: list[str] = []

    def add(self, conversation: Conversation) -> bool:
        if self._log is None or self._log.name != conversation.name:
            self._finish()
            self._log = _Log(conversation.name, self)
        self._log.add(conversation)
        return True

    def close(self) -> list[str]:
        self._finish()
        return self._written

    def _finish(self) -> None:
        if self._log is not None:
            self._log.close()
            self._written.append(self._log.path.name)
            self._log = None


class _Log:
    """One file that is being written. Summaries, which stand in one file, wait on disk."""

    def __init__(self, name: str, writer: InspectWriter) -> None:
        self.name, self._writer = name, writer
        self.path = writer.directory / f"{name}.eval"
        self._open = ExitStack()
        self._zip = self._open.enter_context(zipfile.ZipFile(self.path, "w", zipfile.ZIP_DEFLATED))
        spool = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (it is the stack that closes it)
        self._summaries: IO[str] = self._open.enter_context(spool)
        self._epochs: Counter[str] = Counter()
        self._sums: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0.0])
        self._scored = self._failed = 0
        paths = writer.source.store.paths(name)
        self._begun = datetime.fromtimestamp(max((path.stat().st_mtime for path in paths), default=0), UTC).replace(microsecond=0)

    def add(self, conversation: Conversation) -> None:
        record = conversation.record
        task = record.task_id or record.group_id
        self._epochs[task] += 1
        made = InspectSample(conversation, self._writer, self._begun).json(task, self._epochs[task])
        self._zip.writestr(f"samples/{task}_epoch_{self._epochs[task]}.json", dumped(made))
        self._summaries.write(("," if self._epochs.total() > 1 else "[") + dumped(summary(made)))
        for score, value in (made["scores"] or {}).items():
            total = self._sums[score]
            total[0] += 1
            total[1] += value["value"]
        self._scored += made["scores"] is not None
        self._failed += made["scores"] is None

    def close(self) -> None:
        self._summaries.write("]")
        self._summaries.seek(0)
        with self._zip.open("summaries.json", "w") as file:
            while block := self._summaries.read(1 << 20):
                file.write(block.encode())
        self._zip.writestr("header.json", dumped(self._header()))
        self._open.close()

    def _header(self) -> dict[str, Any]:
        source = self._writer.source
        identity = hashlib.sha256(f"{source.label}/{self.name}".encode()).hexdigest()
        begun, total = self._begun.isoformat(), self._epochs.total()
        evaluation = {
            "eval_id": identity[:22],
            "run_id": hashlib.sha256(source.label.encode()).hexdigest()[:22],
            "created": begun,
            "task": self.name,
            "task_id": identity[22:44],
            "task_version": 0,
            "task_args": {},
            "task_args_passed": {},
            "dataset": {"name": str(source.settings.get("tasks") or source.label), "samples": len(self._epochs)},
            "model": source.policy,
            "model_args": {},
            "config": {"epochs": max(self._epochs.values())},
            "packages": {},
            "metadata": {"run": source.label, "format": "written by toolwise export"},
            "scorers": [{"name": name} for name in self._sums],
        }
        scores = [
            {
                "name": name,
                "scorer": name,
                "scored_samples": int(count),
                "unscored_samples": total - int(count),
                "params": {},
                "metrics": {"mean": {"name": "mean", "value": summed / count, "params": {}}},
            }
            for name, (count, summed) in self._sums.items()
        ]
        return {
            "version": SCHEMA_VERSION,
            "status": "success",
            "eval": evaluation,
            "plan": {"name": "plan", "steps": [], "config": {}},
            "results": {"total_samples": total, "completed_samples": self._scored, "scores": scores},
            "stats": {"started_at": begun, "completed_at": begun, "model_usage": {}, "role_usage": {}},
        }
