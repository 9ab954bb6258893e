"""One life of a session: its jailed processes and the host's ends of their connections.

Everything read here was written by hostile code. It is bounded before it is kept, and understood only as far as
`sandbox.jailed.wire` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import select
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from PIL import Image

from sandbox import images
from sandbox.host import jail
from sandbox.jailed import wire
from sandbox.types import Limits

_START_S = 10.0
_CHUNK = 1 << 16
_FEW = 1 << 12  # a first read: most runs print little, and allocating a whole chunk takes longer than such a run
_LISTEN_S = 0.005  # most runs are over sooner; their output is read once, when they are, instead of waking the host for each line
_FLOOD = 16  # output beyond the limit is dropped while the run goes on; at this multiple of the limit the run is stopped
_MOST_FRAMES = 1000  # in a run, kept or dropped: reading them takes time from every session
_READY = b"ready"


@dataclass(slots=True)
class Ending:
    """Why a wait for a run ended. Exactly one field is set."""

    outcome: bytes = b""  # DONE arrived: one of wire.OUTCOME_*
    died: int | None = None  # the interpreter's wait status
    lost: str = ""  # the session's init or its channel is gone; the reason
    forged: bool = False
    deadline: bool = False
    flood: bool = False
    cpu: bool = False


@dataclass(slots=True)
class Turn:
    """The output of one run so far."""

    token: bytes
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    images: list[bytes] = field(default_factory=list)
    image_pixels: int = 0
    images_dropped: int = 0
    output_bytes: int = 0
    output_dropped: int = 0
    frames: int = 0
    flooded: bool = False


class Process:
    """The processes of a session, made by `start`. One run at a time: `begin`, `wait`, perhaps `interrupt`. `close` at the end."""

    def __init__(self, limits: Limits, init: jail.Peer, cell: socket.socket, stdout: int, stderr: int) -> None:
        self._limits = limits
        self._init = init
        self._cell = cell
        self._outputs = {stdout: "stdout", stderr: "stderr"}
        self._listening = False  # to the outputs
        self._readable_outputs = select.poll()
        for fd in self._outputs:
            self._readable_outputs.register(fd, select.POLLIN)
        self._buffer = bytearray()
        self._turn = Turn(_READY)
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._interrupted: asyncio.Future[None] | None = None
        self._final: Ending | None = None
        self._deaf = False  # set once something other than our protocol has arrived
        loop = asyncio.get_running_loop()
        loop.add_reader(init.channel, self._read_supervision)
        loop.add_reader(cell, self._read_cell)

    @classmethod
    async def start(cls, slot: jail.Peer, limits: Limits, question: Sequence[Image.Image]) -> Process:
        """Forks a session from `slot` and sends it its images. Raises OSError, EOFError or TimeoutError if it does not start."""
        supervision, their_supervision = jail.control_pair()
        cell, their_cell = socket.socketpair()
        cell.setblocking(False)
        (stdout, their_stdout), (stderr, their_stderr) = os.pipe(), os.pipe()
        ours, theirs = (stdout, stderr), (their_stdout, their_stderr)
        process = None
        try:
            for fd in ours:
                os.set_blocking(fd, False)
            socket.send_fds(slot.channel, [wire.SESSION], [their_supervision.fileno(), their_cell.fileno(), *theirs])
            their_supervision.close()
            their_cell.close()
            for fd in theirs:
                os.close(fd)
            theirs = ()
            process = cls(limits, await jail.hello(supervision, _START_S), cell, *ours)
            ending = await process.wait(_START_S)
            if ending.outcome != _READY:
                process.collect()
                complaint = bytes(process._turn.stderr).decode(errors="replace")
                raise EOFError(f"the session did not start: {complaint or ending}")
            if question:
                await process._send_images(question)
            return process
        except BaseException:
            for fd in theirs:
                os.close(fd)
            if process is not None:
                await process.close()
            else:
                supervision.close()
                cell.close()
                for fd in ours:
                    os.close(fd)
            raise
        finally:
            their_supervision.close()
            their_cell.close()

    @property
    def usable(self) -> bool:
        return self._final is None

    async def begin(self, cell_number: int, source: str, timeout_s: float) -> Turn:
        """Sends a cell, for at most `timeout_s`; if it was not read by then, `wait` says so. Raises OSError if nobody reads."""
        self.collect()  # output between two runs belongs to neither
        self._turn = Turn(secrets.token_bytes(wire.TOKEN_BYTES))
        self._ending = asyncio.get_running_loop().create_future()
        payload = self._turn.token + wire.CELL.pack(cell_number) + source.encode("utf-8", "surrogatepass")
        try:
            await self._send(wire.HEADER.pack(wire.RUN, len(payload)) + payload, timeout_s)
        except TimeoutError:
            self._end(Ending(deadline=True), final=True)  # half a frame was sent: nothing more can be
        return self._turn

    async def wait(self, timeout_s: float, on_long: Callable[[], None] | None = None) -> Ending:
        """How the run ended, or `deadline` if it still runs after `timeout_s`.

        `on_long` is called if it is not over at once.
        """
        if self._final is not None:
            return self._final
        loop = asyncio.get_running_loop()

        def long() -> None:
            nonlocal timer
            timer = loop.call_later(timeout_s - _LISTEN_S, self._end, Ending(deadline=True))
            self._listen()
            if on_long is not None:
                on_long()

        timer = loop.call_later(min(timeout_s, _LISTEN_S), long)  # one timer, not three: most runs are over sooner
        try:
            return await self._ending
        finally:
            timer.cancel()

    def stop_for_cpu(self) -> None:
        """Ends the wait with `cpu`: the caller found that the session has used its processor time."""
        self._end(Ending(cpu=True))

    async def interrupt(self, grace_s: float) -> bool:
        """Asks the run to stop, like Ctrl-C. True if it did, and the session keeps its state; False if it must be closed."""
        self._turn.flooded = True
        self._ending = stopped = asyncio.get_running_loop().create_future()
        self._interrupted = acknowledged = asyncio.get_running_loop().create_future()
        self._listen()  # otherwise a full pipe could delay the message that the run has ended
        try:
            self._init.channel.send(wire.INTERRUPT)
            async with asyncio.timeout(grace_s):
                # Acknowledged first: an interrupt still under way could hit the next run.
                await acknowledged
                ending = await stopped
        except (OSError, TimeoutError):
            return False
        finally:
            self._interrupted = None
        return bool(ending.outcome)

    def collect(self) -> None:
        """Reads what is left in the pipes, and nothing more until the next run: the output was complete before DONE was sent."""
        if self._listening:
            self._listening = False
            for fd in self._outputs:
                asyncio.get_running_loop().remove_reader(fd)
        for fd, _ in self._readable_outputs.poll(0):
            size = _FEW
            for _ in range(5 + self._limits.output_bytes // _CHUNK):  # bounded: another process may write on and on
                if not self._read_output(fd, size):
                    break
                size = _CHUNK

    def _listen(self) -> None:
        if not self._listening:
            self._listening = True
            for fd in self._outputs:
                asyncio.get_running_loop().add_reader(fd, self._read_output, fd)

    async def close(self) -> None:
        """Kills every process of the session, waits until the kernel has ended them, and reads their last output."""
        loop = asyncio.get_running_loop()
        self._final = self._final or Ending(lost="closed")
        self._init.kill()
        loop.remove_reader(self._init.channel)
        loop.remove_reader(self._cell)
        await asyncio.shield(self._init.ended())
        while self._read_cell():
            pass  # ends soon: nobody is left to write more
        self.collect()
        self._cell.close()
        for fd in tuple(self._outputs):
            self._close_output(fd)

    async def _send_images(self, question: Sequence[Image.Image]) -> None:
        payload, fd = await asyncio.to_thread(images.pack, question)
        try:
            frame = wire.HEADER.pack(wire.IMAGES, len(payload)) + payload
            sent = socket.send_fds(self._cell, [frame], [fd])
            await self._send(frame[sent:], _START_S)
        finally:
            os.close(fd)

    async def _send(self, data: bytes, timeout_s: float) -> None:
        try:
            sent = self._cell.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().sock_sendall(self._cell, data[sent:])

    def _end(self, ending: Ending, *, final: bool = False) -> None:
        if final and self._final is None:
            self._final = ending
        if not self._ending.done():
            self._ending.set_result(ending)

    def _read_supervision(self) -> None:
        try:
            message = self._init.channel.recv(1024)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        kind = message[:1]
        if kind == wire.INTERRUPTED:
            if self._interrupted is not None and not self._interrupted.done():
                self._interrupted.set_result(None)
            return
        asyncio.get_running_loop().remove_reader(self._init.channel)
        if kind == wire.DIED:
            self._end(Ending(died=wire.EXIT.unpack_from(message, 1)[0]), final=True)
        else:
            self._end(Ending(lost=message[1:].decode(errors="replace") or "the session's init ended"), final=True)

    def _read_cell(self) -> bool:
        """Reads the data that is available. False if there was none, or if nothing more is to be read."""
        try:
            data = b"" if self._deaf else self._cell.recv(_CHUNK if self._buffer else _FEW)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._cell)  # the init will say how the interpreter died
            return False
        self._buffer += data
        while len(self._buffer) >= wire.HEADER.size:
            kind, size = wire.HEADER.unpack_from(self._buffer)
            end = wire.HEADER.size + size
            acceptable = self._acceptable(kind, size)
            if acceptable and len(self._buffer) < end:
                break
            with memoryview(self._buffer) as view:
                payload = bytes(view[wire.HEADER.size : end])
            if not acceptable or not self._take(kind, payload):
                asyncio.get_running_loop().remove_reader(self._cell)
                self._buffer.clear()
                self._deaf = True
                self._end(Ending(forged=True), final=True)
                return False
            del self._buffer[:end]
        return True

    def _acceptable(self, kind: bytes, size: int) -> bool:
        if kind == wire.READY:
            return size == 0 and self._turn.token == _READY
        if kind == wire.IMAGE:
            return size <= images.most_bytes(self._limits)
        return kind == wire.DONE and size == wire.TOKEN_BYTES + 1

    def _take(self, kind: bytes, payload: bytes) -> bool:
        """Handles one frame. False if the payload does not fit its kind."""
        self._turn.frames += 1
        if self._turn.frames > _MOST_FRAMES and not self._turn.flooded:
            self._turn.flooded = True
            self._end(Ending(flood=True))
        if kind == wire.READY:
            self._end(Ending(outcome=_READY))
        elif kind == wire.IMAGE:
            return self._take_image(payload)
        elif secrets.compare_digest(payload[:-1], self._turn.token):  # else it is forged or belongs to another run
            self._end(Ending(outcome=payload[-1:]))
        return True

    def _take_image(self, payload: bytes) -> bool:
        measured, turn, limits = images.measure(payload), self._turn, self._limits
        if measured is None:
            return False
        _, width, height = measured
        room = limits.image_pixels - turn.image_pixels
        if len(turn.images) < limits.images and max(width, height) <= limits.image_side and width * height <= room:
            turn.images.append(payload)
            turn.image_pixels += width * height
        else:
            turn.images_dropped += 1
        return True

    def _read_output(self, fd: int, size: int = _CHUNK) -> bool:
        """Reads the output that is available. False if there is no more."""
        try:
            data = os.read(fd, size)
        except BlockingIOError:
            return False
        if not data:
            self._close_output(fd)
            return False
        turn, limit = self._turn, self._limits.output_bytes
        kept: bytearray = getattr(turn, self._outputs[fd])
        room = limit - len(kept)  # for each stream, so that a traceback outlives a flood of standard output
        kept += data[:room]
        turn.output_bytes += len(data)
        turn.output_dropped += max(0, len(data) - room)
        if turn.output_bytes > limit * _FLOOD and not turn.flooded:
            turn.flooded = True  # reported once: the next thing to wait for is that the run stops
            self._end(Ending(flood=True))
        return len(data) == size  # a pipe gives less only when that was all

    def _close_output(self, fd: int) -> None:
        if self._outputs.pop(fd, None):
            self._readable_outputs.unregister(fd)
            asyncio.get_running_loop().remove_reader(fd)
            with contextlib.suppress(OSError):
                os.close(fd)
