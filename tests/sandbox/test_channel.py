"""The channel: the code can use descriptor 3. Whatever it does with it, the host is unharmed and the result correct."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence

import pytest
from PIL import Image
from sandbox_host import LIMITS, host_pid

from sandbox import Pool, Session, Status
from sandbox.process import Process

pytestmark = pytest.mark.asyncio(loop_scope="session")

FRAME = """
import os, socket, struct
channel = socket.socket(fileno=os.dup(3))
def frame(kind, payload, size=None): return struct.pack('<cI', kind, len(payload) if size is None else size) + payload
"""
# The code ends its cell, and from then on its process answers no more.
DEAF = "import time, sandbox.jailed.shown as ours\nours.send.__self__._receive = lambda: time.sleep(1000)\n"


@pytest.mark.parametrize("kind", [b"\0", b"H", b"E", b"A", b"I", b"R", b"S", b"N", b"\xff", b"Y", b"D", b"P"])
@pytest.mark.parametrize("size", [0, 1, 17, 1 << 31, (1 << 32) - 1])
async def test_a_frame_of_any_kind_and_size_is_never_believed(pool: Pool, kind: bytes, size: int) -> None:
    async with pool.session() as session:
        result = await session.run(FRAME + f"channel.sendall(frame({kind!r}, bytes({min(size, 64)}), {size})); 1 / 0", timeout_s=2)
        assert result.status in (Status.EXCEPTION, Status.KILLED)
        assert result.images == ()
        assert (await session.run("1")).stdout == "1\n"


@pytest.mark.parametrize("kind", ["P", "D"])
async def test_a_frame_that_is_never_finished_ends_with_the_run(session: Session, kind: str) -> None:
    size = 17 if kind == "D" else 13
    result = await session.run(FRAME + f"channel.sendall(frame(b'{kind}', b'', {size})); import time; time.sleep(9)", timeout_s=0.3)
    assert result.status in (Status.TIMEOUT, Status.KILLED)
    assert (await session.run("1")).stdout == "1\n"


async def test_noise_is_never_believed(session: Session) -> None:
    for _ in range(5):
        result = await session.run("import os; n = os.write(3, os.urandom(50_000)); 1 / 0", timeout_s=2)
        assert result.status in (Status.KILLED, Status.EXCEPTION)
    assert (await session.run("1")).stdout == "1\n"


async def test_descriptors_sent_to_the_host_do_not_stay_there(pool: Pool, session: Session) -> None:
    await session.run("1")
    before = len(os.listdir(f"/proc/{host_pid(pool)}/fd"))
    code = (
        FRAME
        + "files = [os.open('/dev/null', 0) for _ in range(200)]\nfor _ in range(5): n = socket.send_fds(channel, [b'?'], files)"
    )
    await session.run(code, timeout_s=1)
    assert len(os.listdir(f"/proc/{host_pid(pool)}/fd")) <= before


async def test_the_channel_sent_through_itself_leaks_nothing(pool: Pool, session: Session) -> None:
    await session.run("1")
    before = len(os.listdir(f"/proc/{host_pid(pool)}/fd"))
    await session.run(FRAME + "for _ in range(100): n = socket.send_fds(channel, [b'?'], [3, 1, 2])", timeout_s=1)
    assert len(os.listdir(f"/proc/{host_pid(pool)}/fd")) <= before


@pytest.mark.parametrize(
    "code",
    [
        "send = frame(b'D', bytes(17)) * 2000",
        "send = frame(b'P', struct.pack('<4sII', b'L', 1, 1) + b'?') * 2000",
    ],
    ids=["answers to no question", "tiny images"],
)
async def test_a_flood_of_frames_is_stopped(session: Session, code: str) -> None:
    result = await session.run(FRAME + code + "\nwhile True: channel.sendall(send)")
    assert result.status is Status.OUTPUT_LIMIT
    assert (await session.run("1")).stdout == "1\n"


async def test_a_flood_of_frames_does_not_keep_others_waiting(pool: Pool, session: Session) -> None:
    """While one session floods the host again and again, ten runs of another end before ten floods have."""
    floods = 0

    async def flood() -> None:
        nonlocal floods
        while True:
            await session.run(FRAME + "send = frame(b'D', bytes(17)) * 2000\nwhile True: channel.sendall(send)", timeout_s=1)
            floods += 1

    async with pool.session() as other:
        flooding = asyncio.create_task(flood())
        for _ in range(10):
            assert (await other.run("1")).stdout == "1\n"
        assert floods < 10
        flooding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await flooding


@pytest.mark.parametrize("how", ["SHUT_RD", "SHUT_WR", "SHUT_RDWR"])
async def test_shutting_the_channel_counts_as_an_error_of_the_code(session: Session, how: str) -> None:
    result = await session.run(FRAME + f"channel.shutdown(socket.{how})", timeout_s=0.5)
    assert result.status in (Status.OK, Status.KILLED)
    assert (await session.run("1", timeout_s=1)).status is not Status.SANDBOX_FAILURE
    assert (await session.run("1")).stdout == "1\n"


async def test_shutting_the_channel_between_runs_is_not_a_failure_of_the_sandbox(session: Session) -> None:
    code = "if os.fork() == 0:\n    time.sleep(0.1)\n    channel.shutdown(socket.SHUT_RD)\n    time.sleep(60)\n    os._exit(0)"
    await session.run(FRAME + DEAF + code)
    await asyncio.sleep(0.3)
    result = await session.run("1", timeout_s=0.5)
    assert (result.status, result.stdout) == (Status.OK, "1\n")
    assert "started again" in result.stderr


async def test_the_time_that_a_new_start_takes_is_not_the_code_s() -> None:
    code = "if os.fork() == 0:\n    time.sleep(0.1)\n    channel.shutdown(socket.SHUT_RD)\n    time.sleep(60)\n    os._exit(0)"
    async with Pool(LIMITS, size=1, preload=[]) as pool, pool.session() as session:
        await session.run(FRAME + DEAF + code)
        await asyncio.sleep(0.3)
        start = session._start

        async def start_slowly(question: Sequence[Image.Image]) -> Process:
            await asyncio.sleep(0.6)
            return await start(question)

        session._start = start_slowly
        assert (await session.run("1", timeout_s=0.4)).status is Status.OK


async def test_a_cell_that_is_never_read_times_out(session: Session) -> None:
    await session.run(DEAF)
    result = await session.run("1", timeout_s=0.3)
    assert result.status is Status.TIMEOUT
    assert (await session.run("1")).stdout == "1\n"


async def test_a_large_cell_that_is_never_read_times_out(session: Session) -> None:
    await session.run(DEAF)
    result = await session.run("1 #" + "x" * 4_000_000, timeout_s=0.3)
    assert result.status is Status.TIMEOUT
    assert "killed after 0.3 s" in result.stderr
    assert (await session.run("1")).stdout == "1\n"


async def test_reading_the_channel_beside_the_interpreter_only_hurts_the_session(session: Session) -> None:
    code = (
        "import threading\ndef steal():\n    while channel.recv(1 << 16): pass\nthreading.Thread(target=steal, daemon=True).start()"
    )
    await session.run(FRAME + code, timeout_s=1)
    result = await session.run("1", timeout_s=0.5)
    assert result.status is not Status.SANDBOX_FAILURE
    await session.run("import os; os._exit(0)", timeout_s=0.3)
    assert (await session.run("1", timeout_s=1)).status is not Status.SANDBOX_FAILURE


@pytest.mark.parametrize("fd", [0, 1, 2, 3])
async def test_another_file_over_a_descriptor_only_hurts_the_session(session: Session, fd: int) -> None:
    code = f"import os; n = os.dup2(os.open('/work/file', os.O_RDWR | os.O_CREAT), {fd})"
    assert (await session.run(code, timeout_s=0.5)).status is not Status.SANDBOX_FAILURE
    await session.run("import os; os._exit(0)", timeout_s=0.5)
    assert (await session.run("1")).stdout == "1\n"


async def test_a_child_that_holds_the_channel_cannot_answer_the_next_run(session: Session) -> None:
    code = FRAME + "import time\nif os.fork() == 0:\n    while True: channel.send(frame(b'D', bytes(16) + b'o')); time.sleep(0.01)"
    await session.run(code)
    for _ in range(3):
        assert (await session.run("print('mine'); 1 / 0")).stdout == "mine\n"


async def test_a_token_cannot_be_guessed_from_earlier_ones(session: Session) -> None:
    code = """
