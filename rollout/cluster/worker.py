"""One rollout worker: a Ray actor with an engine and sandboxes that runs the episodes that it is given, all at the same time."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Sequence
from typing import Any

import envs  # noqa: F401  registers the environments
from envs.errors import EngineStopped, InfrastructureError, ToolwiseError, UsageError
from envs.runtime.atomic import FULL
from envs.runtime.failures import place, told
from envs.runtime.threads import Threads
from rollout.cluster.recorder import Recorder
from rollout.cluster.sandbox_metrics import SandboxMetrics
from rollout.cluster.sandboxes import RemotePool
from rollout.cluster.weights import Weights
from rollout.config import RolloutConfig
from rollout.engines.registry import crowded_images, find_engine
from rollout.episode.deadlines import is_repeated
from rollout.episode.environments import make
from rollout.episode.fit import largest_image
from rollout.episode.loop import failed_episode, run_episode
from rollout.policy import BringsChatFormat, ChatPolicy, Policy
from rollout.sequences import Sequences
from rollout.store import Shard
from rollout.summary import EpisodeSummary
from rollout.tokens.chat_format import ChatFormat
from rollout.tokens.images import ImageEncoder
from rollout.types import Episode, EpisodeSpec
from sandbox import Pool

log = logging.getLogger(__name__)


class RolloutWorker:
    """Serves one policy to many episodes. Calls that are made before `start` has finished wait for it.

    A worker whose engine has failed says so, and the fleet replaces it: an engine cannot be trusted after an error.
    `sandboxes` are the handles of the fleet's sandbox actors; without any, the worker holds its own pool.
    """

    def __init__(self, config: RolloutConfig, sandboxes: Sequence[Any] = ()) -> None:
        self._config = config
        self._sandboxes = sandboxes
        self._ready: asyncio.Future[None] = asyncio.get_event_loop().create_future()
        self._threads = Threads(config.environment_threads)
        self._recorder = Recorder()
        self._images = ImageEncoder()  # one, so that the episodes of a group encode their image once
        self._pool: Pool | RemotePool | None = None
        self._metrics: SandboxMetrics | None = None
        self._policy: Policy | ChatPolicy | None = None
        self._chat: ChatFormat | None = None
        self._running = 0

    async def start(self) -> None:
        """Bring up engine and sandbox.

        Raises UsageError for settings that contradict each other, and what engine or sandbox raise.
        """
        try:
            await self._start()
        except BaseException as error:
            self._ready.set_exception(error)
            self._ready.exception()  # marks it as seen: nobody may be waiting
            raise
        self._ready.set_result(None)

    async def _start(self) -> None:
        engine, episode = self._config.engine, self._config.episode
        if episode.max_tokens > engine.max_model_len:
            raise UsageError(
                f"rollout.episode.max_tokens={episode.max_tokens} exceeds rollout.engine.max_model_len={engine.max_model_len}: "
                "lower the one or raise the other"
            )
        # At the same time: jails are started by other processes, the engine in this one.
        _, (self._chat, self._policy) = await asyncio.gather(self._open_pool(), asyncio.to_thread(self._serve))

    async def _open_pool(self) -> None:
        if self._sandboxes:
            self._pool = await RemotePool(self._sandboxes).__aenter__()
        elif self._config.sandboxes_per_worker:
            self._metrics = SandboxMetrics(self._config.sandboxes_per_worker)
            pool = Pool(
                self._config.limits,
                size=self._config.sandboxes_per_worker,
                accept_reduced_isolation=self._config.accept_reduced_isolation,
                packages=self._config.packages,
                observer=self._metrics,
            )
            self._pool = await pool.__aenter__()

    def _serve(self) -> tuple[ChatFormat, Policy | ChatPolicy]:
        engine = self._config.engine
        make = find_engine(engine.kind)
        try:
            policy = make(self._config, 0)
            acts = "complete" if hasattr(policy, "complete") else "generate"
            lacks = [name for name in ("version", "healthy", "close", acts) if not hasattr(policy, name)]
        except ToolwiseError:
            raise
        except Exception as error:
            # What a library finds wrong with a policy's files; the log has the whole of it.
            log.warning("rollout.engine.kind=%s did not start", engine.kind, exc_info=True)
            reason = told(error) if place(error) else " ".join(str(error).split())[:300] or type(error).__name__
            if isinstance(error, OSError) and error.errno in FULL and error.filename is None:  # of a lock, whose file has no name
                reason += ": make room in /dev/shm, the shared memory of the machine, or on its disk"
            raise UsageError(f"rollout.engine.kind={engine.kind} cannot serve the policy {engine.policy}: {reason}") from error
        if lacks:
            raise UsageError(f"rollout.engine.kind={engine.kind} has no {', '.join(lacks)}: write what rollout.policy.Policy lists")
        if isinstance(policy, BringsChatFormat):
            return policy.chat_format(), policy
        chat = ChatFormat.from_directory(engine.policy)
        if line := crowded_images(self._config, largest_image(chat, self._config.episode)):
            log.warning("%s", line)
        return chat, policy

    async def run(self, spec: EpisodeSpec) -> Episode:
        """Run one episode; if it is unfinished after `group_s`, and that is set, it ends as ABORTED.

        Raises UsageError if its environment cannot be made or used, EngineStopped if the engine has failed.
        """
        await self._ready
        task = asyncio.create_task(self._episode(spec))
        try:
            await asyncio.wait([task], timeout=self._config.group_s)
        finally:
            task.cancel()  # also if this call itself is cancelled: nobody waits for the episode any more
        episode = await task
        if self._policy is not None and not self._policy.healthy:
            await self._recorder.drain()
            raise EngineStopped(episode.error or "the engine has failed")
        return episode

    async def play(self, spec: EpisodeSpec, shard: Shard, last: bool) -> tuple[EpisodeSummary, Sequences | None]:
        """Run one episode as `run`, keep its record here, and return what a driver needs to know of it and what a learner does.

        The two are returned as values of their own, so that Ray leaves the second where it is. The record is written to `shard` in
        the background, unless the episode is to be repeated: it failed and this is not its `last` attempt, or a deadline cut it
        off.
        """
        episode = await self.run(spec)
        if not is_repeated(spec, episode.cut, self._config.attempts) and (last or not episode.failed):
            self._recorder.add(shard, episode)
        return await asyncio.to_thread(_parts, episode)

    async def finish(self, shard: Shard, episode_ids: Collection[str]) -> set[str]:
        """End a shard, with these episodes alone; returns those of them that it lacks. Raises OSError if it cannot be written."""
        return await self._recorder.finish(shard, episode_ids)

    async def _episode(self, spec: EpisodeSpec) -> Episode:
        assert self._chat is not None
        self._running += 1
        try:
            # A constructor may read files or build an index: never on the event loop.
            env = await self._threads.run(make, spec.env_id, spec.env_kwargs, self._pool)
            episode = self._config.episode
            return await run_episode(spec, env, self._policy, self._chat, episode, threads=self._threads, images=self._images)
        except asyncio.CancelledError:
            return failed_episode(spec, "the group's deadline passed before the episode began")
        finally:
            self._running -= 1

    async def publish(self, weights: Weights, version: int) -> None:
        """Serve new weights once every turn that is being sampled has ended; turns that begin meanwhile wait for them.

        Raises UsageError if the engine takes no weights.
        """
        await self._ready
        publish = getattr(self._policy, "publish", None)
        if publish is None:
            raise UsageError(f"rollout.engine.kind={self._config.engine.kind} takes no new weights: write vllm to train a policy")
        try:
            await publish(weights.tensors(), version)
        except Exception as error:
            if isinstance(error, ToolwiseError) or not place(error):
                raise
            raise InfrastructureError(f"publish() of rollout.engine.kind={self._config.engine.kind}: {told(error)}") from error

    async def health(self) -> dict[str, Any]:
        """`version` of the policy served, number of episodes `running`, whether the engine is `healthy`, id of the `process`, and
        the policy's `notes`, if it has any."""
        await self._ready
        assert self._policy is not None
        return {
            "version": self._policy.version,
            "running": self._running,
            "healthy": self._policy.healthy,
            "process": os.getpid(),
            "notes": list(getattr(self._policy, "notes", ())),
        }

    async def sandboxes(self) -> dict[str, Any] | None:
        """`SandboxMetrics.counts` of the worker's own pool; None if it has none."""
        return None if self._metrics is None else self._metrics.counts()

    async def close(self) -> None:
        """Stop engine and sandbox, once all records are written."""
        await self._recorder.drain()
        if self._policy is not None:
            await self._policy.close()
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.__aexit__(None, None, None)


def _parts(episode: Episode) -> tuple[EpisodeSummary, Sequences | None]:
    return EpisodeSummary.of(episode), Sequences.of(episode) if episode.trainable else None
