"""The command line: `toolwise COMMAND key=value …`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rollout.collect import CollectConfig

USAGE = """usage: toolwise COMMAND [key=value …]

  train       cold start and reinforcement learning (experiment=demo is what `make demo` runs)
  cold-start  supervised fine-tuning on verified demonstrations only
  collect     roll a policy out and write its trajectories, without learning
  evaluate    measure a policy on held-out tasks
  index       build an index for the text or the image search: corpus=FILE or gallery=DIR
  atlas       build the world of real data, toolwise/Atlas-v0, from installed packages
  serve-search  serve a text index to a fleet, with Ray Serve: index=DIR
  bench       measure a part beside its peers, in one run: bench NAME (sandbox, search)
  doctor      say whether this machine can run the sandbox, and what to do if not

Every setting can be overridden: toolwise train out=runs/mine rl.steps=50 seed=1"""


def train(overrides: Sequence[str], name: str = "train") -> int:
    """Run the stages of an experiment and print the table of held-out results."""
    from pathlib import Path

    from configs import compose, compose_again
    from console import console
    from learner.experiment import Experiment
    from learner.run import run

    config = compose(name, Experiment, overrides)
    saved = Path(config.out, "config.yaml")
    if config.resume and saved.exists():
        config = compose_again(saved, Experiment, overrides)
    console.print(
        f"{name}: {', '.join(config.stages)} on {config.tasks}, from policy {config.policy}, into {config.out}", highlight=False
    )
    path, records = run(config)
    from evaluation.evaluate import EvaluateConfig
    from evaluation.records import table

    console.print(table(records))
    console.print(
        f"wrote {path}/: evaluation.json, metrics.jsonl, trajectories/, checkpoints/, wandb/", soft_wrap=True, highlight=False
    )
    trained = [record.policy for record in records if record.label in ("cold_start", "rl")]
    if trained:
        tasks = "" if config.tasks == EvaluateConfig.tasks else f"tasks={config.tasks} +options.split=test "
        console.print(
            f"next: .venv/bin/toolwise evaluate policy={trained[-1]} {tasks}out={path}/more", soft_wrap=True, highlight=False
        )
    return 0


def cold_start(overrides: Sequence[str]) -> int:
    """Only the cold start."""
    return train(overrides, "cold_start")


def collect(overrides: Sequence[str]) -> int:
    """Roll a policy out and write its trajectories."""
    from configs import compose
    from console import console, progress
    from evaluation.evaluate import summarise
    from evaluation.records import table
    from rollout.collect import SCRIPTS, CollectConfig, group_count
    from rollout.collect import collect as run

    config = compose("collect", CollectConfig, overrides)
    count = group_count(config) * config.group_size
    console.print(f"collect: {count} episodes of {config.policy} on {config.tasks}, into {config.out}", highlight=False)
    with progress("collect", count) as advance:
        groups = run(config, _directory(config), advance)
    console.print(table([summarise(config, groups)]))
    console.print(f"wrote {config.out}/trajectories/episodes.jsonl", soft_wrap=True, highlight=False)
    command = "evaluate policy=starter" if config.policy in SCRIPTS else f"train policy={config.policy}"
    console.print(f"next: .venv/bin/toolwise {command} tasks={config.tasks}", soft_wrap=True, highlight=False)
    return 0


def evaluate(overrides: Sequence[str]) -> int:
    """Measure a policy on held-out tasks, with tools taken away if asked; or compare two evaluations."""
    from configs import compose
    from console import console, progress
    from envs.errors import UsageError
    from evaluation.ablation import ablation_table
    from evaluation.comparison import compare, comparison_table
    from evaluation.evaluate import EvaluateConfig
    from evaluation.evaluate import evaluate as run
    from evaluation.records import table
    from rollout.collect import group_count

    config = compose("evaluate", EvaluateConfig, overrides)
    if config.compare:
        if len(config.compare) != 2:
            raise UsageError("compare takes two directories: write compare=[runs/a,runs/b]")
        console.print(comparison_table(compare(*config.compare)))
        return 0
    count = group_count(config) * config.group_size
    console.print(f"evaluate: {count} episodes of {config.policy} on {config.tasks}, into {config.out}", highlight=False)
    evaluation = run(config, _directory(config), progress)
    console.print(table(evaluation.records))
    if evaluation.ablation is not None:
        console.print(ablation_table(evaluation.ablation))
    more = ", ablation.json" if evaluation.ablation is not None else ""
    console.print(f"wrote {config.out}/: evaluation.json, evaluation.md{more}, trajectories/", soft_wrap=True, highlight=False)
    console.print(
        f"next: .venv/bin/toolwise evaluate compare=[{config.out},runs/other]", soft_wrap=True, highlight=False, markup=False
    )
    return 0


def _directory(config: CollectConfig) -> str:
    """The policy's directory; for a script or an endpoint, the one in whose tokens its episodes are written."""
    from rollout.collect import SCRIPTS, is_endpoint
    from starter.policies import find_policy

    foreign = config.policy in SCRIPTS or is_endpoint(config.policy)
    return find_policy(config.tokenizer if foreign else config.policy)


