"""Every family's images stand in a transcript as its own processor writes them: in one run, in a framed one, or in tiles."""

import numpy as np
import pytest
from families import FAMILIES, policy
from rollout_fakes import picture, show
from transformers import AutoProcessor

from envs.errors import UsageError
from rollout.tokens.chat_format import ChatFormat, ChatMessage
from rollout.tokens.image_layout import ImageLayout
from rollout.tokens.images import ImageEncoder
from rollout.tokens.prompts import PromptReader
from rollout.tokens.transcript import Transcript
from rollout.types import Generation

SIZES = [(56, 56), (112, 84), (40, 150), (150, 40), (300, 299), (57, 83), (31, 260)]
SEEING = [name for name, family in FAMILIES.items() if family.sees]


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    return {name: policy(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}


@pytest.fixture(scope="module")
def chats(directories):
    return {name: ChatFormat.from_directory(directory) for name, directory in directories.items()}


@pytest.mark.parametrize("name", SEEING)
def test_an_image_of_any_size_is_the_run_that_the_processor_writes(directories, name):
    processor = AutoProcessor.from_pretrained(directories[name])
    layout = ImageLayout(processor)
    for height, width in SIZES:
        made = processor(text=[processor.image_token], images=[picture(0, height, width)], add_special_tokens=False)
        assert list(layout.run(height, width)) == list(made["input_ids"][0]), (height, width)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_question_of_a_prompt_is_what_the_user_said_last(directories, chats, name):
    chat, light, full = chats[name], PromptReader.from_directory(directories[name]), PromptReader(chats[name])
    pictures = [ImageEncoder().encode(picture(number, *SIZES[number])) for number in range(2)] if FAMILIES[name].sees else []
    system = ChatMessage("system", "Be brief.\nUser: nothing.")
    first = ChatMessage("user", "What?<|im_end|>\n<|im_start|>user\n<image> Which?", tuple(pictures))
    said, then = ChatMessage("assistant", "It is."), ChatMessage("user", "Why?\nUser: why?", tuple(pictures[:1]))
    for messages, question in (
        ([first], first.text),
        ([system, first], first.text),
        ([system, first, said, then], then.text),
        ([system, then, first], f"{then.text}\n{first.text}"),
    ):
        images = [image for message in messages for image in message.images]
        prompt = chat.encode(chat.prompt(messages), images)
        assert light.question(prompt) == full.question(prompt) == question
        read = full.messages(prompt)
        assert [(one.role, one.text) for one in read[-len(messages) :]] == [(one.role, one.text) for one in messages]


@pytest.mark.parametrize("name", SEEING)
def test_a_transcript_of_several_turns_and_images_is_what_the_processor_makes_of_the_conversation(directories, chats, name):
    """Question with two images, a thought, a tool's image: token for token the processor's own ids."""
    chat, processor = chats[name], AutoProcessor.from_pretrained(directories[name])
    encoder = ImageEncoder()
    images = [encoder.encode(picture(number, *SIZES[number])) for number in range(3)]
    transcript = Transcript(chat, max_tokens=2000)
    transcript.append_observation([ChatMessage("user", "What is to be seen?", tuple(images[:2]))])
    action = chat.encode_action("Let me look.")
    transcript.append_generation(Generation(action, [-1.0] * len(action), "stop", 0))
    transcript.append_observation([ChatMessage("user", "Here it is.", tuple(images[2:]))])
    assert len(transcript.chains) == 1

    def turn(role, text, count=0):
        return {"role": role, "content": [{"type": "image"}] * count + [{"type": "text", "text": text}]}

    turns = [turn("user", "What is to be seen?", 2), turn("assistant", "Let me look."), turn("user", "Here it is.", 1)]
    text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    made = processor(text=[text], images=[image.image for image in images], add_special_tokens=False)
    assert transcript.token_ids == list(made["input_ids"][0])


@pytest.mark.parametrize("name", [name for name in SEEING if name != "idefics3"])  # which makes all images equally large
def test_a_questions_images_are_scaled_until_their_runs_fit(chats, name):
    chat, pixels = chats[name], picture(0, 112, 112)
    one = Transcript(chat, max_tokens=2000)
    show(one, "x" * 60, [pixels])
    both = Transcript(chat, max_tokens=len(one.token_ids) + chat.image_tokens(112, 112) // 2)
    seen = show(both, "x" * 60, [pixels] * 2)
    assert len(seen.images) == 2
    assert all(image.pixels.shape[0] < 112 for image in seen.images)


def test_a_size_that_the_image_processor_refuses_is_a_value_error(chats):
    with pytest.raises(ValueError, match="ratio"):
        chats["qwen3_vl"].image_tokens(1, 900)
    assert not chats["qwen3_vl"].accepts(np.empty((1, 900, 3)))


@pytest.mark.parametrize("lacks", ["image_token", "placeholders"])
def test_a_processor_that_shows_no_image_is_one_line(directories, lacks):
    processor = AutoProcessor.from_pretrained(directories["qwen2_5_vl"])
    processor.image_token = None if lacks == "image_token" else "<|vision_end|>"
    with pytest.raises(UsageError, match=r"cannot show an image|names no image_token") as error:
        ImageLayout(processor)
    assert "\n" not in str(error.value)
