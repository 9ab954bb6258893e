"""The groups of a step: played, and chosen to learn from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from envs.rewards import GroupMember, GroupReward
from learner.experiment import OnDeadline
from learner.training_run import TrainingRun
from rollout.collect import group_specs
from rollout.learned import Learned, LearnedFiles
from rollout.store import step_of
from rollout.summary import EpisodeSummary
from rollout.types import Group, GroupSpec, episodes_of

_SAID_EVERY = 10
"""Draws for one step after which it is said how far they have come."""

Groups = list[Group[EpisodeSummary]]


@dataclass(slots=True)
class Draw:
    """What was played for a step: all groups, those of them to learn from, how many were drawn, the name under which (the first of)
    their trajectories are stored, the names of those of further draws by group, and metrics."""

    played: Groups
    chosen: Groups
    drawn: int
    stored_as: str
    metrics: dict[str, float] = field(default_factory=dict)
    further: dict[str, str] = field(default_factory=dict)

    @property
    def outcomes(self) -> list[EpisodeSummary]:
        """All episodes."""
        return list(episodes_of(self.played))

    @property
    def examples(self) -> list[EpisodeSummary]:
        """The episodes to learn from.

        There is nothing to learn from those that our infrastructure failed after all retries, that a deadline cut off, or whose
        question could not be put to the policy: they are in no group's baseline either.
        """
        return [episode for group in self.chosen for episode in teaching(group)]

    def learned_files(self, run_directory: Path) -> LearnedFiles:
        """Where it is written what the step learns of each sequence; of those that it does not learn from, nothing else is."""
        learned_from = {episode.episode_id for episode in self.examples}
        names = {group.group_id: self.further.get(group.group_id, self.stored_as) for group in self.played}
        return LearnedFiles.of(run_directory, self.stored_as, names).with_others(
            (episode.group_id, Learned(episode.episode_id, chain, None))
            for episode in self.outcomes
            if episode.episode_id not in learned_from
            for chain in range(len(episode.lengths))
        )


def draw_groups(training: TrainingRun, step: int, first: int) -> Draw:
    """Play the groups of a step; `first` is the number of groups that were drawn before.

    With verl's `filter_groups` (dynamic sampling: DAPO, arXiv:2503.14476) those to learn from are groups whose rewards differ:
    groups are drawn until there are enough of them, or `max_num_gen_batches` times. If there is none by then, the step learns from
    all, which is nothing.
    """
    wanted = training.config.rl.groups
    filtering = training.config.learner.verl.algorithm.get("filter_groups") or {}
    name = f"rl_{step:06d}"
    if not filtering.get("enable"):
        groups = rewarded(training.play(name, _specs(training, step, first)), training.group_reward)
        return Draw(groups, groups, wanted, name)
    played: Groups = []
    varied: Groups = []
    most = filtering.get("max_num_gen_batches") or 0
    further: dict[str, str] = {}
    draws = 0
    while len(varied) < wanted and (most <= 0 or draws < most):
        specs = _specs(training, step, first + draws * wanted, draws)
        stored_as = f"{name}_{draws}" if draws else name
        drawn = rewarded(training.play(stored_as, specs), training.group_reward)
        further |= {group.group_id: stored_as for group in drawn}
        played += drawn
        varied += [group for group in drawn if len({episode.reward for episode in teaching(group)}) > 1]
        draws += 1
        if draws % _SAID_EVERY == 0 and len(varied) < wanted:  # without max_num_gen_batches it may never end
            training.say(f"RL step {step + 1}: after {draws} draws the rewards of {len(varied)} groups vary, {wanted} are wanted")
    _clear_from(training, step, draws)
    metrics = {"rollout/draws": float(draws), "rollout/groups_that_vary": len(varied) / len(played)}
    return Draw(played, varied[:wanted] or played, draws * wanted, name, metrics, further)


def _clear_from(training: TrainingRun, step: int, draws: int) -> None:
    """Remove the trajectories of further draws, unfinished ones too, which an attempt at this step made that was killed or rolled
    back."""
    for name in training.store.names(unfinished=True):
        drawn = step_of(name)
        if drawn is not None and drawn[0] == step and drawn[1] >= draws:
            training.store.clear(name)


def teaching(group: Group[EpisodeSummary]) -> list[EpisodeSummary]:
    """The episodes of a group that can be learned from."""
    return [episode for episode in group.episodes if episode.trainable]


def rewarded(groups: Groups, reward: GroupReward | None) -> Groups:
    """The groups with what the parts of a group add to the rewards of the episodes that can be learned from."""
    return groups if reward is None else [_rewarded(group, reward) for group in groups]


def _rewarded(group: Group[EpisodeSummary], reward: GroupReward) -> Group[EpisodeSummary]:
    learned = teaching(group)
    if not learned:
        return group
    members = [
        GroupMember(episode.correct, episode.tool_calls, episode.turn_count, episode.reward, episode.reward_parts)
        for episode in learned
    ]
    added = {
        episode.episode_id: replace(episode, reward=episode.reward + more, reward_parts=episode.reward_parts | parts)
        for episode, (more, parts) in zip(learned, reward(members), strict=True)
    }
    return Group(group.group_id, tuple(added.get(episode.episode_id, episode) for episode in group.episodes))


def _specs(training: TrainingRun, step: int, first: int, draw: int = 0) -> list[GroupSpec]:
    """The groups of a step; each `draw` has its own. All of them count on in one order of the rows."""
    config = training.config
    return group_specs(
        f"rl+{draw}" if draw else "rl",
        training.tasks("train"),
        groups=config.rl.groups,
        group_size=config.rl.group_size,
        seed=config.seed,
        step=step,
        temperature=config.rl.temperature,
        rows=training.rows("train"),
        first=first,
        rows_name="rl",
        repeat_if_cut=config.rl.on_deadline is OnDeadline.repeat,
    )
