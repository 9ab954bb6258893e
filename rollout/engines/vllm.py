"""vLLM as a policy: an in-process engine on its own thread, behind the async calls of `rollout.policy.Policy`.

    event loop            image thread                 engine thread
    generate() ── call ─▶ preprocess new images ─▶ add_request, step, step …
        ▲                                                 │
        └────────────── sampled tokens ◀──────────────────┘

Weights change only between requests: an update waits until nothing is in flight, and what comes after it waits for the update.
"""

from __future__ import annotations

# First of all, since it sets what vLLM reads while it is imported.
from rollout.engines.vllm_engine import build_engine, image_cache_bytes, settings_at_hand

# isort: split
import asyncio
import itertools
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from vllm import SamplingParams
from vllm.inputs.engine import mm_input, tokens_input
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange
from vllm.sampling_params import RequestOutputKind

from envs.errors import InfrastructureError
from rollout.config import RolloutConfig
from rollout.engines.futures import resolve, take
from rollout.engines.vllm_images import Features, ImagePreprocessor
from rollout.tokens.image_layout import find_runs
from rollout.tokens.images import EncodedImage
from rollout.types import Generation

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Call:
    """One pending `generate`."""

    request_id: str
    token_ids: list[int]
    images: Sequence[EncodedImage]
    sampling: SamplingParams
    future: asyncio.Future[Generation]
    features: list[Features] | None = None
    version: int = -1


@dataclass(frozen=True, slots=True)
class _Update:
    """New weights, and who waits for them."""

    state: Mapping[str, torch.Tensor]
    version: int
    future: asyncio.Future[None]


