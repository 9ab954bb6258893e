"""Who acts: the served policy goes on where the text that stopped it was only a mention, and a model behind an endpoint is shown
messages in the API's roles while its turns become the student's tokens."""

import json

import numpy as np
import pytest
from openai_server import asking
from PIL import Image
from rollout_fakes import Bytes, spec

from envs import Task, ToolEnv, tool
from envs.protocols import DeepEyes, Hermes
from rollout.config import PROTOCOL_PROMPT, EndpointConfig, EpisodeConfig, RolloutConfig
from rollout.engines.endpoint import Endpoint
from rollout.episode.actors import CLOSING, OPENING, PolicyActor, closed
from rollout.episode.loop import run_episode
from rollout.tokens.chat_format import ChatFormat, ChatMessage
from rollout.tokens.transcript import Transcript
from rollout.types import Generation, StopReason

CHAT = ChatFormat(Bytes())
END = CHAT.end_of_turn


class Thinking(Bytes):
    """A tokenizer whose chat template begins each turn of the model with its thoughts."""

    def apply_chat_template(self, messages, add_generation_prompt, tokenize):
        return super().apply_chat_template(messages, add_generation_prompt, tokenize) + "<think>\n"


THINKING = ChatFormat(Thinking())


class Speaker:
    """A policy that means to write given turns, and stops like an engine: at a text in `stop`, at the budget, or at the end.

    After a stop it goes on where it was if it is asked to."""

    version, healthy = 0, True

    def __init__(self, *turns, chat=CHAT):
        self._turns, self._chat, self.budgets, self.prompts, self.seeds = list(turns), chat, [], [], []

    async def generate(self, token_ids, images, *, max_tokens, temperature, seed, stop=()):
        self.budgets.append(max_tokens)
        self.seeds.append(seed)
        said = next(
            (self._said(list(token_ids), prompt) for prompt in reversed(self.prompts) if self._goes_on(token_ids, prompt)), ""
        )
        self.prompts.append(list(token_ids))
        if not said:
            self._turn = self._turns.pop(0)
        rest = self._turn[len(said) :]
        ends = [rest.find(text) + len(text) for text in stop if text in rest]
        sampled = list(self._chat.encode([rest[: min(ends)]])) if ends else [*self._chat.encode([rest]), END]
        reason = "stop" if len(sampled) <= max_tokens else "length"
        sampled = sampled[:max_tokens]
        return Generation(sampled, [-0.5] * len(sampled), reason, 0)

    def _goes_on(self, token_ids, prompt):
        said = self._said(list(token_ids), prompt)
        return bool(said) and self._turn.startswith(said)

    def _said(self, token_ids, prompt):
        return self._chat.decode(token_ids[len(prompt) :]) if token_ids[: len(prompt)] == prompt else ""


async def pieces(turn, protocol=None, chat=CHAT, room=4000, **config):
    """What one turn of the policy is made of."""
    policy = Speaker(turn, chat=chat)
    transcript = Transcript(chat, max_tokens=8000)
    transcript.append_observation([ChatMessage("user", "Q")])
    transcript._max_tokens = len(transcript.token_ids) + room
    options = EpisodeConfig(**{"max_action_tokens": 4000, **config})
    actor = PolicyActor(policy, chat, spec(), options, protocol or DeepEyes())
    return await actor.act(transcript, {"text": "Q", "images": ()}, []), policy


def text(parts, chat=CHAT):
    return [chat.decode(part.token_ids) for part in parts]


CODE = "<code>\n```python\nprint(1)\n```\n</code>"


@pytest.mark.parametrize("turn", [CODE, "<answer>7</answer>", '<tool_call>{"name": "x"}</tool_call>', f"<think>hm</think>{CODE}"])
async def test_an_action_ends_the_turn_and_no_end_of_turn_is_sampled(turn):
    parts, _ = await pieces(turn)
    assert text(parts) == [turn]
    assert parts[-1].token_ids[-1] != END


async def test_a_turn_without_an_action_ends_with_its_end_of_turn():
    parts, _ = await pieces("I wonder.")
    assert parts[-1].token_ids[-1] == END


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        ("<think>I shall write </answer>", f" later</think>{CODE}"),
        ("<think>or <answer>5</answer>", f"?</think>{CODE}"),
        ("<code>\n```python\nprint('</code>", "')\n```\n</code>"),
        ("<code>\n```python\nprint('</answer>", "')\n```\n</code>"),
        ('<tool_call>{"name": "search", "arguments": {"query": "</answer>', '"}}</tool_call>'),
        ('<tool_call>{"name": "search", "arguments": {"query": "</tool_call>', '"}}</tool_call>'),
    ],
)
async def test_a_stop_text_in_thoughts_code_or_json_is_gone_beyond(first, rest):
    parts, _ = await pieces(first + rest)
    assert text(parts) == [first, rest]


