"""Serves the page until the process is told to end."""

from __future__ import annotations

import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from envs.errors import UsageError
from viewer.app import Viewer, application
from viewer.index.cache import OLD_S, Pruned, cache_directory, prune, prune_temporary
from viewer.runs import find_runs
from viewer.security import is_loopback, own_token
from viewer.settings import ViewConfig

_TRIED = 100
_GRACE_S = 2
_SWITCH_S = 0.0005
"""An answer does not wait for the index for longer than this, each time that it needs the interpreter."""


def serve(paths: Sequence[str], config: ViewConfig, say: Callable[[str], None]) -> None:
    """Serve the runs at or below `paths` until SIGINT or SIGTERM. Raises UsageError if there are none, or no port is free."""
    found = find_runs(paths)
    with listening(config.host, config.port) as listener:
        port = listener.getsockname()[1]
        if config.port not in (0, port):
            say(f"port {config.port} is taken: listening at {port}")
        token = None if is_loopback(config.host) else own_token()
        url = f"http://{_shown(config.host)}:{port}/" + (f"?token={token}" if token else "")
        viewer = Viewer(lambda: find_runs(paths))
        shown = [run.path for run in viewer.runs.values()]

        def ready() -> None:
            _ready(url, len(found), config, say)
            # In a thread: nothing waits for a disk that does not answer.
            threading.Thread(target=prune_cache, args=(shown, say), daemon=True).start()

        _serve(viewer, config.host, token, listener, ready)


def prune_cache(kept: Sequence[Path], say: Callable[[str], None]) -> None:
    """Remove indexes that nobody needs from the user's cache, but not those of the `kept` runs, and temporary ones that killed
    viewers left, and say so."""
    cache, temporary = cache_directory(), Path(tempfile.gettempdir())
    why = f"of runs that are gone or were not looked at for {OLD_S / 86400:.0f} days"
    _say_pruned(prune(cache, kept, time.time()), f"{why} from {cache}", say)
    _say_pruned(prune_temporary(temporary), f"of viewers that were killed from {temporary}", say)


def _say_pruned(pruned: Pruned, of: str, say: Callable[[str], None]) -> None:
    if pruned.count:
        say(f"removed {pruned.count} {'index' if pruned.count == 1 else 'indexes'} ({pruned.size / 1e6:.1f} MB) {of}")


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens at `port`, or at the next free one. Raises UsageError if there is none, or no such host."""
    if not 0 <= port < 1 << 16:
        raise UsageError(f"port={port}: write a number from 0 to {(1 << 16) - 1}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise UsageError(f"host={host}: {error.strerror}: write an address of this machine, like 127.0.0.1") from error
    for tried in range(port, min(port + _TRIED, 1 << 16)):
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, tried, *address[2:]))
            listener.listen(128)
            return listener
        except PermissionError as error:
            listener.close()
            raise UsageError(f"port={tried}: {error.strerror}: write one above 1023") from error
        except OSError as error:
            listener.close()
            if error.errno == 99:  # EADDRNOTAVAIL
                raise UsageError(f"host={host}: {error.strerror}: write an address of this machine, like 127.0.0.1") from error
    raise UsageError(f"port={port}: it and the {_TRIED - 1} behind it are taken: write another")


def _serve(viewer: Viewer, host: str, token: str | None, listener: socket.socket, ready: Callable[[], None]) -> None:
    server = uvicorn.Server(
        uvicorn.Config(
            application(viewer, host, token),
            http="h11",
            ws="none",
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )

    def end(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # In a thread of its own the server leaves signals to this one.
    handlers = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    thread = threading.Thread(target=server.run, args=([listener],), name="server")
    sys.setswitchinterval(_SWITCH_S)
    try:
        viewer.indexer.start()
        thread.start()
        ready()
        while thread.is_alive():
            thread.join(0.5)
    finally:
        server.should_exit = True
        thread.join()
        viewer.indexer.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _ready(url: str, count: int, config: ViewConfig, say: Callable[[str], None]) -> None:
    say(f"serving {count} {'run' if count == 1 else 'runs'} at {url}")
    say("Ctrl-C ends it")
    if config.open:
        import webbrowser

        webbrowser.open(url)


def _shown(host: str) -> str:
    """The host as it stands in a URL."""
    if host in ("0.0.0.0", "::", ""):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
