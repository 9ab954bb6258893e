"""Runs cells of untrusted code, like a notebook kernel, inside the jail. Standard library only, until the user's code imports more.

The user's code runs in this very process and can do anything to it. The host is protected by what surrounds this process, not by
what is in it.
"""

from __future__ import annotations

import _signal  # ty: ignore[import-not-found]
import builtins
import contextlib
import inspect
import io
import linecache
import mmap
import os
import random
import resource
import select
import signal
import socket
import sys
import time
import traceback
import types
from collections.abc import Callable, Mapping
from typing import Any

from sandbox.jailed import advice, cells, libraries, pictures, shown, wire

_FONTS = "/opt/fonts"
_TRACEBACK_CHARS = 8192
_AT_ONCE_BYTES = 1 << 12
_INTERRUPTS = (signal.SIGINT, signal.SIGXCPU)
# The functions of `signal` convert their results to enumeration members, which takes longer than a small cell.
_handler, _change_mask = _signal.getsignal, _signal.pthread_sigmask


class Interpreter:
    """One namespace and one channel to the host. `serve` returns when the host closes the channel."""

    def __init__(self, channel: socket.socket, settings: Mapping[str, Any]) -> None:
        self._channel = channel
        self._cpu_s, self._side, self._pixels = settings["cpu_s"], settings["image_side"], settings["image_pixels"]
        self._images_sent = 0
        self._advice = advice.Advice(settings["packages"])
        self._loop: Any = None
        shown.most_images = settings["images"]
        shown.send, libraries.on_missing_file = self.send_image, self._advice.on_file
        self._readable = select.poll()
        self._readable.register(channel, select.POLLIN)
        self._most_cpu_s = resource.getrlimit(resource.RLIMIT_CPU)[1]
        self._buffer = bytearray()
        self._fds: list[int] = []
        self._pid = os.getpid()
        self._running = False
        self._stderr = _text_stream(2)
        sys.stdin, sys.stdout, sys.stderr = open(0), _text_stream(1), self._stderr  # noqa: SIM115
        self._module = types.ModuleType("__main__")
        sys.modules["__main__"] = self._module
        sys.argv = [""]
        _forget_shared_state()

    def serve(self) -> None:
        signal.signal(signal.SIGINT, self._interrupt)  # an interrupt before the first cell has begun ends nothing
        self._send(wire.READY, b"")
        while frame := self._receive():
            kind, payload = frame
            if kind == wire.IMAGES:
                self._define_images(payload)
            elif kind == wire.RUN:
                token, rest = payload[: wire.TOKEN_BYTES], payload[wire.TOKEN_BYTES :]
                (cell,) = wire.CELL.unpack_from(rest)
                outcome = self._run(rest[wire.CELL.size :].decode("utf-8", "surrogatepass"), f"<cell {cell}>")
                if os.getpid() != self._pid:
                    os._exit(0)  # the cell forked, and this is the child: it must not talk to the host
                self._send(wire.DONE, token + outcome)

    def send_image(self, image: Any) -> bool:
        """Sends a PIL image or a matplotlib figure to the host, or says on standard error why not.

        False if that is the last that the run may send: whoever has many to draw may stop.
        """
        self._images_sent += 1
        if hasattr(image, "savefig"):
            image = _rendered(image)
        if 0 in image.size:
            self._refuse_image(image, "it is empty")
        elif max(image.size) > self._side:
            self._refuse_image(image, f"the limit for each side is {self._side}")
        elif image.width * image.height > self._pixels:
            self._refuse_image(image, f"the limit is {self._pixels} pixels")
        else:
            plain = _plain(image)
            self._send(wire.IMAGE, wire.PIXELS.pack(plain.mode.encode(), *plain.size) + plain.tobytes())
        return self._images_sent < shown.most_images

    def _refuse_image(self, image: Any, reason: str) -> None:
        print(f"[sandbox] image not returned: {image.width} x {image.height} pixels, {reason}", file=self._stderr)

    def _run(self, source: str, filename: str) -> bytes:
        linecache.cache[filename] = (len(source), None, f"{source}\n".splitlines(keepends=True), filename)
        self._images_sent = 0
        outcome = self._outcome(self._execute, source, filename)
        if shown.open_figures() and outcome in (wire.OUTCOME_OK, wire.OUTCOME_EXCEPTION) and os.getpid() == self._pid:
            showing = self._outcome(shown.figures)
            return showing if outcome == wire.OUTCOME_OK else outcome
        return outcome

    def _outcome(self, step: Callable[..., None], *arguments: str) -> bytes:
        """Takes a step of the cell, and prints the traceback if it raises."""
        try:
            self._be_interruptible()
            self._running = True
            try:
                step(*arguments)
            finally:
                self._running = False
        except SystemExit as end:
            if end.code in (None, 0):
                return wire.OUTCOME_OK
            self._print_traceback(end)
            return wire.OUTCOME_EXCEPTION
        except BaseException as error:
            self._running = False
            self._print_traceback(error)
            if isinstance(error, KeyboardInterrupt):
                return wire.OUTCOME_INTERRUPTED
            return wire.OUTCOME_MEMORY if isinstance(error, MemoryError) else wire.OUTCOME_EXCEPTION
        return wire.OUTCOME_OK

    def _be_interruptible(self) -> None:
        """Resets what a cell may have changed: the limit of processor time, both handlers, the mask."""
        with contextlib.suppress(ValueError, OSError):  # if a cell has lowered the hard limit, the host still counts
            resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + self._cpu_s) + 1, self._most_cpu_s))
        for number in _INTERRUPTS:
            if _handler(number) != self._interrupt:
                signal.signal(number, self._interrupt)
        _change_mask(signal.SIG_UNBLOCK, _INTERRUPTS)

    def _execute(self, source: str, filename: str) -> None:
        cell = cells.compiled(source, filename, self._advice.modules)
        for note in cell.notes:
            print(f"[sandbox] {note}", file=self._stderr)
        if cell.statements is not None:
            self._evaluate(cell.statements)
        if cell.last is not None and (value := self._evaluate(cell.last)) is not None:
            self._module.__dict__["_"] = value
            shown.echo(value)

    def _evaluate(self, code: types.CodeType) -> Any:
        value = eval(code, self._module.__dict__)
        return self._await(value) if code.co_flags & inspect.CO_COROUTINE else value

    def _await(self, coroutine: Any) -> Any:
        """Runs code that awaits at its top level, in one event loop for all cells, so that the tasks of one live on in the next."""
        import asyncio

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop.run_until_complete(coroutine)

    def _interrupt(self, number: int, _frame: object) -> None:
        # Between runs there is nothing to interrupt: the signal arrived too late.
        if self._running and os.getpid() == self._pid:
            raise KeyboardInterrupt("processor time limit" if number == signal.SIGXCPU else "time limit")

    def _print_traceback(self, error: BaseException) -> None:
        """Prints the traceback as a notebook does, with only the frames of the cells, and names what is there instead."""
        with contextlib.suppress(BaseException):
            report = traceback.TracebackException.from_exception(error)
            _keep_cell_frames(report)
            text = "".join(report.format())
            if len(text) > _TRACEBACK_CHARS:  # its last line says most: the output limit must not cut it off
                text = f"{text[: _TRACEBACK_CHARS // 2]}\n…\n{text[-_TRACEBACK_CHARS // 2 :]}"
            if line := self._advice.on(error):
                text += f"[sandbox] {line}\n"
            self._stderr.write(text)

    def _define_images(self, payload: bytes) -> None:
        sizes = [(mode.rstrip(b"\0").decode(), width, height) for mode, width, height in wire.PIXELS.iter_unpack(payload)]
        fd = self._fds.pop()
        pixels = memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))  # stays mapped: the pixels are copied when they are used
        os.close(fd)
        question = pictures.Pictures(pixels, sizes)
        self._module.__dict__.update(question.variables)
        self._advice.pictures = len(sizes)
        libraries.before_reading = question.before_reading

    def _send(self, kind: bytes, payload: bytes | memoryview) -> None:
        header = wire.HEADER.pack(kind, len(payload))
        if len(payload) < _AT_ONCE_BYTES:
            self._channel.sendall(header + payload)  # in one piece, so that the host wakes once
        else:
            self._channel.sendall(header)
            self._channel.sendall(payload)

    def _receive(self) -> tuple[bytes, bytes] | None:
        need = wire.HEADER.size
        while True:
            if len(self._buffer) >= need:
                kind, size = wire.HEADER.unpack_from(self._buffer)
                need = wire.HEADER.size + size
                if len(self._buffer) >= need:
                    payload = bytes(self._buffer[wire.HEADER.size : need])
                    del self._buffer[:need]
                    return kind, payload
            self._readable.poll()  # waiting in recvmsg, it would also wake when the host reads what was sent to it
            # Allocating a large frame takes longer than running a small cell.
            data, fds, _, _ = socket.recv_fds(self._channel, 1 << 16 if self._buffer else 1 << 12, 1)
            self._fds += fds
            if not data:
                return None
            self._buffer += data


