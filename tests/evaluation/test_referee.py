"""The referee's figures equal an independent computation on outcomes made by hand, and have their known values for policies whose
use of tools is known, in real episodes of the microworld."""

import asyncio
import itertools
from dataclasses import asdict, replace

import numpy as np
import pytest
import synthetic  # noqa: F401  registers the policies
from omegaconf import OmegaConf
from trajectories import CODE, grouped, trajectory

from configs.evaluating import evaluation_settings
from envs.errors import UsageError
from evaluation.ablation import FULL, paired
from evaluation.evaluate import judged_policy, plan
from evaluation.intervals import mcnemar_p, paired_difference, sign_flip_p, wilson_interval
from evaluation.referee.figures import judge
from evaluation.referee.med import TERMS, med
from evaluation.referee.outcomes import WITHOUT, outcomes_of
from evaluation.referee.parties import announcement, run_policies
from evaluation.referee.report import judged, med_json, referee_markdown
from evaluation.referee.variants import FORMAT_ONLY, RESULT_ONLY, SWAPPED, VARIANTS, run_variants
from evaluation.settings import EvaluateConfig
from rollout.episode.environments import make
from rollout.episode.loop import run_episode
from rollout.specs import group_specs
from rollout.tokens.chat_format import ChatFormat
from rollout.types import Group, StopReason
from sandbox import Pool
from starter.policies import find_policy
from toolwise import _begun

ITEMS = 12
MANNERS = ("never", "always", "needed", "ignores")


# Outcomes made by hand: a row for each sample of an item: right with tools, called, right without tools.
def by_hand(rng, items, samples):
    return rng.integers(2, size=(items, samples, 3))


def variants_of(outcomes):
    """Groups with all tools and without any, as they come from a fleet; every other item needs a tool."""

    def groups(right, called):
        samples = [(item, number, sample) for item, samples in enumerate(outcomes) for number, sample in enumerate(samples)]
        return grouped(
            *(
                trajectory(
                    [CODE] * int(called is not None and sample[called]),
                    f"g{item}",
                    number,
                    correct=bool(sample[right]),
                    needs=item % 2 == 0,
                )
                for item, number, sample in samples
            )
        )

    return {FULL: groups(0, 1), WITHOUT: groups(2, None)}


def outcomes(table):
    return outcomes_of(paired(variants_of(table)))


@pytest.mark.parametrize("samples", [1, 5])
def test_figures_equal_an_independent_computation(samples):
    table = by_hand(np.random.default_rng(samples), 40, samples)
    right, called, without = (table[:, :, place].astype(bool) for place in range(3))
    rate = without.mean(axis=1)
    hard, easy = rate <= 0.2 + 1e-12, rate >= 0.8 - 1e-12
    found = judge(outcomes(table))
    label = np.arange(40) % 2 == 0
    assert found.adaptiveness_labelled.mean.value == pytest.approx((called[label].mean() + (~called)[~label].mean()) / 2)
    assert found.adaptiveness_measured.tool.value == pytest.approx(called[hard].mean())
    assert found.adaptiveness_measured.text.value == pytest.approx((~called)[easy].mean())
    assert found.tool_effect.gain.value == pytest.approx((called & right)[hard].mean())
    assert found.tool_effect.harm.value == pytest.approx((called & ~right)[easy].mean())
    assert found.tool_effect.net.value == pytest.approx(found.tool_effect.gain.value - found.tool_effect.harm.value)
    assert found.tool_effect.text_retain == pytest.approx(right[easy][~called[easy]].mean())
    assert found.ambiguous == 40 - hard.sum() - easy.sum()
    assert found.difference.value == pytest.approx(right.mean() - without.mean())
    every_pair = [
        (call and one, other)
        for item in range(40)
        for (call, one), other in itertools.product(zip(called[item], right[item], strict=True), without[item])
    ]
    solved = [other for solved_by_call, other in every_pair if solved_by_call]
    assert found.also_without.value == pytest.approx(np.mean(solved))


