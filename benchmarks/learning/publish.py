"""An update of the weights: half a gigabyte, from the learner to the engine in another process."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.figures import Figure
from learner.config import LearnerConfig
from learner.verl.trainer import VerlTrainer
from rollout.cluster.weights import Weights
from rollout.cluster.worker import RolloutWorker
from rollout.config import EngineConfig, EpisodeConfig, RolloutConfig
from starter.policy import build_processor

_ROUNDS = 9
_WARM_UP = 2
"""The first updates write to memory that is new; later ones use it again."""


@ray.remote
class Receiver:
    """Another process of this node."""

    def receive(self, weights: Weights) -> int:
        """Have every tensor at hand; returns their bytes."""
        return sum(tensor.nbytes for tensor in weights.tensors().values())


def measure() -> list[Figure]:
    """Weights of SmolLM2-135M's shapes in float32, random, of a learner of one rank on CPU.

    `publish`: from the call of the trainer, which gathers and writes them, until another process has them at hand. `publish_load`:
    what the engine in another process then takes to load and repack them. The reference of both is a copy of the same tensors,
    one after the other on one thread, into memory that is there already. In seconds.
    """
    if not ray.is_initialized():
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    with TemporaryDirectory() as directory:
        _write_policy(Path(directory))
        trainer = VerlTrainer(directory, LearnerConfig())
        receiver: Any = Receiver.remote()
        settings = RolloutConfig(
            sandboxes_per_worker=0,
            engine=EngineConfig(policy=directory, max_model_len=512),
            episode=EpisodeConfig(max_tokens=512),
        )
        worker: Any = ray.remote(RolloutWorker).options(num_cpus=1).remote(settings)
        try:
            ray.get(worker.start.remote())
            return _figures(trainer, receiver, worker)
        finally:
            trainer.shutdown()
            for actor in (receiver, worker):
                ray.kill(actor)


def _figures(trainer: VerlTrainer, receiver: Any, worker: Any) -> list[Figure]:
    weights = trainer.share_weights("float32")
    of = f"a copy of the same {weights.nbytes / 1e9:.2f} GB"
    publish, load = Figure("publish", "s", of), Figure("publish_load", "s", of)
    mine = {name: tensor.clone() for name, tensor in weights.tensors().items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number in range(_WARM_UP + _ROUNDS):
            started = time.perf_counter()
            weights = trainer.share_weights("float32")
            ray.get(receiver.receive.remote(weights))
            received = time.perf_counter()
            ray.get(worker.publish.remote(weights, number))
            loaded = time.perf_counter()
            theirs = dict(weights.tensors())
            _copy(theirs, mine)  # a first time, so that all of it is mapped
            before = time.perf_counter()
            _copy(theirs, mine)
            copied = time.perf_counter() - before
            if number >= _WARM_UP:
                publish.add(received - started, copied)
                load.add(loaded - received, copied)
    finally:
        torch.set_num_threads(threads)
    return [publish, load]


def _copy(theirs: dict[str, torch.Tensor], mine: dict[str, torch.Tensor]) -> None:
    for name, tensor in theirs.items():
        mine[name].copy_(tensor)


def _write_policy(directory: Path) -> None:
    processor = build_processor()
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    processor.tokenizer.chat_template = processor.chat_template
    processor.tokenizer.save_pretrained(directory)
