"""The command line: `toolwise COMMAND key=value …`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib.metadata import version
from io import TextIOWrapper
from socket import socket
from typing import TYPE_CHECKING, Any

from checks import bench, doctor, lint, named
from console import WIDTH, can_draw, console, done, live, program, progress, say
from reading import export, import_, report, status, view
from usage import USAGE, help_of

if TYPE_CHECKING:
    from evaluation.types import EvaluationRecord
    from rollout.collect import CollectConfig


def train(overrides: Sequence[str], name: str = "train") -> int:
    """Run the stages of an experiment and print the table of held-out results."""
    from pathlib import Path

    from configs import compose, compose_again
    from configs.values import options_text
    from learner.experiment import Experiment
    from learner.run import run

    config = _writable(compose(name, Experiment, overrides))
    saved = Path(config.out, "config.yaml")
    if config.resume and saved.exists():
        config = compose_again(saved, Experiment, overrides)
    say(f"{name}: {', '.join(config.stages)} on {config.tasks}, from policy {config.policy}, into {config.out}")
    shown: dict[str, Any] = {"view": live} if can_draw() else {"progress": progress}
    path, records = run(config, say=say, **shown)
    from evaluation.report import table
    from evaluation.settings import EvaluateConfig

    console.print(table(records))
    names = ("report.html", "evaluation.json", "metrics.jsonl", "trajectories/", "checkpoints/", "wandb/")
    wrote = f"{path}/: {', '.join(name for name in names if Path(path, name).exists())}"
    if any(record.label in ("cold_start", "rl") for record in records) and "://" not in (config.checkpoint.dir or ""):
        # As the run measured it: on the tasks of the test split, with its prompt, budgets and types of numbers.
        more = f"evaluate run={shlex.quote(config.out)} out={shlex.quote(f'{path}/more')}"
    else:
        tasks = "" if config.tasks == EvaluateConfig.tasks else f"tasks={shlex.quote(config.tasks)} "
        tasks += options_text({name: value for name, value in config.options.items() if name != "split"})
        tasks += options_text({name: value for name, value in config.task_options.test.items() if value is not None})
        more = f"evaluate policy={records[-1].policy if records else config.policy} {tasks}out={path}/more"
    done(wrote, f"view {shlex.quote(config.out)}", more)
    return _status(records)


def cold_start(overrides: Sequence[str]) -> int:
    """Only the cold start."""
    return train(overrides, "cold_start")


def collect(overrides: Sequence[str]) -> int:
    """Roll a policy out and write its trajectories."""
    from configs import compose
    from configs.values import options_text
    from evaluation.evaluate import offered_tools, summarise
    from evaluation.report import table
    from rollout.collect import SCRIPTS, CollectConfig
    from rollout.collect import collect as run

    config = _begun(_writable(compose("collect", CollectConfig, overrides)), overrides)
    count = _announce("collect", config)
    with progress("collect", count) as advance:
        groups = run(config, _directory(config), advance)
    records = [summarise(config, groups, offered=offered_tools(config, groups))]
    console.print(table(records))
    following = "evaluate policy=starter" if config.policy in SCRIPTS else f"train policy={config.policy}"
    options = options_text({name: value for name, value in config.options.items() if name != "split"})
    done(f"{config.out}/trajectories/episodes.jsonl", f"{following} tasks={config.tasks} {options}".rstrip())
    return _status(records)


def synthesize(overrides: Sequence[str]) -> int:
    """Have teachers demonstrate, and keep what is right; exit status 1 if nothing is."""
    from configs import compose
    from configs.values import options_text
    from curation.synthesis.attempts import Reason
    from curation.synthesis.run import Synthesis
    from curation.synthesis.settings import SynthesizeConfig
    from rollout.engines.endpoint import Endpoint
    from rollout.tokens.chat_format import ChatFormat
    from starter.policies import find_policy

    config = _begun(_writable(compose("synthesize", SynthesizeConfig, overrides)), overrides)
    synthesis = Synthesis(config, ChatFormat.from_directory(find_policy(config.student)), Endpoint.of)
    count = len(synthesis.units)
    say(f"synthesize: {count} demonstrations of {', '.join(config.teachers)} on {config.tasks}, into {config.out}")
    with progress("synthesize", count) as advance:
        report = synthesis.run(advance)
    say(report.to_markdown())
    wrote = "demonstrations.jsonl, rejected.jsonl, synthesis.json, synthesis.md, journal/, trajectories/"
    taken = f"cold_start.demonstrations_file={config.out}/demonstrations.jsonl cold_start.demonstrations={report.all.kept}"
    learn = f"cold-start {taken} tasks={config.tasks} {options_text(config.options)}".rstrip()
    again = f"synthesize out={config.out} resume=true" if report.stopped or report.all.rejected.get(Reason.failed) else ""
    # Of nothing there is nothing to learn: what was rejected says why.
    done(f"{config.out}/: {wrote}", learn if report.all.kept else again or f"view {shlex.quote(config.out)}")
    return 0 if report.all.kept else 1


def evaluate(overrides: Sequence[str]) -> int:
    """Measure a policy on held-out tasks, and judge its use of tools if asked; or compare two evaluations."""
    from configs.evaluating import evaluation_settings
    from envs.errors import UsageError
    from evaluation.comparison import compare, comparison_table
    from evaluation.evaluate import announced, judged_policy
    from evaluation.evaluate import evaluate as run
    from evaluation.protocols import chosen
    from evaluation.report import table

    config = _begun(evaluation_settings(overrides), overrides)
    if config.compare:
        if len(config.compare) != 2:
            raise UsageError("compare takes two directories: write compare=[runs/a,runs/b]")
        console.print(comparison_table(compare(*config.compare)))
        return 0
    config = chosen(_writable(config), overrides, say)
    judged = judged_policy(config)
    _announce("evaluate", judged)
    for line in announced(config):
        say(line)
    evaluation = run(config, _directory(judged), progress, _directory)
    console.print(table(evaluation.records))
    for part in evaluation.reports:
        console.print(part, markup=False)
    done(f"{config.out}/: {', '.join(evaluation.files)}, trajectories/", f"evaluate compare=[{config.out},runs/other]")
    return _status(evaluation.records)


def curate(overrides: Sequence[str]) -> int:
    """Sort questions by what tools add."""
    from configs import compose
    from configs.values import options_text
    from curation.curate import curate as run
    from curation.selection import Destination
    from curation.settings import CurateConfig

    config = _begun(_writable(compose("curate", CurateConfig, overrides)), overrides)
    _announce("curate", config, ways=2)
    directory = _directory(config)
    report = run(config, directory, progress)
    console.print(report.table())
    for line in report.warnings():
        say(line)
    wrote = f"{config.out}/: rl.parquet, cold_start.parquet, dropped.parquet, plane.png, curation.json, curation.md, trajectories/"
    # Pictures, tools and splits are in the rows; how the policy writes is not.
    written = options_text({name: value for name, value in config.options.items() if name == "protocol"})
    learn = f"train stages=[rl] tasks={config.out}/rl.parquet policy={directory} {written}".rstrip()
    demonstrate = f"synthesize tasks={config.out}/cold_start.parquet student={directory} {written}+teachers.NAME.url=URL"
    again = f"curate out={config.out} resume=true" + (" thresholds.max_pass_rate_without=1" if report.is_reliable else "")
    following = {Destination.rl: learn, Destination.cold_start: demonstrate, Destination.dropped: again}
    done(wrote, next((command for place, command in following.items() if report.count(place)), again))
    return 0 if report.is_reliable else 1


def _writable[C: Any](config: C) -> C:
    """The settings, if their `out` can be written to, and no other command is about to; raises UsageError if not."""
    from configs.values import check_out
    from envs.errors import UsageError
    from envs.runtime.processes import claim

    check_out(config.out)
    if config.out not in _held:
        if (held := claim(config.out)) is None:
            raise UsageError(f"out={config.out}: another command is writing there: wait until it has ended, or write another out=")
        _held[config.out] = held
    return config


def _announce(command: str, config: CollectConfig, ways: int = 1) -> int:
    """Say what the command is about to run, each task in so many ways; returns the number of episodes."""
    from envs import count_rows
    from rollout.collect import group_count, tasks_of

    groups, rows = group_count(config), count_rows(*tasks_of(config))
    part = (
        f" ({groups} of {rows} rows, drawn by seed={config.seed}: episodes= takes more)"
        if rows is not None and groups < rows
        else ""
    )
    count = groups * config.group_size * ways
    split = f", split {chosen}" if (chosen := tasks_of(config)[1].get("split")) else ""
    say(f"{command}: {count} episodes of {config.policy} on {config.tasks}{split}{part}, into {config.out}")
    return count


def _begun[C: Any](config: C, overrides: Sequence[str]) -> C:
    """The settings that the command began with, if it is to go on."""
    from pathlib import Path

    from configs import compose_again

    saved = Path(config.out, "config.yaml")
    if config.resume and not saved.exists() and not saved.with_name("trajectories").exists():
        say(f"resume=true: {config.out} holds nothing to go on with, so all is run with the settings of this command")
    return compose_again(saved, type(config), overrides) if config.resume and saved.exists() else config


def _status(records: Sequence[EvaluationRecord]) -> int:
    """Warn of episodes that are missing from the figures or were not played; exit status 1 if they are more than a tenth."""
    from evaluation.report import is_reliable, warnings

    for line in warnings(records):
        say(line)
    for note in dict.fromkeys(note for record in records for note in record.settings.get("notes", [])):
        say(f"note: {note}")
    return 0 if is_reliable(records) else 1


def _directory(config: CollectConfig) -> str:
    """The policy's directory; for a script or an endpoint, the one in whose tokens its episodes are written."""
    from rollout.collect import SCRIPTS, is_endpoint
    from starter.policies import find_policy

    foreign = config.policy in SCRIPTS or is_endpoint(config.policy)
    return find_policy(config.tokenizer if foreign else config.policy)


