"""Attacks on the real jail, through the public interface. The behaviours that this folder locks:

* limits: wall time, processor time, memory of one process and of a tree, processes, disk, files, output and images are bounded,
  and the result says which bound was met;
* reach: no network, no host file, no secret, no descriptor, no process, no other session can be reached;
* privilege: no system call that gives power over the kernel, a namespace, a mount or another process is allowed;
* survivors: nothing outlives its session, and nothing outlives the pool;
* honesty: each way for a run to end has its own status, partial output is kept, and a result can be neither forged nor mixed up;
* images: they arrive and leave whole, and bombs do not go off;
* state: it persists within a session and never crosses into another;
* the pool: bounded, restarts what died, refuses to start without its protections.

Each attack through the `session` fixture has four forms: in a slot that has never held a session and in one that has just held a
session which left much behind, of a pool of root's and of an ordinary user's. `--whole` runs all four; without it each attack
runs in two that differ in both, and the next attack in the other two. Attempts that fail and leave nothing share a session, that
of `lasting_session`, in the same forms.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Generator, Iterator

import pytest
import pytest_asyncio
from sandbox_host import AS_ROOT, LIMITS, AttackedPool, AttackedSession, session_in, temptation
from sandbox_unprivileged import UnprivilegedPool

from sandbox import Pool, SandboxUnavailable
from sandbox.doctor import probe
from sandbox.types import ACCEPT_REDUCED

_NEEDS_ROOT = pytest.mark.skipif(not AS_ROOT, reason="not root: the unprivileged half is this user's own")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--whole") or not AS_ROOT:
        return
    attacks: dict[str, int] = {}
    left_out = []
    for item in items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        form = params.get("session") or params.get("lasting_session")
        if isinstance(form, str):
            attack = re.sub(r"\b(root|unprivileged|fresh|reused)\b", "", item.nodeid)
            number = attacks.setdefault(attack, len(attacks))
            matching = (params["pool"] == "root") == (form == "fresh")
            if matching == bool(number % 2):
                left_out.append(item)
    for item in left_out:
        items.remove(item)
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def temptations() -> Iterator[None]:
    """For each test and not for the whole run: the tests of other folders must not meet a key in their environment."""
    with temptation():
        yield


@pytest.fixture(autouse=True)
def full_isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the test itself accepts reduced isolation."""
    monkeypatch.delenv(ACCEPT_REDUCED, raising=False)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """An ordinary user may have no cgroup: what needs one is skipped, with the reason."""
    try:
        return (yield)
    except SandboxUnavailable as reason:
        if AS_ROOT or probe().level != "reduced":
            raise
        pytest.skip(str(reason))


@contextlib.asynccontextmanager
async def _opened(pool: Pool | contextlib.AbstractAsyncContextManager[UnprivilegedPool]) -> AsyncIterator[AttackedPool | Pool]:
    async with contextlib.AsyncExitStack() as stack:
        try:
            with temptation():  # a fixture for the whole run is made before the one for a test
                opened = await stack.enter_async_context(pool)
        except SandboxUnavailable as reason:
            pytest.skip(str(reason))
        yield opened


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def own_pool() -> AsyncIterator[AttackedPool | Pool]:
    """A pool of the user who runs the tests."""
    async with _opened(Pool(LIMITS, size=4, accept_reduced_isolation=False)) as pool:
        yield pool


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def unprivileged_pool() -> AsyncIterator[AttackedPool | Pool]:
    """A pool of an ordinary user, in a separate process, where root runs the tests."""
    async with _opened(UnprivilegedPool.start(LIMITS)) as pool:
        yield pool


@pytest.fixture(scope="session", params=[pytest.param("root", marks=_NEEDS_ROOT), "unprivileged"])
def pool(request: pytest.FixtureRequest) -> AttackedPool | Pool:
    """A pool of root, and one of an ordinary user. Both stay for the next file."""
    elsewhere = AS_ROOT and request.param == "unprivileged"
    return request.getfixturevalue("unprivileged_pool" if elsewhere else "own_pool")


@pytest_asyncio.fixture(loop_scope="session", params=["fresh", "reused"])
async def session(request: pytest.FixtureRequest, pool: AttackedPool | Pool) -> AsyncIterator[AttackedSession]:
    async with session_in(pool, request.param) as session:
        yield session


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["fresh", "reused"])
async def lasting_session(request: pytest.FixtureRequest, pool: AttackedPool | Pool) -> AsyncIterator[AttackedSession]:
    """One for all attempts of a module: each fails, and leaves nothing that another could meet."""
    async with session_in(pool, request.param) as session:
        yield session
