"""The door to vLLM: an in-process engine on a thread of its own, behind the one async call of `rollout.policy.Policy`.

    event loop            image thread                 engine thread
    generate() ── call ─▶ preprocess new images ─▶ add_request, step, step …
        ▲                                                 │
        └────────────── sampled tokens ◀──────────────────┘

Weights change only between requests: an update waits until nothing is in flight, and what comes after it waits for the update.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

# Read while vLLM is imported and configured. One process, since an engine process of its own takes a minute longer to start on a small
# machine; the first model runner, since it is the one with `reload_weights` and custom logits processors.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
if not torch.cuda.is_available():
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")  # 1 s of warm-up instead of 28 s, also where eager mode is asked for

from transformers import AutoConfig, AutoTokenizer
from vllm import EngineArgs, SamplingParams
from vllm.inputs.engine import mm_input, tokens_input
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange
from vllm.multimodal.processing.inputs import ProcessorInputs
from vllm.multimodal.processing import TimingContext
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.sample.logits_processor import LogitsProcessor

from envs.types import InfrastructureError
from rollout.config import EngineConfig
from rollout.images import EncodedImage
from rollout.policy import Generation
from rollout.tokens import banned_token_ids

log = logging.getLogger(__name__)

_BANNED_KEY = "banned_token_ids"
_IMAGES_PER_RUN = 16


class BannedTokens(LogitsProcessor):
    """Gives probability 0 to the ids that nobody may sample, for the whole batch in one operation."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._ids = torch.tensor(vllm_config.additional_config[_BANNED_KEY], dtype=torch.int64, device=device)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """`logits` of shape (requests, vocabulary), changed in place."""
        return logits.index_fill_(1, self._ids, float("-inf"))

    def is_argmax_invariant(self) -> bool:
        """False: a banned token may be the most probable one."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Nothing to keep: every request is masked alike."""


