"""With the protocol "hermes" an episode's tokens are the model's own chat template's rendering, for the real template texts: tools,
several calls in one turn, results with images, thoughts. Where a template drops old thoughts, each sampled token is trained once,
behind the exact prompt that it was sampled from."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rollout_fakes import picture, spec
from tokenizers import AddedToken

from envs import Task, ToolEnv, tool
from rollout.config import EpisodeConfig, History
from rollout.episode.loop import run_episode
from rollout.tokens.chat_format import ChatFormat
from rollout.types import Generation
from starter.policy import build_processor

TEMPLATES = Path(__file__).parents[2] / "data/chat_templates"
# Those that read images, and those that show `tools` and `tool_calls`; the others are given their text.
VISION = ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_thinking")
WITH_TOOLS = (
    "qwen2_5",
    "qwen2_5_vl_tokenizer",
    "qwen3",
    "qwen3_instruct_2507",
    "qwen3_thinking_2507",
    "qwen3_vl",
    "qwen3_vl_thinking",
)
# What stands before the thoughts: the template itself writes it into the prompt, or the model has to.
OPENED = {"qwen3_thinking_2507": "<think>\n", "qwen3_vl_thinking": "<think>\n"}
THOUGHTFUL = (*OPENED, "qwen3")
NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))


@tool
def look(corner: str) -> tuple[str, Image.Image]:
    """Look closer.

    Args:
        corner: Which corner.
    """
    return f"the {corner} corner, 5 < 7 <|im_end|>", Image.fromarray(picture(len(corner)))


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def processor(name, monkeypatch=None):
    made = build_processor()
    made.tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ("<think>", "</think>", "<tool_call>")])
    template = (TEMPLATES / f"{name}.jinja").read_text()
    if name in VISION:
        made.chat_template = template
        return made
    made.tokenizer.chat_template = template
    return made.tokenizer


class Writes:
    """A policy that writes given turns and records its prompts."""

    version, healthy = 0, True

    def __init__(self, chat, *texts):
        self._chat, self._texts, self.prompts, self.written = chat, list(texts), [], []

    async def generate(self, token_ids, images, *, max_tokens, temperature, seed, stop=()):
        self.prompts.append(list(token_ids))
        token_ids = self._chat.encode_action(self._texts.pop(0), stop)
        self.written.append(token_ids)
        return Generation(token_ids, [-0.5] * len(token_ids), "stop", 0)


def call(name, **arguments):
    return "<tool_call>\n" + json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"


async def play(name, *texts, images=True, **config):
    chat = ChatFormat(processor(name))
    shown = (Image.fromarray(picture(0)),) * (name in VISION and images)
    tools = [look, add] if name in VISION else [add]
    env = ToolEnv([Task("t", "What is 1 + 2?", "3", "reasoning", "test", images=shown)], tools=tools, protocol="hermes")
    policy = Writes(chat, *texts)
    episode = await run_episode(spec(), env, policy, chat, EpisodeConfig(max_tokens=8000, **config))
    assert episode.error is None
    assert policy._texts == []
    return SimpleNamespace(episode=episode, chat=chat, policy=policy, env=env, name=name)


def rendered(played, messages, system=None):
    """The template's own rendering of the conversation, tokenised by the tokenizer with each image placeholder repeated."""
    made, chat = processor(played.name), played.chat
    tools = played.env.tool_schemas if played.name in WITH_TOOLS else None
    given = [{"role": "system", "content": system}] if system else []
    text = made.apply_chat_template([*given, *messages], tools=tools, tokenize=False)
    if played.name in VISION:
        parts = text.split("<|image_pad|>")
        run = "<|image_pad|>" * chat.image_tokens(56, 84)
        text = run.join(parts)
    tokenizer = getattr(made, "tokenizer", made)
    # What tools return is data: its special tokens are none.
    text = text.replace("7 <|im_end|>", "7 &lt;|im_end|>")
    return tokenizer(text.removesuffix("\n"), add_special_tokens=False).input_ids


def content(name, text, images=0):
    return [*[{"type": "image"}] * images, {"type": "text", "text": text}] if name in VISION else text


