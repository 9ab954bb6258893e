"""Plain Hugging Face's figures for a batch, in a separate process, since verl patches Qwen2.5-VL for the whole process.

Reads `batch.pickle` (batch, policy directory, banned token ids) in the directory given as argument. Writes `reference.npz` there:
log-probabilities (N x T, all tokens), the mean negative log-likelihood at temperature 1, and its gradient's norm over all weights
and over all but the vision tower's.
"""

import pickle
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

directory = Path(sys.argv[1])
batch, policy_dir, banned = pickle.loads((directory / "batch.pickle").read_bytes())
torch.set_num_threads(1)
model = Qwen2_5_VLForConditionalGeneration.from_pretrained(policy_dir, dtype=torch.float32)


def log_probs_of(row, temperature):
    """Log-probabilities of one sequence's tokens but the first, unpadded."""
    tokens = torch.from_numpy(batch.tokens_N_T[row : row + 1, : batch.lengths_N[row]].copy())
    inputs = {"input_ids": tokens, "mm_token_type_ids": (tokens == model.config.image_token_id).int()}
    if batch.images_N[row]:
        inputs["pixel_values"] = torch.from_numpy(np.concatenate([batch.pixels_of(image) for image in batch.images_N[row]]))
        inputs["image_grid_thw"] = torch.from_numpy(batch.grids_U_3[batch.images_N[row]])
    logits = model(**inputs).logits[0, :-1].clone()
    logits[:, banned] = -torch.inf
    return torch.log_softmax(logits / temperature, dim=-1).gather(-1, tokens[0, 1:, None])[:, 0]


log_probs = np.zeros(batch.tokens_N_T.shape, dtype=np.float32)
loss = torch.zeros(())
for row in range(len(batch)):
    mask = torch.from_numpy(batch.loss_mask_N_T[row, 1 : batch.lengths_N[row]].copy())
    with torch.no_grad():
        log_probs[row, 1 : batch.lengths_N[row]] = log_probs_of(row, float(batch.temperatures_N[row])).numpy()
    loss = loss - log_probs_of(row, 1.0)[mask].sum() / batch.trained_tokens
loss.backward()
squares = {name: float(weight.grad.double().square().sum()) for name, weight in model.named_parameters() if weight.grad is not None}
np.savez(
    directory / "reference.npz",
    log_probs=log_probs,
    loss=loss.detach().numpy(),
    grad_norm=np.sqrt(sum(squares.values())),
    text_grad_norm=np.sqrt(sum(square for name, square in squares.items() if "visual." not in name)),
)