def index(overrides: Sequence[str]) -> int:
    """Build an index for the text or the image search."""
    from configs import compose
    from envs.search.building import IndexConfig, build_index, size_of

    config = _writable(compose("index", IndexConfig, overrides))
    say(f"index: {config.corpus or config.gallery}, into {config.out}")
    with progress("index", size_of(config)) as advance:
        option, entries = build_index(config, lambda done: advance(done, ""))
    done(f"{config.out}/: {entries:,} entries", f"collect tasks=… +options.{option}={config.out}")
    return 0


def atlas(overrides: Sequence[str]) -> int:
    """Build the world of real data."""
    from configs import compose
    from envs.worlds.atlas.building import TEMPLATES, AtlasConfig, build_atlas

    config = _writable(compose("atlas", AtlasConfig, overrides))
    say(f"atlas: from the World Factbook, flags and photographs, into {config.out}")
    with progress("templates", len(TEMPLATES)) as advance:
        count = build_atlas(config, advance)
    wrote = f"{config.out}/: {count:,} questions; SOURCES.md says what was taken from where"
    done(wrote, f"evaluate policy=expert tasks=toolwise/Atlas-v0 +options.path={config.out}")
    return 0


def model(overrides: Sequence[str]) -> int:
    """Build and pre-train a starter policy, or make a policy of SmolLM2's file."""
    name, settings = named("model", ("starter", "smollm2"), overrides)
    from configs import compose

    if name == "smollm2":
        from starter.smollm2 import SmolLM2Config, convert

        made = _writable(compose("smollm2", SmolLM2Config, settings))
        say(f"model smollm2: {made.file} into {made.out}")
        parameters = convert(made)
        done(f"{made.out}/: a policy of {parameters:,} parameters", f"train experiment=smollm2 policy={made.out}")
        return 0
    from starter.pretraining import PretrainingConfig, pretrain

    config = _writable(compose("model", PretrainingConfig, settings))
    say(f"model starter: {config.steps} steps on what a base for {config.world} knows, into {config.out}")
    with progress("pre-training", config.steps) as advance:
        accuracies = pretrain(config, advance)
    say("validation accuracy: " + ", ".join(f"{kind} {accuracy:.1%}" for kind, accuracy in accuracies.items()))
    experiment = "experiment=mixture " if config.world == "mixture" else ""
    done(f"{config.out}/: a policy in the Hugging Face layout, pretraining.json", f"train {experiment}policy={config.out}")
    return 0


