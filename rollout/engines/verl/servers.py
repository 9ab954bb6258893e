"""verl's servers of one run: started once, beside the workers, which only ask them.

    driver                 host (an actor)                     verl's actors
    Servers ── start ────▶ LLMServerManager ─────────────────▶ servers, their router, a receiver of weights per GPU
    Servers ── update ───▶ CheckpointEngineManager ──────────▶ learner's ranks send, receivers take, servers load
    workers ── client ───▶ (the router's handle), then straight to the servers

The host exists because verl settles on a platform while it is imported: its variables are the host's, and what the host starts
inherits them.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from envs.errors import FleetError, UsageError
from rollout.config import RolloutConfig
from rollout.engines.verl import settings

log = logging.getLogger(__name__)

_HOST = "toolwise-verl-servers"
_FREED_S = 60.0
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks of a verl learner: their actors, in order, and the class that verl's decorators have marked."""

    workers: Sequence[Any]
    worker_class: type


class Servers:
    """Starts `config.servers` servers, or, if that is 0, servers on the GPUs of `learner`. Construction blocks until they serve.

    Raises UsageError if they do not start within `config.start_s`, or cannot serve the policy.
    """

    def __init__(self, config: RolloutConfig, learner: Ranks | None = None) -> None:
        if config.servers == 0 and learner is None:
            raise UsageError(
                "rollout.servers=0 puts verl's servers on the learner's GPUs, and there is no learner: write rollout.servers=1"
            )
        self._config, self._learner = config, learner
        self._places: list[Any] = []
        self._host = self._start()

    def update(self, learner: Ranks, version: int) -> None:
        """Serve the learner's weights as `version`, and wake up if asleep. A request that is under way is cut off and goes on with
        the new weights.

        If that fails, no server may go on with what it holds: they are all started anew, once. Raises FleetError if it fails again,
        UsageError as `check_transport`.
        """
        check_transport(self._config)
        try:
            ray.get(self._host.update.remote(learner, version), timeout=self._config.start_s)
        except RayError as error:
            log.warning("verl's servers did not take version %d, and are started anew: %s", version, _reason(error))
            self._restart()
            try:
                ray.get(self._host.update.remote(learner, version), timeout=self._config.start_s)
            except RayError as again:
                raise FleetError(f"verl's servers did not take version {version}: {_reason(again)}") from again

    def sleep(self) -> None:
        """Give the memory of GPUs that are shared with the learner to it, until the next `update`."""
        ray.get(self._host.sleep.remote(), timeout=self._config.start_s)

    def close(self) -> None:
        """Stop the servers. May be called twice."""
        ray.kill(self._host)
        # Ray keeps what an actor has reserved until the whole job ends.
        places, self._places = self._places, []
        for place in places:
            ray.util.remove_placement_group(place)

    def _start(self) -> Any:
        on_cpu = _on_cpu(self._config)
        host: Any = (
            ray.remote(_Host)
            .options(name=_HOST, num_cpus=0, runtime_env={"env_vars": settings.environment(self._config, on_cpu)})
            .remote()
        )
        try:
            self._places = ray.get(host.start.remote(self._config, on_cpu, self._learner), timeout=self._config.start_s)
        except GetTimeoutError as error:
            ray.kill(host)
            raise UsageError(
                f"verl's servers did not start within rollout.start_s={self._config.start_s:g} s; "
                f"{ray.available_resources()} are free"
            ) from error
        except RayError as error:
            ray.kill(host)
            if isinstance(cause := getattr(error, "cause", None), UsageError):
                raise cause from error
            raise UsageError(f"rollout.engine.kind=verl cannot serve {self._config.engine.policy}: {_reason(error)}") from error
        return host

    def _restart(self) -> None:
        self.close()
        needed, deadline = self._config.servers * self._config.engine.tensor_parallel_size, time.monotonic() + _FREED_S
        while ray.available_resources().get("GPU", 0) < needed and time.monotonic() < deadline:
            time.sleep(_POLL_S)  # what was given back is free a moment later
        self._host = self._start()


