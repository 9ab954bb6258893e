"""The policy that verl's servers serve, as a worker asks it: a client, no engine and no GPU."""

from __future__ import annotations

import asyncio
import copy
import itertools
import os
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import ray
from ray.exceptions import RayActorError, RayError

from envs.errors import InfrastructureError, UsageError
from rollout.config import RolloutConfig
from rollout.engines.verl.prompts import Prompts
from rollout.engines.verl.servers import host
from rollout.tokens.image_layout import image_layout
from rollout.tokens.images import EncodedImage
from rollout.types import Generation

if TYPE_CHECKING:
    import torch

_PARKED_S = 0.2
_SEEDS = 0x7FFF_FFFF_FFFF_FFFF
_STRIDE = 0x9E37_79B9_7F4A_7C15  # 2^64 over the golden ratio: consecutive multiples are far apart


class VerlPolicy:
    """A `rollout.policy.Policy` over verl's `LLMServerClient`.

    All turns of a `session` go to one server, whose prefix cache holds the earlier ones. A request that an update cuts off goes on
    with the new weights, and each of its tokens is stamped with the version that sampled it.
    """

    healthy = True  # a worker is no better off for being replaced: what may fail are the servers

    def __init__(self, config: RolloutConfig, version: int = 0, client: Any = None) -> None:
        """`client` is used in place of a client of the run's own servers."""
        self._shared = _Shared(config, version, client)
        self._session: str | None = None

    @property
    def version(self) -> int:
        """The version that sampled last."""
        return self._shared.version

    def session(self, episode_id: str) -> Self:
        """The policy as one episode sees it."""
        policy = copy.copy(self)
        policy._session = episode_id
        return policy

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
        """Sample one turn. Temperature 0 is greedy.

        Raises InfrastructureError if the server is gone or fails, ValueError if the prompt leaves no room or its placeholders do
        not match the images, here or in the server.
        """
        shared, request = self._shared, self._session or uuid.uuid4().hex
        room = shared.config.engine.max_model_len - len(token_ids)
        if room < 1:
            raise ValueError(f"the prompt has {len(token_ids)} tokens and leaves no room: max_model_len is {room + len(token_ids)}")
        limit = min(max_tokens, room)
        prompt = shared.prompts.joined(token_ids, images)
        pictures = [image.image for image in images] or None
        sampled: list[int] = []
        logprobs: list[float] = []
        versions: list[int] = []
        for part in itertools.count():
            begun = len(sampled)
            sampling = {
                "temperature": temperature,
                # A request that goes on must not draw the random numbers of its beginning again.
                "seed": (seed + part * _STRIDE) & _SEEDS if temperature > 0 else None,
                "max_tokens": limit - begun,
                "logprobs": True,
                "stop": list(stop),
                "include_stop_str_in_output": True,
                "detokenize": bool(stop),
                "skip_special_tokens": False,
                **shared.prompts.checked([*token_ids, *sampled], images),
            }
            output = await self._ask(request, [*prompt, *sampled], sampling, pictures)
            if shared.prompts.refused(output.token_ids):
                raise ValueError(
                    f"the server lays images out as the transcript does not: {shared.config.engine.policy} must be the same for "
                    "servers and workers, and rollout.engine.extra must leave its processor as it is"
                )
            sampled += output.token_ids
            logprobs += output.log_probs or []
            versions += [shared.stamped(output)] * len(output.token_ids)
            # vLLM looks for stop texts in what one request sampled, so not for one that began before an update.
            if end := shared.end(sampled, begun, stop):
                sampled, logprobs, versions = sampled[:end], logprobs[:end], versions[:end]
                reason = "stop"
                break
            if len(sampled) >= limit or output.stop_reason != "aborted":
                reason = "length"
                break
            if len(sampled) == begun:
                await asyncio.sleep(_PARKED_S)  # a server that is about to leave turns requests away at once
        return Generation(
            sampled,
            logprobs,
            reason,
            versions[-1] if versions else shared.version,
            versions=versions if len(set(versions)) > 1 else None,
        )

    async def publish(self, state: Mapping[str, torch.Tensor], version: int) -> None:
        """Raises UsageError: weights reach the servers from the learner's ranks."""
        raise UsageError("rollout.engine.kind=verl takes weights from the ranks of learner.kind=verl only")

    async def close(self) -> None:
        """Nothing is held: the fleet stops the servers."""

    async def _ask(self, request: str, token_ids: list[int], sampling: dict[str, Any], pictures: list[Any] | None) -> Any:
        try:
            return await self._shared.client().generate(
                request, prompt_ids=token_ids, sampling_params=sampling, image_data=pictures
            )
        except (RayError, RuntimeError) as error:
            await self._shared.forget(error)
            raise InfrastructureError(f"verl's server failed: {' '.join(str(error).split())[:300]}") from error


class _Shared:
    """What all sessions of a worker share."""

    def __init__(self, config: RolloutConfig, version: int, client: Any) -> None:
        from transformers import AutoProcessor

        self.config, self.version = config, version
        processor: Any = AutoProcessor.from_pretrained(config.engine.policy)
        self._tokenizer: Any = getattr(processor, "tokenizer", processor)
        self.prompts = Prompts(image_layout(processor))
        self._client = client
        self.client()

    def client(self) -> Any:
        """verl's client of the servers that run now."""
        if self._client is None:
            verl_settings, router, variables = ray.get(host().client.remote())
            # Imported late: verl settles on a platform while it is imported.
            os.environ.update(variables)
            from verl.workers.rollout.llm_server import LLMServerClient

            self._client = LLMServerClient(verl_settings, router)
        return self._client

    async def forget(self, error: Exception) -> None:
        """After a failure: the router drops servers that are gone, and the next call asks for the servers anew."""
        self._client = None
        if isinstance(error, RayActorError):
            try:
                await host().drop_dead.remote()
            except (RayError, UsageError):
                return  # the host is gone as well: the fleet starts another

    def stamped(self, output: Any) -> int:
        """The version that sampled an output. Servers are given one with their first update."""
        stamp = output.extra_fields.get("global_steps")
        self.version = self.version if stamp is None else stamp
        return self.version

    def end(self, token_ids: list[int], begun: int, stop: Sequence[str]) -> int:
        """With how many tokens a turn is over, whose first `begun` did not end it; 0 if it is not."""
        lengths = range(begun + 1, len(token_ids) + 1)
        ends = [length for length in lengths if token_ids[length - 1] == self._tokenizer.eos_token_id]
        if any(text in self._decode(token_ids) for text in stop):
            ends += [next(length for length in lengths if any(text in self._decode(token_ids[:length]) for text in stop))]
        return min(ends, default=0)

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
