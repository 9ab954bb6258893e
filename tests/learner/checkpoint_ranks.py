"""A tiny language model, sharded by FSDP2 over real processes that talk over gloo, with a real AdamW and a real checkpointer."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from forks import FORKS, rendezvous
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from envs.errors import InfrastructureError, UsageError
from learner.run_files.checkpoints import Checkpoints
from learner.verl.state import older_checkpoints, policy_files
from learner.verl.state.checkpoints import Checkpointer
from learner.verl.state.policy_files import PolicyFiles

LR = 1e-2


def build(directory, *, hidden=32, vocabulary=100, tied=False, dtype="float32"):
    """A policy's directory with random weights."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(vocab_size=vocabulary, hidden_size=hidden, intermediate_size=2 * hidden, tie_word_embeddings=tied, **sizes)
    Qwen2ForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(directory)
    (directory / "tokenizer.json").write_text("{}")
    return directory


class Learner:
    """One rank's part of the model in training."""

    def __init__(self, policy_dir, dtype="auto", optimizer=torch.optim.AdamW):
        self.module = AutoModelForCausalLM.from_pretrained(policy_dir, dtype=torch.float32)
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in self.module.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.module, mesh=mesh)
        self.optimizer = optimizer(self.module.parameters(), lr=LR)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)
        files = PolicyFiles(self.module, policy_dir, dtype, tied=self.module.config.tie_word_embeddings)
        self.checkpointer = Checkpointer(self.module, self.optimizer, self.scheduler, files)

    def step(self, seed):
        """One update on the same batch on every rank, and so on any number of ranks; returns its loss."""
        tokens = torch.randint(self.module.config.vocab_size, (2, 16), generator=torch.Generator().manual_seed(seed))
        loss = self.module(input_ids=tokens, labels=tokens).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        return loss.item()

    def save(self, directory, done=lambda: None):
        """Save in the background; the random state is told apart by rank."""
        self.checkpointer.save(str(directory), f"random state of rank {dist.get_rank()}", done)


def run(ranks, task, *arguments):
    """`task(rank, *arguments)` in as many processes; returns what each returned. Raises RuntimeError if one failed."""
    receivers, senders = zip(*[FORKS.Pipe(duplex=False) for _ in range(ranks)], strict=True)
    processes = start(ranks, task, *arguments, senders=senders)
    for sender in senders:
        sender.close()
    results = []
    for rank, receiver in enumerate(receivers):
        try:
            results.append(receiver.recv())
        except EOFError:
            for process in processes:
                process.kill()
            raise RuntimeError(f"rank {rank} failed: see its error output") from None
    for process in processes:
        process.join()
    return results


def start(ranks, task, *arguments, senders=None):
    """The same in processes that a test may kill; not waited for."""
    place = rendezvous()
    processes = [
        FORKS.Process(target=_rank, args=(rank, ranks, place, task, arguments, senders and senders[rank])) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    return processes


def _rank(rank, ranks, place, task, arguments, sender):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=ranks)
    result = task(rank, *arguments)
    if sender:
        sender.send(result)
    dist.destroy_process_group()


def train(rank, policy_dir, load, steps, save):
    """Go on from a checkpoint, if there is one; take steps on the batches of these seeds, save, take one more.

    Returns the losses, the random state that was loaded, and the weights."""
    learner = Learner(policy_dir)
    random_state = learner.checkpointer.load(str(load)) if load else None
    losses = [learner.step(seed) for seed in steps]
    if save:
        learner.save(save, Path(save, "done").touch)
        losses.append(learner.step(steps[-1] + 1))  # while it is written
        learner.checkpointer.finish()
    return losses, random_state


def in_8_bits(rank, policy_dir, load, steps, save):
    """The same with torchao's moments; returns the losses and the kinds of first moments, before the first step."""
    from torchao.optim import AdamW8bit

    torch._dynamo.config.disable = True  # it would compile its step for a minute
    learner = Learner(policy_dir, optimizer=AdamW8bit)
    if load:
        learner.checkpointer.load(str(load))
    moments = [kept["exp_avg"].to_local() for kept in learner.optimizer.state.values()]
    losses = [learner.step(seed) for seed in steps]
    if save:
        learner.save(save, Path(save, "done").touch)
        learner.checkpointer.finish()
    return losses, {type(moment).__name__ for moment in moments}


