"""A process that forks a `curate` for each line that it is sent, and says how each ended. Its fleet puts every episode to a server.

All but the fleet is the real command: without Ray a start takes milliseconds, and a test can kill many.
"""

import json
import os
import sys
from contextlib import nullcontext
from urllib.request import Request, urlopen

import curation.curate
import rollout.collect
from configs import compose
from curation.curate import curate
from curation.settings import CurateConfig
from envs.runtime.progress import silent
from rollout.types import Episode, Group, StopReason, ToolCallRecord, Trajectory, Turn
from starter.policies import find_policy


class AskingFleet:
    """Asks one episode after the other; the server answers whether it was right."""

    def __init__(self, config):
        self._url = config.endpoint.url

    def collect(self, groups, advance, keep, played):
        return [Group(group.group_id, tuple(self._ask(spec, keep) for spec in group.episodes)) for group in groups]

    def _ask(self, spec, keep):
        body = json.dumps({"episode": spec.episode_id, "without": spec.env_kwargs.get("without", [])}).encode()
        with urlopen(Request(self._url, body, {"Content-Type": "application/json"}), timeout=60) as reply:
            correct = json.load(reply)["choices"][0]["message"]["content"] == "right"
        episode = Episode((recorded(spec, correct),))
        keep(episode)
        return episode

    def notes(self):
        return []

    def shutdown(self):
        pass


def recorded(spec, correct):
    calls = [] if "without tools" in spec.episode_id else [ToolCallRecord("code", "ok", 0.0)]
    return Trajectory(
        episode_id=spec.episode_id,
        task_id=f"task-{spec.env_seed}",
        group_id=spec.group_id,
        abilities=("reasoning",),
        source="test",
        seed=spec.env_seed,
        token_ids=[1, 2],
        loss_mask=[0, 1],
        logprobs=[0.0, 0.0],
        versions=[-1, 0],
        prompt_length=1,
        turns=[Turn(action="<answer>1</answer>", tool_calls=calls)],
        reward_parts={"accuracy": float(correct)},
        answer="1",
        stop_reason=StopReason.ANSWERED,
    )


def main():
    curation.curate.QUESTIONS_AT_A_TIME = 4
    rollout.collect.Fleet = AskingFleet
    rollout.collect.join = lambda *_: None
    directory = find_policy("starter")
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            config = compose("curate", CurateConfig, json.loads(line))
            curate(config, directory, lambda title, total: nullcontext(silent))
            os._exit(0)
        print(json.dumps(pid), flush=True)
        print(json.dumps(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
