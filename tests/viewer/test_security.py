"""Who gets an answer: requests that name this server and come from its own page or from nowhere, only to read, with the token at
other addresses than loopback. No path leads out of the page's files and the runs, and every answer has the security headers."""

import socket
import threading

import pytest
import uvicorn
from shown import PIXEL, Shown, group
from trajectories import trajectory

from rollout.types import Turn
from viewer.app import PAGE, application
from viewer.security import HEADERS, is_loopback
from viewer.serve import listening

TOKEN = "secret-token"
SHA = "a" * 64


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory):
    from rollout.store import Store
    from rollout.types import Episode

    run = tmp_path_factory.mktemp("runs") / "demo"
    shown = trajectory(images=[SHA], turns=[Turn(action="x", images=[SHA])])
    Store(run).write("episodes", [Episode((shown,), {SHA: PIXEL}), *(Episode((one,)) for one in group("b", [1]))])
    return run


@pytest.fixture(scope="module")
def shown(run_directory, tmp_path_factory):
    started = Shown(run_directory, cache=tmp_path_factory.mktemp("cache"))
    started.settled()
    yield started
    started.viewer.indexer.close()


@pytest.fixture(scope="module")
def guarded(run_directory, tmp_path_factory):
    """A server at an address that others reach."""
    started = Shown(run_directory, cache=tmp_path_factory.mktemp("guarded"), host="192.0.2.7", token=TOKEN)
    yield started
    started.viewer.indexer.close()


