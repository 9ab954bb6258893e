"""What `toolwise help` and `toolwise COMMAND --help` print: the commands, and the settings of each."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

ABOUT = {
    "train": "cold start and reinforcement learning (experiment=demo is what `make demo` runs)",
    "cold-start": "supervised fine-tuning on verified demonstrations only",
    "collect": "roll a policy out and write its trajectories, without learning",
    "synthesize": "demonstrations for a cold start, by teachers behind endpoints or the tasks' expert",
    "evaluate": "measure a policy on held-out tasks",
    "curate": "sort questions by what tools add: for RL, for the cold start, for neither",
    "index": "build an index for the text or the image search: corpus=FILE or gallery=DIR",
    "atlas": "build the world of real data, toolwise/Atlas-v0, from installed packages",
    "model": "make a policy: model starter (world=microworld or mixture) is pre-trained, smollm2 is a real one (make smollm2)",
    "serve-search": "serve a text index to a fleet, with Ray Serve: index=DIR",
    "status": "where a run stands: status run=DIR (follow=true: until it ends)",
    "report": "write one page about a run, also a running one, or an evaluation: report run=DIR",
    "export": "write a run's episodes for inspect view, Harbor, TRL, LLaMA-Factory, verl: export run=DIR format=inspect",
    "import": "make a run of others' logs, OpenAI's messages or DeepEyesV2's: import file=FILE",
    "view": "a local page of runs: curves, groups side by side, pictures, tokens: view runs/demo",
    "lint": "check the trajectory files of a run: lint PATH",
    "bench": "measure a part against its peers, in one run: bench NAME (gpu, learner, sandbox, search, view)",
    "doctor": """say whether this machine can run the sandbox, and what to do if not;
doctor policy=DIR: whether its sampler and learner agree, and both see
doctor experiment=NAME gpu=h100: what a run needs of GPUs and hosts, and how long a step takes
(beside its own settings it takes those of train)""",
}
"""What each command is for."""

SETTINGS: dict[str, tuple[str, str] | None] = {
    "train": ("train", "learner.experiment:Experiment"),
    "cold-start": ("cold_start", "learner.experiment:Experiment"),
    "collect": ("collect", "rollout.collect:CollectConfig"),
    "synthesize": ("synthesize", "curation.synthesis.settings:SynthesizeConfig"),
    "evaluate": ("evaluate", "evaluation.settings:EvaluateConfig"),
    "curate": ("curate", "curation.settings:CurateConfig"),
    "index": ("index", "envs.search.building:IndexConfig"),
    "atlas": ("atlas", "envs.worlds.atlas.building:AtlasConfig"),
    "model starter": ("model", "starter.pretraining:PretrainingConfig"),
    "model smollm2": ("smollm2", "starter.smollm2:SmolLM2Config"),
    "serve-search": ("serve_search", "rollout.cluster.search_service:ServiceConfig"),
    "status": ("status", "viewer.status.settings:StatusConfig"),
    "report": ("report", "evaluation.settings:ReportConfig"),
    "export": ("export", "interop.settings:ExportConfig"),
    "import": ("import", "interop.settings:ImportConfig"),
    "view": ("view", "viewer.settings:ViewConfig"),
    "lint": None,
    "bench": ("bench", "benchmarks:BenchConfig"),
    "doctor": ("plan", "learner.plan.plan:PlanConfig"),
}
"""The file in configs/ and the dataclass that a command's settings are made of."""

_COMMANDS = "\n".join(f"  {name:<11} {about}".replace("\n", f"\n{'':14}") for name, about in ABOUT.items())
USAGE = f"""usage: toolwise COMMAND [key=value …]

{_COMMANDS}

Every setting can be overridden: toolwise train out=runs/mine rl.steps=50 seed=1
A command's settings, with their defaults and meanings: toolwise COMMAND --help
Some of them, with the values of an experiment: toolwise train experiment=demo --help rl max_tokens"""


def schema(path: str) -> type:
    """The dataclass at `module:Class`."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def help_of(command: str, arguments: Sequence[str], width: int) -> str:
    """What a command is for, and its settings as lines of at most `width` characters.

    Before `--help` stand settings, whose values are shown, and behind it the names of those to show, or of groups of them.
    Raises UsageError if one of them is wrong.
    """
    from configs.describing import described

    asked = next(place for place, argument in enumerate(arguments) if argument in ("-h", "--help"))
    overrides = [argument for argument in arguments if "=" in argument]
    parts = [argument for argument in arguments[asked + 1 :] if "=" not in argument]
    names = [name for name in SETTINGS if name == command or name in [f"{command} {argument}" for argument in arguments[:asked]]]
    names = names or [name for name in SETTINGS if name.startswith(f"{command} ")]
    lines = [f"toolwise {command}: {ABOUT[command]}"]
    for name in names:
        if (settings := SETTINGS[name]) is not None:
            file, path = settings
            lines += ["", f"settings of toolwise {name}, written as key=value:", ""]
            lines.append(described(file, schema(path), overrides, parts, width))
    return "\n".join(lines)
