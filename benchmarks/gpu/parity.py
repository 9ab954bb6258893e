"""Sampler and learner side by side in the arithmetic of a run, as `toolwise doctor` does it."""

from __future__ import annotations

from benchmarks.figures import Figure
from benchmarks.gpu.part import Job, Results
from learner.config import LearnerConfig, Precision
from learner.experiment import Experiment
from learner.parity import measure as compare
from learner.tolerance import TOLERANCES
from rollout.config import EngineConfig, EpisodeConfig, RolloutConfig


def measure(job: Job) -> Results:
    """The mean difference of log-probabilities in nats beside the one that is tolerated, and by how much both sides move when
    pictures are replaced. The engine has ended when the learner starts."""
    setup, gpus = job.setup, 0.0 if job.setup.device == "cpu" else 1.0
    parity = compare(
        Experiment(
            policy=str(setup.policy(job.place, "whole")),
            learner=LearnerConfig(
                gpus_per_worker=gpus, precision=Precision(setup.dtype), micro_batch_tokens=setup.micro_batch_tokens
            ),
            rollout=RolloutConfig(
                gpus_per_worker=gpus,
                episodes_per_worker=setup.at_a_time,
                episode=EpisodeConfig(max_tokens=setup.max_tokens),
                engine=EngineConfig(
                    dtype=setup.dtype,
                    max_model_len=setup.max_tokens,
                    max_batched_tokens=setup.batched_tokens,
                    max_sequences=setup.at_a_time,
                    gpu_memory_utilization=0.8,
                ),
            ),
        )
    )
    allowed = TOLERANCES[parity.arithmetic]
    mean = Figure("parity", "nats", f"what is tolerated in {parity.arithmetic}")
    mean.add(parity.mean, allowed.mean)
    figures = [mean]
    if parity.sight is not None:
        sight = Figure("sight", "nats", "the sampler, when pictures are replaced")
        sight.add(parity.sight.learner, parity.sight.sampler)
        figures.append(sight)
    return Results(figures, [f"{parity.tokens} tokens, at most {parity.largest:.3g} nats apart", *parity.problems])
