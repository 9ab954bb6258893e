"""Joining a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import os

import ray

from envs.types import UsageError


def join(gpus: float = 0) -> None:
    """Join the cluster that RAY_ADDRESS names, or start Ray on this machine.

    On one machine every worker may want all cores for a while, since rollout and learning take turns: Ray is told of enough CPUs for
    both. Raises UsageError where the cluster has fewer than `gpus` GPUs.
    """
    if not ray.is_initialized():
        local = "RAY_ADDRESS" not in os.environ
        ray.init(
            num_cpus=max(4, os.cpu_count() or 1) if local else None,
            resources={"sandbox": 1000} if local else None,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    present = ray.cluster_resources().get("GPU", 0)
    if gpus > present:
        raise UsageError(
            f"the configuration asks for {gpus:g} GPUs and the cluster has {present:g}: "
            "write rollout.gpus_per_worker=0 learner.gpus_per_worker=0 to run on CPU, or name a cluster in RAY_ADDRESS"
        )
