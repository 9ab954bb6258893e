"""`evaluate` on real tools, with policies that are scripts: the records, the ablations and what is written."""

import json

import pytest

from configs import compose
from console import progress
from evaluation.evaluate import evaluate
from evaluation.settings import EvaluateConfig
from evaluation.types import EvaluationRecord
from starter.policies import find_policy


def run(out, *settings):
    """What the command does, on a Ray that stays for the next one."""
    return evaluate(compose("evaluate", EvaluateConfig, [f"out={out}", *settings]), find_policy("starter"), progress)


def read(out, name):
    return json.loads((out / name).read_text())


@pytest.fixture(scope="module")
def expert(cluster, tmp_path_factory):
    """The expert on all four abilities, with each tool taken away."""
    out = tmp_path_factory.mktemp("expert") / "run"
    run(out, "policy=expert", "tasks=toolwise/Mixture-v0", "episodes=24", "ablate=true")
    return out


@pytest.fixture(scope="module")
def swapped(cluster, tmp_path_factory):
    """The expert with what its tools return hidden."""
    out = tmp_path_factory.mktemp("swapped") / "run"
    run(out, "policy=expert", "tasks=toolwise/Mixture-v0", "episodes=24", "ablate=outputs")
    return out


def test_the_expert_is_always_right_and_each_record_says_which_tools_were_on(expert):
    records = read(expert, "evaluation.json")
    assert [record["label"] for record in records] == [
        "expert",
        *(f"expert/without {name}" for name in ("code", "text_search", "image_search", "tools")),
    ]
    assert records[0]["accuracy"] == 1.0
    assert records[0]["by_need"]["needed"]["tool_use"] == 1.0
    assert records[0]["tools"] == ["code", "text_search", "image_search"]
    assert records[2]["tools"] == ["code", "image_search"]
    assert set(records[0]["calls_by_tool"]) == {"code", "text_search", "image_search"}
    assert records[0]["pass_at_k"] == {"1": 1.0}
    assert (records[0]["tool_outputs"], records[0]["options"], records[0]["samples"]) == ("real", {"split": "test"}, 1)


@pytest.mark.parametrize("tool", ["code", "text_search", "image_search"])
def test_what_needs_a_tool_is_solved_only_with_it_and_the_rest_anyway(expert, tool):
    report = read(expert, "ablation.json")[f"without {tool}"]
    assert report["needed"]["accuracy_without"]["share"] <= 0.3
    assert report["needed"]["only_with"]["share"] >= 0.7
    assert report["not_needed"]["anyway"]["share"] == 1.0


def test_the_markdown_table_has_realx_benchs_form(expert):
    header = (expert / "evaluation.md").read_text().splitlines()[0]
    assert [cell.strip() for cell in header.split("|")[2:7]] == ["all", "perception", "reasoning", "search", "integration"]


@pytest.mark.parametrize("outputs", ["blank", "swapped"])
def test_answers_that_come_from_outputs_change_with_them(swapped, outputs):
    report = read(swapped, "ablation.json")[outputs]
    assert report["needed"]["accuracy_real"]["share"] == 1.0
    assert report["needed"]["answer_changes"]["share"] >= 0.7
    assert report["not_needed"]["answer_changes"]["share"] == 0.0


def test_the_same_seed_gives_the_same_numbers(expert, swapped):
    first, second = ({**read(out, "evaluation.json")[0], "seconds_per_episode": None} for out in (expert, swapped))
    assert first == second


def test_the_referee_writes_its_figures_into_the_contract_and_goes_on_where_it_was(cluster, tmp_path):
    """A second run with `resume` has every episode already, and says the same."""
    settings = ("policy=expert", "tasks=toolwise/Reasoning-v0", "episodes=8", "referee=true")
    evaluation = run(tmp_path / "run", *settings)
    assert evaluation.files == ("evaluation.json", "evaluation.md", "ablation.json", "evaluation.html")
    records = read(tmp_path / "run", "evaluation.json")
    names = ["without tools", "format only", "swapped", "result only"]
    assert [record["label"] for record in records] == ["expert", *(f"expert/{name}" for name in names)]
    assert [record["tool_outputs"] for record in records] == ["real", "real", "blank", "swapped", "real"]
    assert records[0]["referee"]["accuracy"]["value"] == records[0]["accuracy"] == 1.0
    assert records[0]["referee"]["adaptiveness_labelled"]["tool"]["value"] == 1.0
    assert set(records[0]["referee"]["settings"]) == {"format only", "swapped", "result only"}
    assert EvaluationRecord.from_json(records[0]).settings["referee"] == records[0]["referee"]
    assert set(read(tmp_path / "run", "ablation.json")) == {"left_out", "without tools", "format only", "swapped"}
    assert run(tmp_path / "run", *settings, "resume=true").referee == evaluation.referee
