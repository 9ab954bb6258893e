"""The process that sessions are forked from, and the init of each session.

Runs in the outer jail; standard library only. Importing numpy costs 85 ms and forking a process that has imported it costs 2 ms, so
one process imports and every session is a fork of it:

    nsjail ─ zygote (PID 1 of the outer jail; has imported, holds no secret, runs no user code)
               └ slot (one per concurrent session, each in a separate cgroup; lives as long as the pool)
                   └ init (PID 1 of a session's own namespaces; holds the supervision channel; hidden from the user's code)
                       └ interpreter (runs the user's code; the init sees its end, whatever the cause)

A slot exists because moving a process into a cgroup can wait 10 ms for a kernel grace period, while a fork inherits the cgroup at
no cost.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from typing import Any, NoReturn

from sandbox.jailed import confinement, interpreter, pages, wire


def main() -> NoReturn:
    """argv: the control socket's descriptor, then the settings in JSON (see `sandbox.host.nsjail.zygote_config`)."""
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    interpreter.prepare()
    gc.disable()  # looking for garbage again and again would take a fifth of the time of the imports
    for module in settings["preload"]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page
    gc.enable()
    pages.collapse()
    _serve(control, settings)


def _serve(control: socket.socket, settings: dict[str, Any]) -> NoReturn:
    """Forks on the host's requests. The zygote and the slots all run this; they differ in their cgroup and control channel."""
    identity = os.getuid(), os.getgid()
    signal.signal(signal.SIGCHLD, _reap)
    control.send(wire.HELLO)
    while True:
        request, fds, _, _ = socket.recv_fds(control, 1, wire.SESSION_FDS)
        if not request:
            os._exit(0)  # the host closed the pool or died. When the zygote ends, the kernel ends all of its PID namespace
        first = socket.socket(fileno=fds.pop(0))
        if request == wire.SLOT and os.fork() == 0:
            control.close()
            _serve(first, settings)
        if request == wire.SESSION:
            try:
                born = confinement.fork_into_namespaces() == 0
            except OSError as error:
                first.send(wire.FAILED + str(error).encode(errors="replace"))
            else:
                if born:
                    control.close()
                    _init(first, fds, settings, identity)
        first.close()
        for fd in fds:
            os.close(fd)


def _reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _init(supervision: socket.socket, fds: list[int], settings: dict[str, Any], identity: tuple[int, int]) -> NoReturn:
    """Sets up the session's confinement, starts the interpreter in it, and watches.

    When the init ends, the kernel ends every process of the session.
    """
    try:
        try:
            os.setsid()  # otherwise kill(0, …) in the session would reach the zygote, which shares the process group
            confinement.map_identity(*identity)
            memory_priority = confinement.MemoryPriority()
            confinement.mount_private_files(settings["disk_bytes"])
            confinement.drop_privileges()
            confinement.set_inspectable(False)
        except OSError as error:
            supervision.send(wire.FAILED + str(error).encode(errors="replace"))
            raise
        supervision.send(wire.HELLO)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a handler would let the session's code signal its init: PID 1 has no other
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # not the slot's handler: it would discard the status of a quick death
        child = os.fork()
        if child == 0:
            supervision.close()
            _interpreter(fds, settings)
        memory_priority.code_first()
        for fd in fds:
            os.close(fd)
        _supervise(supervision, child)
    finally:
        os._exit(1)  # never back into the slot's loop


def _supervise(supervision: socket.socket, child: int) -> NoReturn:
    """Interrupts the interpreter on the host's request, reports how it died, and reaps the processes that user code leaves."""
    child_fd = os.pidfd_open(child)
    exits: dict[int, int] = {}

    def reap(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    exits.update([ended])

    signal.signal(signal.SIGCHLD, reap)
    poll = select.poll()
    poll.register(supervision, select.POLLIN)
    poll.register(child_fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if child_fd in ready:
            reap()
            supervision.send(wire.DIED + wire.EXIT.pack(exits[child]))
            os._exit(0)
        if supervision.fileno() in ready:
            if supervision.recv(1) != wire.INTERRUPT:
                os._exit(0)
            os.kill(child, signal.SIGINT)
            supervision.send(wire.INTERRUPTED)


def _interpreter(fds: list[int], settings: dict[str, Any]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the code waits for its own children
        channel, stdout, stderr = fds
        os.dup2(stderr, 2)
        os.dup2(stdout, 1)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(channel, 3)
        os.closerange(4, 1 << 16)
        confinement.set_inspectable(True)
        confinement.limit_resources(settings["memory_bytes"], settings["pids"], settings["disk_bytes"])
        confinement.filter_system_calls()
        interpreter.Interpreter(socket.socket(fileno=3), settings).serve()
        code = 0
    except BaseException as error:
        os.write(2, f"the interpreter could not start: {error}".encode(errors="replace"))
    os._exit(code)
