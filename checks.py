"""The commands that look at what there is: `lint` at trajectory files, `doctor` at a machine and a policy, `bench` at a part."""

from __future__ import annotations

from collections.abc import Sequence

from console import console, done, progress, say


def lint(overrides: Sequence[str]) -> int:
    """Check trajectory files; exit status 1 if they have problems."""
    from contextlib import suppress
    from pathlib import Path

    from envs.errors import UsageError
    from envs.runtime.regular_file import open_file
    from rollout.lint import lint as find_problems

    remedy = "write a run directory, its trajectories/ or one .jsonl file, as in `lint runs/demo`"
    if len(overrides) != 1:
        raise UsageError(f"lint takes one path: {remedy}")
    path = Path(overrides[0])
    path = path / "trajectories" if (path / "trajectories").is_dir() else path
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if (path / "metrics.jsonl").is_file():
        raise UsageError(f"{path} is the directory of a run, and its trajectories/ is not there: {remedy}")
    if path.exists() and not path.is_dir() and not path.is_file():
        raise UsageError(f"{path} is no regular file: {remedy}")
    if not files or (files == [path] and not (path.suffix == ".jsonl" and path.is_file())):
        raise UsageError(f"there is no trajectory file (*.jsonl) at {path}: {remedy}")
    problems = find_problems(path)
    for problem in problems:
        say(problem)
    records = 0
    for file in files:
        with suppress(OSError), open_file(file) as opened:  # one that cannot be read is among the problems
            records += sum(line.endswith(b"\n") for line in opened)
    say(f"{path}: problems: {len(problems)}, records: {records}, files: {len(files)}")
    if unfinished := [file.name for file in sorted(path.glob("*.jsonl.part"))]:
        say(f"not read: {', '.join(unfinished)}: a step that is under way, or that was killed; resume=true runs it again")
    return 1 if problems else 0


def doctor(overrides: Sequence[str]) -> int:
    """Say whether the sandbox can run here; with settings, what an experiment needs and whether its sampler and learner agree.

    Exit status 1 if something is missing or wrong.
    """
    if overrides in ([], ["format=json"]):
        return _examine_sandbox(as_json=bool(overrides))
    from dataclasses import fields

    from configs import compose
    from learner.experiment import Experiment
    from learner.plan.plan import PlanConfig, plan
    from rollout.cluster.connect import has_gpus

    names = {field.name for field in fields(PlanConfig)}
    assumed = [text for text in overrides if text.partition("=")[0] in names]
    config = compose("train", Experiment, [text for text in overrides if text not in assumed])
    config.check()
    sound = True
    if config.learner.gpus_per_worker or assumed:
        made = plan(config, compose("plan", PlanConfig, assumed))
        console.print(made)
        for problem in made.problems:
            say(f"problem: {problem}")
        sound = not made.problems
    if config.learner.gpus_per_worker and not has_gpus():
        say("sampler and learner are not compared: there is no GPU here")
    else:
        from learner.parity import measure

        say(f"doctor: sampler and learner of policy {config.policy}, side by side")
        parity = measure(config, say)
        print(parity)
        sound &= not parity.problems
    return 0 if sound else 1


def _examine_sandbox(as_json: bool) -> int:
    """Print what the sandbox needs and whether it is there and holds."""
    import asyncio

    from sandbox.certification import certify
    from sandbox.doctor import Report, probe

    report = probe()
    if report.level != "none":
        report = Report(report.checks + asyncio.run(certify(accept_reduced_isolation=report.level == "reduced")))
    print(report.to_json() if as_json else report)
    return 0 if report.level == "full" else 1


def bench(overrides: Sequence[str]) -> int:
    """Measure a part and its peers in one run, print the figures side by side and write them."""
    import json
    from pathlib import Path

    from benchmarks import BENCHMARKS, BenchConfig, Said, require, table
    from configs import compose
    from envs.errors import UsageError
    from envs.runtime.atomic import write_file

    name, settings = named("benchmark", tuple(BENCHMARKS), overrides)
    config = compose("bench", BenchConfig, settings)
    out = Path(config.out or f"runs/bench/{name}.json")
    if config.rounds < 1:
        raise UsageError(f"rounds={config.rounds}: write at least 1")
    if out.is_dir():
        raise UsageError(f"out={out} is a directory: write a file, like out={out}/{name}.json")
    require(name)
    out.parent.mkdir(parents=True, exist_ok=True)
    say(f"bench {name}: ours and its peers in turns, {config.rounds} rounds, into {out}")
    with progress("rounds", config.rounds) as advance:
        figures = BENCHMARKS[name](config.rounds, advance)
    records = [figure.record() for figure in figures]
    write_file(out, json.dumps(records, indent=2) + "\n")
    said = [figure for figure in figures if isinstance(figure, Said)]
    console.print(table(records), *map(str, said), sep="\n", markup=False)
    done(str(out), "train experiment=demo")
    return 1 if any(one.failed for one in said) else 0


def named(kind: str, names: Sequence[str], overrides: Sequence[str]) -> tuple[str, list[str]]:
    """The argument that names a `kind` of thing, one of `names`, and the other arguments. Raises UsageError."""
    from envs.errors import UsageError

    name = next((argument for argument in overrides if "=" not in argument), "")
    if name not in names:
        raise UsageError(f"there is no {kind} {name!r}: write {' or '.join(names)}")
    others = list(overrides)
    others.remove(name)
    return name, others
