"""Hypothesis strategies: plausible and hostile cells, and byte strings for our own wire."""

from __future__ import annotations

import struct

from hypothesis import strategies as st
from sandbox_host import LIMITS

from sandbox import Status
from sandbox.images import most_bytes
from sandbox.jailed import wire

NAMES = ("x", "y", "image_1", "print", "_", "os", "self", "__builtins__", "exit", "é", "x" * 300)
ATOMS = (
    "0", "-1", "1e400", "1_000_000", "10 ** 20000", "'a' * 100000", "b'\\xff\\x00'", "'\\ud800'", "'\\0'", "None", "...", "()",
    "[]", "{}", "float('nan')", "[[]] * 9", "range(10 ** 9)", "object()", "bytearray(1 << 29)", "type", "input()",
    "open('/etc/passwd')",
    "(lambda: (yield))()", "__import__('os')", "__import__('numpy').arange(9)", "__import__('PIL.Image').Image.new('RGB', (9, 9))",
    "__import__('threading').Thread(target=print).start()", "type('T', (), {'__repr__': lambda s: 1 / 0})()",
    "type('R', (), {'__repr__': lambda s: 7})()", "type('D', (), {'__del__': lambda s: 1 / 0})()",
)  # fmt: skip
HOSTILE = (
    "import os; os._exit({n})",
    "import os; os.kill(os.getpid(), {n} % 65)",
    "import os; os.kill(-1, {n} % 65)",
    "import os; os.close({n} % 6)",
    "import os; os.closerange(0, 300)",
    "import os; os.dup2({n} % 4, {n} // 4 % 4)",
    "import os\nif os.fork() == 0: os.write({n} % 4, b'child' * {n})",
    "import os\nos.fork()",
    "import os, time\nif os.fork() == 0: time.sleep(60)",
    "import os; os.write(1, os.urandom({n}))",
    "import os; os.write(2, b'\\xff\\xfe' * {n})",
    "import sys; sys.setrecursionlimit({n} * 1000 + 50)\ndef f(): f()\nf()",
    "import sys; sys.exit({n} % 3)",
    "import sys; sys.stdout.close()",
    "import sys; sys.stdout = sys.stderr = None",
    "import sys; sys.settrace(lambda *a: 1 / 0)",
    "import sys; sys.excepthook = None; sys.unraisablehook = None",
    "import sys; sys.modules.clear()",
    "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass",
    "import signal; signal.raise_signal({n} % 64 + 1)",
    "import signal; signal.setitimer(0, 0.00001 * {n} + 0.00001, 0.0001)",
    "import ctypes; ctypes.string_at({n})",
    "import ctypes; ctypes.memset(id(None), 0, 8)",
    "import gc; [setattr(o, 'x', 1) for o in gc.get_objects()[:{n}]]",
    "import gc; gc.get_referrers(print)[0].clear()",
    "import builtins; builtins.print = builtins.repr = lambda *a: {n}",
    "import builtins; del builtins.BaseException, builtins.isinstance",
    "import builtins; builtins.__dict__.clear()",
    "import resource; resource.setrlimit(resource.RLIMIT_DATA, ({n}, {n}))",
    "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))",
    "import threading; threading.Thread(target=lambda: 1 / 0).start()",
    "import threading, os; threading.Timer(0.001, os._exit, [{n} % 256]).start()",
    "import atexit; atexit.register(exec, 'while 1: pass')",
    "import time; time.sleep({n} / 100)",
    "while True: pass",
    "while True:\n    try: raise KeyboardInterrupt\n    except BaseException: pass",
    "x = []\nwhile True: x.append(bytes(1 << 20))",
    "import os\nwhile True: os.write(1, b'x' * 65536)",
    "print('x' * {n} * 1000)",
    "from PIL import Image; Image.new('L', ({n} + 1, {n} + 1)).show()",
    "from PIL import Image\nfor n in range({n} % 30): Image.new('RGB', (5, 5)).show()",
    "raise KeyboardInterrupt",
    "raise SystemExit('x' * {n})",
    "raise MemoryError",
    "raise BaseExceptionGroup('g', [ValueError(), KeyboardInterrupt()])",
    "class E(Exception):\n    def __str__(self): return 1 / 0\nraise E",
    "class E(BaseException):\n    __module__ = property(lambda s: 1 / 0)\nraise E",
    "async def f(): pass\nf()",
    "await f()",
    "def g():\n    yield from g()\nlist(g())",
    "del x, y, __name__",
    "global x; x: int = {n}",
    "import {name}",
    "from __future__ import annotations, {name}",
)
_BRACKETS = (("(", ")"), ("[", "]"), ("{", "}"), ("f(", ")"), ("-", ""), ("not ", ""), ("lambda: ", ""), ("x[", "]"), ("f'{", "}'"))


