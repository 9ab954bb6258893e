"""Settings of the rollout. Plain dataclasses: they own the defaults, Hydra's YAML only chooses."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sandbox.types import Limits

PROTOCOL_PROMPT = "protocol"


@dataclass
class EngineConfig:
    """The engine of one worker. All but `kind` and `policy` are settings of vLLM."""

    kind: str = "vllm"
    """Who samples: vllm, in each worker; verl, servers that all workers share (see `servers`); endpoint; none if all episodes are
    played by scripts; or your own class as module:Class. It is made as Class(config: RolloutConfig, version: int) and is a
    `rollout.policy.Policy` or `ChatPolicy`."""
    policy: str = ""
    """Directory of the policy in the Hugging Face layout. Transcripts are written with its chat template and tokenizer, whoever
    samples."""
    device: str = "auto"
    """"cpu", "cuda", or "auto" for cuda if there is a GPU."""
    dtype: str = "auto"
    """Weights and activations; "auto" takes the checkpoint's own."""
    max_model_len: int = 4096
    """Longest sequence in tokens, prompt and action together."""
    max_sequences: int = 256
    """Most sequences in one batch."""
    max_batched_tokens: int = 8192
    """Most tokens of one forward pass."""
    block_size: int | None = None
    """Tokens per block of the key-value cache, the grain of prefix sharing; None is vLLM's choice on a GPU and 32 on a CPU."""
    prefix_caching: bool = True
    """Share the key-value cache of equal prefixes: the turns of an episode, the prompts of a group."""
    max_images: int = 16
    """Most images in one sequence."""
    image_cache_bytes: int | None = None
    """Memory for preprocessed images that may come again, in bytes; null: room for all that `episodes_per_worker` episodes may
    show, at most 5 % of the machine's memory."""
    gpu_memory_utilization: float = 0.9
    """Share of a GPU's memory for weights and cache."""
    tensor_parallel_size: int = 1
    """Number of GPUs that one engine spans."""
    enforce_eager: bool = False
    """Skip CUDA graphs. A CPU engine always does."""
    cpu_threads: int = 1
    """Threads of a CPU engine's forward pass. One is fastest for a few million parameters: a barrier costs more than it saves."""
    cpu_cache_gib: float = 1.0
    """Key-value cache of a CPU engine in GiB."""
    seed: int = 0
    """Seed of the engine itself; each request carries its own."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further options of vLLM's EngineArgs, as they are, as in {kv_cache_dtype: fp8}."""


@dataclass
class EndpointConfig:
    """A policy behind an OpenAI-compatible endpoint."""

    url: str = ""
    """The address to which `/chat/completions` belongs, like http://localhost:8000/v1."""
    model: str = ""
    """The name by which the endpoint knows the model."""
    key: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; it may be unset if the server needs none."""
    timeout_s: float = 120.0
    """Deadline of one request in seconds."""
    attempts: int = 5
    """How often a request is tried if the endpoint is busy or failing."""
    omit: list[str] = field(default_factory=list)
    """Parameters never to send, of max_tokens, temperature, seed and tools. Those that the endpoint refuses are left out anyway."""
    rename: dict[str, str] = field(default_factory=dict)
    """Parameters to send under another name, as in {max_tokens: max_completion_tokens}."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further parameters of each request, as they are, as in {reasoning_effort: low}."""


class History(StrEnum):
    """What a policy is shown of its earlier turns."""

    template = "template"
    append = "append"


class Thoughts(StrEnum):
    """What of an endpoint's thoughts becomes part of its turns."""

    keep = "keep"
    text = "text"
    drop = "drop"


class Overlong(StrEnum):
    """What is done with questions of a file that are too long for an episode."""

    fit = "fit"
    skip = "skip"
    error = "error"