class WeightReceiver:
    """Mixed into vLLM's worker, which may be a process of its own: takes new weights."""

    model_runner: Any

    def receive_policy_weights(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load Hugging Face names and tensors. In place is impossible: kernels keep weights in a layout of their own."""
        self.model_runner.reload_weights(weights_iterator=iter(state.items()))


@dataclass(slots=True)
class _Call:
    """One pending `generate`."""

    request_id: str
    token_ids: list[int]
    images: Sequence[EncodedImage]
    sampling: SamplingParams
    future: asyncio.Future[Generation]
    features: list[_Features] | None = None
    version: int = -1


@dataclass(frozen=True, slots=True)
class _Update:
    """New weights, and who waits for them."""

    state: Mapping[str, torch.Tensor]
    version: int
    future: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _Features:
    """A preprocessed image: the model's inputs and the number of placeholder tokens."""

    item: Any
    tokens: int


class VllmPolicy:
    """A `rollout.policy.Policy` served by vLLM. Construction blocks until the engine is ready and raises what the engine raised.

    `generate` may be called from any number of tasks at once; they share batches. After an engine failure every pending and later call
    raises InfrastructureError.
    """

    def __init__(self, config: EngineConfig, version: int = 0) -> None:
        self.version = version
        self._config = config
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._to_images: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._to_engine: queue.SimpleQueue[_Call | _Update | str | None] = queue.SimpleQueue()
        self._unresolved: set[asyncio.Future[Any]] = set()
        self._cache = _FeatureCache(config.image_cache_bytes)
        ready: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._engine_thread = threading.Thread(target=self._run_engine, args=(ready,), name="vllm-engine", daemon=True)
        self._engine_thread.start()
        if (failure := ready.get()) is not None:
            raise failure
        self._image_thread = threading.Thread(target=self._run_images, name="vllm-images", daemon=True)
        self._image_thread.start()

    async def generate(
        self, token_ids: Sequence[int], images: Sequence[EncodedImage], *, max_tokens: int, temperature: float, seed: int
    ) -> Generation:
        """Sample one turn. Temperature 0 is greedy. A cancelled call leaves the batch. Raises InfrastructureError, or ValueError where
        the prompt leaves no room for a token or its placeholders do not match the images."""
        room = self._config.max_model_len - len(token_ids)
        if room < 1:
            raise ValueError(f"the prompt has {len(token_ids)} tokens and leaves no room: max_model_len is {self._config.max_model_len}")
        sampling = SamplingParams(
            temperature=temperature,
            # Greedy sampling draws nothing; without a seed such requests keep the batch on the fast path.
            seed=seed & 0x7FFF_FFFF_FFFF_FFFF if temperature > 0 else None,
            max_tokens=min(max_tokens, room),
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )
        call = _Call(str(next(self._numbers)), list(token_ids), images, sampling, asyncio.get_running_loop().create_future())
        call.features = self._cache.get_all(images)
        self._post(call, call.future, self._to_engine if call.features is not None else self._to_images)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._to_engine.put(call.request_id)
            raise
        finally:
            self._forget(call.future)

    async def publish(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        """Serve `state` (Hugging Face names and tensors) as `version`, once everything in flight has ended.

        Calls that arrive meanwhile wait and are sampled by the new weights. Raises InfrastructureError where the engine refuses them;
        it serves nothing after that.
        """
        update = _Update(state, version, asyncio.get_running_loop().create_future())
        self._post(update, update.future, self._to_engine)
        try:
            # An update cannot be taken back halfway: a cancelled caller leaves it to complete.
            await asyncio.shield(update.future)
        finally:
            self._forget(update.future)

    async def close(self) -> None:
        """Stop the engine; pending calls raise InfrastructureError. May be called twice."""
        with self._lock:
            already = self._failure is not None
        if not already:
            self._to_images.put(None)
            self._to_engine.put(None)
        await asyncio.to_thread(self._engine_thread.join)

    @property
    def healthy(self) -> bool:
        """Whether calls can still be served."""
        return self._failure is None

    def _post(self, message: Any, future: asyncio.Future[Any], mailbox: queue.SimpleQueue[Any]) -> None:
        # Under the lock, so that a failure either sees this future or is seen here: nothing may wait for a dead engine.
        with self._lock:
            if self._failure is not None:
                raise InfrastructureError(f"the engine has stopped: {self._failure}") from self._failure
            self._unresolved.add(future)
            mailbox.put(message)

    def _forget(self, future: asyncio.Future[Any]) -> None:
        with self._lock:
            self._unresolved.discard(future)

    def _fail(self, failure: BaseException) -> None:
        with self._lock:
            self._failure = failure
            waiting, self._unresolved = self._unresolved, set()
        error = InfrastructureError(f"the engine has stopped: {failure}")
        error.__cause__ = failure
        _resolve([(future, error) for future in waiting])

    def _run_images(self) -> None:
        try:
            processor = MULTIMODAL_REGISTRY.create_processor(self._engine.model_config, tokenizer=self._engine.tokenizer)
            while calls := _take(self._to_images, block=True):
                self._preprocess(processor, [call for call in calls if call is not None])
                if None in calls:
                    return
        except BaseException as failure:
            log.exception("the image thread has stopped")
            self._fail(failure)

    def _preprocess(self, processor: Any, calls: Sequence[_Call]) -> None:
        """Fill in the features of calls and pass them on. New images share a run of the processor, most of whose cost is fixed."""
        features = {image.sha256: self._cache.get(image) for call in calls for image in call.images}
        new = list({image.sha256: image for call in calls for image in call.images if features[image.sha256] is None}.values())
        failed: dict[str, Exception] = {}
        for start in range(0, len(new), _IMAGES_PER_RUN):
            batch = new[start : start + _IMAGES_PER_RUN]
            try:
                features |= {image.sha256: self._cache.put(image, made) for image, made in _features(processor, batch)}
            except Exception as error:  # the calls with these images fail; the others are not concerned
                failed |= {image.sha256: error for image in batch}
        for call in calls:
            if errors := [failed[image.sha256] for image in call.images if image.sha256 in failed]:
                _resolve([(call.future, errors[0])])
            else:
                call.features = [features[image.sha256] for image in call.images]
                self._to_engine.put(call)

    def _run_engine(self, ready: queue.SimpleQueue[BaseException | None]) -> None:
        try:
            self._engine = _build_engine(self._config)
            self._image_token = getattr(self._engine.model_config.hf_config, "image_token_id", None)
        except BaseException as failure:
            self._failure = failure
            ready.put(failure)
            return
        ready.put(None)
        try:
            self._serve()
            self._fail(InfrastructureError("it was closed"))
        except BaseException as failure:
            log.exception("the engine has stopped")
            self._fail(failure)
        finally:
            self._engine.engine_core.shutdown()
            del self._engine

    def _serve(self) -> None:
        """Admit, step, deliver, until None arrives."""
        engine = self._engine
        running: dict[str, _Call] = {}
        waiting: deque[_Call | _Update] = deque()
        while True:
            for message in _take(self._to_engine, block=not running and not waiting):
                if message is None:
                    return
                if isinstance(message, str):
                    engine.abort_request([message])
                    running.pop(message, None)
                else:
                    waiting.append(message)
            while waiting:
                message = waiting[0]
                if isinstance(message, _Update):
                    if running:
                        break
                    self._update(message)
                elif not message.future.cancelled():
                    self._admit(message, running)
                waiting.popleft()
            if running:
                self._deliver(engine.step(), running)

    def _admit(self, call: _Call, running: dict[str, _Call]) -> None:
        try:
            self._engine.add_request(call.request_id, self._prompt(call), call.sampling)
        except Exception as error:  # this request is refused; the others are not concerned
            _resolve([(call.future, error)])
            return
        call.version = self.version
        running[call.request_id] = call

    def _prompt(self, call: _Call) -> Any:
        """The engine's input: token ids as they are in the transcript, and where in them each image stands."""
        if not call.images:
            return tokens_input(call.token_ids)
        assert call.features is not None
        places = []
        position = 0
        for features in call.features:
            position = call.token_ids.index(self._image_token, position)
            places.append(PlaceholderRange(offset=position, length=features.tokens))
            position += features.tokens
        placeholders = sum(place.length for place in places)
        if call.token_ids.count(self._image_token) != placeholders:
            raise ValueError(f"{len(call.images)} images take {placeholders} placeholder tokens, the prompt has another number")
        return mm_input(
            call.token_ids,
            MultiModalKwargsItems({"image": [features.item for features in call.features]}),
            {"image": [image.sha256 for image in call.images]},
            {"image": places},
        )

    def _deliver(self, outputs: Sequence[Any], running: dict[str, _Call]) -> None:
        done: list[tuple[asyncio.Future[Any], Generation | BaseException]] = []
        for output in outputs:
            call = running.pop(output.request_id, None)
            if call is None:
                continue
            sampled = output.outputs[0]
            done.append(
                (
                    call.future,
                    Generation(
                        token_ids=list(sampled.token_ids),
                        logprobs=list(sampled.logprobs.logprobs),
                        finish_reason="stop" if sampled.finish_reason == "stop" else "length",
                        version=call.version,
                    ),
                )
            )
        _resolve(done)

    def _update(self, update: _Update) -> None:
        """Nothing is in flight here. Everything that was computed with the old weights is thrown away before a new request may see it."""
        self._engine.collective_rpc("receive_policy_weights", args=(update.state,))
        self._engine.reset_encoder_cache()
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be reset after a weight update: it still belongs to a request")
        self.version = update.version
        _resolve([(update.future, None)])


class _FeatureCache:
    """Preprocessed images by content, the least recently used given up first. Used from several threads."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._held_bytes = 0
        self._entries: OrderedDict[str, tuple[_Features, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, image: EncodedImage) -> _Features | None:
        with self._lock:
            if (entry := self._entries.get(image.sha256)) is None:
                return None
            self._entries.move_to_end(image.sha256)
            return entry[0]

    def get_all(self, images: Sequence[EncodedImage]) -> list[_Features] | None:
        """Features of all images, or None where one is missing."""
        found = [self.get(image) for image in images]
        return None if None in found else found  # type: ignore[return-value]

    def put(self, image: EncodedImage, features: _Features) -> _Features:
        size = sum(tensor.nbytes for tensor in features.item.get_data().values() if isinstance(tensor, torch.Tensor))
        with self._lock:
            if image.sha256 not in self._entries:
                self._entries[image.sha256] = (features, size)
                self._held_bytes += size
            while self._held_bytes > self._capacity_bytes and len(self._entries) > 1:
                self._held_bytes -= self._entries.popitem(last=False)[1][1]
        return features


def _features(processor: Any, images: Sequence[EncodedImage]) -> list[tuple[EncodedImage, _Features]]:
    """Run the model's own processor. Its token counts are checked against the transcript's when the prompt is built."""
    token = processor.info.get_hf_config().image_token_id
    items = processor.info.parse_mm_data({"image": [image.image for image in images]})
    names = {"image": [image.sha256 for image in images]}
    result = processor.apply(ProcessorInputs([token] * len(images), items, names), TimingContext(enabled=False))
    made = []
    for image, item, place in zip(images, result["mm_kwargs"]["image"], result["mm_placeholders"]["image"], strict=True):
        for element in item.values():
            element.data = element.data.clone()  # a slice would keep the tensor of the whole run alive
        made.append((image, _Features(item, place.length)))
    return made


def _take(mailbox: queue.SimpleQueue[Any], block: bool) -> list[Any]:
    """Everything that waits in a mailbox, at least one message if `block`."""
    messages = [mailbox.get()] if block else []
    while True:
        try:
            messages.append(mailbox.get_nowait())
        except queue.Empty:
            return messages


def _build_engine(config: EngineConfig) -> LLMEngine:
    on_cpu = config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())
    model_config = AutoConfig.from_pretrained(config.policy)
    multimodal = getattr(model_config, "image_token_id", None) is not None
    options: dict[str, Any] = {}
    if on_cpu:
        # The number of threads is a property of the calling thread, which is the one that runs the forward passes.
        torch.set_num_threads(config.cpu_threads)
        options |= {"kv_cache_memory_bytes": config.cpu_cache_gib << 30, "block_size": config.block_size or 32}
    else:
        options |= {"gpu_memory_utilization": config.gpu_memory_utilization}
        if config.block_size:
            options["block_size"] = config.block_size
    if multimodal:
        options |= {"limit_mm_per_prompt": {"image": config.max_images, "video": 0}, "mm_processor_cache_gb": 0}
    arguments = EngineArgs(
        model=config.policy,
        dtype=config.dtype,
        seed=config.seed,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_sequences,
        max_num_batched_tokens=config.max_batched_tokens,
        enable_prefix_caching=config.prefix_caching,
        tensor_parallel_size=config.tensor_parallel_size,
        enforce_eager=config.enforce_eager or on_cpu,
        # A weight update needs an engine that has no step under way when it has no request.
        async_scheduling=False,
        disable_log_stats=True,
        # Log-probabilities of the distribution that was sampled from: after the mask and the temperature.
        logprobs_mode="processed_logprobs",
        logits_processors=[BannedTokens],
        additional_config={_BANNED_KEY: banned_token_ids(AutoTokenizer.from_pretrained(config.policy), model_config)},
        worker_extension_cls=f"{WeightReceiver.__module__}.{WeightReceiver.__qualname__}",
        # The checkpoint's sampling defaults (top_p and the like) would make log-probabilities those of another distribution.
        generation_config="vllm",
        **options,
    )
    preload, set_num_threads = os.environ.get("LD_PRELOAD"), torch.set_num_threads
    try:
        return LLMEngine.from_engine_args(arguments)
    finally:
        # vLLM disables the one for good, and sets the other for workers of its own; processes of an environment must not inherit it.
        torch.set_num_threads = set_num_threads
        if preload is None:
            os.environ.pop("LD_PRELOAD", None)
        else:
            os.environ["LD_PRELOAD"] = preload


def _resolve(results: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    """Complete futures on their own loops, one wake-up per loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for future, result in results:
        by_loop.setdefault(future.get_loop(), []).append((future, result))
    for loop, batch in by_loop.items():
        try:
            loop.call_soon_threadsafe(_set, batch)
        except RuntimeError:  # the loop was closed: nobody waits any more
            continue


def _set(batch: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in batch:
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