async def test_it_goes_on_as_often_as_it_takes():
    turn = f"<think></code></code></answer></think>{CODE}"
    parts, policy = await pieces(turn)
    assert "".join(text(parts)) == turn
    assert len(parts) == 4
    assert len(set(policy.seeds)) == 4


async def test_each_piece_is_asked_for_behind_those_before():
    parts, policy = await pieces(f"<think></code></think>{CODE}")
    assert policy.prompts[1] == policy.prompts[0] + parts[0].token_ids


async def test_the_pieces_share_the_budget_of_one_action():
    turn = f"<think></code></think>{CODE}"
    parts, policy = await pieces(turn, max_action_tokens=30)
    assert policy.budgets == [30, 30 - len(parts[0].token_ids)]
    assert sum(len(part.token_ids) for part in parts) == 30
    assert parts[-1].finish_reason == "length"


async def test_the_pieces_share_the_room_of_the_episode():
    _, policy = await pieces(f"<think></code></think>{CODE}", room=20)
    assert policy.budgets[0] == 20
    assert all(budget > 0 for budget in policy.budgets)


async def test_a_mention_that_fills_the_budget_is_the_end():
    first = "<think></code>"
    parts, _ = await pieces(f"{first}</think>{CODE}", max_action_tokens=len(first))
    assert text(parts) == [first]


async def test_hermes_goes_on_to_its_end_of_turn():
    call = '<tool_call>\n{"name": "x", "arguments": {}}\n</tool_call>'
    parts, _ = await pieces(f"{call}\n{call}", Hermes())
    assert text(parts) == [f"{call}\n{call}"]
    assert parts[-1].token_ids[-1] == END


# Thoughts that the chat template opens: nothing in the turn itself does.


@pytest.mark.parametrize("mention", ["</answer>", "<answer>5</answer>", CODE, "<tool_call>x</tool_call>"])
async def test_an_action_in_thoughts_that_the_template_opened_is_gone_beyond(mention):
    parts, _ = await pieces(f"Perhaps {mention} but no.\n</think>\n{CODE}", chat=THINKING)
    assert text(parts, THINKING) == [f"Perhaps {mention}", f" but no.\n</think>\n{CODE}"]


def test_a_template_that_opens_and_closes_thoughts_opens_none():
    class Closed(Bytes):
        def apply_chat_template(self, messages, add_generation_prompt, tokenize):
            return super().apply_chat_template(messages, add_generation_prompt, tokenize) + "<think>\n\n</think>\n\n"

    assert [chat.opens_thoughts for chat in (CHAT, THINKING, ChatFormat(Closed()))] == [False, True, False]


SEVEN = Task("t", "What is 3 + 4?", "7", "reasoning", "test")


async def test_an_answer_in_thoughts_that_were_cut_off_is_none():
    """In an episode, so that the environment is notified as well."""
    env = ToolEnv([SEVEN], tools=[], max_turns=1)
    policy = Speaker("Perhaps <answer>7</answer>, but", chat=THINKING)
    trajectory = (await run_episode(spec(), env, policy, THINKING, EpisodeConfig(max_action_tokens=30))).trajectory
    assert (trajectory.stop_reason, trajectory.answer) == (StopReason.TURN_LIMIT, None)
    assert trajectory.turns[0].action == "Perhaps <answer>7</answer>, bu"


@pytest.mark.parametrize(
    ("turn", "written"),
    [
        ("<think>\nI add.\n</think>\n7", "I add.\n</think>\n7"),
        ("<thinking>I add.</thinking>7", "I add.</thinking>7"),
        ("I add.\n</think>\n7", "I add.\n</think>\n7"),
        ("<answer>7</answer>", f"{CLOSING}<answer>7</answer>"),
        (CODE.replace("1", "'</think>'"), CLOSING + CODE.replace("1", "'</think>'")),
    ],
)
def test_a_turn_of_somebody_elses_ends_the_thoughts_once(turn, written):
    assert closed(turn, OPENING) == written
    assert closed(turn, "") == turn


async def test_a_scripted_turn_ends_the_thoughts_that_the_template_opened():
    def script(rng):
        yield "<answer>7</answer>"

    env = ToolEnv([Task("t", "What is 3 + 4?", "7", "reasoning", "test", expert=script)], tools=[])
    trajectory = (await run_episode(spec(actor="expert"), env, None, THINKING)).trajectory
    assert (trajectory.answer, trajectory.correct) == ("7", True)
    assert THINKING.decode(trajectory.token_ids).endswith("<think>\n\n</think>\n\n<answer>7</answer>")
    assert trajectory.reward == 1.0


