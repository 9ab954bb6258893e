"""The engine serves what was published and nothing older, samples repeatably, never a banned token, and lets no caller wait."""

import asyncio

import pytest
import torch
import torch._dynamo.utils
from rollout_fakes import picture, show
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from envs.errors import InfrastructureError, UsageError
from rollout.config import EngineConfig, RolloutConfig
from rollout.engines.vllm import VllmPolicy
from rollout.engines.vllm_engine import build_engine
from rollout.episode.environments import make
from rollout.tokens.chat_format import ChatFormat, banned_token_ids
from rollout.tokens.images import ImageEncoder
from rollout.tokens.transcript import Transcript
from starter.policies import find_policy


@pytest.fixture(scope="module")
def prompts(chat):
    """Prompts with no, one and two images; the first is long enough for the prefix cache."""
    made = []
    for number in range(3):
        transcript = Transcript(chat, max_tokens=800)
        show(transcript, "What is to be seen here? " * 4, [picture(image) for image in range(number)])
        made.append(transcript)
    return made


@pytest.fixture(scope="module")
def states(policy_directory, other_policy_directory):
    return [_model(directory).state_dict() for directory in (policy_directory, other_policy_directory)]


def _model(directory):
    return AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32)


def sample(policy, transcript, max_tokens=12, temperature=0.0, seed=0, stop=()):
    return policy.generate(
        transcript.token_ids, transcript.images, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop
    )


async def greedy(policy, prompts):
    return await asyncio.gather(*(sample(policy, prompt) for prompt in prompts))


async def test_after_an_update_outputs_equal_a_fresh_engines(engine, fresh_engine, prompts, states):
    """Twice the same prompts before the update, so that the prefix and image caches are full of the old weights."""
    await engine.publish(states[0], 1)
    before = await greedy(engine, prompts)
    assert [one.token_ids for one in await greedy(engine, prompts)] == [one.token_ids for one in before]
    await engine.publish(states[1], 2)
    after, fresh = await greedy(engine, prompts), await greedy(fresh_engine, prompts)
    assert [one.token_ids for one in after] == [one.token_ids for one in fresh]
    for mine, other in zip(after, fresh, strict=True):
        assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert [one.token_ids for one in after] != [one.token_ids for one in before]
    assert {one.version for one in before} | {one.version for one in after} == {1, 2}


async def test_a_picture_that_cannot_be_preprocessed_fails_its_own_call_alone(engine, chat):
    """All calls wait for the image thread at the same time, and so share a run of the processor."""
    transcripts = [Transcript(chat, max_tokens=800) for _ in range(4)]
    for number, transcript in enumerate(transcripts):
        show(transcript, "What is to be seen?", [picture(100 + number)])
    sliver = ImageEncoder().encode(picture(99, 1, 300))  # an aspect ratio that the processor refuses
    calls = [sample(engine, transcript) for transcript in transcripts]
    calls.insert(2, engine.generate(transcripts[0].token_ids, [sliver], max_tokens=4, temperature=0.0, seed=0))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(outcome, Exception) for outcome in outcomes] == [False, False, True, False, False]


async def test_on_a_cpu_nothing_is_compiled(engine, prompts):
    if torch.cuda.is_available():
        pytest.skip("compiling pays on a GPU")
    await sample(engine, prompts[0])
    assert not torch._dynamo.utils.counters["frames"]


async def test_logprobs_are_those_of_the_masked_model_at_the_sampling_temperature(engine, prompts, policy_directory, states, chat):
    await engine.publish(states[0], 3)
    temperature, prompt = 0.7, prompts[2]
    generation = await sample(engine, prompt, 16, temperature, seed=5)
    processor = AutoProcessor.from_pretrained(policy_directory)
    pictures = processor.image_processor([image.image for image in prompt.images], return_tensors="pt")
    token_ids = torch.tensor([prompt.token_ids + generation.token_ids])
    with torch.no_grad():
        model = _model(policy_directory)
        logits = model(input_ids=token_ids, mm_token_type_ids=(token_ids == chat.image_token).int(), **pictures).logits[0]
    logits[:, banned_token_ids(chat.tokenizer, model.config)] = -torch.inf
    start = len(prompt.token_ids) - 1
    logprobs = torch.log_softmax(logits[start:-1] / temperature, dim=-1)
    expected = logprobs.gather(1, torch.tensor(generation.token_ids)[:, None])[:, 0]
    assert generation.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


