"""Sabotage: code that turns on the interpreter it runs in. It may break its session, never the result's honesty or the next one."""

from __future__ import annotations

import pytest
from sandbox_host import LIMITS

from sandbox import Pool, Session, Status

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXCEPTIONS = {
    "whose text never comes": "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
    "whose text is endless": "class E(Exception):\n    def __str__(self): return 'x' * 2 ** 36\nraise E",
    "whose text fails": "class E(Exception):\n    def __str__(self): raise self\nraise E",
    "whose text is no text": "class E(Exception):\n    def __str__(self): return 7\nraise E",
    "whose text ends the process": "class E(Exception):\n    def __str__(self): exit()\nraise E",
    "that caused itself": "e = ValueError('it'); e.__cause__ = e; raise e",
    "with ten thousand causes": "e = ValueError()\nfor _ in range(10_000):\n    n = ValueError(); n.__cause__ = e; e = n\nraise e",
    "of a class without a name": "class E(Exception): pass\nE.__module__ = None; E.__qualname__ = ''\nraise E",
    "in a deep group": "e = ValueError()\nfor _ in range(5000): e = ExceptionGroup('g', [e])\nraise e",
    "with a million notes": "e = ValueError()\ne.__notes__ = ['n'] * 10 ** 6\nraise e",
    "of generators": "raise GeneratorExit",
    "of the base class": "raise BaseException('base')",
    "with surrogates": r"raise ValueError('\ud800\0')",
    "that is a syntax error it made up": "raise SyntaxError('x', ('/etc/passwd', 10 ** 9, 10 ** 9, None))",
}

REPRS = {
    "never comes": "while True: pass",
    "is endless": "return 'x' * 2 ** 36",
    "is no text": "return 7",
    "fails": "raise ValueError",
    "recurses": "return repr(self)",
    "ends the process": "import os; os._exit(0)",
}

BREAKAGES = {
    "the exit function": "import os; os._exit = lambda code: None",
    "the own process number": "import os; os.getpid = lambda: 1",
    "the signal functions": "import signal\nsignal.signal = signal.pthread_sigmask = lambda *_: None",
    "the compiler": "import builtins\nbuiltins.compile = builtins.exec = builtins.eval = None",
    "printing": "import builtins, sys\nbuiltins.print = builtins.repr = None\nsys.stdout = sys.stderr = None",
    "the streams' classes": "import sys\nsys.stdout.close(); sys.stderr.close()",
    "the wire's numbers": "import struct, sandbox.jailed.wire as w\nw.HEADER = struct.Struct('<Q'); w.DONE = b'Z'",
    "the tracebacks": "import traceback\ntraceback.TracebackException = None",
    "the namespace": "import sys\nsys.modules['__main__'].__dict__.clear()",
    "the search for modules": "import sys\nsys.meta_path.clear(); sys.path.clear(); sys.path_hooks.clear()",
    "the interpreter object": "import sandbox.jailed.interpreter as i\ni._current.__dict__.clear()",
    "the images": "from PIL import Image\nImage.Image.tobytes = lambda *a, **k: b''\nImage.new('L', (4, 4))",
    "its own module's methods": "import sandbox.jailed.interpreter as i\ni.Interpreter._run = lambda *_: b'o'",
    "a trace of every step": "import sys, threading\ndef t(*a): raise ValueError\nsys.settrace(t); threading.settrace(t)",
    "a profile of every step": "import sys\nsys.setprofile(lambda *a: 1 / 0)",
    "an audit of every step": "import sys\nsys.addaudithook(lambda *a: 1 / 0)",
    "the garbage collector": "import gc\ngc.callbacks.append(lambda *a: 1 / 0); gc.set_threshold(1); x = [[] for _ in range(100)]",
    "the switch between threads": "import sys; sys.setswitchinterval(10 ** 6)",
    "the recursion limit": "import sys; sys.setrecursionlimit(60)",
    "the hooks of the end": "import atexit, sys, time\natexit.register(time.sleep, 99)\nsys.excepthook = sys.unraisablehook = None",
    "frozen objects": "import ctypes\nctypes.memset(id(None), 0, 8)",
    "its memory": "import ctypes\nctypes.memset(ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, '_PyRuntime')), 255, 4096)",
}

