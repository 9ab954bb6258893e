"""A server on loopback that answers in OpenAI's form of chat completions, or fails on request."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Counting(ThreadingHTTPServer):
    """Knows how many of the connections that it has accepted are not handled yet."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._lock, self.busy = threading.Lock(), 0

    def process_request(self, request, client_address):
        with self._lock:
            self.busy += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self.busy -= 1


class Server:
    """An endpoint in OpenAI's form. `replies` are texts, texts with a finish reason, messages (see `asking`), which may have the
    `usage` beside, statuses of failures, those with an error and those with headers as well, 200 with a whole body, "slow" or
    "garbage", None for no reply at all, or functions of the request's body to one of these; the last one for ever. `requests` are
    the bodies that came, `answered` those whose reply was sent, `keys` what the requests were authorised by."""

    def __init__(self, *replies):
        self.requests, self.answered, self.keys = [], [], []
        self._pending = pending = list(replies)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                outer.keys.append(self.headers["Authorization"])
                reply = pending.pop(0) if len(pending) > 1 else pending[0]
                if callable(reply):
                    reply = reply(body)
                if reply is None:
                    self.close_connection = True
                    return
                *reply, headers = reply if isinstance(reply, tuple) and len(reply) == 3 else (reply, {})
                reply = reply[0] if len(reply) == 1 else tuple(reply)
                if reply == "slow":
                    time.sleep(3)
                status, content = _failure(reply) or (200, _completion(reply))
                try:
                    self.send_response(status)
                    for name, value in {"Content-Type": "application/json", "Content-Length": len(content), **headers}.items():
                        self.send_header(name, str(value))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:  # the client has given up, or was killed
                    return
                outer.answered.append(body)

            def log_message(self, *_):
                pass

        self._server = _Counting(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def reply(self, *replies):
        """Answer with these from now on."""
        self._pending[:] = replies

    def settle(self):
        """Wait until all that was sent so far has been handled: connections are accepted in the order in which they came."""
        with socket.create_connection(self._server.server_address, timeout=60) as last:
            last.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while last.recv(4096):
                pass
        while self._server.busy:
            time.sleep(0.001)

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def asking(*calls, text=None):
    """A reply that makes tool calls: each a name with its arguments, as a mapping or as the text that stands for them."""
    requested = [
        {
            "id": f"call-{number}",
            "type": "function",
            "function": {"name": name, "arguments": given if isinstance(given, str) else json.dumps(given)},
        }
        for number, (name, given) in enumerate(calls)
    ]
    return {"content": text, "tool_calls": requested}


def _failure(reply):
    status, error = reply if isinstance(reply, tuple) else (reply, None)
    if status == 200:
        return status, error if isinstance(error, bytes) else json.dumps(error).encode()
    return (status, json.dumps({"error": error} if error else {}).encode()) if isinstance(status, int) else None


def _completion(text):
    if text == "garbage":
        return b"<html>"
    text, reason = text if isinstance(text, tuple) else (text, "tool_calls" if isinstance(text, dict) else "stop")
    message = {"role": "assistant"} | (text if isinstance(text, dict) else {"content": text})
    usage = {"usage": message.pop("usage")} if "usage" in message else {}
    choices = [{"index": 0, "message": message, "finish_reason": reason}]
    return json.dumps({"choices": choices, "object": "chat.completion", **usage}).encode()