class VllmPolicy:
    """The policy of `config.engine`, served by vLLM. Construction blocks until the engine is ready and raises what it raised.

    `generate` may be called from any number of tasks at once; they share batches. After an engine failure every pending and every
    later call raises InfrastructureError.
    """

    def __init__(self, config: RolloutConfig, version: int = 0) -> None:
        self.version = version
        self._settings, self._config = config, config.engine
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._to_engine: queue.SimpleQueue[_Call | _Update | str | None] = queue.SimpleQueue()
        self._unresolved: set[asyncio.Future[Any]] = set()
        self._images: ImagePreprocessor | None = None
        ready: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._engine_thread = threading.Thread(target=self._run_engine, args=(ready,), name="vllm-engine", daemon=True)
        self._engine_thread.start()
        if (failure := ready.get()) is not None:
            raise failure

    async def generate(
        self,
        token_ids: Sequence[int],
        images: Sequence[EncodedImage],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str] = (),
    ) -> Generation:
        """Sample one turn. Temperature 0 is greedy. A cancelled call leaves the batch.

        Raises InfrastructureError, or ValueError if the prompt leaves no room or its placeholders do not match the images.
        """
        room = self._config.max_model_len - len(token_ids)
        if room < 1:
            raise ValueError(
                f"the prompt has {len(token_ids)} tokens and leaves no room: max_model_len is {self._config.max_model_len}"
            )
        sampling = SamplingParams(
            temperature=temperature,
            # Greedy sampling draws nothing; without a seed such requests keep the batch on the fast path.
            seed=seed & 0x7FFF_FFFF_FFFF_FFFF if temperature > 0 else None,
            max_tokens=min(max_tokens, room),
            logprobs=0,
            flat_logprobs=True,
            # The tokens as they were sampled: a stop text is found in their text, but nothing is cut off them.
            stop=list(stop),
            include_stop_str_in_output=True,
            detokenize=bool(stop),
            skip_special_tokens=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )
        call = _Call(str(next(self._numbers)), list(token_ids), images, sampling, asyncio.get_running_loop().create_future())
        try:
            self._post(call.future, lambda: self._hand_in(call))
            return await call.future
        except asyncio.CancelledError:
            self._to_engine.put(call.request_id)
            raise
        finally:
            self._forget(call.future)

    async def publish(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        """Serve `state` (Hugging Face names and tensors) as `version`, once everything in flight has ended.

        Calls that arrive meanwhile wait and are sampled from the new weights. Raises InfrastructureError if the engine refuses the
        weights; it serves nothing after that.
        """
        update = _Update(state, version, asyncio.get_running_loop().create_future())
        self._post(update.future, lambda: self._to_engine.put(update))
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
            self._to_engine.put(None)
        await asyncio.to_thread(self._engine_thread.join)

    @property
    def healthy(self) -> bool:
        """Whether calls can still be served."""
        return self._failure is None

    def _post(self, future: asyncio.Future[Any], send: Callable[[], None]) -> None:
        # Under the lock, so that a failure either sees this future or is seen here: nothing may wait for a dead engine.
        with self._lock:
            if self._failure is not None:
                raise InfrastructureError(f"the engine has stopped: {self._failure}") from self._failure
            self._unresolved.add(future)
            send()

    def _hand_in(self, call: _Call) -> None:
        """Send a call to the engine, by way of the image thread if images have to be preprocessed first."""
        if call.images:
            if self._images is None:
                raise ValueError("this policy takes no images")
            call.features = self._images.cached(call.images)
            if call.features is None:
                self._images.submit(call.images, lambda made: self._preprocessed(call, made))
                return
        self._to_engine.put(call)

    def _preprocessed(self, call: _Call, made: list[Features] | Exception) -> None:
        if isinstance(made, Exception):
            resolve([(call.future, made)])
        else:
            call.features = made
            self._to_engine.put(call)

    def _forget(self, future: asyncio.Future[Any]) -> None:
        with self._lock:
            self._unresolved.discard(future)

    def _fail(self, failure: BaseException) -> None:
        with self._lock:
            self._failure = failure
            waiting, self._unresolved = self._unresolved, set()
        error = InfrastructureError(f"the engine has stopped: {failure}")
        error.__cause__ = failure
        resolve([(future, error) for future in waiting])

    def _run_engine(self, ready: queue.SimpleQueue[BaseException | None]) -> None:
        try:
            self._engine = build_engine(self._config)
            self._image_token: Any = getattr(self._engine.model_config.hf_config, "image_token_id", None)
            if self._image_token is not None:
                processor = MULTIMODAL_REGISTRY.create_processor(self._engine.model_config, tokenizer=self._engine.tokenizer)
                self._images = ImagePreprocessor(processor, image_cache_bytes(self._settings, processor))
        except BaseException as failure:
            self._failure = failure
            ready.put(failure)
            return
        ready.put(None)
        try:
            with settings_at_hand(self._engine.vllm_config):
                self._serve()
            self._fail(InfrastructureError("it was closed"))
        except BaseException as failure:
            log.exception("the engine has stopped")
            self._fail(failure)
        finally:
            if self._images is not None:
                self._images.close()
            self._engine.engine_core.shutdown()
            del self._engine

    def _serve(self) -> None:
        """Admit, step, deliver, until None arrives."""
        engine = self._engine
        running: dict[str, _Call] = {}
        waiting: deque[_Call | _Update] = deque()
        while True:
            for message in take(self._to_engine, block=not running and not waiting):
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
            resolve([(call.future, error)])
            return
        call.version = self.version
        running[call.request_id] = call

    def _prompt(self, call: _Call) -> Any:
        """The engine's input: token ids as they are in the transcript, and the place of each image in them."""
        images = call.features or []
        starts = find_runs(call.token_ids, [features.run for features in images], self._image_token)
        if not images:
            return tokens_input(call.token_ids)
        places = [
            PlaceholderRange(offset=start, length=len(features.run), is_embed=features.is_embedding)
            for start, features in zip(starts, images, strict=True)
        ]
        return mm_input(
            call.token_ids,
            MultiModalKwargsItems({"image": [features.item for features in images]}),
            {"image": [image.sha256 for image in call.images]},
            {"image": places},
        )

    def _deliver(self, outputs: Sequence[Any], running: dict[str, _Call]) -> None:
        done: list[tuple[asyncio.Future[Any], Generation | BaseException]] = []
        for output in outputs:
            call = running.pop(output.request_id, None)
            if call is None:
                continue
            done.append((call.future, _generation(output.outputs[0], call.version)))
        resolve(done)

    def _update(self, update: _Update) -> None:
        """Nothing is in flight here. What was computed with the old weights is thrown away before a new request may see it."""
        self._engine.collective_rpc("receive_policy_weights", args=(update.state,))
        self._engine.reset_encoder_cache()
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be reset after a weight update: it still belongs to a request")
        self.version = update.version
        resolve([(update.future, None)])


def _generation(sampled: Any, version: int) -> Generation | InfrastructureError:
    if sampled.finish_reason not in ("stop", "length"):
        return InfrastructureError(f"the engine ended a request for the reason {sampled.finish_reason!r}")
    return Generation(list(sampled.token_ids), list(sampled.logprobs.logprobs), sampled.finish_reason, version)
