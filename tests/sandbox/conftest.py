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

import contextlib
import os
import resource
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from sandbox_host import AS_ROOT, HIGH_FD, LIMITS, SECRET, AttackedPool, AttackedSession, session_in
from sandbox_unprivileged import UnprivilegedPool

from sandbox import Pool, SandboxUnavailable

_NEEDS_ROOT = pytest.mark.skipif(not AS_ROOT, reason="not root: the unprivileged half is this user's own")
_SCHEDULING = (resource.RLIMIT_RTPRIO, 99), (resource.RLIMIT_NICE, 40)


@pytest.fixture(scope="package", autouse=True)
def temptations() -> Iterator[None]:
    """What a careless host has lying around: keys in the environment, an open descriptor with a high number, rights to priority."""
    os.environ["WANDB_API_KEY"] = SECRET
    with open("/etc/passwd") as file:
        os.dup2(file.fileno(), HIGH_FD, inheritable=True)
    earlier = {kind: resource.getrlimit(kind) for kind, _ in _SCHEDULING}
    for kind, most in _SCHEDULING:
        with contextlib.suppress(ValueError, PermissionError):  # not every root may raise a limit
            resource.setrlimit(kind, (most, most))
    yield
    for kind, limits in earlier.items():
        resource.setrlimit(kind, limits)
    os.close(HIGH_FD)
    del os.environ["WANDB_API_KEY"]


@pytest_asyncio.fixture(scope="package", loop_scope="session", params=[pytest.param("root", marks=_NEEDS_ROOT), "unprivileged"])
async def pool(request: pytest.FixtureRequest, temptations: None) -> AsyncIterator[AttackedPool | Pool]:
    """A pool of root's, and one of an ordinary user's: in a process of its own where the tests are run by root."""
    try:
        if AS_ROOT and request.param == "unprivileged":
            async with UnprivilegedPool.start(LIMITS) as pool:
                yield pool
        else:
            async with Pool(LIMITS, size=4) as pool:
                yield pool
    except SandboxUnavailable as reason:
        pytest.skip(str(reason))


@pytest_asyncio.fixture(loop_scope="session", params=["fresh", "reused"])
async def session(request: pytest.FixtureRequest, pool: AttackedPool | Pool) -> AsyncIterator[AttackedSession]:
    async with session_in(pool, request.param) as session:
        yield session