@pytest.fixture(scope="module")
def address(shown):
    """A real server at loopback, for what a client library would not send."""
    with listening("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(application(shown.viewer), http="h11", ws="none", log_level="critical"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


def raw(address, target, *headers, method="GET"):
    """Status and body of the answer to a request whose target is sent as it stands."""
    with socket.create_connection(address, timeout=10) as connection:
        lines = [f"{method} {target} HTTP/1.1", *headers, "Connection: close", "", ""]
        connection.sendall("\r\n".join(lines).encode("latin-1"))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize(
    "target",
    [
        "/page/../app.py",
        "/page/..%2fapp.py",
        "/page/%2e%2e/app.py",
        "/page/..%5capp.py",
        "/page//etc/passwd",
        "/page/%2fetc%2fpasswd",
        "/../../../../etc/passwd",
        "/api/runs/demo/images/../../config.yaml",
        "/api/runs/demo/images/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        f"/api/runs/demo/images/{SHA}%00.png",
        f"/api/runs/demo/images/..%2fimages%2f{SHA}",
        "/api/runs/../runs/demo/metrics",
        "/api/runs/..%2f..%2fetc/metrics",
        "/api/runs/demo/episodes/..%2f..%2fconfig.yaml",
        "/api/runs/demo/groups/%00",
        "/api/runs/demo/episodes/%ff%fe",
        "http://evil.example/api/runs",
        "/api",
        "//",
        "/%",
        "/" + "a" * 20_000,
    ],
    ids=lambda target: target[:60],
)
def test_no_path_leads_elsewhere(address, target):
    status, body = raw(address, target, f"Host: 127.0.0.1:{address[1]}")
    assert 400 <= status < 500, body
    assert b"root:" not in body


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Host: evil.example",),
        ("Host: evil.example:8642",),
        ("Host: 127.0.0.1.evil.example",),
        ("Host: localhost@evil.example",),
        ("Host: 127.0.0.1", "Host: evil.example"),
        ("Host: 10.0.0.1",),
        ("Host: [::1",),
        ("Host: 127.0.0.1", "Origin: http://evil.example"),
        ("Host: 127.0.0.1", "Origin: null"),
        ("Host: 127.0.0.1", "Origin: http://127.0.0.1:9999"),
        ("Host: 127.0.0.1", "Sec-Fetch-Site: cross-site"),
        ("Host: 127.0.0.1", "Sec-Fetch-Site: same-site"),
        ("Host: 127.0.0.1", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"),
        ("Host: 127.0.0.1", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"),
    ],
    ids=str,
)
def test_requests_of_others_are_refused(address, headers):
    status, body = raw(address, "/api/runs", *headers)
    assert status in (400, 403), body
    assert b"demo" not in body


@pytest.mark.parametrize("host", ["127.0.0.1:8642", "localhost", "LOCALHOST:1", "[::1]:8642"])
def test_loopback_is_answered_by_any_of_its_names(address, host):
    assert raw(address, "/api/runs", f"Host: {host}", f"Origin: http://{host}", "Sec-Fetch-Site: same-origin")[0] == 200


def test_a_link_to_the_page_may_stand_on_another_site_but_not_frame_it(shown):
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert shown.client.get("/", headers=visit).status_code in (200, 404)
    assert shown.client.get("/", headers=visit | {"Sec-Fetch-Dest": "iframe"}).status_code == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
def test_nothing_can_be_written(address, method):
    assert raw(address, "/api/runs", f"Host: 127.0.0.1:{address[1]}", method=method)[0] in (400, 405)


def test_every_answer_has_the_security_headers(shown, guarded):
    for client, paths in ((shown.client, ("/api/runs", "/", "/none", f"/api/runs/demo/images/{SHA}")), (guarded.client, ("/",))):
        for path in paths:
            headers = client.get(path).headers
            assert {name: headers.get(name) for name in HEADERS} == HEADERS, path
    assert shown.client.post("/").headers["content-security-policy"] == HEADERS["Content-Security-Policy"]


def test_a_head_request_and_a_compressed_answer(shown):
    assert shown.client.head("/api/runs").status_code == 200
    answer = shown.client.get("/api/runs/demo/groups/b?tokens=1", headers={"Accept-Encoding": "gzip"})
    plain = shown.client.get("/api/runs/demo/groups/b?tokens=1", headers={"Accept-Encoding": "identity"})
    assert (answer.headers["content-encoding"], "content-encoding" in plain.headers) == ("gzip", False)
    assert answer.json() == plain.json()


def test_at_other_addresses_the_token_is_needed(guarded):
    client = guarded.client
    assert client.get("/api/runs").status_code == 401
    assert client.get("/api/runs", params={"token": "wrong"}).status_code == 401
    assert client.get("/api/runs", headers={"Cookie": "toolwise_view=wrong"}).status_code == 401
    assert client.get("/api/runs", headers={"Host": "evil.example"}).status_code == 403
    first = client.get("/", params={"token": TOKEN, "x": "1"})
    assert (first.status_code, first.headers["location"]) == (303, "/?x=1")
    assert {"HttpOnly", "SameSite=Strict"} <= {part.strip() for part in first.headers["set-cookie"].split(";")}
    assert TOKEN not in first.headers["location"]
    assert client.get("/api/runs").status_code == 200


def test_at_all_addresses_a_server_has_this_machines_names_and_any_address(run_directory, tmp_path):
    everywhere = Shown(run_directory, cache=tmp_path, host="0.0.0.0", token=TOKEN)
    try:
        asked = {
            host: everywhere.client.get("/api/runs", headers={"Host": host}).status_code
            for host in (socket.gethostname(), "192.0.2.9", "evil.example")
        }
        assert list(asked.values()) == [401, 401, 403]
    finally:
        everywhere.viewer.indexer.close()


def test_a_redirect_stays_on_this_server(guarded):
    answer = guarded.client.get("http://192.0.2.7:8642//evil.example", params={"token": TOKEN})
    assert answer.headers["location"] == "/evil.example"
    answer = guarded.client.get("http://192.0.2.7:8642/%5Cevil.example", params={"token": TOKEN})
    assert answer.headers["location"] == "/"


def test_two_viewers_of_a_host_keep_their_cookies_apart(guarded):
    set_by = [
        guarded.client.get(f"http://192.0.2.7:{port}/", params={"token": TOKEN}).headers["set-cookie"].partition("=")[0]
        for port in (8642, 8643)
    ]
    assert len(set(set_by)) == 2


def test_the_token_is_left_out_at_loopback_only():
    assert [is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.0.2.7", "localhost.evil.example", "")] == [False] * 5


def test_the_page_names_no_other_server():
    for path in PAGE.rglob("*"):
        if path.suffix in (".html", ".css", ".js"):
            text = path.read_text().replace("http://www.w3.org/", "")
            assert "http://" not in text and "https://" not in text and "//cdn" not in text, path