def prepare() -> None:
    """Called once, in the zygote: images and figures are then shown to the host instead of on a screen."""
    _link_fonts()
    libraries.prepare()


def _rendered(figure: Any) -> Any:
    """A matplotlib figure as a PIL image, as `savefig` draws it with any backend."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", pil_kwargs={"compress_level": 0})
    return Image.open(buffer)


def _plain(image: Any) -> Any:
    """The image in one of the modes that are sent."""
    if image.mode in wire.MODES:
        return image
    if image.mode.startswith("I;16"):  # of the 16 bits, the upper 8; PIL would clip
        return image.convert("I").point(lambda level: level / 256).convert("L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _text_stream(fd: int) -> io.TextIOWrapper:
    """An unbuffered stream, so that output before a kill is not lost; it never raises on text that is not valid Unicode."""
    return io.TextIOWrapper(io.FileIO(fd, "w", closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True)


def _keep_cell_frames(report: traceback.TracebackException | None) -> None:
    if report is None:
        return
    report.stack = traceback.StackSummary.from_list([frame for frame in report.stack if frame.filename.startswith("<cell ")])
    for part in (report.__cause__, report.__context__, *(report.exceptions or ())):
        _keep_cell_frames(part)


def _forget_shared_state() -> None:
    """Seeds the random generators anew: those seeded before the fork would give every session the same numbers."""
    random.seed()
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()
    _link_fonts()
    for name in ("exit", "quit"):  # `site` adds them for consoles; they close standard input, which the next cell may want
        setattr(builtins, name, sys.exit)


def _link_fonts() -> None:
    """Links the prebuilt font cache into matplotlib's directory, which must be writable."""
    fonts = os.environ["MPLCONFIGDIR"]
    os.makedirs(fonts, exist_ok=True)
    for name in filter(lambda name: name.startswith("fontlist-"), os.listdir(_FONTS)):
        os.symlink(f"{_FONTS}/{name}", f"{fonts}/{name}")
