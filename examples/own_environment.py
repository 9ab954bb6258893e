"""An environment of your own: tasks from a generator, a tool, a reward part, and an expert for the cold start.

.venv/bin/python examples/own_environment.py                             # one episode, played by the expert
PYTHONPATH=examples .venv/bin/toolwise collect tasks=own_environment:Letters-v0 policy=expert out=runs/letters
"""

import random
import zlib

import gymnasium

from envs import Outcome, Task, ToolEnv, tool
from envs.protocols import Answer, Call, Calls

BUCKETS = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}


@tool
def count(word: str, letter: str) -> int:
    """Count how often a letter occurs in a word."""
    return word.count(letter)


def brief(outcome: Outcome) -> float:
    """1 if the episode took at most two turns, else 0."""
    return float(outcome.turns <= 2)


def make_letters(*, split="train", **options):
    """`options` are those of ToolEnv, for which this gives other defaults."""

    def draw(rng):
        word = "".join(rng.choice(list("abc"), size=8))
        if zlib.crc32(word.encode()) % 10 not in BUCKETS[split]:  # so that no word is in two splits
            return draw(rng)

        def expert(_):
            yield Calls((Call("count", {"word": word, "letter": "a"}),))
            yield Answer(str(word.count("a")))

        question, answer = f"How many a in {word}?", str(word.count("a"))
        return Task(word, question, answer, "counting", "letters", needed_tools=("count",), expert=expert)

    return ToolEnv(draw, **({"tools": [count], "reward": [{"accuracy": 0.8}, {brief: 0.2}], "max_turns": 3} | options))


gymnasium.register("Letters-v0", entry_point=make_letters)

if __name__ == "__main__":
    env = gymnasium.make("Letters-v0", split="test", disable_env_checker=True)
    observation, info = env.reset(seed=1)
    print(observation["text"])
    for action in env.unwrapped.expert(random.Random(0)):
        observation, reward, terminated, truncated, info = env.step(action)
        print(action, "→", observation["text"])
    print(f"reward {reward:.2f}, parts {info['reward_parts']}")
    env.close()
