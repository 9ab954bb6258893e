"""Servers on loopback that answer as the documented APIs do, or fail on request."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """`answer(request)` gives the body of an answer to a parsed request; `troubles` come first, one a request: a status, "drop",
    "slow" or "garbage". A trouble in a tuple of one is for ever."""

    def __init__(self, answer, *troubles, headers=None):
        self.requests = []
        pending = list(troubles)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = {"path": self.path, "headers": dict(self.headers), "json": json.loads(body) if body else None}
                outer.requests.append(request)
                trouble = pending[0][0] if pending and isinstance(pending[0], tuple) else pending.pop(0) if pending else None
                if trouble == "drop":
                    self.connection.close()
                    return
                if trouble == "slow":
                    time.sleep(3)
                content = b"<html>no</html>" if trouble == "garbage" else json.dumps(answer(request)).encode()
                self.send_response(trouble if isinstance(trouble, int) else 200)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = handle_any

            def log_message(self, *_):
                pass

            def handle(self):
                with contextlib.suppress(OSError, ValueError):  # a client that gave up, or a connection of ours that was dropped
                    super().handle()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()
