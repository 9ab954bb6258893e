"""A prompt's tokens are read back into the messages that a chat template made them of, whatever stands in their texts."""

from pathlib import Path

import pytest
from interop_runs import NASTY, picture
from transformers import AutoProcessor

from interop.exporting.prompts import Prompts
from rollout.tokens.chat_format import ChatFormat, ChatMessage
from starter.policies import find_policy

TEMPLATES = Path(__file__).parents[1] / "data/chat_templates"
SEEING = ("qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(find_policy("starter"))


def template(processor, name):
    """The chat format of the starter with another model's template."""
    source = processor if name in SEEING else processor.tokenizer
    source.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    return ChatFormat(source)


@pytest.mark.parametrize("name", [*SEEING, "qwen2_5", "qwen3", "smollm2"])
def test_system_prompt_question_and_results_are_read_back(processor, name):
    chat = template(processor, name)
    prompts = Prompts(chat)
    images = (picture(1), picture(2)) if name in SEEING else ()
    asked = [ChatMessage("system", f"Be brief. {NASTY}"), ChatMessage("user", f"{NASTY}\nWhat?", images)]
    assert prompts.messages(chat.encode(chat.prompt(asked), images)) == [(one.role, one.text) for one in asked]
    assert prompts.messages(chat.encode(chat.prompt(asked[1:]), images))[-1] == ("user", asked[1].text)
    shown = chat.encode(chat.continuation([ChatMessage("tool", "one\ntwo"), ChatMessage("tool", "three")]))
    for between in (shown, shown[1:]):  # the policy may have sampled the end of its turn
        assert prompts.results(between, 2) == ["one\ntwo", "three"]
        assert prompts.results(between, 3) is None


def test_another_templates_prompt_is_not_taken_for_ones_own(processor, chat):
    other = template(processor, "qwen2_5")
    question = chat.encode(chat.prompt([ChatMessage("user", "What?")]))
    assert Prompts(other).messages(question[:-1]) is None
    assert Prompts(other).plain(question) == "user\nWhat?\nassistant"
