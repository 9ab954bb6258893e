"""How much memory the GPUs of a cluster have, asked on the machines that have them."""

from __future__ import annotations

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_ANSWER_S = 60.0
_SHARE = 0.001  # of a GPU: enough for Ray to let the task see one


def gpu_memory_bytes() -> float | None:
    """Memory in bytes of the GPU that has most, of the cluster that Ray is connected to; None if no machine says."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) > 0]
    answers = [
        _memory_bytes.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in nodes
    ]
    if not answers:
        return None
    done, late = ray.wait(answers, num_returns=len(answers), timeout=_ANSWER_S)
    for answer in late:
        ray.cancel(answer)
    found = []
    for answer in done:
        try:
            found.append(ray.get(answer))
        except RayError:  # this machine says nothing
            continue
    return max((memory for memory in found if memory is not None), default=None)


@ray.remote(num_cpus=0, num_gpus=_SHARE, max_calls=1)  # its process, which has opened the GPU, ends with the call
def _memory_bytes() -> float | None:
    import torch

    # Asked of the device that the process sees, which may be a part of a card (MIG).
    return float(torch.cuda.mem_get_info()[1]) if torch.cuda.is_available() else None