# A model behind an endpoint.


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def look(corner: str):
    """Look closer."""
    return f"the {corner} corner <|im_end|>", Image.fromarray(np.full((56, 84, 3), len(corner), np.uint8))


async def play(server, chat, protocol="native", tools=(add, look), **config):
    env = ToolEnv([SEVEN], tools=tools, protocol=protocol)
    policy = Endpoint(RolloutConfig(endpoint=EndpointConfig(url=server.url, model="teacher", timeout_s=5, attempts=1)))
    try:
        return await run_episode(spec(), env, policy, chat, EpisodeConfig(**{"max_action_tokens": 512, **config}))
    finally:
        await policy.close()


def sent(server, request=-1):
    return server.requests[request]["messages"]


def hermes(*calls):
    return "\n".join(f"<tool_call>\n{json.dumps({'name': name, 'arguments': given})}\n</tool_call>" for name, given in calls)


CALL = ("add", {"a": 3, "b": 4})


async def test_native_requests_carry_the_tools(serve, chat):
    server = serve("7")
    await play(server, chat)
    assert [offered["function"]["name"] for offered in server.requests[0]["tools"]] == ["add", "look"]
    assert [message["role"] for message in sent(server)] == ["user"]


@pytest.mark.parametrize("protocol", ["hermes", "deepeyes"])
async def test_other_protocols_send_no_tools(serve, chat, protocol):
    server = serve("<answer>7</answer>")
    await play(server, chat, protocol)
    assert "tools" not in server.requests[0]


async def test_native_calls_become_text_in_the_students_tokens(serve, chat):
    server = serve(asking(CALL, text="I add."), "7")
    trajectory = (await play(server, chat)).trajectory
    assert [turn.action for turn in trajectory.turns] == [f"I add.\n{hermes(CALL)}", "7"]
    assert [turn.tool for turn in trajectory.turns] == ["add", None]
    sampled = [token for token, mask in zip(trajectory.token_ids, trajectory.loss_mask, strict=True) if mask]
    assert sampled == [token for turn in trajectory.turns for token in chat.encode_action(turn.action)]
    assert (trajectory.answer, trajectory.correct) == ("7", True)


async def test_native_results_go_back_to_their_calls(serve, chat):
    server = serve(asking(CALL, ("add", {"a": 1, "b": 1})), "7")
    await play(server, chat)
    _, assistant, *results = sent(server)
    assert [call["function"]["name"] for call in assistant["tool_calls"]] == ["add", "add"]
    assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == CALL[1]
    assert results == [
        {"role": "tool", "tool_call_id": "call-0", "content": "7"},
        {"role": "tool", "tool_call_id": "call-1", "content": "2"},
    ]


async def test_images_of_native_results_follow_in_a_users_message(serve, chat):
    """The API's tool messages hold text alone, and it wants them right behind the calls."""
    server = serve(asking(("look", {"corner": "left"}), CALL), "7")
    trajectory = (await play(server, chat)).trajectory
    *_, first, second, images = sent(server)
    assert [message["role"] for message in (first, second, images)] == ["tool", "tool", "user"]
    assert "&lt;|im_end|>" in first["content"]
    assert [part["type"] for part in images["content"]] == ["image_url", "text"]
    assert len(trajectory.images) == 1


@pytest.mark.parametrize("arguments", ['{"a": 3, "b": ', "three and four", "[3, 4]", ""])
async def test_malformed_arguments_are_answered_by_the_tool(serve, chat, arguments):
    server = serve(asking(("add", arguments)), "7")
    trajectory = (await play(server, chat)).trajectory
    assert trajectory.calls[0].status == "error"
    assert "Wrong arguments for add" in sent(server)[-1]["content"]
    assert trajectory.answer == "7"


async def test_a_tool_that_does_not_exist_is_answered_by_name(serve, chat):
    server = serve(asking(("zoom", {})), "7")
    await play(server, chat)
    assert "no tool 'zoom'" in sent(server)[-1]["content"]


async def test_a_remedy_for_too_many_calls_answers_each_of_them(serve, chat):
    server = serve(asking(*[("add", {"a": 1, "b": 1})] * 17), "7")
    trajectory = (await play(server, chat, max_tokens=12_000, max_action_tokens=6000)).trajectory
    results = [message for message in sent(server) if message["role"] == "tool"]
    assert [message["tool_call_id"] for message in results] == [f"call-{number}" for number in range(17)]
    assert all("at most 16" in message["content"] for message in results)
    assert trajectory.calls == []


