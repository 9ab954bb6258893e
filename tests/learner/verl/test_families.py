"""Every family learns on the learner's worker what it would on plain Hugging Face: log-probabilities, loss and gradient.

Several turns, images in the question and of tools, some of them shared, a sequence without any, more than one micro-batch.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from families import FAMILIES

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What `family_reference.py` found, in a process of its own, since verl changes classes of transformers."""
    path = tmp_path_factory.mktemp("families") / "found.json"
    script = Path(__file__).with_name("family_reference.py")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, path], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "qwen3_5"])
def test_the_worker_computes_what_hugging_face_computes(found, name):
    assert found[name]["tokens"] > 50
    assert found[name]["log_probs"] < 1e-5
    assert found[name]["loss"] < 1e-5
    assert found[name]["grad_norm"] < 1e-5


def test_a_model_that_runs_on_into_the_next_sequence_is_refused_in_one_line(found):
    """Qwen3.5's layers of gated delta rule carry a state from token to token."""
    assert "linear_attention" in found["qwen3_5"]["refused"]
    assert "\n" not in found["qwen3_5"]["refused"]
