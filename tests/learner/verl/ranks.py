"""The gradients of one policy step, by the learner's ranks and by plain Hugging Face, each in a process of its own.

verl replaces methods of whole classes, so the two sides cannot share a process. A case is a directory with `case.pickle`: a batch, the
policy's directory, advantages, old log-probabilities, banned token ids and the learner's settings. `learn` and `plain` write
the gradient of each weight, under its name in the model, into a file there.
"""

import os
import pickle

import numpy as np
import torch
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

ENTROPY = 0.01
"""Weight of the entropy bonus in both objectives."""


def environment(rank, ranks, port):
    """What torch.distributed and verl read of a rank's environment."""
    return {
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "learner.verl.cpu_platform",
        "VERL_LOGGING_LEVEL": "WARNING",
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def learn(directories, name, rank, ranks, port):
    """The learner's gradients of some cases, as one of several ranks."""
    os.environ.update(environment(rank, ranks, port))
    torch.set_num_threads(1)
    from learner.verl.worker import LearnerWorker

    for directory in directories:
        batch, policy_dir, advantages, old_log_probs, banned, config = pickle.loads((directory / "case.pickle").read_bytes())
        worker = LearnerWorker(str(policy_dir), config, 0, banned)
        gradients = {}

        def step(engine=worker.engine, gradients=gradients):
            for weight, parameter in engine.module.named_parameters():
                whole = parameter.grad.full_tensor() if isinstance(parameter.grad, DTensor) else parameter.grad
                gradients[weight] = whole.clone()
            return 0.0

        worker.engine.optimizer_step = step
        rows = np.arange(len(batch))
        cells = [rows[start::ranks] for start in range(ranks)]
        size = max(map(len, cells))
        cells = [np.pad(cell, (0, size - len(cell)), constant_values=-1) for cell in cells]
        settings = {
            "use_remove_padding": True,
            "use_dynamic_bsz": True,
            "max_token_len_per_gpu": config.micro_batch_tokens,
            "mini_batch_size": size * ranks,
            "global_batch_size": size * ranks,
            "calculate_entropy": True,
            "epochs": 1,
        }
        targets = {
            "advantages": np.broadcast_to(advantages[:, None], batch.tokens_N_T.shape),
            "old_log_probs": old_log_probs,
        }
        worker.update("policy", batch, cells, settings, 0.0, targets)
        if rank == 0:
            torch.save(gradients, directory / f"{name}.pt")
    torch.distributed.destroy_process_group()


def plain(directories):
    """The same with Hugging Face's model and plain PyTorch, sequence by sequence."""
    torch.set_num_threads(1)
    for directory in directories:
        batch, policy_dir, advantages, old_log_probs, banned, config = pickle.loads((directory / "case.pickle").read_bytes())
        auto = AutoModelForImageTextToText if hasattr(AutoConfig.from_pretrained(policy_dir), "vision_config") else AutoModelForCausalLM
        model = auto.from_pretrained(policy_dir, dtype=torch.float32)
        for row in range(len(batch)):
            mask = torch.from_numpy(batch.loss_mask_N_T[row, 1 : batch.lengths_N[row]].copy())
            log_probs, entropies = _distribution(model, batch, row, banned)
            ratio = (log_probs - torch.from_numpy(old_log_probs[row, 1 : batch.lengths_N[row]].copy())).exp()
            clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
            gain = torch.minimum(ratio * advantages[row], clipped * advantages[row]) + ENTROPY * entropies
            (-gain[mask].sum() / batch.trained_tokens).backward()
        torch.save({name: weight.grad for name, weight in model.named_parameters()}, directory / "plain.pt")


def _distribution(model, batch, row, banned):
    """Log-probabilities of a sequence's tokens but the first, and the entropies of the distributions that they come from."""
    tokens = torch.from_numpy(batch.tokens_N_T[row : row + 1, : batch.lengths_N[row]].copy())
    inputs = {"input_ids": tokens}
    if batch.images_N[row]:
        inputs["mm_token_type_ids"] = (tokens == model.config.image_token_id).int()
        inputs["pixel_values"] = torch.from_numpy(np.concatenate([batch.pixels_of(image) for image in batch.images_N[row]]))
        inputs["image_grid_thw"] = torch.from_numpy(batch.grids_U_3[batch.images_N[row]])
    logits = model(**inputs).logits[0, :-1]
    logits = logits.index_fill(-1, torch.tensor(banned), -1e30) / float(batch.temperatures_N[row])
    distribution = torch.log_softmax(logits, dim=-1)
    return distribution.gather(-1, tokens[0, 1:, None])[:, 0], -(distribution.exp() * distribution).sum(dim=-1)
