"""The text index behind Ray Serve, by the command: a retrieval server in Search-R1's form that our own client asks unchanged."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from envs.search.backends import open_text_search
from envs.search.text.index import TextIndex
from envs.search.types import Document

ROOT = Path(__file__).parents[3]
DOCUMENTS = [Document("Chad", "The capital is N'Djamena.", "book"), Document("Niger", "The capital is Niamey.", "atlas")]


def start(*settings):
    command = [sys.executable, str(ROOT / "toolwise.py"), "serve-search", *settings]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    directory = tmp_path_factory.mktemp("search") / "index"
    TextIndex.build(DOCUMENTS, directory)
    return directory


@pytest.fixture(scope="module")
def served(index):
    """The process and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(f"index={index}", f"port={port}", "replicas=2", "cpus_per_replica=0.5")
    try:
        line = next((line for line in process.stdout if line.startswith("serving ")), None)
        assert line is not None, process.stderr.read()
        yield process, line.split()[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)


async def test_our_own_client_finds_what_the_index_finds(served, index):
    search = open_text_search(served[1])
    assert await search.search(["capital of Niger", "Chad"], 2) == await TextIndex.open(index).search(
        ["capital of Niger", "Chad"], 2
    )


def test_the_form_is_search_r1s(served):
    answer = httpx.post(served[1], json={"queries": ["Niamey"], "topk": 1, "return_scores": True}, timeout=30).json()
    ((found,),) = answer["result"]
    assert found["document"]["contents"] == '"Niger"\nThe capital is Niamey.'
    assert found["score"] > 0


@pytest.mark.parametrize("body", [{"queries": "Chad"}, {"queries": ["Chad"], "topk": 0}, [1]])
def test_another_form_is_answered_with_the_right_one(served, body):
    answer = httpx.post(served[1], json=body, timeout=30)
    assert answer.status_code == 422
    assert "write" in answer.json()["error"]


def test_a_taken_port_is_named(served, index):
    port = served[1].rsplit(":", 1)[1].split("/")[0]
    process = start(f"index={index}", f"port={port}")
    _, message = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"port={port}" in message.strip() and "\n" not in message.strip()


def test_a_directory_without_an_index_is_named(tmp_path):
    process = start(f"index={tmp_path}")
    _, message = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "toolwise index" in message


def test_it_ends_on_a_signal_and_frees_the_port(served):
    process, url = served
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    deadline = time.monotonic() + 10
    with pytest.raises(httpx.ConnectError):
        while time.monotonic() < deadline:
            httpx.get(url, timeout=5)
