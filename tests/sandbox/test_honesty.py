"""Honesty: a result says in full what happened in this run and no other, and no other process can write it."""

from __future__ import annotations

import asyncio
import time

import pytest

from sandbox import Pool, Session, Status

pytestmark = pytest.mark.asyncio(loop_scope="session")

FORGE = """
import os, struct
def frame(kind, payload): return struct.pack('<cI', kind, len(payload)) + payload
"""


async def test_the_last_expression_is_echoed(session: Session) -> None:
    assert (await session.run("x = 20\nx + 1")).stdout == "21\n"


async def test_none_and_statements_echo_nothing(session: Session) -> None:
    assert (await session.run("x = 1\nNone")).stdout == ""


async def test_an_empty_cell_is_ok(session: Session) -> None:
    result = await session.run("")
    assert (result.status, result.stdout, result.stderr, result.images) == (Status.OK, "", "", ())


async def test_a_traceback_shows_the_code_and_nothing_of_ours(session: Session) -> None:
    await session.run("def f(x):\n    return 1 / x")
    result = await session.run("f(0)")
    assert result.status is Status.EXCEPTION
    assert 'File "<cell 2>", line 1, in <module>\n    f(0)\n' in result.stderr
    assert 'File "<cell 1>", line 2, in f\n    return 1 / x\n' in result.stderr
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert "/opt" not in result.stderr
    assert "interpreter" not in result.stderr


async def test_a_traceback_through_a_library_shows_no_paths(session: Session) -> None:
    result = await session.run("import json\ntry: json.loads('{')\nexcept ValueError as e: raise RuntimeError('bad') from e")
    assert "JSONDecodeError" in result.stderr
    assert "direct cause" in result.stderr
    assert "/opt" not in result.stderr


async def test_a_syntax_error_points_at_the_code(session: Session) -> None:
    result = await session.run("x = = 1")
    assert result.status is Status.EXCEPTION
    assert 'File "<cell 1>", line 1\n    x = = 1\n' in result.stderr


async def test_exit_with_success_is_ok_and_keeps_the_state(session: Session) -> None:
    assert (await session.run("x = 1; exit()")).status is Status.OK
    assert (await session.run("x")).stdout == "1\n"


async def test_exit_with_failure_is_an_exception(session: Session) -> None:
    assert (await session.run("import sys; sys.exit(3)")).status is Status.EXCEPTION


async def test_a_signal_is_named(session: Session) -> None:
    result = await session.run("print('before'); import ctypes; ctypes.string_at(0)")
    assert (result.status, result.stdout) == (Status.KILLED, "before\n")
    assert "SIGSEGV" in result.stderr


async def test_a_signal_without_a_name_is_numbered(session: Session) -> None:
    result = await session.run("import os; os.kill(os.getpid(), 40)")
    assert result.status is Status.KILLED
    assert "was killed by signal 40" in result.stderr


async def test_a_process_that_ends_itself_is_told_apart(session: Session) -> None:
    result = await session.run("import os; os._exit(7)")
    assert result.status is Status.KILLED
    assert "exit status 7" in result.stderr


async def test_a_session_that_died_starts_empty_and_says_so(session: Session) -> None:
    await session.run("x = 1; import os; os._exit(0)")
    result = await session.run("x")
    assert "NameError" in result.stderr
    assert "started again" in result.stderr
    assert "started again" not in (await session.run("1")).stderr


async def test_a_death_between_two_runs_is_not_called_a_failure_of_ours(session: Session) -> None:
    for wait_s in (0.0, 0.002, 0.004, 0.008, 0.03):
        await session.run("import os, threading; threading.Timer(0.003, os._exit, [1]).start()")
        time.sleep(wait_s)  # not asyncio's: the host is not to hear of it before it sends the next cell
        assert (await session.run("1")).status in (Status.OK, Status.KILLED)


async def test_raising_keyboard_interrupt_is_an_exception_not_a_timeout(session: Session) -> None:
    assert (await session.run("raise KeyboardInterrupt")).status is Status.EXCEPTION


async def test_reading_input_ends_at_once(session: Session) -> None:
    assert "EOFError" in (await session.run("input()")).stderr


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (r"import os; os.write(1, b'\xff\xfe\x80 ok'); None", "\ufffd\ufffd\ufffd ok"),
        (r"print('a\0b')", "a\0b\n"),
        (r"print('\ud800')", "\\ud800\n"),
        ("print('é漢🎉')", "é漢🎉\n"),
        (r"print('a\r\nb')", "a\r\nb\n"),
    ],
    ids=["invalid utf-8", "NUL", "lone surrogate", "beyond ASCII", "carriage return"],
)
async def test_odd_text_arrives_safely(session: Session, code: str, text: str) -> None:
    assert (await session.run(code)).stdout == text