@pytest.mark.parametrize("samples", [1, 3])
def test_med_equals_an_independent_computation(samples):
    rng = np.random.default_rng(7)
    tables = {name: by_hand(rng, 30, samples) for name in ("base", "step_1", "step_2")}
    result = med({name: outcomes(table) for name, table in tables.items()})
    counted = {}
    for name, table in tables.items():
        pairs = [(*one[:2], other[2]) for item in table for one, other in itertools.product(item, item)]
        conditions = {
            "call_gain": [right and called and not solved for right, called, solved in pairs],
            "schema_gain": [right and not called and not solved for right, called, solved in pairs],
            "call_harm": [not right and called and solved for right, called, solved in pairs],
            "schema_harm": [not right and not called and solved for right, called, solved in pairs],
        }
        counted[name] = {term: np.mean(values) for term, values in conditions.items()}
    for checkpoint in result.checkpoints:
        table, mine, first = tables[checkpoint.name], counted[checkpoint.name], counted["base"]
        drift = table[:, :, 2].mean() - tables["base"][:, :, 2].mean()
        assert {term: checkpoint.terms[term].value for term in TERMS} == pytest.approx(mine)
        for term in checkpoint.terms.values():
            assert term.mass * term.policy * term.quality == pytest.approx(term.value)
        assert checkpoint.gap.value == pytest.approx(
            mine["call_gain"] + mine["schema_gain"] - mine["call_harm"] - mine["schema_harm"]
        )
        assert checkpoint.intrinsic.value == pytest.approx(drift)
        assert checkpoint.by_tools.value == pytest.approx(sum(mine[term] - first[term] for term in TERMS[:2]))
        assert checkpoint.less_harm.value == pytest.approx(sum(first[term] - mine[term] for term in TERMS[2:]))
        assert checkpoint.change.value == pytest.approx(
            checkpoint.intrinsic.value + checkpoint.by_tools.value + checkpoint.less_harm.value
        )
    assert {result.checkpoints[0].change.ci95, result.checkpoints[0].by_tools.ci95} == {(0.0, 0.0)}
    low, high = result.checkpoints[1].change.ci95
    assert low < result.checkpoints[1].change.value < high
    for number, item in enumerate(result.items):
        now, then = item["checkpoints"]["step_2"], item["checkpoints"]["base"]
        assert now["with"] == pytest.approx(tables["step_2"][number, :, 0].mean())
        assert now["with"] - then["with"] == pytest.approx(now["intrinsic"] + now["by_tools"] + now["less_harm"])


def test_the_share_of_tools_is_a_ratio_of_areas():
    """Without tools 0 → 1 of 2 items; with tools all the time half: the gap closes by as much as the drift opens."""
    base, after = np.array([[[1, 1, 0]], [[0, 0, 0]]]), np.array([[[1, 1, 1]], [[0, 0, 0]]])
    result = med({"base": outcomes(base), "step_1": outcomes(after)})
    assert result.tool_share == pytest.approx(0.5)
    assert (result.checkpoints[1].intrinsic.value, result.checkpoints[1].by_tools.value) == (0.5, -0.5)
    assert med({"base": outcomes(base)}).tool_share is None


def replace_task(group):
    """The group as if its task were another one."""
    episodes = [replace(one, chains=tuple(replace(chain, task_id="another") for chain in one.chains)) for one in group.episodes]
    return replace(group, episodes=tuple(episodes))


def test_a_bar_in_a_name_does_not_end_its_cell():
    told = referee_markdown(judged({"a|b": variants_of(np.ones((2, 1, 3), dtype=int))}))
    assert "| a\\|b | 2 |" in told


def test_why_a_figure_is_missing_is_said():
    alike = np.ones((2, 1, 3), dtype=int)
    alike[:, :, 2] = 0
    told = referee_markdown(judged({"p": variants_of(alike)}))
    assert "Each item was answered once" in told
    assert "p: 2 items are unsolved without tools and 0 are solved" in told and "no item says" not in told
    bare = {name: [unlabelled(group) for group in part] for name, part in variants_of(np.zeros((2, 2, 3), dtype=int)).items()}
    told = referee_markdown(judged({"p": bare}))
    assert "p: nothing is solved with a call." in told and "p: no item says which tools it needs (needed_tools)" in told
    assert "answered once" not in told


def unlabelled(group):
    episodes = [replace(one, chains=tuple(replace(chain, needed_tools=None) for chain in one.chains)) for one in group.episodes]
    return replace(group, episodes=tuple(episodes))


