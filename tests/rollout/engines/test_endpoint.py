"""A model behind an endpoint plays episodes: it is sent the conversation with its images, its text becomes the student's tokens. A
failing endpoint is our failure, one that refuses everything the user's; a refused question and a turn without text are outcomes.
Against a real server on loopback, and through `collect`."""

import base64
import io
import json

import pytest
from command_line import assert_one_line, run_here
from openai_server import asking
from PIL import Image
from rollout_fakes import Fake, spec

from envs import Task, ToolEnv
from envs.errors import UsageError
from rollout.config import EndpointConfig, EpisodeConfig, RolloutConfig
from rollout.engines.endpoint import Endpoint
from rollout.episode.loop import run_episode
from rollout.types import StopReason


def endpoint(server):
    return Endpoint(RolloutConfig(endpoint=EndpointConfig(url=server.url, model="teacher", timeout_s=5, attempts=2)))


async def play(server, chat, env=None, **config):
    policy = endpoint(server)
    try:
        return await run_episode(spec(), env or Fake(turns=2, images=1), policy, chat, EpisodeConfig(**config))
    finally:
        await policy.close()


async def test_its_text_is_recorded_in_the_students_tokens(serve, chat):
    episode = await play(serve("first", "second"), chat, Fake(turns=1))
    trajectory = episode.trajectory
    assert [turn.action for turn in trajectory.turns] == ["first", "second"]
    assert sum(trajectory.loss_mask) == len(chat.encode_action("first")) + len(chat.encode_action("second"))


async def test_it_is_sent_the_whole_conversation_with_images(serve, chat):
    server = serve("first", "second")
    await play(server, chat, system_prompt="Be brief.")
    messages = server.requests[1]["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[2]["content"] == "first"
    (image, text) = messages[3]["content"]
    assert text["type"] == "text"
    with Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].split(",")[1]))) as opened:
        assert opened.format == "PNG"


async def test_an_answer_that_was_cut_off_has_no_end_of_turn(serve, chat):
    trajectory = (await play(serve(("cut", "length"), "whole"), chat, Fake(turns=1))).trajectory
    sampled = len(chat.encode_action("cut")) - 1 + len(chat.encode_action("whole"))
    assert sum(trajectory.loss_mask) == sampled


async def test_an_endpoint_slower_than_a_turn_is_our_failure(serve, chat):
    # The server takes 3 s, the endpoint has 2.7 s, and a stall of 0.3 s would be the whole turn.
    episode = await play(serve("first", "slow"), chat, turn_s=3.0)
    assert episode.trajectory.stop_reason is StopReason.INFRASTRUCTURE


@pytest.mark.parametrize("trouble", [500, "garbage"])
async def test_a_failing_endpoint_is_our_failure(serve, chat, trouble):
    episode = await play(serve(trouble), chat)
    assert episode.trajectory.stop_reason is StopReason.INFRASTRUCTURE


@pytest.mark.parametrize("status", [401, 402, 403, 404])
async def test_an_endpoint_that_would_refuse_any_question_is_a_usage_error(serve, chat, status):
    with pytest.raises(UsageError, match=str(status)):
        await play(serve("first", status), chat)


@pytest.mark.parametrize("status", [400, 413, 422, 451, (403, {"message": "your input was flagged by moderation"})])
async def test_a_question_that_is_refused_is_an_outcome_of_its_episode_alone(serve, chat, status):
    trajectory = (await play(serve("first", status), chat)).trajectory
    assert (trajectory.stop_reason, trajectory.unplayed, trajectory.failed) == (StopReason.ABORTED, True, False)
    assert "refuses the request" in str(trajectory.error)
    assert [turn.action for turn in trajectory.turns] == ["first"]


SILENT = {
    "thoughts used up the budget": ({"content": None, "reasoning_content": "hm"}, "length"),
    "an empty text": ("", "stop"),
    "nothing at all": ({"content": None}, "stop"),
}