class _Host:
    """The actor that holds verl's managers."""

    def __init__(self) -> None:
        self._settings: Any = None
        self._manager: Any = None
        self._updates: Any = None

    def start(self, config: RolloutConfig, on_cpu: bool, learner: Ranks | None) -> list[Any]:
        """Start the servers; returns the placement groups that they have reserved."""
        from verl.workers.rollout.llm_server import LLMServerManager

        self._settings = settings.verl_config(config, on_cpu)
        group = None if self._settings.actor_rollout_ref.rollout.nnodes else _group(learner)
        self._manager = LLMServerManager.create(config=self._settings, worker_group=group)
        ray.get(self._manager.global_load_balancer.get_all_servers.remote())  # it takes as long as a server to start
        if group is not None:
            # Until they are first asked the memory is the learner's, as a resumed run may begin with a step of it.
            self.sleep()
        pools = [replica.resource_pool for replica in self._manager.get_replicas() if replica.resource_pool is not None]
        return [place for pool in pools for place in pool.pgs or ()]

    def client(self) -> tuple[Any, Any, dict[str, str]]:
        """verl's settings and its router, of which a worker makes a client, and the variables with which it imports verl."""
        variables = {name: value for name, value in os.environ.items() if name.startswith("VERL_")}
        return self._settings, self._manager.global_load_balancer, variables

    def update(self, learner: Ranks, version: int) -> None:
        if self._updates is None:
            from verl.checkpoint_engine import CheckpointEngineManager
            from verl.utils.config import omega_conf_to_dataclass

            rollout = self._settings.actor_rollout_ref.rollout
            group = _group(learner)
            group.open_channel(self._settings.actor_rollout_ref)
            self._updates = CheckpointEngineManager(
                omega_conf_to_dataclass(rollout.checkpoint_engine), group, self._manager.get_replicas()
            )
        self._updates.update_weights(global_steps=version)

    def sleep(self) -> None:
        for replica in self._manager.get_replicas():
            ray.get([server.sleep.remote() for server in replica.servers])

    def drop_dead(self) -> None:
        """Take servers that no longer answer out of the router, which would send them every new episode: they have no load."""
        balancer = self._manager.global_load_balancer
        for address, server in zip(self._manager.get_addresses(), self._manager.server_handles, strict=True):
            try:
                ray.get(server.get_server_address.remote())
            except RayActorError as error:
                log.warning("a server of verl's is gone: %s", error)
                ray.get(balancer.remove_servers.remote([address]))


def check_transport(config: RolloutConfig) -> None:
    """Raise UsageError if servers on this cluster could not be sent weights. Ray must be running."""
    settings.check_transport(config, _on_cpu(config))


def host() -> Any:
    """The host of this run's servers. Raises UsageError if there are none."""
    try:
        return ray.get_actor(_HOST)
    except ValueError as error:
        raise UsageError("rollout.engine.kind=verl: there are no servers; the fleet starts them before its workers") from error


def _group(learner: Ranks | None) -> Any:
    from verl.single_controller.ray import RayClassWithInitArgs, RayWorkerGroup

    assert learner is not None
    return RayWorkerGroup(
        worker_handles=list(learner.workers), ray_cls_with_init=RayClassWithInitArgs(cls=ray.remote(learner.worker_class))
    )


def _on_cpu(config: RolloutConfig) -> bool:
    """Whether the servers compute on CPUs: asked for, or no node of the cluster has a GPU of a known kind.

    GPUs that Ray was told of and did not find (see `rollout.cluster.connect`) have no kind.
    """
    kinds = [name for name in ray.cluster_resources() if name.startswith("accelerator_type:")]
    return config.engine.device == "cpu" or (config.engine.device == "auto" and not kinds)


def _reason(error: BaseException) -> str:
    cause = error.cause if isinstance(error, RayTaskError) and error.cause is not None else error
    return " ".join(str(cause).split())[:300] or type(cause).__name__
