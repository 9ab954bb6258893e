"""One rollout worker: a Ray actor with an engine, sandboxes, and as many episodes at a time as it is given."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Any

import ray
import ray.actor

import envs  # noqa: F401  registers the environments
from envs.errors import UsageError
from envs.runtime.threads import Threads
from rollout.cluster.sandbox_metrics import SandboxMetrics
from rollout.cluster.sandboxes import RemotePool
from rollout.cluster.weights import Packed, unpack
from rollout.config import Backend, RolloutConfig
from rollout.episode.environments import make
from rollout.episode.loop import failed_episode, run_episode
from rollout.tokens.chat_format import ChatFormat
from rollout.types import Episode, EpisodeSpec
from sandbox import Pool

log = logging.getLogger(__name__)


class RolloutWorker:
    """Serves one policy to many episodes. Calls may be made at once, before `start` has ended: they wait for it.

    A worker whose engine has failed exits, so that the fleet replaces it: an engine cannot be trusted after an error.
    `sandboxes` are the handles of the fleet's sandbox actors; without any, the worker holds a pool of its own.
    """

    def __init__(self, config: RolloutConfig, sandboxes: Sequence[Any] = ()) -> None:
        self._config = config
        self._sandboxes = sandboxes
        self._ready: asyncio.Future[None] = asyncio.get_event_loop().create_future()
        self._places = asyncio.Semaphore(config.episodes_per_worker)
        self._threads = Threads(config.environment_threads)
        self._pool: Pool | RemotePool | None = None
        self._policy: Any = None
        self._chat: ChatFormat | None = None
        self._running = 0

    async def start(self, weights: Packed | None = None, version: int = 0) -> None:
        """Bring up engine and sandbox, and load `weights` where given: nothing is served by older ones.

        Raises UsageError for settings that contradict each other, and what engine or sandbox raise.
        """
        try:
            await self._start(weights, version)
        except BaseException as error:
            self._ready.set_exception(error)
            self._ready.exception()  # whoever waits for it sees it; nobody may be waiting
            raise
        self._ready.set_result(None)

    async def _start(self, weights: Packed | None, version: int) -> None:
        engine, episode = self._config.engine, self._config.episode
        if episode.max_tokens > engine.max_model_len:
            raise UsageError(
                f"rollout.episode.max_tokens={episode.max_tokens} exceeds rollout.engine.max_model_len={engine.max_model_len}: "
                "lower the one or raise the other"
            )
        # Side by side: jails are started by other processes, the engine in this one.
        _, (self._chat, self._policy) = await asyncio.gather(self._open_pool(), asyncio.to_thread(self._serve, version))
        if weights is not None:
            await self._policy.publish(unpack(weights), version)

    async def _open_pool(self) -> None:
        if self._sandboxes:
            self._pool = await RemotePool(self._sandboxes).__aenter__()
        elif self._config.sandboxes_per_worker:
            pool = Pool(
                size=self._config.sandboxes_per_worker,
                accept_reduced_isolation=self._config.accept_reduced_isolation,
                packages=self._config.packages,
                observer=SandboxMetrics(),
            )
            self._pool = await pool.__aenter__()

    def _serve(self, version: int) -> tuple[ChatFormat, Any]:
        chat = ChatFormat.from_directory(self._config.engine.policy)
        if self._config.backend is Backend.none:
            return chat, None
        # Both take seconds to import, and no driver needs them.
        if self._config.backend is Backend.endpoint:
            from rollout.engines.endpoint import Endpoint

            return chat, Endpoint(self._config.endpoint)
        from rollout.engines.vllm import VllmPolicy

        return chat, VllmPolicy(self._config.engine, version)

    async def run(self, specs: Sequence[EpisodeSpec]) -> list[Episode]:
        """Run episodes side by side; the outcomes in the order of `specs`. What is unfinished after `group_s` ends as ABORTED.

        Raises UsageError where an environment cannot be made or used.
        """
        await self._ready
        tasks = [asyncio.create_task(self._episode(spec)) for spec in specs]
        try:
            await asyncio.wait(tasks, timeout=self._config.group_s, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            # Also where this call itself is cancelled: nobody waits for these episodes any more.
            for task in tasks:
                task.cancel()
        episodes = await asyncio.gather(*tasks, return_exceptions=True)
        if self._policy is not None and not self._policy.healthy:
            log.error("the engine has failed: this worker exits")
            ray.actor.exit_actor()
        return [_or_raise(episode) for episode in episodes]

    async def _episode(self, spec: EpisodeSpec) -> Episode:
        assert self._chat is not None
        try:
            async with self._places:
                self._running += 1
                try:
                    env = await self._make(spec)
                    return await run_episode(spec, env, self._policy, self._chat, self._config.episode, threads=self._threads)
                finally:
                    self._running -= 1
        except asyncio.CancelledError:
            return failed_episode(spec, "the group's deadline passed before the episode began")

    async def _make(self, spec: EpisodeSpec) -> Any:
        if spec.env_id.startswith("toolwise/"):
            return make(spec.env_id, spec.env_kwargs, self._pool)
        # Somebody else's constructor may take its time.
        return await self._threads.run(make, spec.env_id, spec.env_kwargs)

    async def publish(self, weights: Packed, version: int) -> None:
        """Serve new weights once every turn that is being sampled has ended; turns that begin meanwhile wait for them."""
        await self._ready
        await self._policy.publish(unpack(weights), version)

    async def health(self) -> dict[str, Any]:
        """`version` of the policy served, number of episodes `running`, whether the engine is `healthy`, id of the `process`."""
        await self._ready
        return {
            "version": 0 if self._policy is None else self._policy.version,
            "running": self._running,
            "healthy": self._policy is None or self._policy.healthy,
            "process": os.getpid(),
        }

    async def close(self) -> None:
        """Stop engine and sandbox."""
        if self._policy is not None:
            await self._policy.close()
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.__aexit__(None, None, None)


def _or_raise(outcome: Episode | BaseException) -> Episode:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