def test_an_item_that_failed_for_one_checkpoint_is_in_none_of_meds_figures():
    table = np.ones((3, 1, 3), dtype=int)
    broken = variants_of(table)
    broken[WITHOUT] = [*broken[WITHOUT][:2], *grouped(trajectory(group="g2", stop=StopReason.INFRASTRUCTURE, error="x"))]
    found = judged({"step_1": variants_of(table), "base": broken}, ["base", "step_1"])
    assert [checkpoint.items for checkpoint in found.med.checkpoints] == [2, 2]
    assert found.left_out == {"step_1": 0, "base": 1}
    assert med_json(found)["left_out"] == 1 and "MED: 1 episodes of each are left out" in referee_markdown(found)
    renamed = {name: [replace_task(group) for group in part] for name, part in variants_of(table).items()}
    with pytest.raises(UsageError, match="not asked the same questions: step_1"):
        judged({"base": variants_of(table), "step_1": renamed}, ["base", "step_1"])
    with pytest.raises(UsageError, match="not asked the same questions"):
        judged({"step_1": variants_of(table), "base": variants_of(table[:2])}, ["base", "step_1"])


def test_a_share_that_all_items_have_is_not_certain():
    """Three items of two samples, each solved by a call once; without tools, by luck as often, or always."""
    half, always = (np.array([[[1, 1, 1], [0, 0, luck]]] * 3) for luck in (0, 1))
    assert judge(outcomes(half)).also_without.ci95 == pytest.approx(wilson_interval(1.5, 3))
    assert judge(outcomes(always)).also_without.ci95 == wilson_interval(3, 3)
    assert judge(outcomes(half)).accuracy.ci95 == wilson_interval(1.5, 3)


def test_intervals_hold_at_the_ends():
    """A figure of 0 or 1 over few items is not certain; one sample an item has Wilson's interval, both combined Newcombe's."""
    table = np.array([[[1, 1, 0]]] * 4 + [[[1, 1, 1]]] * 6)
    found = judge(outcomes(table))
    assert found.tool_effect.gain.ci95 == wilson_interval(4, 4)
    low, high = found.tool_effect.net.ci95
    (gain_low, _), (_, harm_high) = wilson_interval(4, 4), wilson_interval(0, 6)
    assert low == pytest.approx(1 - np.hypot(1 - gain_low, harm_high))
    assert high == pytest.approx(1.0)
    assert found.also_without.ci95 == wilson_interval(6, 10)


def test_paired_tests():
    assert paired_difference([0, 0, 1, 0], [1, 1, 0, 1]).p == mcnemar_p(1, 3)
    assert sign_flip_p([0.0, 0.0]) == 1.0
    # All of ten differences have one sign: 2 of 1,024 choices of signs are as far out.
    assert sign_flip_p([0.5] * 10) == pytest.approx(2 / 1024, abs=0.0015)


@pytest.fixture(scope="module")
def episodes():
    """The four policies in every setting of the referee, on the same tasks."""
    chat = ChatFormat.from_directory(find_policy("starter"))

    async def play(directory):
        async with Pool(size=2) as pool:

            async def one(spec):
                return await run_episode(spec, make(spec.env_id, spec.env_kwargs, pool), None, chat)

            async def party(manner):
                tasks = ("Synthetic-v0", {"manner": manner})
                specs = group_specs("reasoning", tasks, groups=ITEMS, seed=0, actor="expert")
                # `run_variants` is as synchronous as a fleet: it runs beside the loop that plays the episodes.
                loop = asyncio.get_running_loop()

                def run(name, groups):
                    async def all_of_them():
                        return await asyncio.gather(*(one(group.episodes[0]) for group in groups))

                    played = asyncio.run_coroutine_threadsafe(all_of_them(), loop).result()
                    return [Group(group.group_id, (episode,)) for group, episode in zip(groups, played, strict=True)]

                return await asyncio.to_thread(run_variants, run, specs, ["code"], directory / manner)

            return {manner: await party(manner) for manner in MANNERS}

    return lambda directory: asyncio.run(play(directory))


@pytest.fixture(scope="module")
def played(episodes, tmp_path_factory):
    return episodes(tmp_path_factory.mktemp("referee"))


