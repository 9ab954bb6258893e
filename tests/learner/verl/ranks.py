"""Log-probabilities and the gradients of a policy step, by the learner's ranks and by plain Hugging Face, each in its own process.

verl replaces methods of whole classes, so the two sides cannot share a process. A case is a directory with `case.pickle`: a batch,
the policy's directory, advantages, banned token ids and the learner's settings. `learn` and `plain` write a file there: the
gradient of each weight, under its name in the model, and the log-probabilities of the sampled tokens.
"""

import io
import os
import pickle

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

# Before verl changes them for the sake of their kin.
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl  # noqa: F401
from transformers.models.qwen3_vl_moe import modeling_qwen3_vl_moe  # noqa: F401

from envs.errors import UsageError
from rollout.tokens.image_layout import ImageLayout

ENTROPY = 0.01
"""Weight of the entropy bonus in both objectives."""


def learn(directories, name, rank, ranks, place, recompute_old=False, ulysses=1):
    """The learner's gradients of some cases, as one of several ranks."""
    ours = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": ranks, "DIST_INIT_METHOD": place}
    unused = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # verl asks for them nevertheless
    os.environ.update({variable: str(value) for variable, value in (ours | unused).items()})
    from learner.verl import worker
    from learner.verl.configuration import settings
    from learner.verl.rows import PolicyTargets
    from learner.verl.shares import FILLER, divide

    def with_ulysses(*arguments):
        made = settings.worker_config(*arguments)
        object.__setattr__(made.engine_config, "ulysses_sequence_parallel_size", ulysses)
        return made

    worker.worker_config = with_ulysses
    for directory in directories:
        batch, policy_dir, advantages, banned, config = pickle.loads((directory / "case.pickle").read_bytes())
        learner = worker.Rank(str(policy_dir), config, 0, banned)
        gradients = {}

        def step(engine=learner.engine, gradients=gradients):
            for name, weight in engine.module.named_parameters():
                if weight.grad is not None:
                    gradients[name] = weight.grad.full_tensor().clone()
            return 0.0

        learner.engine.optimizer_step = step
        shares = divide(batch, np.arange(len(batch)), ranks // ulysses)
        options = {
            "use_dynamic_bsz": True,
            "max_token_len_per_gpu": max(config.micro_batch_tokens, int(batch.lengths_N.max())),
            "mini_batch_size": len(shares[0]) * len(shares),
            "mini_batches": 1,
            "calculate_entropy": True,
            "epochs": 1,
        }
        targets = PolicyTargets(advantages, np.array([batch.trained_tokens]), np.array([len(batch)]), recompute_old)
        learner.update("policy", batch, shares, options, 0.0, targets)
        found = learner.infer(batch, shares, options)
        if rank == 0:
            rows = [row for row in shares[0].tolist() if row != FILLER]
            torch.save((gradients, torch.from_numpy(found[0]), rows), directory / f"{name}.pt")
    torch.distributed.destroy_process_group()


def refuse(directory, place):
    """The line with which the learner refuses a case, in `refused.txt`."""
    try:
        learn([directory], "refused", 0, 1, place)
    except UsageError as error:
        (directory / "refused.txt").write_text(str(error))


def plain(directories):
    """The same with Hugging Face's model and plain PyTorch, sequence by sequence."""
    torch.set_num_threads(1)
    for directory in directories:
        batch, policy_dir, advantages, banned, _ = pickle.loads((directory / "case.pickle").read_bytes())
        sees = hasattr(AutoConfig.from_pretrained(policy_dir), "vision_config")
        auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        model = auto.from_pretrained(policy_dir, dtype=torch.float32)
        layout = ImageLayout(AutoProcessor.from_pretrained(policy_dir)) if sees else None
        has_kinds, scored = sees and hasattr(model.model, "get_rope_index"), []
        for example, advantage in zip(batch.examples_E, advantages, strict=True):
            sequences = example.sequences
            tokens, mask = torch.from_numpy(sequences.tokens_S.astype(np.int64)), torch.from_numpy(sequences.loss_mask_S[1:].copy())
            inputs = {"input_ids": tokens[None]}
            if sequences.images:
                inputs |= layout.inputs(*(Image.open(io.BytesIO(sequences.images[name])) for name in sequences.images_N[0]))
            if has_kinds:
                inputs |= {"mm_token_type_ids": (tokens[None] == model.config.image_token_id).int()}
            logits = model(**inputs).logits[0, :-1].index_fill(-1, torch.tensor(banned), -1e30) / example.temperature
            distribution = torch.log_softmax(logits, dim=-1)
            entropies = -(distribution.exp() * distribution).sum(dim=-1)
            log_probs = distribution.gather(-1, tokens[1:, None])[:, 0]
            scored.append(torch.cat([torch.zeros(1), torch.where(mask, log_probs, 0).detach()]))
            gain = (log_probs - log_probs.detach()).exp() * advantage + ENTROPY * entropies
            (-gain[mask].sum() / batch.trained_tokens).backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        torch.save((gradients, scored), directory / "plain.pt")
