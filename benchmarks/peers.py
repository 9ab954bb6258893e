"""The references of the sandbox's figures. All run the jail's own Python with the sandbox's imports and environment variables.

* a jail per call (snekbox's way): nsjail with a root, namespaces, system-call filter and resource limits like ours, and in it a new
  interpreter that imports, runs the code and exits. It has no cgroup, which would cost it more time; ours has one.
* a process per call: the same new interpreter without any isolation.
* a REPL: one unjailed interpreter that has imported and that reads, runs and echoes one cell after another as a notebook does,
  over a pair of pipes. It has neither protection nor deadline: it is the minimum cost of a turn.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from envs.errors import InfrastructureError
from sandbox import Limits
from sandbox.host import nsjail

JAIL_PER_CALL = "nsjail and a new interpreter per call"
PROCESS_PER_CALL = "a new interpreter per call, unjailed"
REPL = "a REPL over a pipe, unjailed"
BLOCKING_REPL = "the same REPL, read with blocking calls"

_FONTS_IN_JAIL = """
import os
os.mkdir("/tmp/.matplotlib")
for name in os.listdir("/opt/fonts"):
    os.symlink(f"/opt/fonts/{name}", f"/tmp/.matplotlib/{name}")
"""
_FLUSH = "import sys; sys.stdout.flush()"  # so that the result is sent before the interpreter shuts down
_SERVE = """
import ast, contextlib, io, os, sys
namespace = {"__name__": "__main__"}
while size := sys.stdin.buffer.read(4):
    tree = ast.parse(sys.stdin.buffer.read(int.from_bytes(size)))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "<cell>", "exec"), namespace)
        if last is not None and (value := eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)) is not None:
            print(repr(value))
    text = printed.getvalue().encode()
    os.write(1, len(text).to_bytes(4) + text)
"""


class Peers:
    """Runs the references. `root` is the jail's environment (`sandbox.rootfs`), `scratch` an empty directory."""

    def __init__(self, root: Path, imports: Sequence[str], limits: Limits, scratch: Path) -> None:
        self._root = root
        self.imports = tuple(imports)
        self._imports = f"import {', '.join(imports)}"
        self._limits = limits
        fonts = scratch / "matplotlib"
        fonts.mkdir()
        for font in (root / "fonts").iterdir():
            (fonts / font.name).symlink_to(font)
        self._environment = nsjail.ENVIRONMENT | {
            "HOME": str(scratch),
            "TMPDIR": str(scratch),
            "LD_LIBRARY_PATH": str(root / "python/lib"),
            "MPLCONFIGDIR": str(fonts),
        }
        (self._python,) = (root / "python/bin").glob("python3.[0-9]*")

    def in_new_jail(self, code: str) -> tuple[str, float]:
        """The first line that `code` printed, and the seconds until it was read. Returns when the jail has ended."""
        log = os.memfd_create("log")
        try:
            started = time.perf_counter()
            config = nsjail.python_config(self._root, log, "\n".join((_FONTS_IN_JAIL, self._imports, code, _FLUSH)))
            config.time_limit = int(self._limits.wall_s)
            config.disable_rl = False
            config.rlimit_cpu = int(self._limits.cpu_s)
            config.rlimit_fsize = self._limits.disk_bytes >> 20
            config.rlimit_nofile = 256
            for mount in config.mount:
                if mount.dst in ("/tmp", "/work"):
                    mount.rw, mount.options = True, f"size={self._limits.disk_bytes}"
            return _first_line(nsjail.launch(config, log, subprocess.PIPE), started, log)
        finally:
            os.close(log)

    def in_new_process(self, code: str) -> tuple[str, float]:
        """As `in_new_jail`, but unjailed."""
        started = time.perf_counter()
        return _first_line(self._spawn("\n".join((self._imports, code, _FLUSH)), subprocess.DEVNULL), started)

    def repl(self) -> Repl:
        """A new REPL, ready for its first cell when its first `run` returns."""
        return Repl(self._spawn(f"{self._imports}\n{_SERVE}", subprocess.PIPE))

    def _spawn(self, program: str, stdin: int) -> subprocess.Popen[bytes]:
        command = [str(self._python), "-I", "-B", "-X", "utf8", "-c", program]
        return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, env=self._environment, bufsize=0)


class Repl:
    """A persistent unjailed interpreter. Leaving its `with` block ends it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process, self._cells, self._printed = process, process.stdin, process.stdout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readable: asyncio.Future[None] | None = None
        self.pid = process.pid

    def __enter__(self) -> Repl:
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._printed)
        self._cells.close()
        self._printed.close()
        self._process.wait()

    def run(self, code: str) -> str:
        """The output of a cell. Blocks. Raises InfrastructureError if the cell raised, which ends the REPL."""
        self._ask(code)
        return self._answer()

    async def run_async(self, code: str) -> str:
        """As `run`, but waits in the event loop, so that the program can do other work."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._printed, self._arrived)
        self._readable = self._loop.create_future()
        self._ask(code)
        await self._readable
        return self._answer()

    def _arrived(self) -> None:
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)

    def _ask(self, code: str) -> None:
        source = code.encode()
        self._cells.write(len(source).to_bytes(4) + source)

    def _answer(self) -> str:
        return self._read(int.from_bytes(self._read(4))).decode()

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if not (more := self._printed.read(size - len(data))):
                raise InfrastructureError("the unjailed REPL ended: its output is above")
            data += more
        return data


def _first_line(process: subprocess.Popen[bytes], started: float, log: int | None = None) -> tuple[str, float]:
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        took_s = time.perf_counter() - started
        process.stdout.read()
    if not line:
        messages = "" if log is None else os.pread(log, 1 << 16, 0).decode(errors="replace").strip()
        raise InfrastructureError(f"a peer ended without a result, exit status {process.returncode}: {messages.splitlines()[-1:]}")
    return line.decode().rstrip("\n"), took_s
