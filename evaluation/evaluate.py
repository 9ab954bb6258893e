"""`toolwise evaluate`: the records of one policy on one set of tasks; if asked, with tools taken away or their outputs hidden, and
the referee's judgement of it, of the checkpoints of its run, and of an untrained policy beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from envs.errors import UsageError
from envs.runtime.atomic import write_file
from envs.runtime.progress import Progress
from envs.tools.outputs import REAL
from evaluation.ablation import (
    FULL,
    Ablation,
    AblationReport,
    ablation_table,
    causal_use,
    keep_outputs,
    necessity,
    paired,
    report_json,
    with_outputs,
    without_tools,
)
from evaluation.comparison import CLUSTERS
from evaluation.pages.evaluation_page import write_evaluation_page
from evaluation.protocols import Examination, examine, question_clusters
from evaluation.records import evaluation_record, records_json
from evaluation.referee.outcomes import WITHOUT
from evaluation.referee.parties import BASE, HARNESS, Party, announcement, run_policies
from evaluation.referee.report import Referee, ablation_json, judged, med_json, referee_json, referee_markdown
from evaluation.referee.variants import FORMAT_ONLY, PAIR, RESULT_ONLY, SWAPPED, VARIANTS, Run, run_variants
from evaluation.report import markdown
from evaluation.settings import EvaluateConfig
from evaluation.types import EvaluationRecord
from rollout.collect import CollectConfig, Collector, group_count, is_endpoint, tasks_of
from rollout.config import PROTOCOL_PROMPT
from rollout.episode.environments import tool_names
from rollout.tokens.prompts import Questions
from rollout.types import Group, GroupSpec, episodes_of

_OUTPUTS = {"blank": "blank", FORMAT_ONLY: "blank", SWAPPED: "swapped"}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The records of `evaluation.json`, the report of an ablation and that of the referee, if there was one, and the names of the
    files that were written."""

    records: list[EvaluationRecord]
    ablation: AblationReport | None = None
    referee: Referee | None = None
    files: tuple[str, ...] = ()

    @property
    def reports(self) -> list[Table | str]:
        """What a person is shown after the table of the records."""
        told = [] if self.ablation is None else [ablation_table(self.ablation)]
        return [*told, *([] if self.referee is None else [referee_markdown(self.referee)])]


def evaluate(
    config: EvaluateConfig, policy_dir: str, progress: Progress, directory: Callable[[CollectConfig], str] | None = None
) -> Evaluation:
    """Roll out and write `evaluation.json`, `evaluation.md`, what an ablation or the referee has to say, and the page
    `evaluation.html`, below `config.out`.

    `directory` finds the directory of a policy; without it, all have `policy_dir`. `progress` shows how each part goes on. Raises
    UsageError for an ablation that the tasks do not allow or a run without checkpoints, and otherwise as `Collector`.
    """
    tools = tools_of(config)
    parties = [(party, _config_of(config, party)) for party in plan(config, tools)]
    # What is wrong with a later policy or with the file is said before the first one is asked anything.
    begun = [(party, mine, directory(mine) if directory else policy_dir, examine(mine)) for party, mine in parties]
    groups, told = {}, []
    for party, mine, policy, examined in begun:
        groups[party.label], options, notes = _play(mine, party, tools, progress, policy)
        told.append((mine, options, notes, examined))
    clusters = question_clusters(config)
    referee = _judged(config, [party for party, _ in parties], groups) if config.referee or config.med else None
    records = [
        record
        for by_variant, (mine, options, notes, examined) in zip(groups.values(), told, strict=True)
        for record in _records(mine, by_variant, tools, options, notes, referee, examined, clusters)
    ]
    report = _report(_ablation(config.ablate), next(iter(groups.values())), clusters)
    tables = markdown(records) + ("" if referee is None else f"\n{referee_markdown(referee)}")
    files = {"evaluation.json": records_json(records), "evaluation.md": tables}
    parts = {
        "ablation.json": report_json(report) if report else ablation_json(referee) if referee and referee.settings else None,
        "med.json": med_json(referee) if referee else None,
    }
    files |= {name: json.dumps(part, indent=2) + "\n" for name, part in parts.items() if part is not None}
    for name, text in files.items():
        write_file(Path(config.out, name), text)
    for _, mine in parties:
        if clusters:
            write_file(Path(mine.out, CLUSTERS), json.dumps(clusters, indent=0) + "\n")
    page = write_evaluation_page(Path(config.out), asdict(EvaluateConfig()), Questions(policy_dir))
    return Evaluation(records, report, referee, (*files, page.name))