@pytest.mark.parametrize("reply", SILENT.values(), ids=SILENT)
async def test_a_turn_without_text_is_the_models_and_the_episode_goes_on(serve, chat, reply):
    trajectory = (await play(serve(reply, "second"), chat, Fake(turns=1))).trajectory
    assert trajectory.stop_reason is StopReason.ANSWERED
    assert [turn.action for turn in trajectory.turns] == ["", "second"]


async def test_an_episode_of_a_silent_model_alone_has_an_outcome(serve, chat):
    trajectory = (await play(serve(SILENT["nothing at all"]), chat, max_turns=2)).trajectory
    assert trajectory.stop_reason is StopReason.TURN_LIMIT


async def test_thoughts_that_the_api_keeps_apart_are_recorded_and_not_acted_on(serve, chat):
    reply = {"content": "first", "reasoning_content": "perhaps <answer>7</answer>"}
    (turn, _) = (await play(serve(reply, "second"), chat, Fake(turns=1))).trajectory.turns
    assert (turn.action, turn.reasoning) == ("first", "perhaps <answer>7</answer>")


async def test_a_second_action_in_one_turn_is_cut_off_and_the_model_is_told(serve, chat):
    env = ToolEnv([Task("t", "Q", "2", "x", "s")], tools=[])
    server = serve('<tool_call>{"name": "a"}</tool_call> <answer>1</answer>', "<answer>2</answer>")
    episode = await play(server, chat, env)
    assert [turn.action for turn in episode.trajectory.turns] == ['<tool_call>{"name": "a"}</tool_call>', "<answer>2</answer>"]
    assert "Only your first action was carried out" in json.dumps(server.requests[1]["messages"][-1])


async def test_calls_that_nobody_asked_for_are_written_as_text(serve, chat):
    (turn, _) = (await play(serve(asking(("search", {"query": "x"})), "second"), chat, Fake(turns=1))).trajectory.turns
    assert turn.action == '<tool_call>{"name": "search", "arguments": {"query": "x"}}</tool_call>'


TOO_LONG = [
    {"message": "Your messages resulted in 9000 tokens.", "type": "invalid_request_error", "code": "context_length_exceeded"},
    {"message": "This model's maximum context length is 512 tokens. However, you requested 600 tokens.", "code": 400},
    {"message": "The decoder prompt (length 600) is longer than the maximum model length of 512.", "code": 400},
    {"message": "The input (600 tokens) is longer than the model's context length (512 tokens).", "code": 400},
    {"message": "the request exceeds the available context size, try increasing it", "code": 400},
    {"message": "Range of input length should be [1, 30720]", "code": "invalid_parameter_error"},
    {"message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).", "code": 400},
    {"message": "prompt is too long: 210000 tokens > 200000 maximum", "type": "invalid_request_error"},
    {"message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length", "code": "3051"},
    {"message": "`inputs tokens + max_new_tokens` must be <= 4096. Given: 4000 and 512", "type": "validation"},
    {"message": "This model's maximum prompt length is 131072 but the request contains 160000 tokens.", "code": None},
    {"message": "Invalid request: Your request exceeded model token limit: 8192", "type": "invalid_request_error"},
]


@pytest.mark.parametrize("error", TOO_LONG, ids=lambda error: error["message"][:24])
async def test_a_conversation_that_has_become_too_long_for_it_ends_that_episode(serve, chat, error):
    trajectory = (await play(serve("first", (400, error)), chat)).trajectory
    assert trajectory.stop_reason is StopReason.TOKEN_LIMIT
    assert [turn.action for turn in trajectory.turns] == ["first"]


async def test_a_first_prompt_that_is_too_long_ends_that_episode_with_the_remedy(serve, chat):
    trajectory = (await play(serve((400, TOO_LONG[0])), chat)).trajectory
    assert (trajectory.stop_reason, trajectory.unplayed) == (StopReason.TOKEN_LIMIT, True)
    assert "longer context" in str(trajectory.error)


def test_an_endpoint_without_a_models_name_is_refused(tmp_path):
    assert_one_line(run_here("evaluate", "policy=http://127.0.0.1:1/v1", f"out={tmp_path}/run"), "policy_model=")