def assistant(name, text, calls=()):
    if name not in WITH_TOOLS:
        return {"role": "assistant", "content": "\n".join(filter(None, [text, *(call(tool, **given) for tool, given in calls)]))}
    structured = [{"type": "function", "function": {"name": tool, "arguments": given}} for tool, given in calls]
    return {"role": "assistant", "content": text} | ({"tool_calls": structured} if structured else {})


def thinking(name, text):
    """Thoughts as the model writes them, and as the conversation has them."""
    if name not in THOUGHTFUL:
        return "", ""
    whole = f"<think>\n{text}\n</think>\n\n"
    return whole.removeprefix(OPENED.get(name, "")), whole


@pytest.mark.parametrize("name", NAMES)
async def test_an_episode_is_the_templates_own_rendering(name):
    (first, first_whole), (last, last_whole) = thinking(name, "I add."), thinking(name, "Now I know.")
    calls = [("add", {"a": 1, "b": 2})] + ([("look", {"corner": "left"})] if name in VISION else [])
    turn = first + "\n".join(call(tool, **given) for tool, given in calls)
    played = await play(name, turn, f"{last}3")
    (trajectory,) = played.episode.chains
    results = [{"role": "tool", "content": content(name, "3")}]
    if name in VISION:
        results.append({"role": "tool", "content": content(name, "the left corner, 5 < 7 <|im_end|>", 1)})
    messages = [
        {"role": "user", "content": content(name, "What is 1 + 2?", 1)},
        assistant(name, first_whole, calls),
        *results,
        {"role": "assistant", "content": f"{last_whole}3"},
    ]
    system = None if name in WITH_TOOLS else played.env.instructions()
    assert trajectory.token_ids == rendered(played, messages, system)
    assert [record.tool for record in trajectory.calls] == [tool for tool, _ in calls]
    assert (trajectory.answer, trajectory.correct) == ("3", True)


async def after_a_remedy(name, **config):
    """A turn that cannot be read, which a user's message answers: from then on the template drops the thoughts before it."""
    (first, _), (last, _) = thinking(name, "I call."), thinking(name, "Now I know.")
    return await play(name, f"{first}<tool_call>oops", f"{last}3", images=False, **config)


@pytest.mark.parametrize("name", THOUGHTFUL)
async def test_a_template_that_drops_old_thoughts_begins_a_chain(name):
    played = await after_a_remedy(name)
    first, second = played.episode.chains
    assert (first.chain, second.chain) == (0, 1)
    # What the policy was shown is what the rows hold before what it sampled.
    for prompt, written, row in zip(played.policy.prompts, played.policy.written, (first, second), strict=True):
        assert row.token_ids == prompt + written
        assert row.loss_mask == [0] * len(prompt) + [1] * len(written)
        assert [turn.action for turn in row.turns] == [played.chat.decode(written)]
    shown = played.chat.decode(played.policy.prompts[1])
    assert "I call." not in shown
    assert "oops" in shown
    assert (played.episode.trajectory.turns, played.episode.trajectory.correct) == ([*first.turns, *second.turns], True)


@pytest.mark.parametrize("name", THOUGHTFUL)
async def test_or_thoughts_stay_as_they_were_sampled_in_one_chain(name):
    played = await after_a_remedy(name, history=History.append)
    (row,) = played.episode.chains
    assert played.policy.prompts[1][: len(played.policy.prompts[0])] == played.policy.prompts[0]
    assert "I call." in played.chat.decode(played.policy.prompts[1])
    assert sum(row.loss_mask) == sum(map(len, played.policy.written))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in THOUGHTFUL])
async def test_other_templates_have_one_chain_either_way(name):
    rows = [(await after_a_remedy(name, history=history)).episode.chains for history in History]
    assert [len(chains) for chains in rows] == [1, 1]
    assert rows[0][0].token_ids == rows[1][0].token_ids


def test_pictures_are_numbers_of_the_image_processor():
    """The rendering above repeats a placeholder by what `ChatFormat` counts; that is the image processor's own grid."""
    made = build_processor()
    grid = made.image_processor([picture(0)], return_tensors="np")["image_grid_thw"][0]
    assert ChatFormat(made).image_tokens(56, 84) == int(np.prod(grid)) // 4