INTERRUPTS = {
    "blocked": "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, [2])\ntime.sleep(60)",
    "ignored": "import signal, time\nsignal.signal(2, signal.SIG_IGN)\ntime.sleep(60)",
    "handled": "import signal, time\nsignal.signal(2, lambda *a: None)\nwhile True: time.sleep(1)",
    "left to the default": "import signal, time\nsignal.signal(2, signal.SIG_DFL)\ntime.sleep(60)",
    "swallowed in a finalizer": "class A:\n    def __del__(self):\n        while True: pass\nA()\n1",
    "suppressed": "from contextlib import suppress\nwhile True:\n    with suppress(BaseException):\n        while True: pass",
    "swallowed by a generator": "def g():\n    while True:\n        try: yield\n        except: pass\nfor _ in g(): pass",
    "answered with an exec": "import os, signal\nos.execv(p := '/opt/python/bin/python3.12', [p, '-ISc', 'while 1: pass'])",
    "in a stopped group": "import os\nos.killpg(0, 19)",
    "in a regular expression": "import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')",
    "in a huge power": "x = 7 ** (7 ** 12); str(x)",
    "while waiting for a lock": "import threading\nl = threading.Lock(); l.acquire(); l.acquire()",
    "while waiting for a child": "import os, time\nif os.fork() == 0: time.sleep(60)\nos.wait()",
    "caught once": "try:\n    while True: pass\nexcept KeyboardInterrupt: pass\nwhile True: pass",
}  # fmt: skip


@pytest.mark.parametrize("code", EXCEPTIONS.values(), ids=EXCEPTIONS)
async def test_the_session_outlives_an_exception(session: Session, code: str) -> None:
    result = await session.run(code, timeout_s=0.7)
    assert result.status in (Status.EXCEPTION, Status.TIMEOUT)
    assert (await session.run("1")).stdout == "1\n"


@pytest.mark.parametrize("body", REPRS.values(), ids=REPRS)
async def test_a_result_is_neither_ok_nor_our_failure_when_its_text(session: Session, body: str) -> None:
    result = await session.run(f"class A:\n    def __repr__(self):\n        {body}\nA()", timeout_s=0.5)
    assert result.status not in (Status.OK, Status.SANDBOX_FAILURE)
    assert (await session.run("1")).stdout == "1\n"


async def test_a_huge_result_is_cut(session: Session) -> None:
    result = await session.run(f"'x' * {LIMITS.output_bytes * 10}")
    assert (result.status, len(result.stdout)) == (Status.OUTPUT_LIMIT, LIMITS.output_bytes)


async def test_an_empty_result_is_shown(session: Session) -> None:
    result = await session.run("class A:\n    def __repr__(self): return ''\nA()")
    assert (result.status, result.stdout) == (Status.OK, "\n")


@pytest.mark.parametrize("code", BREAKAGES.values(), ids=BREAKAGES)
async def test_the_session_alone_suffers_from_breaking(pool: Pool, session: Session, code: str) -> None:
    assert (await session.run(code, timeout_s=0.5)).status is not Status.SANDBOX_FAILURE
    assert (await session.run("1 / 0", timeout_s=0.5)).status is not Status.SANDBOX_FAILURE
    async with pool.session() as other:
        assert (await other.run("1")).stdout == "1\n"


@pytest.mark.parametrize("code", INTERRUPTS.values(), ids=INTERRUPTS)
@pytest.mark.parametrize("session", ["reused"], indirect=True)  # each takes the time that an interrupt is given
async def test_the_time_limit_holds_with_the_interrupt(session: Session, code: str) -> None:
    result = await session.run(code, timeout_s=0.1)
    assert result.status is Status.TIMEOUT
    assert " after 0.1 s; variables are " in result.stderr
    assert (await session.run("1")).stdout == "1\n"


async def test_an_interrupt_after_the_end_does_not_hit_the_next_run(session: Session) -> None:
    for _ in range(5):
        await session.run("import time; time.sleep(0.05)", timeout_s=0.05)
        assert (await session.run("sum(range(1000))")).status is Status.OK


async def test_a_processor_time_signal_to_itself_is_not_a_timeout(session: Session) -> None:
    result = await session.run(
        "import os, signal; signal.signal(signal.SIGXCPU, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGXCPU)"
    )
    assert result.status is Status.KILLED
    assert "SIGXCPU" in result.stderr


async def test_a_kill_by_itself_is_not_a_kill_for_memory(session: Session) -> None:
    result = await session.run("import os; os.kill(os.getpid(), 9)")
    assert (result.status, "SIGKILL" in result.stderr) == (Status.KILLED, True)


async def test_a_leader_that_ends_before_its_threads_times_out(session: Session) -> None:
    code = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
ctypes.CDLL(None).syscall(60, 0)"""
    assert (await session.run(code, timeout_s=0.3)).status is Status.TIMEOUT
    assert (await session.run("1")).stdout == "1\n"


async def test_a_timer_that_goes_off_between_runs_only_ends_the_session(session: Session) -> None:
    await session.run("import signal; signal.setitimer(signal.ITIMER_REAL, 0.01)")
    await session.run("import time; time.sleep(0.1)")
    assert (await session.run("1")).stdout == "1\n"


async def test_a_cell_that_forks_answers_once(session: Session) -> None:
    for n in range(5):
        result = await session.run(f"import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nelse: raise SystemExit\nprint({n})")
        assert result.stdout == f"{n}\n"
    assert (await session.run("'last'")).stdout == "'last'\n"