KNOWN = {
    #            adaptiveness: tool, text; gain, harm; also solved without; accuracies by setting (1 means all, E the easy share)
    "never": ((0, 1), (0, 0), None, {FULL: "E", FORMAT_ONLY: "E", SWAPPED: "E", RESULT_ONLY: "E"}),
    "always": ((1, 0), (1, 0), "E", {FULL: 1, FORMAT_ONLY: "E", SWAPPED: "E", RESULT_ONLY: 1}),
    "needed": ((1, 1), (1, 0), 0, {FULL: 1, FORMAT_ONLY: "E", SWAPPED: "E", RESULT_ONLY: 1}),
    "ignores": ((1, 0), (0, 0), 1, {FULL: "E", FORMAT_ONLY: "E", SWAPPED: "E", RESULT_ONLY: "E"}),
}


@pytest.mark.parametrize("manner", MANNERS)
def test_four_policies_have_their_known_figures(played, manner):
    easy = np.mean([not group.episodes[0].trajectory.needs_tool for group in played["never"][FULL]])
    assert 0.2 < easy < 0.8
    (tool, text), (gain, harm), also, accuracies = KNOWN[manner]
    found = judged({manner: played[manner]})
    judgement = found.judgements[manner]
    for adaptiveness in (judgement.adaptiveness_labelled, judgement.adaptiveness_measured):
        assert (adaptiveness.tool.value, adaptiveness.text.value) == (tool, text)
        assert adaptiveness.mean.value == (tool + text) / 2
        assert adaptiveness.p < 0.01 if manner == "needed" else adaptiveness.p == 1.0
    effect = judgement.tool_effect
    assert (effect.gain.value, effect.harm.value, effect.net.value) == (gain, harm, gain - harm)
    assert judgement.accuracy_without.value == easy
    assert (judgement.also_without and judgement.also_without.value) == (easy if also == "E" else also)
    assert judgement.accuracy.value == (easy if accuracies[FULL] == "E" else 1.0)
    for setting in (FORMAT_ONLY, SWAPPED, RESULT_ONLY):
        assert found.settings[setting].accuracy.value == (easy if accuracies[setting] == "E" else 1.0)
    changed = found.causal_use[SWAPPED]["needed"].answer_changes.share if manner != "never" else None
    assert changed == {"never": None, "always": 1.0, "needed": 1.0, "ignores": 0.0}[manner]


def test_med_over_the_four_policies_as_if_they_were_checkpoints(played):
    """From a policy that never calls to one that calls when needed: all of it is gained by tools, nothing intrinsically."""
    found = judged(dict(reversed(played.items())), ["never", "ignores", "needed"]).med
    easy = found.checkpoints[0].accuracy.value
    _, ignores, needed = found.checkpoints
    assert (ignores.change.value, needed.change.value) == (0.0, pytest.approx(1 - easy))
    assert (needed.intrinsic.value, needed.by_tools.value, needed.less_harm.value) == (0.0, pytest.approx(1 - easy), 0.0)
    assert found.tool_share == 1.0
    gained = [item for item in found.items if item["checkpoints"]["needed"]["by_tools"]]
    assert gained and all(item["needed"] for item in gained)
    assert asdict(needed.terms["call_gain"]) == pytest.approx({"value": 1 - easy, "mass": 1 - easy, "policy": 1.0, "quality": 1.0})


def test_the_cost_is_said_before(tmp_path):
    run = tmp_path / "run"
    for name in ("step_90", "step_100", "cold_start", "cold_start_60"):
        (run / "checkpoints" / name / "policy").mkdir(parents=True)
        (run / "checkpoints" / name / "policy" / "config.json").write_text("{}")
    (run / "config.yaml").write_text("policy: starter\nstages: [rl]\n")
    assert [*run_policies(str(run))] == ["base", "cold_start", "step_90", "step_100"]
    parties = plan(EvaluateConfig(run=str(run), referee=True, med=True), ["code"])
    assert [(party.label, len(party.variants)) for party in parties] == [
        ("step_100", len(VARIANTS)),
        ("base", 2),
        ("cold_start", 2),
        ("step_90", 2),
        ("harness", 2),
    ]
    assert announcement(parties, tasks=60, samples=1)[0].startswith("780 episodes in all")
    with pytest.raises(UsageError, match="write one of them"):
        plan(EvaluateConfig(run=str(run), policy="starter_mixture", med=True), ["code"])
    with pytest.raises(UsageError, match=r"step_90 is one alone: write checkpoints=\[base,step_90\]"):
        plan(EvaluateConfig(run=str(run), checkpoints=["step_90"], med=True), ["code"])
    with pytest.raises(UsageError, match="checkpoints names step_90 twice"):
        plan(EvaluateConfig(run=str(run), checkpoints=["base", "step_90", "step_90"], med=True), ["code"])


