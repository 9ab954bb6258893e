"""The settings of `toolwise synthesize`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from envs.errors import UsageError
from rollout.config import EndpointConfig, RolloutConfig, Thoughts

EXPERT = "expert"


@dataclass
class TeacherConfig(EndpointConfig):
    """One teacher: an OpenAI-compatible endpoint, or with url=expert the script that the tasks bring along."""

    share: float = 1.0
    """Its part of the questions, relative to the shares of the others; 0 leaves it out, as when a command is resumed without it."""

    tool_calls: bool = False
    """Give it the tools through the API and take its `tool_calls`, whatever the student's protocol. false: it writes that protocol
    itself."""

    prompt: str | None = None
    """A file with its system prompt. `{instructions}` in it stands for the protocol's own instructions, which follow the text if it
    is not there; null: those alone."""

    temperature: float = 1.0
    """Sampling temperature; 0 is greedy."""

    concurrent: int = 16
    """Most of its episodes that are under way at a time, each with one request at most."""

    requests_per_minute: float | None = None
    """Its rate limit; null: none. An attempt that the client repeats is not counted: it waits as long as the endpoint asks for."""

    tokens_per_minute: float | None = None
    """Its rate limit of tokens, prompts and replies together; null: none."""

    price_in: float = 0.0
    """Price of a million tokens of prompts, in the currency of `budget`."""

    price_out: float = 0.0
    """Price of a million tokens of replies, thoughts included."""


@dataclass
class BalanceConfig:
    """How the demonstrations are divided among abilities and difficulties."""

    abilities: dict[str, float] = field(default_factory=dict)
    """Shares by ability, as in {perception: 2, search: 1}: those that are not named get none; {}: as they come. An item of
    several abilities has their names joined with "+"."""

    difficulties: dict[str, float] = field(default_factory=dict)
    """Shares by difficulty, likewise."""

    cap: int | None = None
    """Most demonstrations of one ability at one difficulty."""


@dataclass
class SynthesizeConfig:
    """Demonstrations by teachers, for a cold start."""

    out: str = "runs/synthesize"
    """Directory to write to."""

    tasks: str = "toolwise/Microworld-v0"
    """An environment id, a file of questions (.jsonl, .json, .parquet, .tsv, .csv), or a directory of Hugging Face's `datasets`."""

    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment, as in +options.protocol=hermes: the student's protocol is the environment's."""

    teachers: dict[str, Any] = field(default_factory=dict, metadata={"entry": TeacherConfig})
    """The teachers by name, each with the settings of a `TeacherConfig`, as in +teachers.gpt.url=https://api.openai.com/v1
    +teachers.gpt.model=gpt-4o."""

    student: str = "starter"
    """The policy in whose tokens the budgets of an episode are counted and its transcript is kept."""

    episodes: int = 64
    """Number of questions. Of a file each row once, so no more than it has; fewer are drawn by `seed`."""

    samples: int = 1
    """How often each question is asked, in turn of different teachers. Demonstrations that are equal are kept once."""

    demonstrations: int | None = None
    """How many to keep: no more is asked once there are as many. null: all that are good."""

    balance: BalanceConfig = field(default_factory=BalanceConfig)

    difficulty: str | None = None
    """The column of the file that says how difficult a question is; null: `pass_rate_with` or `pass_rate_without` (as
    `toolwise curate` writes), `difficulty` or `level` if the file has one of them, else the number of tools that a task needs."""

    thoughts: Thoughts = Thoughts.keep
    """What of a teacher's thoughts the student learns: "keep", what it writes, and what the API returns in a field of its own as
    <think> in front of the action; "text", what it writes alone; "drop", nothing but the actions."""

    budget: float | None = None
    """What all requests together may cost, in the currency of the prices; null: no limit. No request is made that may exceed
    it."""

    token_budget: int | None = None
    """How many tokens all requests together may take, prompts and replies; null: no limit."""

    seed: int = 0
    """Seed of questions and sampling."""

    resume: bool = False
    """Go on with what an interrupted command wrote to `out`, with the settings that it began with: nothing is asked twice."""

    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Of these, `episode` holds the budgets of an episode, and the settings of the sandbox, `environment_threads`, `attempts` and
    `max_consecutive_failures` count: all runs in one process."""

    def check(self) -> dict[str, TeacherConfig]:
        """The teachers. Raises UsageError if the settings cannot be used."""
        teachers = {str(name): _teacher(str(name), given) for name, given in self.teachers.items()}
        if not teachers:
            raise UsageError(
                "there is no teacher: write +teachers.NAME.url=https://…/v1 +teachers.NAME.model=…, or +teachers.expert.url=expert "
                "for the script of the tasks"
            )
        if not any(teacher.share for teacher in teachers.values()):
            raise UsageError("every teacher has share=0, so that nobody is asked: write more than 0 for one")
        shares = [("balance.abilities", self.balance.abilities), ("balance.difficulties", self.balance.difficulties)]
        for name, given in shares:
            if any(not share > 0 or math.isinf(share) for share in given.values()):
                raise UsageError(f"{name}={given}: write shares of more than 0")
            if given and self.demonstrations is None:
                raise UsageError(f"{name} divides a number of demonstrations: write demonstrations= as well")
        if self.rollout.workers != 1 or self.rollout.sandbox_actors:
            raise UsageError(
                "synthesize runs in one process: leave out rollout.workers and rollout.sandbox_actors; "
                "teachers.NAME.concurrent= says how many episodes are under way"
            )
        if not any(teacher.price_in or teacher.price_out for teacher in teachers.values()) and self.budget is not None:
            raise UsageError(f"budget={self.budget:g}: no teacher has a price: write +teachers.NAME.price_in= and price_out=")
        return teachers


