"""Ablations run the same episodes with something changed, and say of each item whether that made a difference."""

import pytest
from trajectories import CODE, grouped, trajectory

from envs.tools.outputs import BLANK
from evaluation.ablation import (
    FULL,
    AblationReport,
    ablation_table,
    causal_use,
    necessity,
    paired,
    report_json,
    with_outputs,
    without_tools,
)
from evaluation.intervals import bootstrap_interval, discordant_interval, mcnemar_p, wilson_interval
from rollout.specs import group_specs
from rollout.types import StopReason

SPECS = group_specs("x", ("Some-v0", {"need": 1.0}), groups=2, group_size=2, seed=0)


def test_variants_run_the_same_episodes_with_other_options_and_names():
    variants = without_tools(SPECS, ["code", "search"])
    assert {name: groups[0].episodes[0].env_kwargs["without"] for name, groups in variants.items()} == {
        FULL: [],
        "without code": ["code"],
        "without search": ["search"],
        "without tools": ["code", "search"],
    }
    changed, original = variants["without code"][1].episodes[1], SPECS[1].episodes[1]
    assert (changed.env_seed, changed.sampling_seed) == (original.env_seed, original.sampling_seed)
    assert (changed.group_id, changed.env_kwargs["need"]) == ("x-0-1 without code", 1.0)
    assert changed.group_id == variants["without code"][1].group_id
    assert "without tools" not in without_tools(SPECS, ["code"])


def test_hidden_outputs_are_an_option_too(tmp_path):
    variants = with_outputs(SPECS, tmp_path)
    outputs = {name: groups[0].episodes[0].env_kwargs["tool_outputs"] for name, groups in variants.items()}
    assert outputs == {"blank": BLANK, "swapped": str(tmp_path)}


def items(*outcomes, **facts):
    """A group of one episode for each outcome, by name."""
    return grouped(*(trajectory([CODE], f"g{number}", correct=outcome, **facts) for number, outcome in enumerate(outcomes)))


def test_an_item_that_failed_in_one_variant_is_left_out_of_all():
    broken = grouped(trajectory(group="g0", stop=StopReason.INFRASTRUCTURE), trajectory(group="g1"))
    assert {name: [one.group_id for one in part] for name, part in paired({FULL: items(1, 1), "blank": broken}).items()} == {
        FULL: ["g1"],
        "blank": ["g1"],
    }


def share(count, total):
    return {"share": count / total, "ci95": wilson_interval(count, total)}


def test_necessity_by_hand():
    report = necessity(paired({FULL: items(1, 1, 0, 0), "without code": items(0, 1, 1, 0)}))
    assert report_json(AblationReport(report, left_out=2)) == {
        "left_out": 2,
        "without code": {
            part: {
                "episodes": 4,
                "only_with": share(1, 4),
                "anyway": share(1, 4),
                "broken_by": share(1, 4),
                "never": share(1, 4),
                "accuracy_without": share(2, 4),
                "difference": {"value": 0.0, "ci95": discordant_interval(1, 1, 4), "p": 1.0},
            }
            for part in ("all", "needed")
        },
    }


def test_an_item_needs_the_tool_that_was_taken_away():
    full = [*items(1, needs=True), *items(1, needs=False), *items(1, needs=None)]
    report = necessity(paired({FULL: full, "without code": full, "without search": full, "without tools": full}))
    counts = {name: {part: result.episodes for part, result in parts.items()} for name, parts in report.items()}
    assert counts == {
        "without code": {"all": 3, "needed": 1, "not_needed": 1},
        "without search": {"all": 3, "not_needed": 2},
        "without tools": {"all": 3, "needed": 1, "not_needed": 1},
    }


def test_causal_use_by_hand():
    """Four episodes called a tool, one did not. Two answers change; they were right, and are wrong then."""
    real = [*items(1, 1, 0, 1), *grouped(trajectory(group="h", answer="z"))]
    hidden = [*items(0, 0, answer="other"), *items(0, 1), *grouped(trajectory(group="h", answer="y"))]
    report = causal_use(paired({FULL: real, "blank": hidden}))
    assert report_json(AblationReport(report, 0))["blank"]["all"] == {
        "episodes": 4,
        "answer_changes": share(2, 4),
        "accuracy_real": share(3, 4),
        "accuracy_then": share(1, 4),
        "difference": {"value": 0.5, "ci95": discordant_interval(0, 2, 4), "p": mcnemar_p(0, 2)},
    }


def test_the_table_has_a_row_for_each_part():
    report = necessity(paired({FULL: items(1, 0), "without code": items(0, 0)}))
    table = ablation_table(AblationReport(report, left_out=3))
    assert table.row_count == 2
    assert [column.header for column in table.columns][2:4] == ["episodes", "only with"]
    assert "3 episodes left out" in str(table.title)
    assert ablation_table(AblationReport({}, 0)).row_count == 0


def test_samples_of_one_item_are_no_more_than_one_item():
    """Two items of two samples each: one always solved, one never. Wilson's interval would take four episodes for independent."""
    solved = [trajectory([CODE], "a", number, correct=True) for number in range(2)]
    unsolved = [trajectory([CODE], "b", number) for number in range(2)]
    report = causal_use(paired({FULL: grouped(*solved, *unsolved), "blank": grouped(*solved, *unsolved)}))
    assert report["blank"]["all"].accuracy_real.ci95 == bootstrap_interval([1.0, 0.0])


def test_the_difference_is_that_of_the_accuracies_beside_it():
    """Five samples of one item call a tool, one of another's: that one is wrong without the output."""
    real = grouped(*(trajectory([CODE], "a", number, correct=True) for number in range(5)), trajectory([CODE], "b", correct=True))
    blank = grouped(*(trajectory([CODE], "a", number, correct=True) for number in range(5)), trajectory([CODE], "b"))
    use = causal_use(paired({FULL: real, "blank": blank}))["blank"]["all"]
    assert use.difference.value == pytest.approx(use.accuracy_real.share - use.accuracy_then.share) == pytest.approx(1 / 6)
    low, high = use.difference.ci95
    assert low <= use.difference.value <= high and use.difference.p == 1.0


def test_items_that_ask_the_same_question_are_one():
    groups = items(1, 1, 0)
    pairs = paired({FULL: groups, "blank": groups}, {"task-g0": "q", "task-g1": "q"})
    assert [one.group_id for one in pairs[FULL]] == ["q", "q", "g2"]
    assert causal_use(pairs)["blank"]["all"].accuracy_real.ci95 == bootstrap_interval([1.0, 0.0], [2, 1])


def test_what_a_user_took_away_stays_away():
    mine = group_specs("x", ("Some-v0", {"without": ["search"]}), groups=1, seed=0)
    assert without_tools(mine, ["code"])["without code"][0].episodes[0].env_kwargs["without"] == ["search", "code"]


@pytest.mark.parametrize("part", ["all", "needed"])
def test_shares_carry_wilsons_interval(part):
    report = causal_use(paired({FULL: items(1, 1, 0), "blank": items(1, 0, 0)}))
    assert report["blank"][part].accuracy_then.ci95 == wilson_interval(1, 3)
