"""Runs a synthesis: every teacher plays its questions in the real environment, and what it does is on disk at once."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from curation.rows import row_of
from curation.synthesis.attempts import AGAIN, Attempt, Reason, identity, judged
from curation.synthesis.journal import Lines, Replies
from curation.synthesis.ledger import BudgetSpent, Ledger
from curation.synthesis.report import Report, lines_by, whole
from curation.synthesis.selection import Selection, difficulty_of, never_drawn, select
from curation.synthesis.settings import SynthesizeConfig
from curation.synthesis.teachers import Connect, Teacher, divided
from envs import questions_of, resolve
from envs.errors import FleetError, ItemError, UsageError
from envs.protocols.protocol import ToolGuide
from envs.runtime.atomic import replaced_file, write_file
from envs.runtime.progress import Advance, silent
from envs.runtime.threads import Threads
from rollout.episode.actors import OPENING, opened
from rollout.episode.environments import adapt, make
from rollout.episode.fit import fitting_rows
from rollout.episode.loop import run_episode
from rollout.episode.prompts import protocol_of
from rollout.resuming import require_same
from rollout.specs import group_specs
from rollout.store import Store, saved
from rollout.tokens.chat_format import ChatFormat, ChatMessage
from rollout.tokens.images import ImageEncoder
from rollout.types import Episode, EpisodeSpec
from sandbox import Pool

log = logging.getLogger(__name__)

EPISODES = "episodes"
_DECISIVE = ("tasks", "options", "student", "samples", "seed", "difficulty", "thoughts", "rollout.episode")


@dataclass(frozen=True, slots=True)
class Unit:
    """One demonstration to ask for: its place, its episode, and whose it is."""

    place: tuple[int, int]
    spec: EpisodeSpec
    teacher: str


class Synthesis:
    """A synthesis into `config.out`. `chat` is the student's chat format, `connect` makes the clients of endpoints.

    Raises UsageError for settings or tasks that cannot be used, and if `out` holds demonstrations that this is not to go on with.
    """

    def __init__(self, config: SynthesizeConfig, chat: ChatFormat, connect: Connect) -> None:
        self._config, self._chat, self._connect = config, chat, connect
        self._teachers = config.check()
        self._out = Path(config.out)
        saved_settings = self._out / "config.yaml"
        if (self._out / "journal").exists() and not config.resume:
            raise UsageError(f"{config.out} holds demonstrations already: write resume=true to go on with them, or another out=")
        require_same(saved_settings, config, _DECISIVE)
        self._tasks = resolve(config.tasks, config.options)
        self._data = questions_of(*self._tasks)
        env = make(*self._tasks)
        protocol = protocol_of(env)
        rows = None if self._data is None else fitting_rows(self._data, env, chat, config.rollout.episode)
        env.close()
        if protocol is None:
            raise UsageError(f"tasks={config.tasks} have no protocol, in which a student would write: choose a ToolEnv")
        self._protocol = protocol
        self._setting = config.options.get("protocol") or protocol.name
        count = config.episodes if rows is None else min(config.episodes, len(rows))
        groups = group_specs("synthesis", self._tasks, groups=count, group_size=config.samples, seed=config.seed, rows=rows)
        places = [(number, sample, spec) for number, group in enumerate(groups) for sample, spec in enumerate(group.episodes)]
        names = divided({name: teacher.share for name, teacher in self._teachers.items()}, len(places))
        self.units = [Unit((number, sample), spec, name) for (number, sample, spec), name in zip(places, names, strict=True)]
        write_file(saved_settings, OmegaConf.to_yaml(OmegaConf.structured(config)))

    def run(self, advance: Advance = silent) -> Report:
        """Ask for what is missing; then, and also after an interruption or an error, write what there is.

        Raises UsageError if no question can be put to the teachers or one of them refuses all, FleetError after too many failures
        in a row, KeyboardInterrupt after SIGINT and SIGTERM.
        """
        self._open()
        ended = False
        try:
            asyncio.run(self._run(advance))
            ended = True
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            if not ended:
                self._stopped = "It was interrupted: resume=true goes on with it."
            report = self._write()
            self._lines.close()
            self._replies.close()
        self._require_played()
        return report

    def _open(self) -> None:
        """Read what an earlier command left."""
        journal = self._out / "journal"
        self._store = Store(self._out)
        self._lines, self._replies = Lines(journal / "attempts.jsonl"), Replies(journal / "replies.jsonl")
        attempts = {record["episode_id"]: Attempt.from_record(record) for record in self._lines}
        self._attempts = {name: attempt for name, attempt in attempts.items() if attempt.reason not in AGAIN}
        self._ledger = Ledger(self._config.budget, self._config.token_budget)
        for record in self._replies.read(self._attempts.keys()):
            spent = {name: record[name] for name in ("tokens_in", "tokens_out", "cost", "counted")}
            self._ledger.of(record["teacher"]).add(**spent)
        # An episode is written before its line in the journal: one without a line comes again.
        self._store.retain(EPISODES, self._attempts.keys())
        self._selection: Selection = select(self._config, self._attempts.values())[0]
        self._failed: dict[str, Attempt] = {}
        self._failures_in_a_row, self._stopped, self._played = 0, "", False
        self._refusals: dict[str, int] = {}  # of teachers that have refused whatever they were asked by this command
        self._given_up: dict[str, str] = {}
        self._drawn = {(attempt.ability, attempt.difficulty) for attempt in attempts.values()}

    async def _run(self, advance: Advance) -> None:
        rollout, task = self._config.rollout, asyncio.current_task()
        if task is not None and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        self._threads, self._images, self._advance = Threads(rollout.environment_threads), ImageEncoder(), advance
        config = self._config
        async with AsyncExitStack() as stack:
            self._pool: Pool | None = None
            if rollout.sandboxes_per_worker:
                pool = Pool(
                    rollout.limits,
                    size=rollout.sandboxes_per_worker,
                    accept_reduced_isolation=rollout.accept_reduced_isolation,
                    packages=rollout.packages,
                )
                self._pool = await stack.enter_async_context(pool)
            teachers = []
            for name, settings in self._teachers.items():
                teacher = Teacher(name, settings, config.thoughts, self._ledger, self._replies, self._chat.count, self._connect)
                teachers.append(teacher)
                if teacher.policy is not None:
                    stack.push_async_callback(teacher.policy.close)
            try:
                left = self.units
                while left:
                    async with asyncio.TaskGroup() as group:
                        for teacher in teachers:
                            units = iter([unit for unit in left if unit.teacher == teacher.name])
                            for _ in range(teacher.config.concurrent):
                                group.create_task(self._serve(teacher, units))
                    left = self._handed_over()
            finally:
                self._notes = [*self._given_up.values(), *(note for teacher in teachers for note in teacher.notes)]

    def _handed_over(self) -> list[Unit]:
        """The questions of teachers that refuse all and that were not put to them, divided among the others by their shares."""
        others = ((name, teacher.share) for name, teacher in self._teachers.items() if name not in self._given_up)
        shares = {name: share for name, share in others if share}
        asked = self._attempts.keys() | self._failed.keys()
        left = [unit for unit in self.units if unit.teacher in self._given_up and unit.spec.episode_id not in asked]
        if self._stopped or not shares:
            return []
        moved = [replace(unit, teacher=name) for unit, name in zip(left, divided(shares, len(left)), strict=True)]
        by_id = {unit.spec.episode_id: unit for unit in moved}
        self.units = [by_id.get(unit.spec.episode_id, unit) for unit in self.units]
        return moved

    async def _serve(self, teacher: Teacher, units: Iterator[Unit]) -> None:
        for unit in units:
            if self._stopped or self._selection.full or teacher.name in self._given_up:
                return
            name = unit.spec.episode_id
            if name in self._attempts or not await self._wanted(unit):
                continue
            try:
                await self._ask(teacher, unit)
            except BudgetSpent as spent:
                self._stopped = f"It stopped: {spent}."
                return

    async def _wanted(self, unit: Unit) -> bool:
        """Whether a demonstration of such a task is wanted; to know, the task is drawn, and nobody is asked."""
        if not self._selection.divides:
            return True
        env = await self._threads.run(make, unit.spec.env_id, unit.spec.env_kwargs, self._pool)
        driven = adapt(env, self._threads)
        try:
            _, info = await driven.reset(unit.spec.env_seed)
        except ItemError:
            return True  # its episode says what is wrong with it
        finally:
            await driven.close()
        cell = _ability(info.get("abilities", ())), self._difficulty(unit, info.get("needed_tools"))
        self._drawn.add(cell)
        return self._selection.wants(*cell)

    async def _ask(self, teacher: Teacher, unit: Unit) -> None:
        """Play one demonstration, again if our infrastructure fails, and keep what came of it."""
        spec = replace(unit.spec, temperature=teacher.config.temperature)
        session = teacher.session(spec.episode_id)
        if session is None:
            spec = replace(spec, actor="expert")
        rollout = self._config.rollout
        for _ in range(rollout.attempts):
            shown: list[Sequence[ChatMessage]] = []
            guides: list[ToolGuide] = []
            env = await self._threads.run(make, spec.env_id, spec.env_kwargs, self._pool)

            def listen(messages: Sequence[ChatMessage], env: Any = env, shown: Any = shown, guides: Any = guides) -> None:
                if not shown:  # those of the task; a closed environment has none
                    guides += getattr(env.unwrapped, "tool_guides", ())
                shown.append(messages)

            episode = await run_episode(
                spec, env, session, self._chat, rollout.episode, threads=self._threads, images=self._images, listen=listen
            )
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the episode has made an outcome of it
                raise asyncio.CancelledError
            if not episode.failed:
                break
        self._keep(unit, teacher, episode, shown, guides)

    def _keep(
        self, unit: Unit, teacher: Teacher, episode: Episode, shown: Sequence[Sequence[ChatMessage]], guides: Sequence[ToolGuide]
    ) -> None:
        trajectory = episode.trajectory
        actions = [opened(turn.action, OPENING if self._chat.opens_thoughts else "") for turn in trajectory.turns]
        reason, detail = judged(episode, self._protocol, actions)
        directory = self._store.directory
        images = {image.sha256: image.png for messages in shown for message in messages for image in message.images}
        list(saved(directory, [Episode((), images)]))  # those that an episode does not show whole are the row's alone
        row = row_of(shown, actions, protocol=self._setting, guides=guides, image=lambda sha: f"{directory.name}/images/{sha}.png")
        ability, difficulty = _ability(trajectory.abilities), self._difficulty(unit, trajectory.needed_tools)
        attempt = Attempt(
            episode_id=unit.spec.episode_id,
            place=unit.place,
            teacher=teacher.name,
            task_id=trajectory.task_id,
            ability=ability,
            difficulty=difficulty,
            reason=reason,
            detail=detail,
            actions=identity(shown[0] if shown else (), self._protocol, actions),
            tokens=max(len(chain.token_ids) for chain in episode.chains),
            row=row | {"ability": ability, "source": trajectory.source, "metadata": self._facts(unit, teacher, trajectory)},
        )
        if reason not in AGAIN:
            self._store.append(EPISODES, episode)
        self._lines.append(attempt.to_record())
        self._replies.forget(attempt.episode_id)
        self._count(attempt)

    def _facts(self, unit: Unit, teacher: Teacher, trajectory: Any) -> dict[str, Any]:
        return {
            "task_id": trajectory.task_id,
            "episode_id": unit.spec.episode_id,
            "teacher": teacher.name,
            "model": teacher.config.model or teacher.config.url,
            "difficulty": self._difficulty(unit, trajectory.needed_tools),
            "answer": trajectory.answer,
            "calls": [call.tool for call in trajectory.calls],
        }

    def _count(self, attempt: Attempt) -> None:
        self._failures_in_a_row = self._failures_in_a_row + 1 if attempt.reason is Reason.failed else 0
        if attempt.reason in AGAIN:
            log.error("%s of %s: %s %s", attempt.episode_id, attempt.teacher, attempt.reason, attempt.detail)
            self._failed[attempt.episode_id] = attempt
        else:
            self._attempts[attempt.episode_id] = attempt
            if attempt.reason is None:
                self._selection.add(attempt)
        done = len(self._attempts) + len(self._failed)
        spent = f", cost {self._ledger.cost:.4g}" if self._ledger.cost else ""
        self._advance(done, f"{len(self._selection.kept)} kept{spent}")
        most = self._config.rollout.max_consecutive_failures
        if self._failures_in_a_row >= most:
            raise FleetError(f"{most} failures in a row; the last one: {attempt.detail}")
        self._count_refusal(attempt, most)

    def _count_refusal(self, attempt: Attempt, most: int) -> None:
        """Give a teacher up that refuses all of so many questions. Raises UsageError if there is no other."""
        name = attempt.teacher
        if attempt.reason is Reason.refused:
            self._refusals[name] = self._refusals.get(name, 0) + 1
        elif attempt.reason is not Reason.failed:
            self._refusals[name] = -len(self.units)  # it can be asked
        if self._refusals.get(name, 0) >= most and name not in self._given_up:
            rest = (
                "the rest of its share went to the others" if len(self._teachers) > len(self._given_up) + 1 else "it was the last"
            )
            self._given_up[name] = f"{name} refused all of {most} questions ({attempt.detail}) and was asked no more: {rest}"
            log.error("%s", self._given_up[name])
            if len(self._given_up) == len(self._teachers):
                self._require_played()

    def _require_played(self) -> None:
        """Raise UsageError if no question at all could be put to the teachers."""
        self._played = self._played or any(attempt.reason is not Reason.refused for attempt in self._attempts.values())
        if self._attempts and not self._played:
            first = next(iter(self._attempts.values()))
            raise UsageError(f"no question could be put to the teachers; the first of {len(self._attempts)}: {first.detail}")

    def _difficulty(self, unit: Unit, needed_tools: Sequence[str] | None) -> str:
        row = None
        if self._data is not None and (number := unit.spec.env_kwargs.get("number")) is not None:
            try:
                row = self._data.record(number)
            except ItemError:
                row = None
        return difficulty_of(row, self._config.difficulty, needed_tools)

    def _write(self) -> Report:
        """Write the demonstrations, those that were rejected, and the report."""
        config, attempts = self._config, [*self._attempts.values(), *self._failed.values()]
        selection, rejected = select(config, attempts)
        _write_rows(self._out / "demonstrations.jsonl", [attempt.row for attempt in selection.kept])
        reasons = [attempt.row | {"reason": str(reason), "detail": detail} for attempt, reason, detail in rejected]
        _write_rows(self._out / "rejected.jsonl", reasons)
        kept, not_asked = selection.kept, len(self.units) - len(attempts)
        if not self._stopped and not_asked:
            self._stopped = "There are as many demonstrations as were asked for." if selection.full else ""
        report = Report(
            tasks=config.tasks,
            student=config.student,
            protocol=self._setting,
            units=len(self.units),
            not_asked=not_asked,
            stopped=self._stopped or None,
            all=whole(kept, rejected),
            teachers={name: whole([], []) for name in self._teachers} | lines_by(lambda one: one.teacher, kept, rejected),
            spending=self._ledger.spending,
            models={name: teacher.model or teacher.url for name, teacher in self._teachers.items()},
            by_ability=lines_by(lambda one: one.ability, kept, rejected),
            by_difficulty=lines_by(lambda one: one.difficulty, kept, rejected),
            by_cell=lines_by(lambda one: f"{one.ability}\t{one.difficulty}", kept, rejected),
            short=selection.short(),
            longest=max((attempt.tokens for attempt in kept), default=0),
            budget=config.budget,
            token_budget=config.token_budget,
            notes=[*getattr(self, "_notes", []), *never_drawn(config.balance, self._drawn)],
        )
        write_file(self._out / "synthesis.json", report.to_json())
        write_file(self._out / "synthesis.md", report.to_markdown())
        return report


def _ability(abilities: Sequence[str]) -> str:
    return "+".join(abilities) or "unknown"


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with replaced_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
