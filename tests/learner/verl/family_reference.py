"""Log-probabilities and gradients of every family: the learner's worker against plain Hugging Face, in one process without Ray.

Writes a JSON object by family to the path given as first argument; the other arguments are names of families, none means all.
Plain Hugging Face goes first, since verl changes classes for the whole process.
"""

import io
import json
import os
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from families import FAMILIES, policy
from PIL import Image

from envs.errors import UsageError
from learner.batch import Batch
from learner.config import LearnerConfig
from rollout.tokens.chat_format import ChatFormat, ChatMessage, banned_token_ids
from rollout.tokens.images import ImageEncoder
from rollout.tokens.transcript import Transcript
from rollout.types import Generation, StopReason, Turn

SIZES = [(112, 84), (60, 150), (150, 60), (300, 299)]


def picture(seed):
    rng = np.random.default_rng(seed)
    return ImageEncoder().encode(rng.integers(0, 256, (*SIZES[seed % 4], 3), dtype=np.uint8))


def episodes(chat):
    """Six of one to three turns: with two images in the question and one of a tool; two that share an image; one without any."""
    made = []
    for number in range(6):
        rng = np.random.default_rng(number)
        transcript = Transcript(chat, max_tokens=2000)
        seeds = [] if chat.images is None or number == 2 else [number // 2, 20 + number]
        transcript.append_observation([ChatMessage("user", f"What is to be seen? {number}", tuple(map(picture, seeds)))])
        turns = []
        for turn in range(1 + number % 3):
            if turn:
                shown = tuple(map(picture, [40 + turn])) if seeds else ()
                transcript.append_observation([ChatMessage("user", f"Here it is: {turn}", shown)])
            action = [*rng.integers(0, 200, rng.integers(3, 9)).tolist(), chat.end_of_turn]
            transcript.append_generation(Generation(action, [-1.0] * len(action), "stop", 0))
            turns.append(Turn(action=chat.decode(action), observation="", images=[], tool_calls=[], generate_s=0.0))
        facts = {"episode_id": f"e{number}", "task_id": "t", "group_id": f"g{number // 2}", "abilities": ("seeing",)}
        outcome = {"reward": 0.0, "reward_parts": {}, "answer": None, "stop_reason": StopReason.ANSWERED}
        made.append(transcript.episode(turns, source="test", seed=number, **facts, **outcome))
    return made


def reference(directory, chat, made):
    """Plain Hugging Face: log-probabilities of sampled tokens, mean loss and the gradient's norm; one sequence at a time."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForCausalLM if chat.images is None else AutoModelForImageTextToText
    model = kind.from_pretrained(directory, dtype=torch.float32)
    banned = banned_token_ids(chat.tokenizer, AutoConfig.from_pretrained(directory))
    log_probs, loss = [], torch.zeros(())
    trained = sum(sum(chain.loss_mask) for episode in made for chain in episode.chains)
    for episode in made:
        for chain in episode.chains:
            tokens, inputs = torch.tensor(chain.token_ids), {}
            if chain.images:
                inputs = chat.images.inputs(*(Image.open(io.BytesIO(episode.images[name])) for name in chain.images))
            if hasattr(model, "model") and hasattr(model.model, "get_rope_index"):
                inputs["mm_token_type_ids"] = (tokens == chat.image_token).int()[None]
            logits = model(input_ids=tokens[None], **inputs).logits[0, :-1]
            logits = logits.index_fill(-1, torch.tensor(banned), -torch.inf)
            of_tokens = torch.log_softmax(logits, dim=-1).gather(-1, tokens[1:, None])[:, 0]
            mask = torch.tensor(chain.loss_mask[1:]).bool()
            log_probs += of_tokens[mask].tolist()
            loss = loss - of_tokens[mask].sum() / trained
    loss.backward()
    squares = sum(float(weight.grad.double().square().sum()) for weight in model.parameters() if weight.grad is not None)
    return np.array(log_probs), float(loss), squares**0.5, banned


def learner(directory, made, banned):
    """The same of the learner's worker."""
    from learner.verl.worker import LearnerWorker

    worker = LearnerWorker(str(directory), LearnerConfig(), 0, banned)
    batch = Batch.of_episodes(made)
    shares, size = [np.arange(len(batch))], len(batch)
    settings = {
        "use_remove_padding": True,
        "use_dynamic_bsz": True,
        "micro_batch_size_per_gpu": size,
        "max_token_len_per_gpu": 1200,
        "mini_batch_size": size,
        "global_batch_size": size,
        "temperature": 1.0,
    }
    log_probs, _ = worker.infer(batch, shares, settings | {"calculate_entropy": False})
    metrics = worker.update("supervised", batch, shares, settings, 0.0)
    mask = np.concatenate([example.sequences.loss_mask_S for example in batch.examples_E])
    return log_probs[mask], metrics["loss"], metrics["grad_norm"]


def main():
    torch.set_num_threads(1)
    names = sys.argv[2:] or list(FAMILIES)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "learner.verl.cpu_platform"}
    found = {}
    with tempfile.TemporaryDirectory() as root:
        made, plain = {}, {}
        for name in names:
            directory = policy(name, Path(root, name))
            chat = ChatFormat.from_directory(directory)
            made[name] = episodes(chat)
            plain[name] = reference(directory, chat, made[name])
        for name in names:
            log_probs, loss, norm, banned = plain[name]
            try:
                ours = learner(Path(root, name), made[name], banned)
            except UsageError as error:
                found[name] = {"refused": str(error)}
                continue
            found[name] = {
                "tokens": len(log_probs),
                "log_probs": float(np.abs(log_probs - ours[0]).max()),
                "loss": abs(loss - ours[1]),
                "grad_norm": abs(norm - ours[2]) / norm,
            }
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
