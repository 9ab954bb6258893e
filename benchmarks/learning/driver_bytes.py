"""What a step leaves on the driver: memory for each token of its episodes, and the driver's own work.

Synthetic episodes, but for their contents as in training: two worker processes on real Ray play them one by one, keep the tokens
and images as task returns, and write their records; the driver has summaries, references, the batch and the metrics. The pictures
are plain, so that 4,096 times two of them fit into this machine's memory; the driver never sees them, however large they are.
"""

from __future__ import annotations

import gc
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import ray
from PIL import Image, ImageDraw

from benchmarks.figures import Figure
from evaluation.alarm import CollapseAlarm
from evaluation.tool_use import tool_use_metrics
from learner.batch import Batch
from rollout.cluster.connect import join
from rollout.cluster.fleet import Fleet
from rollout.cluster.worker import RolloutWorker
from rollout.config import RolloutConfig
from rollout.store import Store
from rollout.types import Episode, EpisodeSpec, GroupSpec, StopReason, ToolCallRecord, Trajectory, Turn, episodes_of

GROUPS, GROUP_SIZE, WHOLE_GROUPS = 256, 16, 12
TOKENS, SAMPLED, TURNS, CALLS = 8192, 3072, 4, 3
_SIDE = 896, 868  # 32 x 31 visual tokens of 28 x 28 pixels
_VERSION = 1


class SyntheticWorker(RolloutWorker):
    """A worker whose episodes are made up; all else is as in training."""

    async def start(self, weights: Any = None, version: int = 0) -> None:
        rng = random.Random(0)
        run, mask = TOKENS // TURNS, SAMPLED // TURNS
        self._mask = ([0] * (run - mask) + [1] * mask) * TURNS
        self._tokens = [rng.randrange(150_000) for _ in range(TOKENS)]
        self._logprobs = [-round(rng.expovariate(2), 6) * sampled for sampled in self._mask]
        self._versions = [_VERSION if sampled else -1 for sampled in self._mask]
        self._picture = _picture()
        self._ready.set_result(None)

    async def _episode(self, spec: EpisodeSpec) -> Episode:
        # A picture is told from another by its bytes; what follows the end of a PNG is not read.
        pictures = [self._picture + os.urandom(16) for _ in range(2)]
        images = {sha256(picture).hexdigest(): picture for picture in pictures}
        calls = [[ToolCallRecord("code", "ok", random.random())] if turn < CALLS else [] for turn in range(TURNS)]
        chain = Trajectory(
            episode_id=spec.episode_id,
            task_id=f"task-{spec.group_id}",
            group_id=spec.group_id,
            abilities=("perception", "reasoning"),
            source="synthetic",
            seed=spec.env_seed,
            token_ids=[(token + spec.sampling_seed) % 150_000 for token in self._tokens],
            loss_mask=self._mask,
            logprobs=self._logprobs,
            versions=self._versions,
            prompt_length=self._mask.index(1),
            images=list(images),
            turns=[Turn(action="x" * 2000, observation="y" * 500, tool_calls=part, generate_s=1.0) for part in calls],
            reward=random.random(),
            reward_parts={"accuracy": float(random.random() > 0.5), "format": 0.0},
            answer="42",
            stop_reason=StopReason.ANSWERED,
        )
        return Episode((chain,), images)


def measure() -> list[Figure]:
    """Bytes of the driver's memory for each token, of whole episodes on the driver; and seconds of its processor time a step."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TOOLWISE_ACCEPT_REDUCED_ISOLATION": "1"}
    # In a process of its own: memory that another figure has given back would hide what this one takes.
    result = subprocess.run([sys.executable, "-m", __name__], env=environment, capture_output=True, text=True, check=True)
    seen = json.loads(result.stdout.splitlines()[-1])
    per_token = Figure("driver_bytes", "bytes of the driver's memory for each token", "the driver holds whole episodes")
    per_token.add(seen["played"]["bytes"] / seen["played"]["tokens"], seen["whole"]["bytes"] / seen["whole"]["tokens"])
    work = Figure("driver_seconds", "s of the driver's processor time for 4,096 episodes", "the 5 s that a step may take")
    work.add(seen["played"]["seconds"], 5.0)
    return [per_token, work]


def _measure() -> dict[str, dict[str, float]]:
    config = RolloutConfig(workers=2, cpus_per_worker=1, sandboxes_per_worker=0, episodes_per_worker=256)
    join(config)
    fleet = Fleet(config, SyntheticWorker)
    fleet.collect(_groups(2, "warm"))
    with tempfile.TemporaryDirectory() as directory:
        store = Store(directory)
        fleet.play(_groups(2, "warm"), store, "warm")
        fleet.flush()
        played = _growth(lambda: _step(fleet, store))
        fleet.flush()
        assert sum(1 for path in store.paths("rl_000000") for _ in path.open("rb")) == GROUPS * GROUP_SIZE
    whole = _growth(lambda: fleet.collect(_groups(WHOLE_GROUPS, "whole")))
    fleet.shutdown()
    return {
        "played": played | {"tokens": GROUPS * GROUP_SIZE * TOKENS},
        "whole": whole | {"tokens": WHOLE_GROUPS * GROUP_SIZE * TOKENS},
    }


def _step(fleet: Fleet, store: Store) -> Any:
    """What the driver does of a step, and all that it holds at its end."""
    groups = fleet.play(_groups(GROUPS, "rl"), store, "rl_000000")
    summaries = list(episodes_of(groups))
    batch = Batch.of_summaries(summaries)
    metrics = tool_use_metrics(groups, CollapseAlarm(), ["code"])
    return groups, batch, ray.put(batch), metrics


def _growth(step: Callable[[], Any]) -> dict[str, float]:
    """What a step adds to this process's own memory, in bytes, and what it takes of its processor time, in seconds."""
    gc.collect()
    before, started, clock = _private_bytes(), time.process_time(), time.monotonic()
    kept = step()
    seconds, wall_s = time.process_time() - started, time.monotonic() - clock
    gc.collect()
    grown = _private_bytes() - before
    del kept
    return {"bytes": grown, "seconds": seconds, "wall_s": wall_s}


def _private_bytes() -> int:
    """Pages that only this process has mapped: Ray's object store is shared."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024


def _groups(count: int, name: str) -> list[GroupSpec]:
    return [
        GroupSpec(
            f"{name}-{group}",
            tuple(
                EpisodeSpec(f"{name}-{group}-{member}", f"{name}-{group}", "synthetic", group, group * GROUP_SIZE + member)
                for member in range(GROUP_SIZE)
            ),
        )
        for group in range(count)
    ]


def _picture() -> bytes:
    picture = Image.new("RGB", _SIDE, "white")
    draw = ImageDraw.Draw(picture)
    for row in range(0, _SIDE[1], 28):
        draw.text((10, row), f"line {row} of a page that is read", fill="black")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    print(json.dumps(_measure()))