def _teacher(name: str, given: Any) -> TeacherConfig:
    where = f"teachers.{name}"
    if not isinstance(given, Mapping):
        raise UsageError(f"{where}={given}: write its settings by name, as in +{where}.url=https://…/v1")
    schema: Any = OmegaConf.structured(TeacherConfig)
    if unknown := given.keys() - schema.keys():
        raise UsageError(f"{where}.{min(map(str, unknown))}: a teacher's settings are {', '.join(schema)}")
    try:
        made: Any = OmegaConf.to_object(OmegaConf.merge(schema, dict(given)))
    except OmegaConfBaseException as error:
        raise UsageError(f"{where}: {' '.join(str(error).split())}") from error
    numbers = {"concurrent": made.concurrent, "attempts": made.attempts, "timeout_s": made.timeout_s}
    numbers |= {n: getattr(made, n) for n in ("requests_per_minute", "tokens_per_minute") if getattr(made, n) is not None}
    for setting, value in numbers.items():
        if not 0 < value < math.inf:
            raise UsageError(f"{where}.{setting}={value}: write more than 0")
    for setting in ("share", "temperature", "price_in", "price_out"):
        if not 0 <= getattr(made, setting) < math.inf:
            raise UsageError(f"{where}.{setting}={getattr(made, setting)}: write at least 0")
    if made.url != EXPERT and not made.url.startswith(("http://", "https://")):
        raise UsageError(f"{where}.url={made.url}: write the address of an endpoint, or expert for the script of the tasks")
    if made.url != EXPERT and not made.model:
        raise UsageError(f"{where} is an endpoint: write +{where}.model=NAME as well, the name by which it knows its model")
    if made.prompt is not None:
        prompt_of(made.prompt, where)
    return made


def prompt_of(path: str, where: str = "teachers") -> str:
    """The text of a teacher's prompt. Raises UsageError if the file is missing, is no text in UTF-8, or says nothing."""
    if not Path(path).is_file():
        raise UsageError(f"{where}.prompt={path}: there is no such file")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}.prompt={path} is no text in UTF-8 (byte {error.start}): save it as UTF-8") from None
    if not text.strip():
        raise UsageError(f"{where}.prompt={path} is empty: leave it out if the protocol's instructions are all that is to be said")
    return text
