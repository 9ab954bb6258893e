"""What a request must be to get an answer: the page serves whoever sits at this machine, and nobody's web page.

A browser lets any page send requests to loopback. So a request must name this server in `Host` (a name that an attacker's DNS
points at loopback is another), must not come from another site (`Sec-Fetch-Site`, `Origin`), and can only read. At other addresses
than loopback it also needs the token that the command printed.
"""

from __future__ import annotations

import ipaddress
import json
import secrets
import socket
from collections.abc import Collection
from urllib.parse import parse_qsl, urlencode

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "toolwise_view"
_WILDCARD = ("0.0.0.0", "::", "")
_LONGEST_URL = 16_384


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address to listen at."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware: refuses with 4xx what it should not answer, and puts the security headers on every answer."""

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        """`host` is what the server listens at; `token` what a request must know, None at loopback."""
        self._app, self._host, self._token = app, host.lower(), token
        self._names = _own_names() if self._host in _WILDCARD else ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            status, text, headers = refusal
            await _answer(protected, status, text, headers)
        else:
            await self._app(scope, receive, protected)

    def _refusal(self, scope: Scope) -> tuple[int, str, dict[str, str]] | None:
        """Why a request is refused: status, one line, headers. None if it is answered."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "only GET is answered", {"Allow": "GET, HEAD"}
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > _LONGEST_URL:
            return 414, "the URL is too long", {}
        hosts = headers.get("host", [])
        if len(hosts) != 1 or not self._is_ours(_hostname(hosts[0])):
            return 403, "the Host header does not name this server", {}
        origins = headers.get("origin", [])
        if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
            return 403, "requests of other sites are not answered", {}
        if any(site not in ("same-origin", "none") for site in headers.get("sec-fetch-site", [])) and not _is_visit(scope, headers):
            return 403, "requests of other sites are not answered", {}
        return self._without_token(scope, headers)

    def _without_token(self, scope: Scope, headers: dict[str, list[str]]) -> tuple[int, str, dict[str, str]] | None:
        if self._token is None:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if given and _equal(given[0], self._token):
            # The token goes from the address bar into a cookie, so that no copied link and no history holds it.
            left = urlencode([pair for pair in query if pair[0] != "token"])
            path = scope["path"]
            # Browsers read a backslash as a slash, and two slashes as another server.
            place = "/" + path.lstrip("/") if path.isascii() and path.isprintable() and "\\" not in path else "/"
            cookie = f"{_cookie(scope)}={self._token}; Path=/; HttpOnly; SameSite=Strict"
            return 303, "", {"Location": place + (f"?{left}" if left else ""), "Set-Cookie": cookie, "Cache-Control": "no-store"}
        cookies = (part.strip().partition("=") for line in headers.get("cookie", []) for part in line.split(";"))
        if any(name == _cookie(scope) and _equal(value, self._token) for name, _, value in cookies):
            return None
        return 401, "open the URL that toolwise view printed: it has the token", {}

    def _is_ours(self, hostname: str) -> bool:
        if hostname in LOOPBACK or hostname == self._host:
            return True
        if self._host not in _WILDCARD:
            return False
        # At all addresses of this machine: any of them, or its name. The token protects these.
        return hostname in self._names or _is_address(hostname)


def own_token() -> str:
    """A new token: 32 random bytes."""
    return secrets.token_urlsafe(32)


def _cookie(scope: Scope) -> str:
    """The name of the cookie, with the port: a browser sends the cookies of a host to all of its ports, and so to other viewers."""
    server = scope.get("server")
    return f"{COOKIE}_{server[1]}" if server else COOKIE


def _is_visit(scope: Scope, headers: dict[str, list[str]]) -> bool:
    """Whether somebody followed a link to the page itself, which holds nothing of a run."""
    modes, kinds = headers.get("sec-fetch-mode", []), headers.get("sec-fetch-dest", [])
    return scope["path"] == "/" and modes == ["navigate"] and kinds == ["document"]


def _hostname(host: str) -> str:
    """The host of a Host header, without its port; "" if it is none."""
    host = host.strip().lower()
    if host.startswith("["):
        inner, bracket, port = host[1:].partition("]")
        return inner if bracket and (not port or (port[0] == ":" and port[1:].isdecimal())) else ""
    name, colon, port = host.partition(":")
    return name.rstrip(".") if not colon or port.isdecimal() else ""


def _is_address(hostname: str) -> bool:
    try:
        ipaddress.ip_address(hostname)
        return True
    except ValueError:
        return False


def _own_names() -> Collection[str]:
    names = socket.gethostname().lower(), socket.getfqdn().lower()
    return {part for name in names for part in (name, name.partition(".")[0])}


def _equal(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "replace"), token.encode())


async def _answer(send: Send, status: int, text: str, headers: dict[str, str]) -> None:
    body = json.dumps({"error": text}).encode() if text else b""
    own = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Cache-Control": "no-store"} | headers
    await send(
        {"type": "http.response.start", "status": status, "headers": [(k.lower().encode(), v.encode()) for k, v in own.items()]}
    )
    await send({"type": "http.response.body", "body": body})
