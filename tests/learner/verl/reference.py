"""Plain Hugging Face's figures for a batch, in a separate process, since verl patches Qwen2.5-VL for the whole process.

Reads `batch.pickle` (batch, policy directory, banned token ids) in the directory given as argument. Writes `reference.npz` there:
log-probabilities of all tokens, sequence after sequence, the mean negative log-likelihood at temperature 1, and its gradient's norm
over all weights and over all but the vision tower's.
"""

import io
import pickle
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

directory = Path(sys.argv[1])
batch, policy_dir, banned = pickle.loads((directory / "batch.pickle").read_bytes())
torch.set_num_threads(1)
processor = AutoProcessor.from_pretrained(policy_dir).image_processor
model = Qwen2_5_VLForConditionalGeneration.from_pretrained(policy_dir, dtype=torch.float32)


def sequence(row):
    """The tokens, loss mask and images of a row."""
    sequences, chain = batch.examples_E[batch.episodes_N[row]].sequences, batch.chains_N[row]
    end = sequences.lengths_N[: chain + 1].sum()
    part = slice(end - sequences.lengths_N[chain], end)
    pictures = [Image.open(io.BytesIO(sequences.images[name])) for name in sequences.images_N[chain]]
    return torch.from_numpy(sequences.tokens_S[part].astype(np.int64)), sequences.loss_mask_S[part], pictures


def log_probs_of(tokens, pictures, temperature):
    """Log-probabilities of one sequence's tokens but the first, unpadded."""
    inputs = {"input_ids": tokens[None], "mm_token_type_ids": (tokens[None] == model.config.image_token_id).int()}
    if pictures:
        inputs |= processor(images=pictures, return_tensors="pt")
    logits = model(**inputs).logits[0, :-1].clone()
    logits[:, banned] = -torch.inf
    return torch.log_softmax(logits / temperature, dim=-1).gather(-1, tokens[1:, None])[:, 0]


log_probs = []
loss = torch.zeros(())
for row in range(len(batch)):
    tokens, mask, pictures = sequence(row)
    with torch.no_grad():
        log_probs += [0.0, *log_probs_of(tokens, pictures, float(batch.temperatures_N[row])).tolist()]
    loss = loss - log_probs_of(tokens, pictures, 1.0)[torch.from_numpy(mask[1:].copy())].sum() / batch.trained_tokens
loss.backward()
squares = {name: float(weight.grad.double().square().sum()) for name, weight in model.named_parameters() if weight.grad is not None}
np.savez(
    directory / "reference.npz",
    log_probs=np.array(log_probs, dtype=np.float32),
    loss=loss.detach().numpy(),
    grad_norm=np.sqrt(sum(squares.values())),
    text_grad_norm=np.sqrt(sum(square for name, square in squares.items() if "visual." not in name)),
)