def test_a_runs_tasks_and_rollout_are_those_of_its_evaluation(tmp_path):
    (tmp_path / "checkpoints" / "step_1" / "policy").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step_1" / "policy" / "config.json").write_text("{}")
    (tmp_path / "config.yaml").write_text(
        "policy: starter\nstages: [rl]\ntasks: toolwise/Mixture-v0\noptions: {difficulty: 2, need: 1.0}\n"
        "task_options: {test: {split: test, need: null}}\nrollout: {workers: 3, episode: {max_tokens: 999}}\n"
    )
    config = evaluation_settings([f"run={tmp_path}", "referee=true", "rollout.workers=1", "out=x"])
    assert (config.tasks, config.options) == ("toolwise/Mixture-v0", {"difficulty": 2, "split": "test"})
    assert (config.rollout.workers, config.rollout.episode.max_tokens) == (1, 999)
    assert (config.out, config.episodes) == ("x", 400)
    assert judged_policy(config).policy.endswith("step_1/policy")
    alone = evaluation_settings([f"run={tmp_path}"])
    (party,) = plan(alone, ["code"])
    assert (party.label, party.policy, party.variants) == ("step_1", judged_policy(config).policy, (FULL,))
    assert alone.options == config.options
    with pytest.raises(UsageError, match="named after its checkpoints"):
        judged_policy(evaluation_settings([f"run={tmp_path}", "referee=true", "label=mine"]))
    with pytest.raises(UsageError, match="that is no checkpoint"):
        evaluation_settings([f"run={tmp_path}", "med=true", "checkpoints=[base]"])
    other = evaluation_settings([f"run={tmp_path}", "referee=true", "tasks=toolwise/Atlas-v0", "+options.path=x"])
    assert (other.tasks, other.options) == ("toolwise/Atlas-v0", {"path": "x"})


def test_a_resumed_evaluation_of_a_run_goes_on_with_its_checkpoints(tmp_path):
    """A run that goes on has more of them; the last one is another policy then."""
    checkpoints = tmp_path / "checkpoints"

    def saved(name):
        (checkpoints / name / "policy").mkdir(parents=True)
        (checkpoints / name / "policy" / "config.json").write_text("{}")

    saved("step_1")
    (tmp_path / "config.yaml").write_text("policy: starter\nstages: [rl]\ntasks: toolwise/Mixture-v0\noptions: {}\nrollout: {}\n")
    out = tmp_path / "out"
    out.mkdir()
    begun = judged_policy(evaluation_settings([f"run={tmp_path}", "referee=true", f"out={out}"]))
    (out / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(begun)))
    saved("step_2")
    overrides = [f"run={tmp_path}", "referee=true", f"out={out}", "resume=true"]
    resumed = _begun(evaluation_settings(overrides), overrides)
    assert judged_policy(resumed).policy == begun.policy == str(checkpoints / "step_1" / "policy")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"med": True}, "write run=DIR"),
        ({"harness": "starter"}, "write referee=true"),
        ({"referee": True, "ablate": "tools"}, "run it by itself"),
        ({"med": True, "run": "nowhere"}, "there is no config.yaml"),
        ({"referee": True, "checkpoints": ["step_1"]}, "write run=DIR as well"),
        ({"harness_model": "m"}, "write referee=true"),
        ({"referee": True, "harness": "starter", "label": "harness"}, "write another label="),
        ({"referee": True, "harness": "http://127.0.0.1:1/v1"}, "write harness_model=NAME"),
    ],
)
def test_settings_that_contradict_each_other_are_one_line(settings, said):
    with pytest.raises(UsageError, match=said):
        plan(EvaluateConfig(**settings), ["code"])
