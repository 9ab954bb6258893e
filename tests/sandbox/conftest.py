"""Attacks on the real jail, through the public interface. The behaviours that this folder locks:

* limits: wall time, processor time, memory of one process and of a tree, processes, disk, files, output and images are bounded,
  and the result says which bound was met;
* reach: no network, no host file, no secret, no descriptor, no process, no other session can be reached;
* privilege: no system call that gives power over the kernel, a namespace, a mount or another process is allowed;
* survivors: nothing outlives its session, and nothing outlives the pool;
* honesty: each way for a run to end has its own status, partial output is kept, and a result can be neither forged nor mixed up;
* images: they arrive and leave whole, and bombs do not go off;
* state: it persists within a session and never crosses into another;
* the pool: bounded, restarts what died, refuses to start without its protections, works for an unprivileged user.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from sandbox_host import HIGH_FD, LIMITS, SECRET

from sandbox import Pool, SandboxUnavailable, Session


@pytest.fixture(scope="session", autouse=True)
def temptations() -> Iterator[None]:
    """What a careless host has lying around: keys in the environment, and an open descriptor with a high number."""
    os.environ["WANDB_API_KEY"] = SECRET
    os.dup2(os.open("/etc/passwd", os.O_RDONLY), HIGH_FD, inheritable=True)
    yield
    os.close(HIGH_FD)
    del os.environ["WANDB_API_KEY"]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def pool(temptations: None) -> AsyncIterator[Pool]:
    try:
        async with Pool(LIMITS, size=4) as pool:
            yield pool
    except SandboxUnavailable as reason:
        pytest.skip(str(reason))


@pytest_asyncio.fixture(loop_scope="session")
async def session(pool: Pool) -> AsyncIterator[Session]:
    async with pool.session() as session:
        yield session
