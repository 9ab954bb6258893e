"""The command line: `toolwise COMMAND key=value …`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

USAGE = """usage: toolwise COMMAND [key=value …]

  train       cold start and reinforcement learning (experiment=demo is what `make demo` runs)
  cold-start  supervised fine-tuning on verified demonstrations only
  collect     roll a policy out and write its trajectories, without learning
  evaluate    measure a policy on held-out tasks
  bench       measure a part beside its peers, in one run: bench NAME (sandbox)
  doctor      say whether this machine can run the sandbox, and what to do if not

Every setting can be overridden: toolwise train out=runs/mine rl.steps=50 seed=1"""


def train(overrides: Sequence[str], name: str = "train") -> int:
    """Run the stages of an experiment and print the table of held-out results."""
    from pathlib import Path

    from configs import compose, compose_again
    from learner.console import console
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
    from rollout.evaluate import table

    console.print(table(records))
    console.print(
        f"wrote {path}/: evaluation.json, metrics.jsonl, trajectories/, checkpoints/, wandb/", soft_wrap=True, highlight=False
    )
    trained = [record["policy"] for record in records if record["label"] in ("cold_start", "rl")]
    if trained:
        console.print(f"next: .venv/bin/toolwise evaluate policy={trained[-1]} out={path}/more", soft_wrap=True, highlight=False)
    return 0


def cold_start(overrides: Sequence[str]) -> int:
    """Only the cold start."""
    return train(overrides, "cold_start")


def collect(overrides: Sequence[str], name: str = "collect") -> int:
    """Roll a policy out and write its trajectories; as `evaluate`, also measure it."""
    import json
    from pathlib import Path

    from configs import compose
    from learner.console import console, progress
    from learner.policies import find_policy
    from rollout.collect import SCRIPTS, CollectConfig, is_endpoint
    from rollout.collect import collect as run
    from rollout.evaluate import evaluation_record, table

    config = compose(name, CollectConfig, overrides)
    foreign = config.policy in SCRIPTS or is_endpoint(config.policy)
    policy_dir = find_policy(config.tokenizer if foreign else config.policy)
    count = config.episodes * config.group_size
    console.print(f"{name}: {count} episodes of {config.policy} on {config.tasks}, into {config.out}", highlight=False)
    with progress(name, count) as advance:
        episodes = run(config, policy_dir, lambda done, _: advance(done, ""))
    record = evaluation_record(
        config.label or config.policy,
        [episode.trajectory for episode in episodes],
        policy=config.policy,
        tasks=config.tasks,
        seed=config.seed,
        temperature=config.temperature,
    )
    console.print(table([record]))
    out = Path(config.out)
    if name == "evaluate":
        (out / "evaluation.json").write_text(json.dumps([record], indent=2) + "\n")
        console.print(f"wrote {out}/evaluation.json", highlight=False)
    console.print(f"wrote {out}/trajectories/episodes.jsonl", highlight=False)
    console.print(f"next: .venv/bin/toolwise train policy={config.policy} tasks={config.tasks}", highlight=False)
    return 0


def evaluate(overrides: Sequence[str]) -> int:
    """Measure a policy on held-out tasks."""
    return collect(overrides, "evaluate")


def bench(overrides: Sequence[str]) -> int:
    """Measure a part and its peers in one run, print the figures side by side and write them."""
    import json
    from pathlib import Path

    from benchmarks import BENCHMARKS, BenchConfig, table
    from configs import SettingsError, compose
    from learner.console import console, progress
    from learner.run_directory import write_whole

    name = next((argument for argument in overrides if "=" not in argument), "")
    if name not in BENCHMARKS:
        raise SettingsError(f"there is no benchmark {name!r}: write one of {', '.join(BENCHMARKS)}, as in `bench sandbox`")
    settings = list(overrides)
    settings.remove(name)
    config = compose("bench", BenchConfig, settings)
    out = Path(config.out or f"runs/bench/{name}.json")
    if config.rounds < 1:
        raise SettingsError(f"rounds={config.rounds}: write at least 1")
    if out.is_dir():
        raise SettingsError(f"out={out} is a directory: write a file, like out={out}/{name}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    console.print(f"bench {name}: ours and its peers in turns, {config.rounds} rounds, into {out}", highlight=False)
    with progress("rounds", config.rounds) as advance:
        figures = BENCHMARKS[name](config.rounds, advance)
    records = [figure.record() for figure in figures]
    write_whole(out, json.dumps(records, indent=2) + "\n")
    console.print(table(records))
    console.print(f"wrote {out}", soft_wrap=True, highlight=False)
    console.print("next: .venv/bin/toolwise train experiment=demo", highlight=False)
    return 0


def doctor(overrides: Sequence[str]) -> int:
    """Print what the sandbox needs and whether it is there and holds; exit status 1 where something is missing."""
    import asyncio

    from configs import SettingsError
    from sandbox.certification import certify
    from sandbox.doctor import Report, probe

    if overrides not in ([], ["format=json"]):
        raise SettingsError(f"doctor takes format=json or nothing, not {' '.join(overrides)}")
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
    "bench": bench,
    "doctor": doctor,
}


def main() -> int:
    """Run one command. A user's mistake is one line on standard error and status 2; a failing cluster one and status 1."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if arguments else 2
    command = COMMANDS.get(arguments[0])
    if command is None:
        print(f"toolwise: there is no command {arguments[0]!r}: write one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    from configs import SettingsError
    from envs.types import InfrastructureError, UsageError
    from sandbox import SandboxUnavailable

    try:
        return command(arguments[1:])
    except (SettingsError, UsageError, SandboxUnavailable) as error:
        print(f"toolwise {arguments[0]}: {error}", file=sys.stderr)
        return 2
    except InfrastructureError as error:
        print(f"toolwise {arguments[0]}: the machines failed: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