def index(overrides: Sequence[str]) -> int:
    """Build an index for the text or the image search."""
    from configs import compose
    from console import console, progress
    from envs.search.building import IndexConfig, build_index, size_of

    config = compose("index", IndexConfig, overrides)
    console.print(f"index: {config.corpus or config.gallery}, into {config.out}", highlight=False)
    with progress("index", size_of(config)) as advance:
        option, entries = build_index(config, lambda done: advance(done, ""))
    console.print(f"wrote {config.out}/: {entries:,} entries", soft_wrap=True, highlight=False)
    console.print(f"next: .venv/bin/toolwise collect tasks=… +options.{option}={config.out}", soft_wrap=True, highlight=False)
    return 0


def atlas(overrides: Sequence[str]) -> int:
    """Build the world of real data."""
    from configs import compose
    from console import console, progress
    from envs.atlas.building import TEMPLATES, AtlasConfig, build_atlas

    config = compose("atlas", AtlasConfig, overrides)
    console.print(f"atlas: from the World Factbook, flags and photographs, into {config.out}", highlight=False)
    with progress("templates", len(TEMPLATES)) as advance:
        count = build_atlas(config, advance)
    console.print(
        f"wrote {config.out}/: {count:,} questions; SOURCES.md says what was taken from where", soft_wrap=True, highlight=False
    )
    console.print(
        f"next: .venv/bin/toolwise evaluate policy=oracle tasks=toolwise/Atlas-v0 +options.path={config.out}",
        soft_wrap=True,
        highlight=False,
    )
    return 0


def serve_search(overrides: Sequence[str]) -> int:
    """Serve a text index until the process is told to end."""
    from configs import compose
    from console import console
    from rollout.cluster.search_service import ServiceConfig, serve_index

    config = compose("serve_search", ServiceConfig, overrides)
    console.print(f"serve-search: {config.index}, {config.replicas} replicas, at {config.host}:{config.port}", highlight=False)

    def ready(url: str) -> None:
        console.print(f"serving {url} (Search-R1's form) until Ctrl-C", highlight=False)
        console.print(f"next: .venv/bin/toolwise collect tasks=… +options.text_search={url}", soft_wrap=True, highlight=False)

    serve_index(config, ready)
    console.print("closed")
    return 0


def bench(overrides: Sequence[str]) -> int:
    """Measure a part and its peers in one run, print the figures side by side and write them."""
    import json
    from pathlib import Path

    from benchmarks import BENCHMARKS, BenchConfig, table
    from configs import compose
    from console import console, progress
    from envs.atomic import write_file
    from envs.errors import UsageError

    name = next((argument for argument in overrides if "=" not in argument), "")
    if name not in BENCHMARKS:
        raise UsageError(f"there is no benchmark {name!r}: write one of {', '.join(BENCHMARKS)}, as in `bench sandbox`")
    settings = list(overrides)
    settings.remove(name)
    config = compose("bench", BenchConfig, settings)
    out = Path(config.out or f"runs/bench/{name}.json")
    if config.rounds < 1:
        raise UsageError(f"rounds={config.rounds}: write at least 1")
    if out.is_dir():
        raise UsageError(f"out={out} is a directory: write a file, like out={out}/{name}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    console.print(f"bench {name}: ours and its peers in turns, {config.rounds} rounds, into {out}", highlight=False)
    with progress("rounds", config.rounds) as advance:
        figures = BENCHMARKS[name](config.rounds, advance)
    records = [figure.record() for figure in figures]
    write_file(out, json.dumps(records, indent=2) + "\n")
    console.print(table(records))
    console.print(f"wrote {out}", soft_wrap=True, highlight=False)
    console.print("next: .venv/bin/toolwise train experiment=demo", highlight=False)
    return 0


def doctor(overrides: Sequence[str]) -> int:
    """Print what the sandbox needs and whether it is there and holds; exit status 1 where something is missing."""
    import asyncio

    from envs.errors import UsageError
    from sandbox.certification import certify
    from sandbox.doctor import Report, probe

    if overrides not in ([], ["format=json"]):
        raise UsageError(f"doctor takes format=json or nothing, not {' '.join(overrides)}")
    report = probe()
    if report.level != "none":
        report = Report(report.checks + asyncio.run(certify(accept_reduced_isolation=report.level == "reduced")))
    print(report.to_json() if overrides else report)
    return 0 if report.level == "full" else 1


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "cold-start": cold_start,
    "collect": collect,
    "evaluate": evaluate,
    "index": index,
    "atlas": atlas,
    "serve-search": serve_search,
    "bench": bench,
    "doctor": doctor,
}


def main() -> int:
    """Run one command.

    A user's mistake is one line on standard error and status 2; a failing cluster one and status 1; SIGINT and SIGTERM one and 130.
    """
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if arguments else 2
    command = COMMANDS.get(arguments[0])
    if command is None:
        print(f"toolwise: there is no command {arguments[0]!r}: write one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    from envs.errors import InfrastructureError, UsageError
    from sandbox import SandboxUnavailable

    try:
        return command(arguments[1:])
    except (UsageError, SandboxUnavailable) as error:
        print(f"toolwise {arguments[0]}: {error}", file=sys.stderr)
        return 2
    except InfrastructureError as error:
        print(f"toolwise {arguments[0]}: the machines failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        go_on = "; resume=true goes on with the run" if command is train else ""
        print(f"toolwise {arguments[0]}: interrupted{go_on}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