def cells() -> st.SearchStrategy[str]:
    """Sources: from a grammar, hostile, absurdly deep or long, mutilated, and any text at all."""
    number = st.integers(0, 400)
    name = st.sampled_from(NAMES)
    expression = st.recursive(
        st.sampled_from(ATOMS) | name | number.map(str) | st.text(max_size=9).map(repr),
        lambda inner: (
            st.builds("({} {} {})".format, inner, st.sampled_from(["+", "*", "<", "and", "if 1 else", "//", "@", ","]), inner)
            | st.builds("[{} for {} in {}]".format, inner, name, inner)
            | st.builds("{}({})".format, st.sampled_from(["print", "len", "repr", "str", "sorted", "eval", "exec"]), inner)
            | st.builds("{{{}: {}}}".format, inner, inner)
            | st.builds("{}.{}".format, inner, st.sampled_from(["real", "__class__", "__dict__", "show()", "x"]))
        ),
        max_leaves=6,
    )
    simple = (
        expression
        | st.builds("{} = {}".format, name, expression)
        | st.builds("raise ValueError({})".format, expression)
        | st.builds("assert {}".format, expression)
        | st.builds("import {}".format, st.sampled_from(["math", "numpy", "json", "ctypes", "sys", "nothing"]))
    )
    hostile = st.builds(
        lambda code, n, name: code.replace("{n}", str(n)).replace("{name}", name), st.sampled_from(HOSTILE), number, name
    )
    block = st.recursive(
        simple | hostile,
        lambda inner: (
            st.builds(lambda a, b: f"{a}\n{b}", inner, inner)
            | st.builds(lambda body: "try:\n" + _indent(body) + "\nexcept BaseException as e:\n    print(e)", inner)
            | st.builds(lambda head, body: f"{head}:\n" + _indent(body), st.sampled_from(_HEADS), inner)
        ),
        max_leaves=5,
    )
    deep = st.builds(
        lambda pair, n: pair[0] * n + "1" + pair[1] * n, st.sampled_from(_BRACKETS), st.sampled_from([50, 199, 2000, 90_000])
    )
    long = st.builds(
        lambda part, n: part * n,
        st.sampled_from(["1", "1 + ", "x = 1\n", "'", "\\\n", "#", "\t", "\f", ";"]),
        st.integers(1, 50_000),
    )
    mutilated = st.builds(
        lambda text, at, junk: text[: at % (len(text) + 1)] + junk + text[at % (len(text) + 1) :],
        block,
        number,
        st.text(max_size=3),
    )
    any_text = st.text(st.characters(exclude_categories=()), max_size=60)  # surrogates and NULs too
    return st.one_of(block, block, hostile, hostile, mutilated, deep, long, any_text)


_HEADS = ("for x in range(3)", "while 1", "if x", "def f(x=1)", "class C", "with open('/tmp/f', 'w') as y", "async def g()")


def _indent(code: str) -> str:
    return "\n".join(f"    {line}" for line in code.split("\n"))


KINDS = sorted({value for value in vars(wire).values() if isinstance(value, bytes) and len(value) == 1})


def images() -> st.SearchStrategy[bytes]:
    """Images as an interpreter sends them, and images of a mode, a size or pixels that they have not."""
    numbers = st.integers(0, 5) | st.sampled_from([600, 1 << 16, 1 << 31, 2**32 - 1])
    pixels = st.builds(lambda data, n: (data * n)[:n], st.binary(min_size=1, max_size=8), st.integers(0, 100))
    mode = st.sampled_from(wire.MODES).map(str.encode) | st.binary(max_size=4)
    return st.builds(lambda m, w, h, p: wire.PIXELS.pack(m, w, h) + p, mode, numbers, numbers, pixels) | honest_images()


def honest_images() -> st.SearchStrategy[bytes]:
    """The payloads of images that the host must keep, or drop for being too many."""
    side, mode = st.integers(1, 8), st.sampled_from(wire.MODES)
    return st.builds(lambda m, w, h: wire.PIXELS.pack(m.encode(), w, h) + bytes(w * h * len(m)), mode, side, side)


def frames() -> st.SearchStrategy[bytes]:
    """Frames that the host must take or leave without harm: an image, or an end with a token that is not the run's."""
    payload = st.binary(min_size=wire.TOKEN_BYTES + 1, max_size=wire.TOKEN_BYTES + 1)
    foreign = payload.map(lambda payload: wire.HEADER.pack(wire.DONE, len(payload)) + payload)
    return foreign | honest_images().map(lambda payload: wire.HEADER.pack(wire.IMAGE, len(payload)) + payload)


def streams(token: bytes = b"") -> st.SearchStrategy[bytes]:
    """Bytes for the wire: noise, valid frames, frames with lies in them, all of it cut off or with a byte changed."""
    kind = st.sampled_from(KINDS) | st.binary(min_size=1, max_size=1)
    outcome = st.sampled_from([wire.OUTCOME_OK, wire.OUTCOME_EXCEPTION, b"?"])
    tokens = st.binary(min_size=wire.TOKEN_BYTES, max_size=wire.TOKEN_BYTES) | st.just(bytes(wire.TOKEN_BYTES))
    if token:
        tokens = tokens | st.just(token)
    payload = st.binary(max_size=60) | st.builds(lambda t, o: t + o, tokens, outcome) | images()
    honest = st.builds(lambda k, p: wire.HEADER.pack(k, len(p)) + p, kind, payload)
    done = st.builds(lambda t, o: wire.HEADER.pack(wire.DONE, wire.TOKEN_BYTES + 1) + t + o, tokens, outcome)
    most = most_bytes(LIMITS)
    size = st.sampled_from([0, 1, 16, 17, 18, most, most + 1, 2**32 - 1]) | st.integers(0, 100)
    lying = st.builds(lambda k, n, p: struct.pack("<cI", k, n) + p, kind, size, payload)
    whole = st.lists(done | honest | lying | st.binary(max_size=40), min_size=1, max_size=5).map(b"".join)
    cut = st.builds(lambda data, at: data[: at % (len(data) + 1)], whole, st.integers(0, 1000))
    changed = st.builds(_change, whole, st.integers(0, 1000), st.integers(0, 255))
    return whole | cut | changed


def _change(data: bytes, at: int, value: int) -> bytes:
    at %= len(data) or 1
    return data[:at] + bytes([value]) + data[at + 1 :]


def endings() -> st.SearchStrategy[tuple[str, Status]]:
    """How the cell that writes to the wire really ends, and the status of that."""
    return st.sampled_from(
        [("", Status.OK), ("1 / 0", Status.EXCEPTION), ("os._exit(1)", Status.KILLED), ("time.sleep(60)", Status.TIMEOUT)]
    )
