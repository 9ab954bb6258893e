"""The examples run as they stand, and say what their documents promise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from openai_server import Server

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(*command, **variables):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, env=os.environ | variables)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_tool", ["69.8 °F", "Wrong arguments for convert", "ok x=40, y=20 [(16, 16)]", "'accuracy': 1.0"]),
        ("own_environment", ["How many a in", "<answer>", "'brief': 1.0"]),
        ("own_protocol", ["'42'", "terminated True"]),
        (
            "sandbox_alone",
            ["285", "[(64, 64)]", "ZeroDivisionError", "variables are kept", "there is no directory /etc", "there is no network"],
        ),
    ],
)
def test_it_runs(name, said):
    result = run(sys.executable, f"examples/{name}.py")
    assert result.returncode == 0, result.stderr
    assert [text for text in said if text not in result.stdout] == []


def test_an_endpoint_is_measured(cluster, tmp_path):
    """On the Ray that the tests share, by its address, as on a cluster."""
    server = Server("7")
    try:
        script = [EXAMPLES / "evaluate_endpoint.sh", server.url, "model", "episodes=4", "tasks=toolwise/Reasoning-v0"]
        toolwise = str(Path(sys.executable).with_name("toolwise"))
        places = {"TOOLWISE": toolwise, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        result = run(*script, f"out={tmp_path}/endpoint", **places, OPENAI_API_KEY="none")
    finally:
        server.close()
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "endpoint/evaluation.json").is_file()
    assert server.requests[0]["tools"][0]["function"]["name"] == "code"


def test_the_endpoint_script_says_what_it_takes():
    result = run(EXAMPLES / "evaluate_endpoint.sh")
    assert result.returncode == 2
    assert "URL MODEL" in result.stderr


def test_they_stay_short():
    assert [path.name for path in EXAMPLES.iterdir() if path.is_file() and len(path.read_text().splitlines()) > 60] == []