def in_memory(rank, policy_dir):
    """A store without renames or a file system: this process's memory."""
    learner = Learner(policy_dir)
    checkpoints = Checkpoints("memory://run", keep=1)
    losses = [learner.step(1)]
    learner.save(checkpoints.begin("step_1"), lambda: checkpoints.commit("step_1", {}))
    losses.append(learner.step(2))
    learner.checkpointer.finish()
    other = Learner(policy_dir)
    other.checkpointer.load(checkpoints.location("step_1"))
    return losses, checkpoints.names(), other.step(2)


def without_state(rank, policy_dir, directory):
    """An optimizer that has not taken a step, and one parameter that never has a gradient."""
    learner = Learner(policy_dir)
    learner.save(directory / "fresh")
    learner.checkpointer.finish()
    frozen = learner.module.model.norm.weight.requires_grad_(False)
    losses = [learner.step(seed) for seed in (1, 2)]
    learner.save(directory / "partly")
    losses += [learner.step(3)]
    other = Learner(policy_dir)
    other.step(9)
    other.checkpointer.load(str(directory / "fresh"))
    repeated = [other.step(seed) for seed in (1,)]
    learner.checkpointer.load(str(directory / "partly"))
    return losses, repeated, learner.step(3), frozen in learner.optimizer.state


def write_policy(rank, policy_dir, directory, dtype, file_bytes, bucket_bytes):
    policy_files.FILE_BYTES, policy_files.BUCKET_BYTES = file_bytes, bucket_bytes
    learner = Learner(policy_dir, dtype)
    learner.step(1)
    learner.save(directory)
    learner.checkpointer.finish()
    full = {name: parameter.full_tensor() for name, parameter in learner.module.named_parameters()}
    if rank == 0:
        torch.save(full, directory / "expected.pt")


def on_a_full_disk(rank, policy_dir, directory):
    """The second rank's part cannot be written: a directory has the name of its file. Of another checkpoint it is cut."""
    learner = Learner(policy_dir)
    if rank == 1:
        (directory / "training/__1_0.distcp").mkdir(parents=True)
    dist.barrier()
    learner.save(directory, (directory / "done").touch)
    learner.step(1)  # goes on
    with pytest.raises(InfrastructureError) as error:
        learner.save(directory / "next")
    learner.save(directory / "cut")
    learner.checkpointer.finish()
    if rank == 1:
        os.truncate(directory / "cut/training/__1_0.distcp", 1000)
    dist.barrier()
    with pytest.raises(UsageError) as unread:
        learner.checkpointer.load(str(directory / "cut"))
    return str(error.value), (directory / "done").exists(), str(unread.value)


def save_again_and_again(rank, policy_dir, url):
    """Checkpoints one after another, for ever."""
    learner, checkpoints = Learner(policy_dir), Checkpoints(url, keep=2)
    for step in range(1, 10**6):
        learner.step(step)
        unfinished = checkpoints.begin(f"step_{step}") if rank == 0 else None
        (unfinished,) = _from_rank_0(unfinished)
        learner.save(unfinished, lambda step=step: checkpoints.commit(f"step_{step}", {"step": step}, "step"))
        learner.checkpointer.finish()
        dist.barrier()


def _from_rank_0(value):
    values = [value]
    dist.broadcast_object_list(values)
    return values


def go_on(rank, policy_dir, url):
    checkpoints = Checkpoints(url, keep=2)
    newest = checkpoints.newest("step")
    learner = Learner(policy_dir)
    learner.checkpointer.load(checkpoints.location(newest))
    return checkpoints.state(newest)["step"], learner.step(checkpoints.state(newest)["step"] + 1)


def from_version_0_1(rank, policy_dir, directory):
    """Whole weights and moments, as that version wrote them from rank 0."""
    learner = Learner(policy_dir)
    losses = [learner.step(1)]
    whole = {name: parameter.full_tensor().detach() for name, parameter in learner.module.named_parameters()}
    moments = {
        name: {key: getattr(value, "full_tensor", value.clone)() for key, value in learner.optimizer.state[parameter].items()}
        for name, parameter in learner.module.named_parameters()
    }
    if rank == 0:
        for part in older_checkpoints.PARTS:
            (directory / part).parent.mkdir()
        save_file(whole, directory / older_checkpoints.PARTS[0])
        torch.save(moments, directory / older_checkpoints.PARTS[1])
    dist.barrier()
    losses += [learner.step(seed) for seed in (2, 3)]
    other = Learner(policy_dir)
    random_state = older_checkpoints.load(other.module, other.optimizer, directory, rank)
    other.optimizer.param_groups[0]["lr"] *= 0.9  # that version had no schedule
    return losses[1:], [other.step(seed) for seed in (2, 3)], random_state