@dataclass
class EpisodeConfig:
    """Budgets and deadlines of one episode."""

    max_tokens: int = 2048
    """Longest transcript in tokens: prompt, actions and observations."""
    max_action_tokens: int = 256
    """Longest action in tokens."""
    max_observation_tokens: int = 1024
    """Longest text of one observation in tokens; a longer one is cut and marked. Images count against `max_tokens` alone."""
    max_pixels: int = 12_845_056
    """Most pixels of an image that the policy is shown, by default as many as Qwen's image processors take; larger ones are scaled
    down. Tools work on the whole image. A question's images are scaled down further if `max_tokens` leaves too little room."""
    overlong: Overlong = Overlong.fit
    """What is done with questions of a file that are too long, which are counted and named before anything runs: "fit", their text
    is cut and marked and their pictures are scaled down; "skip", they are left out; "error", nothing runs."""
    max_turns: int = 16
    """Most actions. An environment that has its own limit may end earlier."""
    turn_s: float | None = None
    """Deadline of one turn, sampling and tools, in seconds; waiting for a jail does not count. null: 120 s, and a second for each
    of `max_action_tokens` (`rollout.episode.deadlines` says why)."""
    episode_s: float | None = None
    """Deadline of one episode in seconds, as above. null: 120 s for the reset and for each turn, and a second for each token that
    may be sampled: `max_turns` · `max_action_tokens`, and no more than `max_tokens`."""
    history: History = History.template
    """What the policy is shown of its earlier turns: "template", what the chat template renders, which may drop old thoughts (an
    episode then has several chains of tokens); "append", all that it sampled. `rollout.tokens.transcript` says more."""
    system_prompt: str | None = None
    """System turn; "protocol" explains the actions and tools; None leaves the chat template's default."""


@dataclass
class RolloutConfig:
    """The fleet of rollout workers."""

    engine: EngineConfig = field(default_factory=EngineConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)
    workers: int = 1
    """Number of workers, each with its own engine (unless `engine.kind` is verl) and, unless there are `sandbox_actors`, its own
    sandbox pool."""
    servers: int = 1
    """Number of servers with `engine.kind=verl`, each on `engine.tensor_parallel_size` GPUs of its own. 0 puts them on the
    learner's GPUs, as many as these are enough for: they sleep while it learns."""
    cpus_per_worker: float = 1.0
    """CPUs that Ray reserves for a worker."""
    gpus_per_worker: float = 0.0
    """GPUs that Ray reserves for a worker; with tensor parallelism at least `engine.tensor_parallel_size`."""
    episodes_per_worker: int = 128
    """Most episodes that a worker runs at a time. Each that ends makes room for the next, of whatever group."""
    sandboxes_per_worker: int = 8
    """Size of a worker's sandbox pool; 0 starts none. Without effect if there are `sandbox_actors`."""
    sandbox_actors: int = 0
    """Number of Ray actors that hold sandboxes for all workers, on nodes that offer the resource `sandbox`; 0 keeps a pool in each
    worker. For clusters whose GPU nodes cannot run jails: a worker then asks for no `sandbox`."""
    sandboxes_per_actor: int = 64
    """Size of a sandbox actor's pool, and the units of `sandbox` that it asks Ray for."""
    packages: list[str] = field(default_factory=list)
    """Packages that the jail's Python has in addition to those of `sandbox/packages.txt`, each as NAME==VERSION.
    On the command line: rollout.packages='["pyyaml==6.0.2"]'."""
    limits: Limits = field(default_factory=Limits)
    """The limits of each sandbox session, for example rollout.limits.memory_bytes=4294967296 for pictures of 100 megapixels."""
    accept_reduced_isolation: bool | None = None
    """Run sandboxes even if a protection that is not indispensable is missing (`toolwise doctor` says which); null does so if the
    environment variable TOOLWISE_ACCEPT_REDUCED_ISOLATION is 1."""
    environment_threads: int = 16
    """Threads that make environments, and that run plain Gymnasium environments, whose `step` blocks."""
    group_s: float | None = None
    """Longest that an episode may hold up its group, all its waiting included, in seconds from its start; it ends as ABORTED then.
    null: `episode.episode_s`, in which waiting does not count, is its only deadline."""
    attempts: int = 3
    """How often one episode is tried if our infrastructure fails, not the model."""
    max_consecutive_failures: int = 64
    """Infrastructure failures in a row, without one finished episode in between, after which the run stops."""
    start_s: float = 300.0
    """Deadline for a worker to start, in seconds."""
    worker_niceness: int = 0
    """What is added to the niceness of the command for the processes that Ray starts on this machine; Ray's own default of 15
    starves them if anything else runs. A cluster's is set where Ray is started: RAY_worker_niceness=0 ray start …"""