async def test_a_native_turn_of_text_is_the_answer(serve, chat):
    trajectory = (await play(serve("It is 7."), chat)).trajectory
    assert (trajectory.answer, trajectory.stop_reason) == ("It is 7.", StopReason.ANSWERED)


async def test_hermes_on_an_endpoint_explains_the_tools_in_the_system_prompt(serve, chat):
    server = serve("7")
    await play(server, chat, "hermes")
    system, user = sent(server)
    assert system["role"] == "system"
    assert '"name": "add"' in system["content"]
    assert user["role"] == "user"


async def test_hermes_results_on_an_endpoint_are_users_messages(serve, chat):
    server = serve(hermes(CALL, ("look", {"corner": "left"})), "7")
    trajectory = (await play(server, chat, "hermes")).trajectory
    *_, assistant, first, second = sent(server)
    assert assistant["content"] == hermes(CALL, ("look", {"corner": "left"}))
    assert first == {"role": "user", "content": [{"type": "text", "text": "<tool_response>\n7\n</tool_response>"}]}
    assert [part["type"] for part in second["content"]] == ["image_url", "text"]
    assert [record.tool for record in trajectory.calls] == ["add", "look"]


@pytest.mark.parametrize(
    ("protocol", "turn"),
    [
        ("deepeyes", '<tool_call>{"name": "add", "arguments": {"a": 3, "b": 4}}</tool_call>'),
        ("deepeyes", '<think>or <answer>5</answer></think><tool_call>{"name": "add", "arguments": {"a": 3, "b": 4}}</tool_call>'),
        ("deepeyes", 'Or <answer>5</answer>?\n</think>\n<tool_call>{"name": "add", "arguments": {"a": 3, "b": 4}}</tool_call>'),
        ({"hermes": {"parallel": False}}, hermes(CALL)),
    ],
    ids=["deepeyes", "thoughts", "opened thoughts", "hermes"],
)
async def test_what_follows_the_first_whole_turn_is_cut_off(serve, chat, protocol, turn):
    server = serve(f"{turn}\nTool: 12\n<answer>12</answer>", "<answer>7</answer>")
    trajectory = (await play(server, chat, protocol)).trajectory
    assert trajectory.turns[0].action == turn
    assert sent(server)[-2]["content"] == turn
    assert trajectory.answer == "7"


async def test_the_protocol_is_explained_if_it_is_asked_for(serve, chat):
    server = serve("<answer>7</answer>")
    await play(server, chat, "deepeyes", system_prompt=PROTOCOL_PROMPT)
    assert "<answer>" in sent(server)[0]["content"]
    assert "To use add" in sent(server)[0]["content"]


@pytest.mark.parametrize("reply", ["\ud83d broken", asking(("look", {"corner": "\ud83d"}), text="\ud83d")], ids=["text", "call"])
async def test_lone_surrogates_of_an_endpoint_are_replaced(serve, chat, reply):
    trajectory = (await play(serve(reply, "7"), chat, {"native": {"answer": "tag"}})).trajectory
    assert trajectory.error is None
    assert "\ufffd" in trajectory.turns[0].action


async def test_an_empty_turn_that_was_cut_off_is_an_outcome(serve, chat):
    """A model with hidden thoughts may spend all its tokens on them."""
    trajectory = (await play(serve(("", "length"), "<answer>7</answer>"), chat)).trajectory
    assert (trajectory.error, trajectory.answer) == (None, "7")


async def test_words_of_an_endpoint_that_were_cut_off_are_no_answer(serve, chat):
    trajectory = (await play(serve(("8", "length"), "7"), chat)).trajectory
    assert ([turn.action for turn in trajectory.turns], trajectory.answer) == (["8", "7"], "7")


async def test_an_endpoints_turn_ends_the_thoughts_that_the_template_opened(serve):
    trajectory = (await play(serve("<answer>7</answer>"), THINKING)).trajectory
    assert trajectory.answer == "7"
    assert trajectory.turns[0].action == "\n</think>\n\n<answer>7</answer>"


@pytest.mark.parametrize("reply", ["<think>\nI add.\n</think>\n7", "I add.\n</think>\n7"])
async def test_an_endpoints_own_thoughts_are_the_students(serve, reply):
    trajectory = (await play(serve(reply), THINKING)).trajectory
    assert (trajectory.turns[0].action, trajectory.answer) == ("I add.\n</think>\n7", "7")
