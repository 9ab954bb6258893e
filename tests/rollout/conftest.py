"""One policy directory, one chat format and one engine for all rollout tests."""

import contextlib
import io

import pytest
import torch

from rollout.config import EngineConfig, RolloutConfig
from rollout.tokens.chat_format import ChatFormat
from starter.policy import build


@pytest.fixture(scope="session")
def policy_directory(tmp_path_factory):
    """A policy with random weights."""
    return str(build(tmp_path_factory.mktemp("policy"), seed=0))


@pytest.fixture(scope="session")
def other_policy_directory(tmp_path_factory):
    """The same policy with other random weights."""
    return str(build(tmp_path_factory.mktemp("other"), seed=1))


@pytest.fixture(scope="session")
def chat(policy_directory):
    return ChatFormat.from_directory(policy_directory)


@pytest.fixture(scope="session")
def engine(policy_directory):
    """A served policy; tests may publish weights to it."""
    yield from _serve(policy_directory)


@pytest.fixture(scope="module")
def fresh_engine(other_policy_directory):
    """An engine that has never seen but the other weights."""
    yield from _serve(other_policy_directory)


def _serve(directory):
    import asyncio

    from rollout.engines.vllm import VllmPolicy

    threads = torch.get_num_threads()
    with contextlib.redirect_stderr(io.StringIO()):
        policy = VllmPolicy(
            RolloutConfig(engine=EngineConfig(policy=directory, max_model_len=1024, max_sequences=128, cpu_cache_gib=0.125))
        )
    yield policy
    asyncio.run(policy.close())
    torch.set_num_threads(threads)