def serve_search(overrides: Sequence[str]) -> int:
    """Serve a text index until the process is told to end."""
    from configs import compose
    from rollout.cluster.search_service import ServiceConfig, serve_index

    config = compose("serve_search", ServiceConfig, overrides)
    say(f"serve-search: {config.index}, {config.replicas} replicas, at {config.host}:{config.port}")

    def ready(url: str) -> None:
        say(f"serving {url} (Search-R1's form) until Ctrl-C")
        say(f"next: {program()} collect tasks=… +options.text_search={url}")

    serve_index(config, ready)
    say("closed")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "cold-start": cold_start,
    "collect": collect,
    "synthesize": synthesize,
    "evaluate": evaluate,
    "curate": curate,
    "index": index,
    "atlas": atlas,
    "model": model,
    "serve-search": serve_search,
    "status": status,
    "report": report,
    "export": export,
    "import": import_,
    "view": view,
    "lint": lint,
    "bench": bench,
    "doctor": doctor,
}


_held: dict[str, socket] = {}
"""What keeps other commands away from this one's `out`."""


def main() -> int:
    """Run one command.

    A user's mistake is one line on standard error and status 2; a failing cluster, or code of the user's, one and status 1; SIGINT
    and SIGTERM one and 130.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that lacks a character is no reason to end a run.
            stream.reconfigure(errors="replace")
    arguments = sys.argv[1:]
    if arguments[:1] == ["help"] and arguments[1:]:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("help", "-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    if arguments[0] in ("version", "-V", "--version"):
        print(f"toolwise {version('toolwise')}")
        return 0
    command = COMMANDS.get(arguments[0])
    if command is None:
        close = get_close_matches(arguments[0], COMMANDS, 1)
        remedy = f"did you mean {close[0]}?" if close else f"write one of {', '.join(COMMANDS)}"
        print(f"toolwise: there is no command {arguments[0]!r}: {remedy}", file=sys.stderr)
        return 2
    from envs.errors import InfrastructureError, UsageError
    from envs.runtime.atomic import FULL
    from envs.runtime.failures import place, told
    from envs.runtime.processes import require_surroundings
    from sandbox import SandboxUnavailable

    try:
        if {"-h", "--help"} & set(arguments):
            say(help_of(arguments[0], arguments[1:], min(console.width, WIDTH)))
            return 0
        require_surroundings()
        return command(arguments[1:])
    except (UsageError, SandboxUnavailable) as error:
        print(f"toolwise {arguments[0]}: {error}", file=sys.stderr)
        return 2
    except InfrastructureError as error:
        print(f"toolwise {arguments[0]}: infrastructure failed: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            what = f"{error.filename} could not be written" if error.filename else "a file could not be written"
            line = f"infrastructure failed: the disk is full: {what}"
        elif place(error):
            line = f"your own code failed: {told(error)}"
        elif isinstance(error, OSError) and error.filename:  # a disk that is gone, a directory that may not be read
            line = f"infrastructure failed: {told(error)}"
        else:
            raise
        print(f"toolwise {arguments[0]}: {line}{_going_on(command)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"toolwise {arguments[0]}: interrupted{_going_on(command)}", file=sys.stderr)
        return 130
    finally:
        while _held:
            _held.popitem()[1].close()


def _going_on(command: Callable[[list[str]], int]) -> str:
    return "; resume=true goes on with it" if command in (train, cold_start, collect, synthesize, evaluate, curate) else ""


if __name__ == "__main__":
    sys.exit(main())
