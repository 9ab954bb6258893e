"""A server on loopback that answers in OpenAI's form of chat completions, or fails on request."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """An endpoint in OpenAI's form. `replies` are texts, texts with a finish reason, tool calls (see `asking`), statuses
    of failures, those with an error, 200 with a whole body, "slow" or "garbage", or functions of the request's body to one of
    these; the last one for ever."""

    def __init__(self, *replies):
        self.requests = []
        pending = list(replies)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                reply = pending.pop(0) if len(pending) > 1 else pending[0]
                if callable(reply):
                    reply = reply(outer.requests[-1])
                if reply == "slow":
                    time.sleep(3)
                status, body = _failure(reply) or (200, _completion(reply))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

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
    return json.dumps(
        {"choices": [{"index": 0, "message": message, "finish_reason": reason}], "object": "chat.completion"}
    ).encode()
