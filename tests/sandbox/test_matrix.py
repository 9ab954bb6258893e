"""The matrix of the attacks: a fresh slot is fresh, a reused one reused, and an unprivileged pool unprivileged yet complete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sandbox_host import AS_ROOT, HIGH_FD, LIMITS, SECRET, busy_slots, host_pid, own_cgroups, session_in
from sandbox_unprivileged import USER_ID, UnprivilegedPool

from sandbox import Pool, SandboxUnavailable, Session, Status

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_fresh_slot_has_never_held_a_session(pool: Pool) -> None:
    seen: set[int] = set()
    for _ in range(3):
        async with session_in(pool, "fresh") as session:
            assert (await session.run("1")).status is Status.OK
            slots = busy_slots(host_pid(pool))
        assert len(slots) == 1
        assert not slots & seen
        seen |= slots


async def test_a_reused_slot_has_held_a_session_that_left_state_behind(pool: Pool) -> None:
    async with pool.session() as session:
        assert (await session.run("1")).status is Status.OK
        slots = busy_slots(host_pid(pool))
    async with session_in(pool, "reused") as session:
        assert (await session.run("1")).status is Status.OK
        assert busy_slots(host_pid(pool)) == slots


async def test_the_pool_belongs_to_the_user_that_it_is_named_for(pool: Pool, request: pytest.FixtureRequest) -> None:
    user = os.stat(f"/proc/{host_pid(pool)}").st_uid
    expected = USER_ID if AS_ROOT else os.geteuid()
    assert user == (0 if "root" in request.node.callspec.id.split("-") else expected)


async def test_every_pool_has_control_groups_of_its_own(pool: Pool) -> None:
    async with pool.session() as session:
        assert (await session.run("1")).status is Status.OK
        (slot,) = busy_slots(host_pid(pool))
        groups = own_cgroups(host_pid(pool))
        assert groups
        assert any(str(slot) in (path / "cgroup.procs").read_text().split() for group in groups for path in group.glob("*/"))


async def test_every_pool_s_process_holds_the_temptations(pool: Pool) -> None:
    process = Path(f"/proc/{host_pid(pool)}")
    assert (process / "fd" / str(HIGH_FD)).exists()
    assert host_pid(pool) == os.getpid() or SECRET in (process / "environ").read_text()


@pytest.mark.parametrize(
    "trace",
    [
        "'left' in dir()",
        "import builtins, sys; hasattr(builtins, 'left') or hasattr(sys, 'left')",
        "import os; 'LEFT' in os.environ",
        "import os; any(os.listdir(place) for place in ('/work', '/dev/shm'))",
        "import os; [name for name in os.listdir('/tmp') if name != '.matplotlib'] != []",
        "import socket; socket.socket(socket.AF_UNIX).connect_ex('\\0left') == 0",
        "import ctypes; ctypes.CDLL(None).shmget(0x1234, 1, 0) >= 0",
        "import ctypes; ctypes.CDLL(None).semget(0x1234, 1, 0) >= 0",
        "import ctypes; ctypes.CDLL(None).msgget(0x1234, 0) >= 0",
        "import os; len([pid for pid in os.listdir('/proc') if pid.isdigit()]) != 1",
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, []) != set()",
        "import os; os.umask(0o22) == 0",
        "import os; os.nice(0) != 0",
        "import os; os.getcwd() != '/work'",
        "import random; state = random.getstate(); random.seed(1); state == random.getstate()",
    ],
    ids=[
        "variable", "module attribute", "environment", "files", "temporary files", "abstract socket", "shared memory", "semaphores",
        "message queue", "daemon", "signal mask", "umask", "niceness", "working directory", "seed",
    ],
)  # fmt: skip
async def test_the_state_of_an_earlier_session_is_gone(session: Session, trace: str) -> None:
    result = await session.run(trace)
    assert result.stdout == "False\n", result


@pytest.mark.skipif(not AS_ROOT, reason="not root: the tests of the pool's refusals cover this user")
async def test_an_unprivileged_pool_without_a_cgroup_refuses_to_start() -> None:
    with pytest.raises(SandboxUnavailable, match="toolwise doctor"):
        async with UnprivilegedPool.start(LIMITS, with_cgroups=False):
            pass
