"""RL learns from the episodes that have an outcome, publishes under the step count, and resumes from the newest step."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from scripted import episode, metrics, settings, start, summary

from envs.errors import FleetError, UsageError
from learner.config import LearnerConfig, VerlSettings
from learner.experiment import OnDeadline, Stage, TaskOptions
from learner.train import Clock, run_rl
from rollout.learned import read_learned


def with_rl(config, **changes):
    return replace(config, rl=replace(config.rl, **changes))


def member(spec):
    return int(spec.episode_id.rpartition("-")[2])


def half_right(spec, steps):
    """The first episode of each group calls a tool and is right, the others are wrong."""
    return episode(spec, correct=member(spec) == 0, called=member(spec) == 0)


@pytest.fixture
def config(tmp_path):
    return settings(tmp_path / "run", stages=[Stage.rl])


def test_weights_are_published_after_every_step_under_the_step_count(config):
    training = start(config, half_right)
    run_rl(training)
    assert training.fleet.published == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert [line["global_step"] for line in metrics(training)] == [0, 1, 2]


def test_each_step_has_fresh_tasks_in_groups(config):
    training = start(config, half_right)
    run_rl(training)
    for specs in training.fleet.collected:
        assert [member(spec) for spec in specs] == [0, 1, 0, 1]
        assert len({(spec.group_id, spec.env_seed) for spec in specs}) == 2
        assert {spec.env_kwargs["split"] for spec in specs} == {"train"}
    assert len({spec.env_seed for specs in training.fleet.collected for spec in specs}) == 6


@pytest.mark.parametrize(("gap", "precision", "apart"), [(2e-4, "float32", "1e-04"), (float("nan"), "bfloat16", "3e-02")])
def test_a_sampler_that_disagrees_with_the_learner_is_said_once(config, gap, precision, apart):
    training = start(replace(config, learner=LearnerConfig(precision=precision)), half_right)
    training.trainer.gap = gap
    run_rl(training)
    (said,) = [line for line in training.said if line.startswith("gap alarm: ")]
    assert said.startswith("gap alarm: RL step 1: sampler and learner disagree: ")
    assert f"{apart} is usual at most" in said and said.endswith("ask toolwise doctor policy=base")
    assert [alarm["text"] for alarm in training.status.snapshot()["alarms"]] == [said.removeprefix("gap alarm: ")]


def test_a_distance_that_16_bits_explain_is_not_said(config):
    training = start(replace(config, learner=LearnerConfig(precision="bfloat16")), half_right)
    training.trainer.gap = 1e-2
    run_rl(training)
    assert not [line for line in training.said if "disagree" in line]


def test_it_begins_with_the_cold_started_weights_and_a_fresh_optimizer(config):
    training = start(config, half_right)
    training.trainer.steps = 7
    training.save("cold_start", step=7)
    training.trainer.steps = 9
    run_rl(training)
    assert training.trainer.calls[:2] == ["load cold_start", "reset_optimizer"]
    assert training.fleet.published[0] == (0, 7)


def test_a_step_in_which_every_episode_failed_stops_the_run(config):
    training = start(config, lambda spec, steps: episode(spec, error="no machine left" if steps == 1 else None))
    with pytest.raises(FleetError, match="RL step 2: no episode can be learned from; the last one: no machine left"):
        run_rl(training)
    assert len(metrics(training)) == 1


def test_failed_episodes_are_counted_and_not_learned_from(config):
    training = start(
        config, lambda spec, steps: episode(spec, error="gone") if spec.group_id.endswith("-1") else half_right(spec, 0)
    )
    run_rl(training)
    assert [line["rollout/infrastructure_failures"] for line in metrics(training)] == [2, 2, 2]
    assert [batch.group_ids_E for batch in training.trainer.policy_batches] == [[f"rl-{step}-0"] * 2 for step in range(3)]
    written = list(training.store.trajectories("rl_000000"))
    assert [trajectory.failed for trajectory in written] == [False, False, True, True]


def test_an_episode_that_a_deadline_cut_off_moves_nothing_and_stays_in_the_figures(config):
    """In each group the second of three is cut off while its reward is 0: the mean of its group is that of the others, 0.5."""
    play = lambda spec, steps: episode(  # noqa: E731
        spec, correct=member(spec) == 0, cut="rollout.episode.turn_s=1 s" if member(spec) == 1 else None
    )
    training = start(with_rl(config, steps=1, group_size=3), play)
    run_rl(training)
    assert training.trainer.policy_batches[0].rewards_E.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert training.trainer.advantages_given[0].tolist() == [0.5, -0.5, 0.5, -0.5]
    (line,) = metrics(training)
    assert (line["rollout/cut_by_deadline"], line["stop_reason/time_limit"], line["critic/score/mean"]) == (2, 1 / 3, 1 / 3)
    assert sum(trajectory.cut is not None for trajectory in training.store.trajectories("rl_000000")) == 2


@pytest.mark.parametrize("on_deadline", OnDeadline)
def test_episodes_that_are_cut_off_are_repeated_if_asked_in_training_alone(config, on_deadline):
    training = start(with_rl(config, steps=1, on_deadline=on_deadline), half_right)
    run_rl(training)
    training.sample("test", 4, "test")
    asked = [{spec.repeat_if_cut for spec in specs} for specs in training.fleet.collected]
    assert asked == [{on_deadline is OnDeadline.repeat}, {False}]


def test_a_step_of_nothing_but_cut_off_episodes_names_the_deadline(config):
    training = start(config, lambda spec, steps: episode(spec, cut="rollout.episode.turn_s=1 s"))
    with pytest.raises(FleetError, match=r"no episode .*; the last one: cut off by rollout\.episode\.turn_s=1 s: raise it"):
        run_rl(training)


def questions(tmp_path, count):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"question": f"Q{n}", "answer": "A"}) + "\n" for n in range(count)))
    options = TaskOptions(*({"split": None} for _ in range(3)))
    return {"tasks": str(path), "task_options": options}


def rows_of(training):
    """The row of each group, in the order in which they were played."""
    specs = [spec for specs in training.fleet.collected for spec in specs]
    return [spec.env_kwargs["number"] for spec in specs if member(spec) == 0]


def test_every_row_is_learned_from_once_an_epoch_and_a_resumed_run_goes_on(config, tmp_path):
    """5 rows, 2 groups a step; the run is killed in the fourth step and goes on with 3 groups a step."""

    def killed(spec, steps):
        if steps == 3:
            raise KeyboardInterrupt
        return half_right(spec, steps)

    config = with_rl(replace(config, **questions(tmp_path, 5)), steps=5, groups=2, checkpoint_every=1)
    training = start(config, killed)
    with pytest.raises(KeyboardInterrupt):
        run_rl(training)
    assert [line["data/epoch"] for line in metrics(training)] == [0.4, 0.8, 1.2]
    resumed = start(with_rl(replace(config, resume=True), groups=3, steps=5), half_right)
    run_rl(resumed)
    rows = rows_of(training)[:6] + rows_of(resumed)
    assert len(rows) == 12
    assert sorted(rows[:5]) == sorted(rows[5:10]) == [1, 2, 3, 4, 5]
    assert rows[:5] != rows[5:10]
    assert [line["data/epoch"] for line in metrics(resumed)][-2:] == [1.8, 2.4]


def test_no_row_is_asked_twice_in_an_evaluation(config, tmp_path):
    for name, episodes, count in (("few", 3, 3), ("all", 9, 5)):
        training = start(replace(config, out=f"{tmp_path}/{name}", **questions(tmp_path, 5)), half_right)
        training.sample("test", episodes, "test")
        training.sample("test", episodes, "test", temperature=0.0)
        first, second = ([spec.env_kwargs["number"] for spec in specs] for specs in training.fleet.collected)
        assert first == second
        assert len(set(first)) == len(first) == count


def test_a_question_that_is_dropped_is_named_once_and_at_the_end(config, caplog):
    """The second group of each step meets one of two broken rows."""

    def play(spec, steps):
        broken = f"q.jsonl, row {steps % 2}: the image a.png cannot be opened" if spec.group_id.endswith("-1") else None
        return episode(spec, refused=broken)

    training = start(config, play)
    run_rl(training)
    assert [(line["rollout/unplayed"], line["data/dropped_rows"]) for line in metrics(training)] == [(2, 1), (2, 2), (2, 2)]
    said = [record.getMessage()[:25] for record in caplog.records if record.name == "evaluation.outcomes"]
    assert said == ["dropped: q.jsonl, row 0: ", "dropped: q.jsonl, row 1: "]
    assert training.said[-1].startswith("RL: 2 questions were dropped: q.jsonl, row 0: the image")
    assert len(training.directory.checkpoints.state("step_3")["dropped"]) == 2


def test_the_chains_of_an_episode_count_once_and_share_its_advantage(config):
    """In each group the first episode, which alone is right, has two chains: its reward is not weighed twice in the mean."""

    def play(spec, steps):
        played = half_right(spec, steps)
        if member(spec) == 0:
            chain = played.chains[0]
            played = replace(played, chains=(chain, replace(chain, chain=1, turns=[])))
        return played

    training = start(with_rl(config, steps=1), play)
    run_rl(training)
    batch = training.trainer.policy_batches[0]
    assert batch.episodes_N.tolist() == [0, 0, 1, 2, 2, 3]
    assert batch.rewards_E.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert training.trainer.advantages_given[0].tolist() == [0.5, -0.5, 0.5, -0.5]
    assert metrics(training)[0]["critic/score/mean"] == 0.5


def test_checkpoints_are_written_at_their_cadence_and_at_the_end(config):
    training = start(with_rl(config, steps=5, keep_checkpoints=9), half_right)
    checkpoint, seconds = run_rl(training)
    assert training.directory.checkpoints.names() == ["step_2", "step_4", "step_5"]
    assert checkpoint == f"{config.out}/checkpoints/step_5"
    assert training.directory.checkpoints.state("step_5")["seconds"] == seconds > 0


def test_old_checkpoints_are_removed(config):
    training = start(with_rl(config, steps=5, checkpoint_every=1, keep_checkpoints=2), half_right)
    run_rl(training)
    assert training.directory.checkpoints.names() == ["step_4", "step_5"]


def with_best(config, metric, **changes):
    return replace(with_rl(config, **changes), checkpoint=replace(config.checkpoint, best=metric))


def right_by_step(rewards):
    """Every episode of step k is right if rewards[k] is 1."""
    return lambda spec, steps: episode(spec, correct=bool(rewards[steps]))


def test_the_best_checkpoint_is_kept_beside_the_newest(config):
    """It is the one with the largest mean since the checkpoint before, whatever single steps say; a resumed run knows it still."""
    config = with_best(config, "critic/score/mean", steps=6, keep_checkpoints=1)
    play = right_by_step([0, 0, 1, 1, 1, 0, 0, 1])
    training = start(config, play)
    run_rl(training)
    assert training.directory.checkpoints.names() == ["step_4", "step_6"]
    assert training.said[-1] == "best by critic/score/mean: step_4 (1)"
    resumed = start(replace(with_rl(config, steps=8), resume=True), play)
    run_rl(resumed)
    assert resumed.directory.checkpoints.names() == ["step_4", "step_8"]


def test_a_metric_that_does_not_exist_is_named_in_the_first_step(config):
    with pytest.raises(UsageError, match=r"^checkpoint.best=critic/score: .* no such metric; did you mean critic/score"):
        run_rl(start(with_best(config, "critic/score"), half_right))


def test_steps_go_on_while_a_checkpoint_is_written(config):
    """It is there when the next one begins, and the last when the stage is said to be done."""
    training = start(with_rl(config, steps=5), half_right)
    training.trainer.slow = True
    run_rl(training)
    assert training.directory.checkpoints.names() == ["step_2", "step_4"]
    training.finish("rl")
    assert training.directory.checkpoints.names() == ["step_4", "step_5"]


def test_a_killed_run_goes_on_from_its_newest_checkpoint(config):
    def killed_in_the_fourth_step(spec, steps):
        if steps == 3:
            raise KeyboardInterrupt
        return half_right(spec, steps)

    config = with_rl(config, steps=5)
    killed, whole = start(config, killed_in_the_fourth_step), start(replace(config, out=f"{config.out}_whole"), half_right)
    with pytest.raises(KeyboardInterrupt):
        run_rl(killed)
    assert len(metrics(killed)) == 3
    resumed = start(replace(config, resume=True), half_right)
    run_rl(resumed)
    run_rl(whole)
    assert resumed.trainer.calls == ["load step_2", *["policy_step"] * 3]
    assert resumed.fleet.published == [(2, 2), (3, 3), (4, 4), (5, 5)]
    assert [(line["step"], line["global_step"]) for line in metrics(resumed)] == [(step, step) for step in range(5)]
    assert resumed.fleet.collected == whole.fleet.collected[2:]
    assert resumed.said == [f"RL goes on from step 2 ({resumed.directory.checkpoints.location('step_2')})"]


def test_the_collapse_alarm_is_kept_over_a_resume(config):
    """Tools pay at first and are then given up: the alarm rings in the step in which it would ring without the interruption."""

    def play(spec, steps):
        return half_right(spec, steps) if steps < 6 else episode(spec, correct=False)

    config = with_rl(config, steps=18)
    whole = start(replace(config, out=f"{config.out}_whole"), play)
    run_rl(whole)
    run_rl(start(with_rl(config, steps=10), play))
    resumed = start(replace(config, resume=True), play)
    run_rl(resumed)
    rings = [line["tools/collapse_alarm"] for line in metrics(whole)]
    assert {0.0, 1.0} == set(rings)
    assert [line["tools/collapse_alarm"] for line in metrics(resumed)] == rings


def test_the_learning_rate_rises_over_the_warm_up(config):
    training = start(with_rl(config, steps=4, learning_rate=1.0, warmup_steps=2), half_right)
    run_rl(training)
    assert [line["actor/lr"] for line in metrics(training)] == [0.5, 1.0, 1.0, 1.0]


def test_a_step_logs_the_timing_split(config):
    training = start(with_rl(config, steps=1), half_right)
    run_rl(training)
    line = metrics(training)[0]
    assert {f"timing_s/{part}" for part in ("rollout", "learn", "sync", "generate", "tool", "step")} <= line.keys()


def test_the_clock_takes_generation_and_tools_as_an_episodes_mean():
    specs = [SimpleNamespace(episode_id=f"e-{number}", group_id="g", env_seed=0, temperature=1.0) for number in range(2)]
    clock = Clock()
    with clock.time("rollout"):
        episodes = [summary(episode(spec, called=spec.episode_id == "e-0")) for spec in specs]
    timing = clock.metrics(episodes)
    assert (timing["timing_s/generate"], timing["timing_s/tool"]) == (0.25, 0.25)
    assert 0 <= timing["timing_s/rollout"] <= timing["timing_s/step"]


def test_the_seconds_of_an_episode_that_was_cut_off_count(config):
    def answer(spec, steps):
        played = episode(spec, cut="rollout.episode.turn_s=99 s" if member(spec) else None)
        (chain,) = played.chains
        return replace(played, chains=(replace(chain, turns=[replace(chain.turns[0], generate_s=99.0 if member(spec) else 1.0)]),))

    training = start(with_rl(config, steps=1), answer)
    run_rl(training)
    assert metrics(training)[0]["timing_s/generate"] == 50


def test_groups_without_variance_are_replaced_by_others(config):
    """Dynamic sampling: of the four groups of two draws, the second of each varies."""
    config = replace(config, learner=LearnerConfig(verl=VerlSettings(algorithm={"filter_groups": {"enable": True}})))
    training = start(config, lambda spec, steps: half_right(spec, steps) if spec.group_id.endswith("-1") else episode(spec))
    for left in ("rl_000000_2", "rl_000000_3"):  # by an attempt that was killed
        training.store.write(left, [])
    training.store.directory.joinpath("rl_000000_5.w0000aaaa.jsonl.part").touch()
    run_rl(training)
    assert training.trainer.policy_batches[0].group_ids_E == ["rl-0-1"] * 2 + ["rl+1-0-1"] * 2
    (first, *_) = metrics(training)
    assert (first["rollout/draws"], first["rollout/groups_that_vary"]) == (2, 0.5)
    assert [len(list(training.store.trajectories(name))) for name in ("rl_000000", "rl_000000_1")] == [4, 4]
    assert not {"rl_000000_2", "rl_000000_3"} & set(training.store.names())
    assert training.store.unfinished() == []


def test_dynamic_sampling_asks_every_row_of_a_file_before_any_again(config, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"Q{number}", "answer": "A"}) + "\n" for number in range(12)))
    learner = LearnerConfig(verl=VerlSettings(algorithm={"filter_groups": {"enable": True}}))
    varying = lambda spec, steps: half_right(spec, steps) if spec.group_id.endswith("-1") else episode(spec)  # noqa: E731
    training = start(replace(config, tasks=str(rows), learner=learner), varying)
    run_rl(training)
    asked = [specs[place].env_kwargs["number"] for specs in training.fleet.collected for place in (0, 2)]
    assert len(asked) == 12, "three steps, two draws of two groups each"
    assert sorted(asked[: len(training.rows("train"))]) == sorted(training.rows("train"))


def test_dynamic_sampling_gives_up_where_it_is_told_to(config):
    filtering = {"enable": True, "max_num_gen_batches": 3}
    config = replace(config, learner=LearnerConfig(verl=VerlSettings(algorithm={"filter_groups": filtering})))
    training = start(config, lambda spec, steps: episode(spec))
    run_rl(training)
    assert [line["rollout/draws"] for line in metrics(training)] == [3, 3, 3]
    assert [len(batch) for batch in training.trainer.policy_batches] == [12, 12, 12]


def test_a_step_that_draws_again_and_again_says_how_far_it_is(config):
    filtering = {"enable": True, "max_num_gen_batches": 25}
    config = replace(with_rl(config, steps=1), learner=LearnerConfig(verl=VerlSettings(algorithm={"filter_groups": filtering})))
    training = start(config, lambda spec, steps: episode(spec))
    run_rl(training)
    assert [line for line in training.said if "draws" in line] == [
        f"RL step 1: after {draws} draws the rewards of 0 groups vary, 2 are wanted" for draws in (10, 20)
    ]


def test_the_policy_is_compared_with_the_one_that_rl_began_with(config):
    training = start(config, half_right)
    run_rl(training)
    assert training.trainer.references == ["base"]
    training = start(replace(config, out=f"{config.out}_cold"), half_right)
    training.save("cold_start", step=7)
    run_rl(training)
    assert training.trainer.references == [f"{training.directory.checkpoints.location('cold_start')}/policy"]


def test_what_a_step_learned_is_recorded_beside_its_trajectories(config):
    """Of a trainer that records nothing itself: advantages, and nothing of episodes that are not learned from."""
    play = lambda spec, steps: episode(spec, error="gone") if spec.group_id.endswith("-1") else half_right(spec, 0)  # noqa: E731
    training = start(config, play)
    run_rl(training)
    found = [list(read_learned(training.directory.path, f"rl_{step:06d}")) for step in range(3)]
    assert [(one.episode_id, one.chain, one.advantage, one.log_probs) for one in found[1]] == [
        ("rl-1-0-0", 0, 0.5, None),
        ("rl-1-0-1", 0, -0.5, None),
        ("rl-1-1-0", 0, None, None),
        ("rl-1-1-1", 0, None, None),
    ]
    resumed = start(with_rl(replace(config, resume=True), steps=4, record_learned=False), half_right)
    (training.directory.path / "learned/rl_000003_1.parquet").touch()  # by an attempt that was killed
    run_rl(resumed)
    names = [path.stem for path in (training.directory.path / "learned").iterdir()]
    assert sorted(names) == ["rl_000000", "rl_000001", "rl_000002"]


def test_a_trainer_that_records_is_told_before_each_step(config):
    training = start(
        replace(config, learner=LearnerConfig(verl=VerlSettings(algorithm={"filter_groups": {"enable": True}}))),
        (lambda spec, steps: half_right(spec, steps) if spec.group_id.endswith("-1") else episode(spec)),
    )
    told = training.trainer.told = []
    training.trainer.record = told.append
    run_rl(training)
    files = told[0]
    assert files.directory == training.directory.path / "learned"
    assert files.names == {"rl-0-0": "rl_000000", "rl-0-1": "rl_000000", "rl+1-0-0": "rl_000000_1", "rl+1-0-1": "rl_000000_1"}
    assert {(group, one.advantage) for group, one in files.others} == {("rl-0-0", None), ("rl+1-0-0", None)}
    assert len(told) == 3
    assert not files.directory.exists()
