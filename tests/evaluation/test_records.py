"""A record keeps the contract of `evaluation.json`, goes through JSON unchanged, replaces the one of its label, and is shown."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from trajectories import CODE, grouped, trajectory

from envs.errors import InfrastructureError
from evaluation.intervals import bootstrap_interval, wilson_interval
from evaluation.records import evaluation_record, merge, read_records, write_records
from evaluation.report import is_reliable, markdown, table, warnings
from evaluation.types import EvaluationRecord, NeedResults
from rollout.types import Episode, Group, StopReason

FAILED = trajectory([CODE], "d", 1, stop=StopReason.INFRASTRUCTURE, error="a worker died")
GROUPS = grouped(
    trajectory([CODE], "a", correct=True),
    trajectory([], "b"),
    trajectory([CODE], "c", correct=True, needs=False, abilities=("search",)),
    trajectory([], "d", correct=True, needs=None, abilities=("search", "faking")),
    FAILED,
)
FACTS = {"policy": "here", "tasks": "toolwise/Microworld-v0", "seed": 3, "temperature": 1.0}


def record(label="rl", groups=GROUPS, **more):
    return evaluation_record(label, groups, **FACTS, **more)


def test_the_json_of_a_record_is_the_contracts():
    settings = {"tool_outputs": "real", "options": {"split": "test"}, "samples": 1}
    plain = record(tools=["code"], settings=settings).to_json()
    need = {
        "needed": {"episodes": 2, "accuracy": 0.5, "tool_use": 0.5},
        "not_needed": {"episodes": 1, "accuracy": 1.0, "tool_use": 1.0},
    }
    expected = {
        "label": "rl",
        **FACTS,
        "tools": ["code"],
        **settings,
        "episodes": 4,
        "accuracy": 0.75,
        "ci95": list(wilson_interval(3, 4)),
        "pass_at_k": {"1": 0.75},
        "calls_per_episode": {"mean": 0.5, "var": 0.25},
        "by_need": need,
        "calls_by_tool": {"code": 0.5},
        "errors_by_tool": {"code": 0.0},
        "tokens_per_episode": 1.5,
        "seconds_per_episode": {"generate": pytest.approx(0.15), "tool": 0.5},
        "ends": {"ANSWERED": 1.0},
        "left_out": 1,
        "unplayed": 0,
        "unjudged": 0,
        "problems": [{"task": FAILED.task_id, "reason": FAILED.error}],
        "by_ability": {
            "faking": {
                "episodes": 3,
                "accuracy": 2 / 3,
                "ci95": list(wilson_interval(2, 3)),
                "pass_at_k": {"1": pytest.approx(2 / 3)},
                "calls_per_episode": {"mean": pytest.approx(1 / 3), "var": pytest.approx(2 / 9)},
                "by_need": {"needed": need["needed"]},
            },
            "search": {
                "episodes": 2,
                "accuracy": 1.0,
                "ci95": list(wilson_interval(2, 2)),
                "pass_at_k": {"1": 1.0},
                "calls_per_episode": {"mean": 0.5, "var": 0.25},
                "by_need": {"not_needed": need["not_needed"]},
            },
        },
    }
    assert plain == expected
    assert list(plain) == list(expected)
    assert json.loads(json.dumps(plain)) == plain


def test_a_record_comes_back_from_its_file(tmp_path):
    records = [record("base"), record("rl", tools=["code"], settings={"samples": 1})]
    write_records(tmp_path / "evaluation.json", records)
    assert read_records(tmp_path / "evaluation.json") == records
    assert read_records(tmp_path / "missing.json") == []


def test_a_record_of_the_contracts_fields_alone_is_read_and_written_unchanged():
    plain = record().to_json()
    for name in ("pass_at_k", "calls_by_tool", "errors_by_tool", "tokens_per_episode", "seconds_per_episode", "ends"):
        del plain[name]
    assert EvaluationRecord.from_json(plain).to_json() == plain


@pytest.mark.parametrize("name", ["label", "accuracy", "ci95", "calls_per_episode"])
def test_a_record_without_a_field_of_the_contract_is_refused(name):
    plain = record().to_json()
    del plain[name]
    with pytest.raises(ValueError, match=f"not an evaluation record: .*{name}"):
        EvaluationRecord.from_json(plain)


def test_several_episodes_an_item_give_the_bootstraps_interval_and_pass_at_k():
    groups = grouped(
        *(trajectory([], group, number, correct=number < right) for group, right in (("a", 1), ("b", 4)) for number in range(4))
    )
    result = record(groups=groups)
    assert result.pass_at_k == {"1": 0.625, "2": 0.75, "4": 1.0}
    assert result.ci95 == bootstrap_interval([0.25, 1.0])


def test_an_episode_of_several_chains_counts_once():
    whole = trajectory([CODE], "a", correct=True)
    names = ("token_ids", "loss_mask", "logprobs", "versions")
    chains = tuple(
        replace(
            whole,
            **{name: getattr(whole, name)[start : start + 2] for name in names},
            chain=start // 2,
            turns=[whole.turns[start // 2]],
        )
        for start in (0, 2)
    )
    assert record(groups=[Group("a", (Episode(chains),))]) == record(groups=grouped(whole))


def test_without_an_outcome_there_is_no_record():
    with pytest.raises(InfrastructureError, match="all 1 of them failed"):
        record(groups=grouped(FAILED))


def test_a_record_replaces_the_one_of_its_label_and_the_others_follow():
    base, rl = record("base"), record("rl")
    newer, control = replace(base, accuracy=1.0), record("control")
    assert merge([base, rl], [newer, control]) == [newer, rl, control]


def test_records_are_shown_side_by_side():
    base = record("base")
    rl = replace(base, label="rl", accuracy=1.0, by_need={"needed": NeedResults(1, 1.0, 0.25)})
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table([base, rl]))
    text = console.export_text()
    low, high = (100 * bound for bound in base.ci95)
    assert f"75.0 % ({low:.1f}–{high:.1f})" in text
    assert all(part in text for part in ("100.0 %", "25.0 %", "0.50 (0.25)", "–"))


def test_the_table_has_accuracy_and_use_by_need_and_no_such_rows_if_no_need_is_known():
    def rows(*records):
        console = Console(width=132, record=True, file=io.StringIO())
        console.print(table(records))
        cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines() if "│" in line]
        return {name: values for name, *values in reversed(cells)}

    old = replace(record("old"), by_need={})
    known = rows(record(), old)
    assert known["accuracy if a tool is needed"] == known["used a tool if one is needed"] == ["50.0 % of 2", "–"]
    assert known["accuracy if none is needed"] == known["used a tool if none is needed"] == ["100.0 % of 1", "–"]
    assert not [name for name in rows(replace(old, by_ability={})) if "needed" in name]


def test_the_figures_of_four_records_stand_on_one_line_each_at_132_columns():
    console = Console(width=132, record=True, file=io.StringIO())
    console.print(table([record(label) for label in ("base", "cold_start", "rl", "control")]))
    row = next(line for line in console.export_text().splitlines() if "search (2 episodes): accuracy (95 %)" in line)
    assert row.count(" % (") == 4


def test_the_markdown_table_has_realx_benchs_order():
    groups = grouped(trajectory(group="a", abilities=("integration", "search", "own", "perception")))
    header, _, row = markdown([record(groups=groups)]).splitlines()
    assert [cell.strip() for cell in header.split("|")[2:7]] == ["all", "perception", "search", "integration", "own"]
    assert row.startswith("| rl | 0.0 % (")


REFUSED = trajectory(group="r", stop=StopReason.ABORTED, error="refused (400): filtered")


def test_a_question_that_was_not_played_is_wrong_in_every_figure():
    refused = record(groups=grouped(trajectory(correct=True), REFUSED))
    assert (refused.episodes, refused.accuracy, refused.unplayed, refused.left_out) == (2, 0.5, 1, 0)


@pytest.mark.parametrize("problem", [FAILED, REFUSED])
def test_episodes_that_are_missing_or_not_played_are_told_in_table_and_markdown(problem):
    found = record(groups=grouped(problem, *(trajectory([], f"g{number}") for number in range(19))))
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table([found]))
    text = console.export_text()
    assert "left out: infrastructure failed" in text and "not played: counted as wrong" in text
    assert f"({found.episodes}{' of 20' if problem is FAILED else ''} episodes)" in text
    assert f"- rl: {problem.task_id}: {problem.error}" in markdown([found]).splitlines()


UNJUDGED = trajectory(group="u", reward_parts={"accuracy": 0.0, "judge_no_verdict": 1.0})


def test_an_answer_without_a_verdict_is_counted():
    found = record(groups=grouped(trajectory(correct=True), UNJUDGED))
    assert (found.episodes, found.accuracy, found.unjudged) == (2, 0.5, 1)
    assert "1 got no verdict of the judge" in markdown([found])


@pytest.mark.parametrize(("others", "warned", "reliable"), [(199, False, True), (50, True, True), (8, True, False)])
@pytest.mark.parametrize("problem", [FAILED, REFUSED])
def test_above_one_percent_is_a_warning_and_above_ten_no_result(problem, others, warned, reliable):
    found = [record(groups=grouped(problem, *(trajectory([], f"g{number}") for number in range(others))))]
    assert (bool(warnings(found)), is_reliable(found)) == (warned, reliable)
    assert all(str(problem.error) in line and f"of {others + 1} episodes" in line for line in warnings(found))


def test_a_record_without_problems_warns_of_nothing():
    assert warnings([record(groups=grouped(trajectory()))]) == []


def test_problems_beyond_those_that_are_named_are_counted():
    text = markdown([record(groups=grouped(trajectory(), *(replace(REFUSED, group_id=f"r{number}") for number in range(25))))])
    assert text.count("refused (400): filtered") == 21  # 20 and the warning's example
    assert text.splitlines()[-1] == "- rl: and 5 more"


def test_needs_that_no_tool_meets_are_a_note():
    made = record(offered=("text_search", "shelf"))
    (note,) = made.settings["notes"]
    assert note.startswith("2 of 4 tasks need code, but the tools are text_search, shelf: ")


@pytest.mark.parametrize("offered", [(), ("code", "shelf")], ids=["no tools", "met"])
def test_needs_that_are_met_or_that_no_tool_could_meet_are_no_note(offered):
    assert "notes" not in record(offered=offered).settings


def test_the_only_ability_of_all_tasks_is_not_told_twice():
    console = Console(width=132, record=True, file=io.StringIO())
    console.print(table([record(groups=grouped(trajectory([CODE], "a"), trajectory([], "b")))]))
    (line,) = (line for line in console.export_text().splitlines() if "accuracy (95 %)" in line)
    assert "all (faking): accuracy (95 %)" in line


def test_episodes_that_a_deadline_cut_off_are_a_note():
    cut = trajectory([CODE], "e", stop=StopReason.TIME_LIMIT, cut="rollout.episode.turn_s=4 s")
    (note,) = record(groups=grouped(trajectory(), cut)).settings["notes"]
    assert note.startswith("1 of 2 episodes were cut off by rollout.episode.turn_s=4 s, and have the reward")