def announced(config: EvaluateConfig) -> list[str]:
    """What `evaluate` will run, in lines, if that is more than one setting of one policy. Raises as `plan` and `tools_of`."""
    return announcement(plan(config, tools_of(config)), group_count(config), config.group_size)


def judged_policy(config: EvaluateConfig) -> EvaluateConfig:
    """The settings with the policy that is judged, which may be a checkpoint of a run. Raises as `plan`."""
    return replace(config, policy=plan(config, ())[0].policy)


def tools_of(config: EvaluateConfig) -> tuple[str, ...]:
    """The tools of the tasks. Raises UsageError if there is none to take away and the settings ask for that."""
    tools = tool_names(*tasks_of(config))
    asked = f"ablate={ablation}" if (ablation := _ablation(config.ablate)) is not Ablation.none else ""
    asked = asked or ("referee=true" if config.referee else "med=true" if config.med else "")
    if asked and not tools:
        raise UsageError(f"{asked}: {config.tasks} has no tools to take away")
    return tools


def offered_tools(config: CollectConfig, groups: Sequence[Group]) -> tuple[str, ...]:
    """The tools of the tasks; () if no task of `groups` says what it needs, since only an environment that was reset names them."""
    told = any(chain.needed_tools for episode in episodes_of(groups) for chain in episode.chains)
    return tool_names(*tasks_of(config)) if told else ()


def plan(config: EvaluateConfig, tools: Sequence[str]) -> list[Party]:
    """Who is seen in which settings, the policy that is judged first. Raises UsageError if settings contradict each other."""
    ablation = _ablation(config.ablate)
    label = config.label or config.policy
    if config.checkpoints and not config.run:
        raise UsageError(f"checkpoints={config.checkpoints}: they are those of a run: write run=DIR as well")
    if twice := [name for name in config.checkpoints if config.checkpoints.count(name) > 1]:
        raise UsageError(f"checkpoints names {twice[0]} twice: write each once")
    policies = run_policies(config.run, config.checkpoints) if config.run else {label: config.policy}
    main = [*policies][-1]
    if config.run and config.policy not in (EvaluateConfig.policy, policies[main]):
        raise UsageError(f"policy={config.policy} and run={config.run}: write one of them, or choose with checkpoints=[…]")
    if config.run and config.label not in (None, main):
        raise UsageError(f"label={config.label}: with run=, records are named after its checkpoints: leave it out")
    if not config.referee and not config.med:
        for name in ("harness", "harness_model"):
            if getattr(config, name):
                raise UsageError(f"{name}={getattr(config, name)}: write referee=true as well")
        hidden = {Ablation.none: [FULL], Ablation.tools: [*without_tools([], tools)], Ablation.outputs: [FULL, "blank", "swapped"]}
        return [Party(main, policies[main], tuple(hidden[ablation]), main=True, model=config.policy_model)]
    if ablation is not Ablation.none:
        raise UsageError(f"ablate={config.ablate}: run it by itself, without referee=true or med=true")
    if config.med and not config.run:
        raise UsageError("med=true compares the checkpoints of a run: write run=DIR as well")
    if config.harness and not config.referee:
        raise UsageError(f"harness={config.harness}: write referee=true as well")
    if config.med and len(policies) == 1:
        raise UsageError(f"med=true compares checkpoints, and {main} is one alone: write checkpoints=[{BASE},{main}]")
    settings = VARIANTS if config.referee else PAIR
    parties = [Party(main, policies[main], settings, main=True, checkpoint=config.med, model=config.policy_model)]
    if config.med:
        parties += [Party(name, policy, PAIR, checkpoint=True) for name, policy in policies.items() if name != main]
    harness = config.harness or (run_policies(config.run, [*policies, BASE])[BASE] if config.run and config.referee else "none")
    if harness != "none":
        if HARNESS in (party.label for party in parties):
            raise UsageError(f"the policy is called {HARNESS}, like the untrained one beside it: write another label=")
        if is_endpoint(harness) and not config.harness_model:
            raise UsageError(f"harness={harness}: write harness_model=NAME as well, the name by which it knows its model")
        parties.append(Party(HARNESS, harness, PAIR, instructed=True, model=config.harness_model))
    return parties


