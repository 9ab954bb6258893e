"""The pool: state stays in its session, the size is a bound, the dead are replaced, and no protection is dropped silently."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import pytest
from sandbox_census import zombies
from sandbox_host import LIMITS, descendants

import sandbox
from sandbox import Pool, SandboxUnavailable, Session, Status, doctor
from sandbox.host import cgroups

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_package_comes_from_this_checkout() -> None:
    assert Path(sandbox.__file__).parents[1] == Path(__file__).resolve().parents[2]


async def test_state_persists_between_runs(session: Session) -> None:
    await session.run("import math\ndef area(r): return math.pi * r ** 2\nclass Point: pass\nopen('note', 'w').write('kept')")
    assert (await session.run("round(area(1), 2), Point.__name__, open('note').read()")).stdout == "(3.14, 'Point', 'kept')\n"


async def test_state_survives_an_exception(session: Session) -> None:
    await session.run("x = 5; 1 / 0")
    assert (await session.run("x, _ if '_' in dir() else None")).stdout == "(5, None)\n"


async def test_a_new_session_in_a_used_slot_starts_empty() -> None:
    async with Pool(LIMITS, size=1, preload=[]) as pool:
        for _ in range(3):
            async with pool.session() as session:
                result = await session.run("import os\n'x' in dir(), os.listdir('/work'), 'y' in os.environ")
                assert result.stdout == "(False, [], False)\n"
                await session.run("x = 1; open('/work/x', 'w').close(); os.environ['y'] = '1'; import builtins; builtins.x = 1")


@pytest.mark.skipif(
    tuple(map(int, os.uname().release.split(".")[:2])) < (6, 1) or not Path("/sys/kernel/mm/transparent_hugepage").is_dir(),
    reason="this kernel collapses no pages on request: it is older than Linux 6.1, or was built without huge pages",
)
async def test_what_sessions_are_forked_from_is_mostly_in_huge_pages() -> None:
    """For each small page, a fork and its end take time."""
    async with Pool(LIMITS, size=1):
        sizes = [dict(re.findall(r"(\w+): +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text())) for pid in descendants()]
    assert max(int(size["AnonHugePages"]) / int(size["Anonymous"]) for size in sizes if int(size["Anonymous"]) > 50_000) > 0.4


async def test_garbage_is_collected(session: Session) -> None:
    assert (await session.run("import gc; gc.isenabled()")).stdout == "True\n"


async def test_user_code_is_main(session: Session) -> None:
    assert (
        await session.run("class A: pass\nimport pickle\n__name__, type(pickle.loads(pickle.dumps(A()))) is A")
    ).stdout == "('__main__', True)\n"


async def test_a_full_pool_makes_the_next_session_wait() -> None:
    async with Pool(LIMITS, size=1, preload=[]) as pool:
        order: list[str] = []

        async def second() -> None:
            async with pool.session() as session:
                order.append("second")
                await session.run("1")

        async with pool.session() as session:
            task = asyncio.create_task(second())
            await session.run("import time; time.sleep(0.2)")
            order.append("first")
        await task
        assert order == ["first", "second"]


async def test_a_killed_zygote_costs_its_sessions_one_failure_each() -> None:
    before = _named("nsjail")
    async with Pool(LIMITS, size=2, preload=[]) as pool:
        async with pool.session() as session:
            assert (await session.run("x = 1")).status is Status.OK
            running = asyncio.create_task(session.run("import time; time.sleep(5)"))
            await asyncio.sleep(0.1)
            await _kill_zygote(before)
            assert (await running).status is Status.SANDBOX_FAILURE
            again = await session.run("'x' in dir()")
            assert (again.status, again.stdout) == (Status.OK, "False\n")
            assert "started again" in again.stderr
        async with pool.session() as session:
            assert (await session.run("1")).status is Status.OK


async def test_a_killed_nsjail_is_replaced() -> None:
    before = _named("nsjail")
    async with Pool(LIMITS, size=1, preload=[]) as pool:
        for pid in _named("nsjail") - before:
            os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.2)
        async with pool.session() as session:
            assert (await session.run("1")).status is Status.OK


async def test_a_session_that_is_opened_while_the_jail_is_replaced_waits_for_the_new_one() -> None:
    others = _named("nsjail")
    async with Pool(LIMITS, size=8) as pool:
        await _kill_zygote(others)
        await asyncio.sleep(0.1)

        async def use() -> Status:
            async with pool.session() as session:
                return (await session.run("1")).status

        async def later() -> Status:
            await asyncio.sleep(0.05)  # the first has found the jail dead by now
            return await use()

        assert set(await asyncio.gather(use(), *(later() for _ in range(4)))) == {Status.OK}


async def test_a_caller_that_is_cancelled_while_the_jail_is_replaced_does_not_leave_it_half_made() -> None:
    before, others = (descendants(), zombies()), _named("nsjail")
    async with Pool(LIMITS, size=1) as pool, pool.session() as session:
        for _ in range(3):
            await _kill_zygote(others)
            await asyncio.sleep(0.05)
            task = asyncio.create_task(session.run("1"))
            await asyncio.sleep(0.05)  # nsjail runs, and the zygote in it is importing
            task.cancel()
            await asyncio.wait([task])
    assert (descendants(), zombies()) == before


async def test_a_closed_pool_says_so() -> None:
    async with Pool(LIMITS, size=1, preload=[]) as pool:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        async with pool.session():
            pass


async def test_a_closed_pool_starts_no_jail_for_a_session_that_is_still_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "detect", lambda: "the memory controller is not mounted")
    before = descendants()
    async with Pool(LIMITS, size=1, preload=[], accept_reduced_isolation=True) as pool:
        session = await pool.session().__aenter__()
    result = await session.run("1")
    assert (result.status, descendants()) == (Status.SANDBOX_FAILURE, before)
    assert "the pool is closed" in result.stderr


async def test_a_caller_that_is_cancelled_while_its_session_closes_gives_the_room_back() -> None:
    async with Pool(LIMITS, size=1, preload=[]) as pool:
        before: set[int] = set()
        for _ in range(6):
            leaving = asyncio.Event()

            async def use(leaving: asyncio.Event = leaving) -> None:
                async with pool.session() as session:
                    await session.run("1")
                    leaving.set()

            task = asyncio.create_task(use())
            await leaving.wait()  # the session is being closed now
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with pool.session() as session:
                assert (await session.run("1")).status is Status.OK
            before = before or descendants()
        assert descendants() == before


async def test_the_pool_refuses_to_start_without_cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "detect", lambda: "the memory controller is not mounted")
    with pytest.raises(SandboxUnavailable, match="toolwise doctor") as refusal:
        async with Pool(LIMITS):
            pass
    assert "\n" not in str(refusal.value)


async def test_reduced_isolation_can_be_accepted_and_still_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "detect", lambda: "the memory controller is not mounted")
    async with Pool(LIMITS, size=1, preload=[], accept_reduced_isolation=True) as pool, pool.session() as session:
        assert (await session.run(f"bytearray({LIMITS.memory_bytes * 2})")).status is Status.MEMORY
        assert (await session.run("import os\nwhile True: os.fork()", timeout_s=1)).status in (Status.EXCEPTION, Status.TIMEOUT)
        assert (await session.run("open('/etc/shadow')")).status is Status.EXCEPTION


async def test_the_limits_are_written_to_a_unified_hierarchy_too(tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").touch()
    group = cgroups.Groups(cgroups.Hierarchy(2, {"unified": tmp_path})).create(LIMITS)
    (directory,) = tmp_path.glob("toolwise-*/*/")
    assert (directory / "memory.max").read_text() == str(LIMITS.memory_bytes)
    assert (directory / "memory.swap.max").read_text() == "0"
    assert int((directory / "pids.max").read_text()) >= LIMITS.pids
    (directory / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    (directory / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    assert (group.memory_kills(), group.cpu_s()) == (2, 1.5)


async def test_the_preloaded_modules_can_be_chosen() -> None:
    async with Pool(LIMITS, size=1, preload=["decimal"]) as pool, pool.session() as session:
        assert (await session.run("import sys; 'decimal' in sys.modules, 'numpy' in sys.modules")).stdout == "(True, False)\n"


async def test_a_module_that_cannot_be_preloaded_is_named() -> None:
    with pytest.raises(SandboxUnavailable, match="no_such_module"):
        async with Pool(LIMITS, preload=["no_such_module"], accept_reduced_isolation=True):
            pass


async def test_doctor_reports_every_check_with_a_remedy_for_each_miss() -> None:
    report = doctor.probe()
    parsed = json.loads(report.to_json())
    assert parsed["level"] == report.level
    assert {"nsjail", "user namespace", "uid mapping", "proc", "seccomp", "cgroup", "root file system"} <= {
        c["name"] for c in parsed["checks"]
    }
    for check in report.checks:
        assert bool(check.remedy) is not check.ok
        assert "\n" not in check.remedy


def _named(name: str) -> set[int]:
    return {pid for pid in descendants() if _command(pid) == name}


def _command(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:  # it has ended since
        return None


async def _kill_zygote(others: set[int]) -> None:
    """Kills the jailed PID 1 of the nsjail that is not among `others`. Numbers wrap round: the newest need not be the highest."""
    async with asyncio.timeout(10):
        # One that was killed before takes a moment to end, and what nsjail starts has its name for a moment.
        while len(found := _named("nsjail") - others) != 1:
            await asyncio.sleep(0.01)
    (own,) = found
    children = [pid for pid in descendants(own) if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1] == str(own)]
    for pid in children:
        os.kill(pid, signal.SIGKILL)


async def test_a_number_in_the_place_of_the_limits_is_refused() -> None:
    with pytest.raises(TypeError, match="the number of sessions is size="):
        Pool(2)  # ty: ignore[invalid-argument-type]