async def test_a_random_policy_never_samples_a_banned_token(engine, prompts, chat, policy_directory):
    banned = set(banned_token_ids(chat.tokenizer, AutoConfig.from_pretrained(policy_directory)))
    calls = (sample(engine, prompts[number % 3], 40, 1.0, seed=number) for number in range(96))
    generations = await asyncio.gather(*calls)
    tokens = [token for generation in generations for token in generation.token_ids]
    assert len(tokens) > 2000
    assert not banned & set(tokens)


async def test_a_seed_repeats_its_sample_and_others_differ(engine, prompts):
    first = await asyncio.gather(*(sample(engine, prompts[1], 12, 1.0, seed) for seed in range(8)))
    second = await asyncio.gather(*(sample(engine, prompts[1], 12, 1.0, seed) for seed in range(8)))
    assert [one.token_ids for one in first] == [one.token_ids for one in second]
    assert len({tuple(one.token_ids) for one in first}) == 8


async def test_on_a_cpu_prompts_that_do_not_fit_into_one_step_wait_for_the_next(engine, prompts):
    """A step takes 8,192 tokens, and these have more; a sample that was drawn behind a part of a prompt could not be taken back."""
    ids = (prompts[0].token_ids * 99)[:900]
    # Prompts that begin alike share their beginning.
    several = [[number, *ids[1:]] for number in range(12)]
    assert sum(map(len, several)) > EngineConfig.max_batched_tokens
    made = await asyncio.gather(*(engine.generate(prompt, [], max_tokens=2, temperature=1.0, seed=3) for prompt in several))
    alone = await engine.generate(several[-1], [], max_tokens=2, temperature=1.0, seed=3)
    assert made[-1].token_ids == alone.token_ids


@pytest.fixture(scope="module")
def starter():
    """The shipped policy and its chat format: it writes actions, and ends them."""
    directory = find_policy("starter")
    policy = VllmPolicy(RolloutConfig(engine=EngineConfig(policy=directory, max_model_len=1024, cpu_cache_gib=0.125)))
    yield policy, ChatFormat.from_directory(directory)
    asyncio.run(policy.close())


@pytest.fixture(scope="module")
def questions(starter):
    """Prompts of eight tasks that need no tool, so that the policy answers at once."""
    _, chat = starter
    transcripts = []
    for seed in range(8):
        env = make("toolwise/Basics-v0", {"split": "test"})
        observation, _ = env.reset(seed=seed)
        transcripts.append(Transcript(chat, max_tokens=1000))
        show(transcripts[-1], observation["text"], observation["images"])
        env.close()
    return transcripts


async def test_a_turn_ends_with_the_token_that_completes_a_stop_text(starter, questions):
    policy, chat = starter
    whole = await asyncio.gather(*(sample(policy, question, 64) for question in questions))
    stopped = await asyncio.gather(*(sample(policy, question, 64, stop=["</answer>"]) for question in questions))
    answers = [(one, other) for one, other in zip(whole, stopped, strict=True) if "</answer>" in chat.decode(one.token_ids)]
    assert len(answers) >= 4
    for one, other in answers:
        assert chat.decode(other.token_ids).endswith("</answer>")
        assert other.token_ids == one.token_ids[: len(other.token_ids)]
        assert "</answer>" not in chat.decode(other.token_ids[:-1])
        assert chat.end_of_turn not in other.token_ids
        assert other.logprobs == pytest.approx(one.logprobs[: len(other.token_ids)], abs=1e-4)
        assert other.finish_reason == "stop"
    assert any(one.token_ids[-1] == chat.end_of_turn for one, _ in answers)