def summarise(
    config: CollectConfig,
    groups: Sequence[Group],
    variant: str = FULL,
    *,
    tasks: str | None = None,
    tools: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    offered: Sequence[str] = (),
    clusters: Mapping[str, str] | None = None,
) -> EvaluationRecord:
    """The record of the groups that were collected with `config`; its label names the variant unless that is the full one.

    `tasks` is what it calls them, by default the setting; `offered` and `clusters` as for `evaluation_record`.
    """
    label = config.label or config.policy
    return evaluation_record(
        label if variant == FULL else f"{label}/{variant}",
        groups,
        policy=config.policy,
        tasks=config.tasks if tasks is None else tasks,
        seed=config.seed,
        temperature=config.temperature,
        tools=tools,
        settings=settings,
        offered=offered,
        clusters=clusters,
    )


def _config_of(config: EvaluateConfig, party: Party) -> EvaluateConfig:
    """The settings of a party. What another than the judged one writes stands in a directory of its own."""
    out = config.out if party.main else str(Path(config.out, party.label))
    rollout = config.rollout
    if party.instructed:
        rollout = replace(rollout, episode=replace(rollout.episode, system_prompt=PROTOCOL_PROMPT))
    label = party.label if config.run or not party.main else config.label
    return replace(config, out=out, policy=party.policy, policy_model=party.model, label=label, rollout=rollout)


def _play(
    config: EvaluateConfig, party: Party, tools: Sequence[str], progress: Progress, policy_dir: str
) -> tuple[dict[str, list[Group]], Mapping[str, Any], list[str]]:
    """The groups of every setting of a party, the one with all tools first; the options of the tasks, and notes."""

    def run(name: str, specs: Sequence[GroupSpec]) -> list[Group]:
        file = "episodes" if name == FULL else name.replace(" ", "_")
        title = name if party.main else f"{party.label}, {name}"
        with progress(title, sum(len(group.episodes) for group in specs)) as advance:
            groups = collector.collect(file, specs, advance)
        # Only what the first setting showed is shown again in the others.
        return groups if name == FULL else [_without_images(group) for group in groups]

    with Collector(config, policy_dir) as collector:
        if config.referee or config.med:
            groups = run_variants(run, collector.specs, tools, Path(config.out), party.variants)
        else:
            groups = _ablated(run, collector.specs, tools, Path(config.out), _ablation(config.ablate))
        return groups | {FULL: [*map(_without_images, groups[FULL])]}, collector.options, collector.notes()


def _without_images(group: Group) -> Group:
    """The group without its episodes' images, which no figure needs: those of many checkpoints would fill the memory."""
    return replace(group, episodes=tuple(replace(episode, images={}) for episode in group.episodes))


def _ablated(run: Run, specs: Sequence[GroupSpec], tools: Sequence[str], out: Path, ablation: Ablation) -> dict[str, list[Group]]:
    groups = {FULL: run(FULL, specs)}
    variants: dict[str, list[GroupSpec]] = {}
    if ablation is Ablation.tools:
        variants = without_tools(specs, tools)
    elif ablation is Ablation.outputs:
        donors = Path(out, "tool_outputs").absolute()
        keep_outputs(groups[FULL], donors)
        variants = with_outputs(specs, donors)
    return groups | {name: run(name, changed) for name, changed in variants.items() if name != FULL}