@pytest.mark.parametrize("code", ["x = '\ud800'", "x = 1\0", "\ufeffx = 1", "# -*- coding: latin-1 -*-\nx = 'é'", "x" * 300_000])
async def test_odd_source_is_at_worst_an_exception(session: Session, code: str) -> None:
    assert (await session.run(code)).status in (Status.OK, Status.EXCEPTION)
    assert (await session.run("1")).stdout == "1\n"


async def test_ten_thousand_tiny_writes_arrive_in_order(session: Session) -> None:
    result = await session.run("import os\nfor n in range(10_000): os.write(1, b'%d' % (n % 10))")
    assert result.stdout == "0123456789" * 1000


async def test_a_forged_done_is_ignored(session: Session) -> None:
    code = FORGE + "os.write(3, frame(b'D', bytes(16) + b'o'))\nraise ValueError('the truth')"
    result = await session.run(code)
    assert result.status is Status.EXCEPTION
    assert "the truth" in result.stderr


async def test_a_done_kept_from_one_run_is_not_taken_for_the_next(session: Session) -> None:
    code = (
        FORGE
        + """
import sys
caller = sys._getframe()
while 'token' not in caller.f_locals: caller = caller.f_back
stolen = caller.f_locals['token']
sent = os.write(3, frame(b"D", stolen + b"o") * 2)"""
    )
    await session.run(code)
    result = await session.run("print('second'); 1 / 0")
    assert (result.status, result.stdout) == (Status.EXCEPTION, "second\n")


@pytest.mark.parametrize(
    "frames",
    [
        "b'garbage' * 100",
        "frame(b'Y', b'')",
        "frame(b'Z', b'?')",
        "struct.pack('<cI', b'P', 2 ** 32 - 1)",
        "struct.pack('<cI', b'D', 5) + b'abcde'",
    ],
    ids=["garbage", "ready again", "unknown kind", "four gigabytes", "short done"],
)
async def test_nonsense_on_the_channel_kills_only_the_session(session: Session, frames: str) -> None:
    result = await session.run(FORGE + f"os.write(3, {frames}); import time; time.sleep(5)")
    assert result.status is Status.KILLED
    assert "wrote to its channel" in result.stderr
    assert (await session.run("1")).status is Status.OK


async def test_closing_every_descriptor_ends_only_the_session(session: Session) -> None:
    assert (await session.run("import os; os.closerange(0, 100)")).status is Status.KILLED
    assert (await session.run("1")).stdout == "1\n"


async def test_a_forked_child_does_not_answer_for_its_parent(session: Session) -> None:
    assert (await session.run("import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)")).status is Status.OK
    for n in range(5):
        assert (await session.run(f"{n}")).stdout == f"{n}\n"


async def test_the_code_can_wait_for_its_children(session: Session) -> None:
    code = "import os, time\npid = os.fork()\nif pid == 0: os._exit(5)\ntime.sleep(0.1)\nos.waitpid(pid, 0)[1] >> 8"
    assert (await session.run(code)).stdout == "5\n"


async def test_breaking_our_modules_breaks_only_the_session(session: Session) -> None:
    code = "import sys, builtins\nfor name in list(sys.modules): del sys.modules[name]\nbuiltins.__dict__.clear()"
    await session.run(code, timeout_s=1)
    result = await session.run("1", timeout_s=1)
    assert result.status is not Status.SANDBOX_FAILURE


async def test_concurrent_runs_get_their_own_results(pool: Pool) -> None:
    async def one(number: int) -> None:
        async with pool.session() as session:
            for turn in range(5):
                assert (await session.run(f"print({number}, {turn})")).stdout == f"{number} {turn}\n"

    await asyncio.gather(*(one(number) for number in range(12)))


async def test_runs_of_one_session_take_turns(session: Session) -> None:
    results = await asyncio.gather(*(session.run(f"import time; time.sleep(0.02); {n}") for n in range(4)))
    assert [result.stdout for result in results] == ["0\n", "1\n", "2\n", "3\n"]


async def test_a_cancelled_run_leaves_no_result_for_the_next(session: Session) -> None:
    task = asyncio.create_task(session.run("import time; time.sleep(0.3); print('late')"))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await session.run("print('mine')")).stdout == "mine\n"