import sys
caller = sys._getframe()
while 'token' not in caller.f_locals: caller = caller.f_back
print(caller.f_locals['token'].hex())"""
    tokens = [(await session.run(code)).stdout.strip() for _ in range(20)]
    assert len(set(tokens)) == 20
    assert all(len(token) == 32 for token in tokens)


async def test_no_supervision_channel_is_in_reach(session: Session) -> None:
    code = "import os; [os.readlink(f'/proc/self/fd/{n}').split(':')[0] for n in (1, 2, 3)]"
    assert (await session.run(code)).stdout == "['pipe', 'pipe', 'socket']\n"


async def test_pipes_of_another_size_do_not_mix_up_the_output(session: Session) -> None:
    code = "import fcntl, os\nfcntl.fcntl(1, 1031, 1 << 20)\nn = os.write(1, b'x' * 15_000)"
    assert (await session.run(code)).stdout == "x" * 15_000
    assert (await session.run("1")).stdout == "1\n"


async def test_output_spliced_from_memory_arrives(session: Session) -> None:
    code = """
import ctypes
class Vector(ctypes.Structure): _fields_ = [('base', ctypes.c_char_p), ('size', ctypes.c_size_t)]
kept = b'spliced'  # the pipe holds the page itself, which must not be used for anything else before it is read
n = ctypes.CDLL(None).vmsplice(1, ctypes.byref(Vector(kept, 7)), 1, 0)"""
    assert (await session.run(code)).stdout == "spliced"


async def test_closing_while_a_daemon_writes_does_not_wait_for_it(pool: Pool) -> None:
    code = "import os\nif os.fork() == 0:\n    while True: os.write(1, b'x' * 4096)"
    async with asyncio.timeout(60), pool.session() as session:  # the daemon would write for ever
        await session.run(code)
    async with pool.session() as session:
        assert (await session.run("1")).stdout == "1\n"