def _records(
    config: EvaluateConfig,
    groups: Mapping[str, Sequence[Group]],
    tools: Sequence[str],
    options: Mapping[str, Any],
    notes: Sequence[str],
    referee: Referee | None,
    examined: Examination | None,
    clusters: Mapping[str, str],
) -> list[EvaluationRecord]:
    """The records of one party, one for each setting; the first carries what the referee found."""
    records = []
    for name, part in groups.items():
        tasks, left = config.tasks, _tools_of(name, tools)
        settings = _settings(config, name, options, [*notes, *(examined.warnings if examined else ())]) | _rubric_score(part)
        if examined is not None:
            seen = examined.with_changes(_changed(name, tools, left))
            tasks, settings["protocol"] = seen.name, dict(seen.record)
        if referee is not None and name == FULL:
            settings["referee"] = referee_json(referee, config.label or config.policy)
        more = {"offered": tools if name == FULL else (), "clusters": clusters}
        records.append(summarise(config, part, name, tasks=tasks, tools=left, settings=settings, **more))
    return records


def _changed(variant: str, tools: Sequence[str], left: Sequence[str]) -> dict[str, Any]:
    """The options that a setting changes, as they are then."""
    outputs = _OUTPUTS.get(variant, REAL)
    return {
        **({"tools": list(left)} if list(left) != list(tools) else {}),
        **({"tool_outputs": outputs} if outputs != REAL else {}),
        **({"given_results": "of all tools"} if variant == RESULT_ONLY else {}),
    }


def _judged(config: EvaluateConfig, parties: Sequence[Party], groups: Mapping[str, Mapping[str, Sequence[Group]]]) -> Referee:
    """The referee's findings. Raises UsageError if the checkpoints of a run were not asked the same questions."""
    checkpoints = [party.label for party in parties if party.checkpoint]
    order = run_policies(config.run, config.checkpoints) if checkpoints else ()
    return judged(groups, [name for name in order if name in checkpoints])


def _report(ablation: Ablation, groups: Mapping[str, Sequence[Group]], clusters: Mapping[str, str]) -> AblationReport | None:
    if ablation is Ablation.none:
        return None
    pairs = paired(groups, clusters)
    variants = necessity(pairs) if ablation is Ablation.tools else causal_use(pairs)
    return AblationReport(variants, left_out=sum(1 for _ in episodes_of(groups[FULL])) - len(pairs[FULL]))


def _settings(config: EvaluateConfig, variant: str, options: Mapping[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    return {
        **({"notes": list(notes)} if notes else {}),
        "tool_outputs": _OUTPUTS.get(variant, REAL),
        "options": dict(options),
        "samples": config.group_size,
        "toolwise": version("toolwise"),
    }


def _rubric_score(groups: Sequence[Group]) -> dict[str, float]:
    """The mean share of rubrics that were met, if rubrics scored these episodes."""
    trajectories = [episode.trajectory for episode in episodes_of(groups) if not episode.failed]
    if not any("rubric_score" in trajectory.reward_parts for trajectory in trajectories):
        return {}
    return {
        "rubric_score": sum(trajectory.reward_parts.get("rubric_score", 0.0) for trajectory in trajectories) / len(trajectories)
    }


def _ablation(value: str) -> Ablation:
    try:
        return Ablation.tools if value.lower() == "true" else Ablation.none if value.lower() == "false" else Ablation(value)
    except ValueError:
        raise UsageError(f"ablate={value}: write one of {', '.join(Ablation)}") from None


def _tools_of(variant: str, tools: Sequence[str]) -> list[str]:
    if variant in (WITHOUT, RESULT_ONLY):
        return []
    return [tool for tool in tools if variant != f"without {tool}"]
