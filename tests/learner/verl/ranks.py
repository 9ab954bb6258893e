"""The gradients of one policy step, by the learner's ranks and by plain Hugging Face, each in a process of its own.

verl replaces methods of whole classes, so the two sides cannot share a process. A case is a directory with `case.pickle`: a batch,
the policy's directory, advantages, banned token ids and the learner's settings. `learn` and `plain` write the gradient of each
weight, under its name in the model, into a file there.
"""

import io
import os
import pickle

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

ENTROPY = 0.01
"""Weight of the entropy bonus in both objectives."""


def learn(directories, name, rank, ranks, port, recompute_old=False, ulysses=1):
    """The learner's gradients of some cases, as one of several ranks."""
    place = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": ranks}
    os.environ.update({variable: str(value) for variable, value in place.items()}, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    from learner.verl import settings, worker
    from learner.verl.rows import PolicyTargets
    from learner.verl.shares import divide

    def with_ulysses(*arguments):
        made = settings.worker_config(*arguments)
        object.__setattr__(made.engine_config, "ulysses_sequence_parallel_size", ulysses)
        return made

    worker.worker_config = with_ulysses
    for directory in directories:
        batch, policy_dir, advantages, banned, config = pickle.loads((directory / "case.pickle").read_bytes())
        learner = worker.LearnerWorker(str(policy_dir), config, 0, banned)
        gradients = {}

        def step(engine=learner.engine, gradients=gradients):
            gradients.update({name: weight.grad.full_tensor().clone() for name, weight in engine.module.named_parameters()})
            return 0.0

        learner.engine.optimizer_step = step
        shares = divide(batch, np.arange(len(batch)), ranks // ulysses)
        options = {
            "use_dynamic_bsz": True,
            "max_token_len_per_gpu": config.micro_batch_tokens,
            "mini_batch_size": len(shares[0]) * len(shares),
            "mini_batches": 1,
            "calculate_entropy": True,
            "epochs": 1,
        }
        targets = PolicyTargets(advantages, np.array([batch.trained_tokens]), np.array([len(batch)]), recompute_old)
        learner.update("policy", batch, shares, options, 0.0, targets)
        if rank == 0:
            torch.save(gradients, directory / f"{name}.pt")
    torch.distributed.destroy_process_group()


def plain(directories):
    """The same with Hugging Face's model and plain PyTorch, sequence by sequence."""
    torch.set_num_threads(1)
    for directory in directories:
        batch, policy_dir, advantages, banned, _ = pickle.loads((directory / "case.pickle").read_bytes())
        sees = hasattr(AutoConfig.from_pretrained(policy_dir), "vision_config")
        auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        model = auto.from_pretrained(policy_dir, dtype=torch.float32)
        image_processor = AutoProcessor.from_pretrained(policy_dir).image_processor if sees else None
        for example, advantage in zip(batch.examples_E, advantages, strict=True):
            sequences = example.sequences
            tokens, mask = torch.from_numpy(sequences.tokens_S.astype(np.int64)), torch.from_numpy(sequences.loss_mask_S[1:].copy())
            inputs = {"input_ids": tokens[None]}
            if sequences.images:
                pictures = [Image.open(io.BytesIO(sequences.images[name])) for name in sequences.images_N[0]]
                inputs |= {"mm_token_type_ids": (tokens[None] == model.config.image_token_id).int()}
                inputs |= image_processor(images=pictures, return_tensors="pt")
            logits = model(**inputs).logits[0, :-1].index_fill(-1, torch.tensor(banned), -1e30) / example.temperature
            distribution = torch.log_softmax(logits, dim=-1)
            entropies = -(distribution.exp() * distribution).sum(dim=-1)
            log_probs = distribution.gather(-1, tokens[1:, None])[:, 0]
            gain = (log_probs - log_probs.detach()).exp() * advantage + ENTROPY * entropies
            (-gain[mask].sum() / batch.trained_tokens).backward()
        torch.save({name: weight.grad for name, weight in model.named_parameters()}, directory / "plain.pt")
