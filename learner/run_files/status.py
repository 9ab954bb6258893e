"""`status.json`: where a run stands, for who looks at it from elsewhere, and the same for a view in this process."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from envs.errors import ToolwiseError
from envs.runtime.atomic import write_file
from envs.runtime.failures import told
from envs.runtime.processes import pid_space, process_began
from envs.runtime.progress import Advance, Progress, Snapshot

log = logging.getLogger(__name__)

FILE = "status.json"
CURVES = (
    "critic/score/mean",
    "reward/accuracy",
    "tools/calls_per_episode/mean",
    "by_need/needed/tool_use",
    "by_need/not_needed/tool_use",
    "train/loss",
)
"""The metrics of which the whole stage is kept, in few numbers."""

_LATEST = (*CURVES, "tools/calls_per_episode/var", "rollout/logprob_gap", "rollout/infrastructure_failures", "data/epoch")
_TIMING = "timing_s/"
_CELLS = 40
_ALARMS = 10
_PACE = 20
_LOOK_S = 1.0
_REPEAT_S = 4.5


class Curve:
    """A series in at most `2 * cells` numbers, however long it is: each is the mean of as many consecutive values. `last` is the
    last value itself."""

    def __init__(self, cells: int = _CELLS) -> None:
        self._most = 2 * cells
        self._means: list[float] = []
        self.last = math.nan
        self._each, self._sum, self._count = 1, 0.0, 0

    def add(self, value: float) -> None:
        """Add the next value."""
        self.last, self._sum, self._count = value, self._sum + value, self._count + 1
        if self._count < self._each:
            return
        self._means.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0
        if len(self._means) == self._most:
            self._means = [(first + second) / 2 for first, second in zip(self._means[::2], self._means[1::2], strict=True)]
            self._each *= 2

    def values(self) -> list[float]:
        """The means, the last one perhaps of fewer values."""
        return [*self._means, self._sum / self._count] if self._count else [*self._means]


class RunStatus:
    """Where a run stands. The run's own thread tells it; any thread may take a `snapshot`, which looks like this:

    - `state`: `starting`, `running`, `finished`, `failed` or `interrupted`; `line`: why it ended, if it failed
    - `host`, `pid`, and what tells whether the process still is (`envs.runtime.processes`): `pid_began` and `pid_space`
    - `began`, `written` and `advanced` (the last news, be it an episode that ended), in Unix seconds
    - `stages` of the settings, and the present `stage`: `name`, `step` done (null if not known yet), `of`, `began`, `seconds_left`
      at the pace of the last steps (null if not known), and `text` of the last step
    - `doing`: `what` of a step or a stage is under way, and since when (`began`)
    - `policy_version`
    - `metrics`: of the last step, some; `curves`: some over the whole stage, in few numbers; `earlier`: the last values of those of
      them that the last step lacks; `timing_s` of the last step; `staleness`: the metrics that have it in their name
    - `workers`, `episodes`, `sandboxes`, `failures`, `errors`: see `rollout.cluster.fleet.Fleet.status`
    - `alarms`: `time` and `text` of the newest
    """

    def __init__(self, stages: Sequence[str] = ()) -> None:
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {
            "state": "starting",
            "line": None,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pid_began": process_began(os.getpid()),
            "pid_space": pid_space(),
            "began": time.time(),
            "stages": [*stages],
            "stage": None,
            "doing": None,
            "policy_version": 0,
        }
        self._advanced = time.time()
        self._metrics: dict[str, float] = {}
        self._curves: dict[str, Curve] = {}
        self._learned: tuple[str | None, int | None] = None, None
        self._alarms: deque[dict[str, Any]] = deque(maxlen=_ALARMS)
        self._pace: deque[tuple[float, int]] = deque(maxlen=_PACE)
        self._fleet: Snapshot = dict
        self._known: object = None

    def follow(self, fleet: Snapshot) -> None:
        """Say from now on what this says of the fleet as well."""
        with self._lock:
            self._fleet = fleet
            self._state["state"] = "running"

    def watched(self, progress: Progress) -> Progress:
        """The same `progress`, of which this hears as well: a title is the name of a stage."""

        @contextmanager
        def both(title: str, total: int) -> Generator[Advance]:
            self._begin(title, total)

            def advance(done: int, text: str) -> None:
                self._advance(done, text)
                show(done, text)

            with progress(title, total) as show:
                yield advance
            with self._lock:
                self._state["stage"] = None

        return both

    @contextmanager
    def doing(self, what: str) -> Generator[None]:
        """While a part of a step or a stage is under way. If the run ends amid it, it stays said."""
        before = self._do({"what": what, "began": time.time()})
        yield
        self._do(before)

    def take(self, record: Mapping[str, Any]) -> None:
        """Take in a line of `metrics.jsonl`."""
        with self._lock:
            self._learn(record)
            self._advanced = time.time()

    def rewind(self, metrics: Path, policy_version: int) -> None:
        """The run goes on from `policy_version`: learn anew from the lines of `metrics.jsonl`, which ends there."""
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        with self._lock:
            self._learned, self._metrics, self._curves = (None, None), {}, {}
            self._state["policy_version"] = policy_version
            self._pace.clear()
            for line in lines:
                self._learn(json.loads(line))

    def alarm(self, text: str) -> None:
        """An alarm rings."""
        with self._lock:
            self._alarms.append({"time": time.time(), "text": text})

    def end(self, error: BaseException | None) -> None:
        """The run has ended, with this error."""
        with self._lock:
            if error is None:
                self._state["state"] = "finished"
            elif isinstance(error, Exception):
                line = " ".join(str(error).split()) if isinstance(error, ToolwiseError) else told(error)
                self._state |= {"state": "failed", "line": line[:500] or type(error).__name__}
            else:
                self._state["state"] = "interrupted"

    def snapshot(self) -> dict[str, Any]:
        """Where the run stands now, as plain JSON."""
        with self._lock:
            fleet = self._fleet()
            known = fleet.get("episodes"), fleet.get("workers"), fleet.get("failures")
            if known != self._known:
                self._known, self._advanced = known, time.time()
            stage = self._state["stage"]
            return {
                **self._state,
                "stage": None if stage is None else stage | {"seconds_left": self._seconds_left(stage)},
                "written": time.time(),
                "advanced": self._advanced,
                "metrics": {name: self._metrics[name] for name in _LATEST if name in self._metrics},
                "timing_s": _named(self._metrics, _TIMING),
                "staleness": {name: value for name, value in self._metrics.items() if "staleness" in name},
                "curves": {name: curve.values() for name, curve in self._curves.items()},
                "earlier": {name: curve.last for name, curve in self._curves.items() if name not in self._metrics},
                "alarms": [*self._alarms],
                **fleet,
            }

    def _begin(self, title: str, total: int) -> None:
        with self._lock:
            stage, step = self._learned
            goes_on = stage == title.lower().replace(" ", "_")
            done = step if goes_on else 0
            if not goes_on:
                self._metrics, self._curves = {}, {}
            self._state["stage"] = {"name": title, "step": done, "of": total, "began": time.time(), "text": ""}
            self._pace.clear()
            self._advanced = time.time()
            if done is not None:
                self._pace.append((time.monotonic(), done))

    def _advance(self, done: int, text: str) -> None:
        with self._lock:
            if self._pace and done < self._pace[-1][1]:  # a rollback
                self._pace.clear()
            self._pace.append((time.monotonic(), done))
            self._advanced = time.time()
            if self._state["stage"] is not None:
                self._state["stage"] |= {"step": done, "text": text}

    def _do(self, doing: dict[str, Any] | None) -> dict[str, Any] | None:
        with self._lock:
            before, self._state["doing"] = self._state["doing"], doing
            self._advanced = time.time()
            return before

    def _learn(self, record: Mapping[str, Any]) -> None:
        stage, step = record["stage"], int(record["step"]) + 1
        if stage != self._learned[0]:
            self._curves = {}
        self._learned = stage, step
        self._state["policy_version"] = int(record["global_step"]) + 1
        self._metrics = {
            name: float(value) for name, value in record.items() if isinstance(value, int | float) and math.isfinite(value)
        }
        for name in CURVES:
            if name in self._metrics:
                self._curves.setdefault(name, Curve()).add(self._metrics[name])

    def _seconds_left(self, stage: Mapping[str, Any]) -> float | None:
        if len(self._pace) < 2 or stage["step"] is None:
            return None
        (first, before), (last, done) = self._pace[0], self._pace[-1]
        if done <= before:
            return None
        spent = time.monotonic() - last
        return max(0.0, (last - first) / (done - before) * (stage["of"] - done) - spent)


@contextmanager
def kept(status: RunStatus, directory: Path) -> Generator[None]:
    """Keep `status.json` in `directory` true while the run goes on, and write at the end how it ended.

    A thread of its own writes it: what is new within a second, the time alone every 5 s, so that its age says whether the process
    lives. A file that cannot be written is logged once, and tried again.
    """
    stop = threading.Event()
    writer = _Writer(status.snapshot, directory / FILE)
    thread = threading.Thread(target=writer.work, args=(stop,), name="status", daemon=True)
    writer.write()
    thread.start()
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        stop.set()
        thread.join(_REPEAT_S)
        status.end(error)
        writer.write()


class _Writer:
    """Writes snapshots to a file, those that say nothing new seldom."""

    def __init__(self, snapshot: Callable[[], dict[str, Any]], path: Path) -> None:
        self._snapshot, self._path = snapshot, path
        self._written: dict[str, Any] = {}
        self._failed = False

    def work(self, stop: threading.Event) -> None:
        """Write until told to stop."""
        while not stop.wait(_LOOK_S):
            self.write(unless_said=True)

    def write(self, unless_said: bool = False) -> None:
        """Write the file, unless it says the same already and is young."""
        snapshot = self._snapshot()
        if unless_said and _news(snapshot) == _news(self._written) and snapshot["written"] - self._written["written"] < _REPEAT_S:
            return
        try:
            write_file(self._path, json.dumps(snapshot) + "\n")
        except OSError as error:
            if not self._failed:
                log.warning("%s cannot be written: %s", self._path, error)
            self._failed = True
            return
        self._written, self._failed = snapshot, False


def _news(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """A snapshot without what changes by itself."""
    news = {name: value for name, value in snapshot.items() if name not in ("written", "stage")}
    if snapshot.get("stage"):
        news["stage"] = {name: value for name, value in snapshot["stage"].items() if name != "seconds_left"}
    return news


def _named(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
