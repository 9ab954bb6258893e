"""The host's handles on a running outer jail, and on the slots in it that sessions are forked from."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

from sandbox.host import nsjail
from sandbox.host.cgroups import Group
from sandbox.jailed import wire
from sandbox.types import SandboxUnavailable

_START_S = 30.0
_END_S = 5.0
_CREDENTIALS = struct.Struct("iII")


class Peer:
    """A jailed process that sent HELLO: its channel, and a pidfd, which stays valid even if the process id is reused."""

    def __init__(self, channel: socket.socket, pid: int) -> None:
        self.channel = channel
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)

    def alive(self) -> bool:
        return self.pidfd >= 0 and not _readable(self.pidfd)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, OSError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    async def ended(self) -> None:
        """Waits until the process, and every process of the PID namespace whose PID 1 it is, has ended.

        Then closes both descriptors.
        """
        if self.pidfd < 0:
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self.pidfd, lambda: future.done() or future.set_result(None))
        try:
            await future
        finally:
            loop.remove_reader(self.pidfd)
            self.close()

    def close(self) -> None:
        self.channel.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Jail:
    """nsjail and the zygote in it. Start with `start`, end with `close`; `alive` says whether it can still be used."""

    def __init__(self, nsjail_process: subprocess.Popen[bytes], zygote: Peer) -> None:
        self._nsjail = nsjail_process
        self._zygote = zygote

    @classmethod
    async def start(cls, root: Path, settings: dict[str, Any]) -> Jail:
        """Starts a jail. Raises SandboxUnavailable, with nsjail's last message, if it does not start."""
        ours, theirs = control_pair()
        log, stderr = os.memfd_create("log"), os.memfd_create("stderr")
        process = None
        try:
            process = nsjail.launch(nsjail.zygote_config(root, theirs.fileno(), log, settings), stderr)
            theirs.close()
            return cls(process, await hello(ours, _START_S))
        except (OSError, TimeoutError, EOFError) as error:
            ours.close()
            if process is not None:
                process.terminate()  # not SIGKILL: that can leave the jail behind
                await asyncio.to_thread(process.wait)
            reason = _last_complaint(log) or _last_complaint(stderr)
            if not reason and isinstance(error, TimeoutError):
                remedy = "if this machine is busy, try again when it has less to do; else run `toolwise doctor`"
                raise SandboxUnavailable(f"the jail did not start within {_START_S:.0f} s: {remedy}") from error
            reason = reason or repr(error)
            raise SandboxUnavailable(f"the jail does not start ({reason}): run `toolwise doctor` for the remedy") from error
        finally:
            theirs.close()
            os.close(log)
            os.close(stderr)

    @property
    def alive(self) -> bool:
        return self._zygote.alive()

    async def open_slot(self, group: Group | None) -> Peer:
        """Forks a slot, in `group` if there is one. Raises OSError, EOFError or TimeoutError if the zygote fails."""
        ours, theirs = control_pair()
        with theirs:
            socket.send_fds(self._zygote.channel, [wire.SLOT], [theirs.fileno()])
        try:
            slot = await hello(ours, _START_S)
        except BaseException:
            ours.close()
            raise
        try:
            if group is not None:
                await asyncio.to_thread(group.join, slot.pid)
        except BaseException:
            slot.kill()
            slot.close()
            raise
        return slot

    async def close(self) -> None:
        """Ends every process of the jail and waits for their end; nsjail cleans up after the zygote."""
        self._zygote.kill()
        await self._zygote.ended()
        try:
            await asyncio.to_thread(self._nsjail.wait, _END_S)
        except subprocess.TimeoutExpired:
            self._nsjail.kill()
            await asyncio.to_thread(self._nsjail.wait)


def control_pair() -> tuple[socket.socket, socket.socket]:
    """Our end and the jail's end of a datagram channel whose messages carry the sender's credentials."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, theirs


async def hello(channel: socket.socket, timeout_s: float) -> Peer:
    """Waits for HELLO from the process at the other end.

    Raises TimeoutError if it does not come, EOFError if the process is gone, OSError if it reports a failure.
    """
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(channel, lambda: readable.done() or readable.set_result(None))
    try:
        async with asyncio.timeout(timeout_s):
            await readable
    finally:
        loop.remove_reader(channel)
    message, ancillary, _, _ = channel.recvmsg(1024, socket.CMSG_SPACE(_CREDENTIALS.size))
    if not message:
        raise EOFError("the jailed process ended before it was ready")
    if message != wire.HELLO:
        raise OSError(message[1:].decode(errors="replace"))
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return Peer(channel, _CREDENTIALS.unpack(data)[0])
    raise OSError("the kernel did not say who is at the other end")


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _last_complaint(fd: int) -> str:
    """The last line of nsjail or the zygote that is neither information nor a warning; empty if there is none."""
    lines = os.pread(fd, 1 << 16, 0).decode(errors="replace").splitlines()
    complaints = [
        line for line in lines if line.strip() and line[:3] not in ("[I]", "[W]") and "no version information" not in line
    ]
    return complaints[-1] if complaints else ""
