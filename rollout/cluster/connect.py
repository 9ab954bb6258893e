"""Joining a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import socket
import tempfile
import threading
from pathlib import Path

import ray

from envs.errors import InfrastructureError, UsageError
from rollout.config import RolloutConfig
from sandbox import rootfs
from sandbox.doctor import probe
from sandbox.types import ACCEPT_REDUCED, accepts_reduced_isolation

_KNOCK_S = 10.0
_CPUS_PER_GPU = 2  # what verl asks for beside each GPU of a server
_SENT_BYTES = 16 << 10


def join(config: RolloutConfig, gpus: float = 0) -> None:
    """Join the cluster that RAY_ADDRESS names, or start Ray on this machine. From now on SIGTERM is as SIGINT.

    Rollout and learning take turns, so both may use every core of a single machine: Ray may hand out more CPUs than there are.
    verl places its servers by GPUs: if this machine has none, Ray is told of as many as they ask for, and they compute on its CPUs.
    Raises UsageError if settings contradict each other, if this machine has to run sandboxes and cannot, if no cluster answers, or
    if it has fewer GPUs than `gpus` and those of the servers together; SandboxUnavailable if the jail's packages are missing;
    InfrastructureError if Ray does not start.
    """
    _close_on_sigterm()
    if "RAY_ADDRESS" not in os.environ and (config.sandboxes_per_worker or config.sandbox_actors):
        _require_sandbox(config)
    servers = server_gpus(config)
    if not ray.is_initialized():
        local = "RAY_ADDRESS" not in os.environ
        counted = 0
        if local and (gpus or servers):
            # Checked before Ray starts, which takes seconds; without GPUs nothing waits for the import of torch.
            import torch

            present = torch.cuda.device_count()
            if not present and config.engine.device != "cuda":
                counted = servers
            _require_gpus(gpus + servers - counted, present)
        # The fleet raises the first error of a collection; Ray would print the others, hundreds of lines for one mistake.
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        os.environ.setdefault("RAY_worker_niceness", str(config.worker_niceness))
        # Ray gives its workers 1000, the value of the jails, which are to be killed before them when memory ends.
        os.environ.setdefault("RAY_worker_oom_score_adjustment", "300")
        # Ray sends results of less than 100 kB to the driver itself: an episode's tokens should stay where they are.
        os.environ.setdefault("RAY_max_direct_call_object_size", str(_SENT_BYTES))
        if local:
            _require_token()
        try:
            if not local:
                _knock(os.environ["RAY_ADDRESS"])
            ray.init(
                # "local": without it Ray would join whatever cluster runs on this machine.
                address="local" if local else None,
                num_cpus=max(4, os.cpu_count() or 1) + _CPUS_PER_GPU * counted if local else None,
                num_gpus=counted or None,
                resources={"sandbox": 1000} if local else None,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except SystemExit:  # of the handler that Ray sets before it is up
            raise KeyboardInterrupt from None
        except Exception as error:  # Ray raises a bare one if its processes take more than half a minute
            reason = " ".join(str(error).split())[:300].rstrip(".")
            if local:
                remedy = (
                    "name a directory that can be written to, with a short path, as in RAY_TMPDIR=/tmp"
                    if isinstance(error, OSError)  # also that its path is too long for a socket in it
                    else "if it is busy, run the command again when it has less to do"
                )
                raise InfrastructureError(f"Ray did not start on this machine ({reason}): {remedy}") from error
            # `ray start` asks for a token by default, and to who has none it looks as if nobody were there.
            token = "" if "RAY_AUTH_MODE" in os.environ else "; of one that asks for a token, RAY_AUTH_MODE=token"
            raise UsageError(
                f"no Ray cluster answers at RAY_ADDRESS={os.environ['RAY_ADDRESS']} ({reason}): start it, or unset "
                f"RAY_ADDRESS{token}"
            ) from error
        _close_on_sigterm()  # Ray leaves a handler that prints a stack and dies
    _require_gpus(gpus + servers, ray.cluster_resources().get("GPU", 0))


def _require_token() -> None:
    """Give Ray a token of its own if the home directory cannot keep one, as in containers whose user has none."""
    try:
        place = Path("~/.ray").expanduser()
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except (OSError, RuntimeError):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _close_on_sigterm() -> None:
    """A pod that is deleted should close what it holds, as after Ctrl-C."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def server_gpus(config: RolloutConfig) -> int:
    """GPUs of verl's servers, without those that are the learner's. Raises UsageError if workers ask for some as well."""
    if config.engine.kind != "verl":
        return 0
    if config.gpus_per_worker:
        raise UsageError(
            f"rollout.gpus_per_worker={config.gpus_per_worker:g}: with rollout.engine.kind=verl workers only ask servers, which "
            "have GPUs of their own: write 0"
        )
    return config.servers * config.engine.tensor_parallel_size


def has_gpus() -> bool:
    """Whether this machine has a GPU, or there is a cluster that may."""
    import torch

    return torch.cuda.is_available() or "RAY_ADDRESS" in os.environ


def _require_gpus(needed: float, present: float) -> None:
    if needed > present:
        raise UsageError(
            f"the configuration asks for {needed:g} GPUs and there are {present:g}: "
            "write rollout.gpus_per_worker=0 learner.gpus_per_worker=0 to run on CPU, or name a cluster in RAY_ADDRESS (verl's "
            "servers ask for rollout.servers x rollout.engine.tensor_parallel_size; without real ones, start Ray with --num-gpus)"
        )


def _knock(address: str) -> None:
    """Raises OSError if nobody listens at the address; Ray itself would go on trying for minutes."""
    if match := re.fullmatch(r"(?:ray://)?\[?([^/\]]+)\]?:(\d+)", address):
        socket.create_connection((match.group(1), int(match.group(2))), timeout=_KNOCK_S).close()


def _require_sandbox(config: RolloutConfig) -> None:
    """Find out now what a worker would only find out once its engine has started."""
    accepted = accepts_reduced_isolation(config.accept_reduced_isolation)
    for check in probe().checks:
        if not check.ok and (check.required or not accepted):
            accept = f", or accept it with rollout.accept_reduced_isolation=true, or {ACCEPT_REDUCED}=1 for all commands"
            waive = "" if check.required else accept
            raise UsageError(
                f"the sandbox cannot run here: {check.name}: {check.found}; {check.remedy}{waive} (more: toolwise doctor)"
            )
    rootfs.build(config.packages)
