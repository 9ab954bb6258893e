"""Evaluation: intervals and pass@k by published or computed figures; ablations say which tools were needed and which outputs were
used; two runs are compared item by item. The commands run on real tools, with policies that are scripts."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from configs import compose
from console import progress
from evaluation.comparison import compare
from evaluation.evaluate import EvaluateConfig, measure
from evaluation.intervals import bootstrap_interval, mcnemar_p, pass_at_k
from rollout.cluster.connect import join
from rollout.collect import Collector
from rollout.config import RolloutConfig
from starter.policies import find_policy

ROOT = Path(__file__).parents[2]


def evaluate(out, *settings):
    """What the command does, on a Ray that stays for the next one."""
    return measure(compose("evaluate", EvaluateConfig, [f"out={out}", *settings]), find_policy("starter"), progress)


def compare_command(first, second):
    command = [sys.executable, str(ROOT / "toolwise.py"), "evaluate", f"compare=[{first},{second}]"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


def read(out, name):
    return json.loads((out / name).read_text())


@given(correct=st.integers(0, 8), k=st.integers(1, 8))
def test_pass_at_k_is_the_share_of_samples_of_k_that_hold_a_right_one(correct, k):
    from itertools import combinations

    outcomes = [True] * correct + [False] * (8 - correct)
    assert pass_at_k(correct, 8, k) == pytest.approx(np.mean([any(chosen) for chosen in combinations(outcomes, k)]))


@pytest.mark.parametrize(("first", "second", "p"), [(0, 0, 1.0), (0, 6, 0.03125), (1, 9, 0.021484375), (5, 5, 1.0)])
def test_mcnemars_exact_p(first, second, p):
    assert mcnemar_p(first, second) == pytest.approx(p)


def test_the_bootstrap_covers_the_mean_and_is_repeatable():
    means = np.random.default_rng(0).random(200)
    low, high = bootstrap_interval(means)
    assert low < means.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * means.std() / np.sqrt(200), rel=0.1)
    assert bootstrap_interval(means) == [low, high]


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, as the commands start it."""
    ray.shutdown()
    join(RolloutConfig())
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def oracle(cluster, tmp_path_factory):
    """The oracle on all four abilities, with each tool taken away."""
    out = tmp_path_factory.mktemp("oracle") / "run"
    evaluate(out, "policy=oracle", "tasks=toolwise/Mixture-v0", "episodes=48", "ablate=true")
    return out


@pytest.fixture(scope="module")
def swapped(cluster, tmp_path_factory):
    """The oracle with what its tools return hidden."""
    out = tmp_path_factory.mktemp("swapped") / "run"
    evaluate(out, "policy=oracle", "tasks=toolwise/Mixture-v0", "episodes=48", "ablate=outputs")
    return out


def test_the_oracle_is_always_right_and_each_record_says_which_tools_were_on(oracle):
    records = read(oracle, "evaluation.json")
    assert [record["label"] for record in records] == [
        "oracle",
        *(f"oracle/without {name}" for name in ("code", "text_search", "image_search", "tools")),
    ]
    assert records[0]["accuracy"] == 1.0
    assert records[0]["by_need"]["needed"]["tool_use"] == 1.0
    assert records[0]["tools"] == ["code", "text_search", "image_search"]
    assert records[2]["tools"] == ["code", "image_search"]
    assert set(records[0]["calls_by_tool"]) == {"code", "text_search", "image_search"}
    assert records[0]["pass_at_k"] == {"1": 1.0}
    assert (records[0]["tool_outputs"], records[0]["options"], records[0]["samples"]) == ("real", {"split": "test"}, 1)


@pytest.mark.parametrize("tool", ["code", "text_search", "image_search"])
def test_what_needs_a_tool_is_solved_only_with_it_and_the_rest_anyway(oracle, tool):
    report = read(oracle, "ablation.json")[f"without {tool}"]
    assert report["needed"]["accuracy_without"]["share"] <= 0.3
    assert report["needed"]["only_with"]["share"] >= 0.7
    assert report["not_needed"]["anyway"]["share"] == 1.0


def test_the_markdown_table_has_realx_benchs_form(oracle):
    header = (oracle / "evaluation.md").read_text().splitlines()[0]
    assert [cell.strip() for cell in header.split("|")[2:7]] == ["all", "perception", "reasoning", "search", "integration"]


@pytest.mark.parametrize("outputs", ["blank", "swapped"])
def test_answers_that_come_from_outputs_change_with_them(swapped, outputs):
    report = read(swapped, "ablation.json")[outputs]
    assert report["needed"]["accuracy_real"]["share"] == 1.0
    assert report["needed"]["answer_changes"]["share"] >= 0.7
    assert report["not_needed"]["answer_changes"]["share"] == 0.0


def test_a_run_compared_with_itself_does_not_differ(oracle):
    result = compare_command(oracle, oracle)
    assert result.returncode == 0, result.stderr
    assert "+0.0 points" in result.stdout


def write_run(directory, lines):
    """A directory as `evaluate` writes it, with these episodes."""
    (directory / "trajectories").mkdir(parents=True)
    (directory / "trajectories/episodes.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return directory


def test_runs_on_other_items_are_not_compared(oracle, tmp_path):
    lines = (oracle / "trajectories/episodes.jsonl").read_text().splitlines()
    result = compare_command(oracle, write_run(tmp_path / "run", lines[:-1]))
    assert result.returncode == 2
    assert "same items" in result.stderr


def test_items_that_the_machine_failed_are_left_out_of_a_comparison(oracle, tmp_path):
    lines = (oracle / "trajectories/episodes.jsonl").read_text().splitlines()
    record = json.loads(lines[0]) | {"stop_reason": "INFRASTRUCTURE", "task_id": ""}
    report = compare(str(oracle), str(write_run(tmp_path / "run", [json.dumps(record), *lines[1:]])))
    assert (report["items"], report["difference"]) == (len(lines) - 1, 0.0)


def test_every_row_of_a_file_is_asked_once(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"question": f"Q{n}", "answer": "A"}) + "\n" for n in range(5)))
    config = compose("evaluate", EvaluateConfig, [f"out={tmp_path}/run", f"tasks={path}", "policy=random", "group_size=2"])
    assert [spec.env_kwargs["row"] for spec in Collector(config, find_policy("starter")).specs] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_a_driver_that_is_told_to_end_can_close_what_it_holds(cluster):
    """Ray's own handler would print a stack and die."""
    never = ray.remote(num_cpus=0)(lambda: time.sleep(60)).remote()
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(KeyboardInterrupt):
        ray.get(never, timeout=20)
    ray.cancel(never, force=True)


def test_the_same_seed_gives_the_same_numbers(oracle, swapped):
    first, second = ({**read(out, "evaluation.json")[0], "seconds_per_episode": None} for out in (oracle, swapped))
    assert first == second