async def test_the_first_of_several_stop_texts_ends_a_turn_and_one_that_never_comes_changes_nothing(starter, questions):
    policy, chat = starter
    whole, early, never = await asyncio.gather(
        sample(policy, questions[0], 64),
        sample(policy, questions[0], 64, stop=["</answer>", "<answer>"]),
        sample(policy, questions[0], 64, stop=["no such text"]),
    )
    assert chat.decode(early.token_ids).endswith("<answer>")
    assert (never.token_ids, never.finish_reason) == (whole.token_ids, whole.finish_reason)


async def test_after_a_stop_text_the_engine_is_free_for_new_weights(starter, questions):
    policy, _ = starter
    await asyncio.gather(*(sample(policy, question, 64, stop=["</answer>"]) for question in questions))
    # An update waits until nothing is in flight: it would wait for ever for a request that was not ended.
    await asyncio.wait_for(policy.publish(_as_served(policy), 1), 60)


async def test_no_turn_is_sampled_by_two_versions(engine, prompts, states):
    """Updates in the middle of traffic: every turn equals what its version alone would have said."""
    reference = {}
    for version in (10, 11):
        await engine.publish(states[version % 2], version)
        reference[version % 2] = [one.token_ids for one in await greedy(engine, prompts)]
    calls = []
    for version in range(12, 18):
        calls += [asyncio.create_task(sample(engine, prompts[number % 3])) for number in range(6)]
        await asyncio.sleep(0.005)
        calls.append(asyncio.create_task(engine.publish(states[version % 2], version)))
    results = await asyncio.gather(*calls)
    generations = [result for result in results if result is not None]
    assert len(generations) == 36
    for number, generation in enumerate(generations):
        assert generation.token_ids == reference[generation.version % 2][number % 6 % 3]
    assert len({generation.version for generation in generations}) > 1


async def test_a_cancelled_call_leaves_and_the_others_go_on(engine, prompts):
    calls = [asyncio.create_task(sample(engine, prompts[0], 200, 1.0, seed)) for seed in range(4)]
    await asyncio.sleep(0.05)
    calls[0].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(len(result.token_ids) > 0 for result in results[1:])
    await asyncio.wait_for(engine.publish(_as_served(engine), engine.version), 60)


def _as_served(engine):
    # An update drains the engine: it would wait for a request that was not taken out.
    return _model(engine._config.policy).state_dict()


async def test_a_refused_request_leaves_the_others_alone(engine, prompts):
    text, pictured = prompts[0], prompts[1]
    good, too_long, without_images, too_many = await asyncio.gather(
        sample(engine, text),
        engine.generate([5] * 2000, [], max_tokens=4, temperature=1.0, seed=0),
        engine.generate(pictured.token_ids, [], max_tokens=4, temperature=1.0, seed=0),
        engine.generate(text.token_ids, pictured.images, max_tokens=4, temperature=1.0, seed=0),
        return_exceptions=True,
    )
    assert len(good.token_ids) > 0
    assert all(isinstance(refused, ValueError) for refused in (too_long, without_images, too_many))


async def test_an_engine_failure_reaches_every_caller(fresh_engine, prompts, monkeypatch):
    """The last test of this module: it breaks the fresh engine."""

    def explode():
        raise RuntimeError("out of memory")

    monkeypatch.setattr(fresh_engine._engine, "step", explode)
    calls = [sample(fresh_engine, prompt) for prompt in prompts]
    results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 60)
    assert all(isinstance(result, InfrastructureError) for result in results)
    with pytest.raises(InfrastructureError, match="out of memory"):
        await asyncio.wait_for(sample(fresh_engine, prompts[0]), 60)
    with pytest.raises(InfrastructureError):
        await asyncio.wait_for(fresh_engine.publish({}, 9), 60)
    assert not fresh_engine.healthy


def test_a_build_of_vllm_for_another_device_is_refused(monkeypatch):
    monkeypatch.setattr("rollout.engines.vllm_engine.torch.cuda.is_available", lambda: True)
    with pytest.raises(UsageError, match=r"to run on a GPU, .* make install GROUP=gpu"):
        build_engine(EngineConfig(policy="unread"))
