"""A prompt with images that verl's servers are sent becomes the transcript's again in vLLM's own processor, for every family; one
that does not is refused, and no other request of its batch."""

import pytest
import torch
from families import FAMILIES, policy
from rollout_fakes import picture, show
from transformers import AutoConfig
from vllm import EngineArgs, ModelRegistry, SamplingParams
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from rollout.engines.verl.prompt_check import PromptCheck
from rollout.engines.verl.prompts import Prompts
from rollout.tokens.chat_format import ChatFormat
from rollout.tokens.transcript import Transcript
from rollout.types import Generation

VOCABULARY = 400


def vllms_processor(directory):
    """What vLLM's servers make their inputs with."""
    for name in AutoConfig.from_pretrained(directory).architectures:
        # Else vLLM starts a process to look at the model.
        ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())
    arguments = EngineArgs(model=str(directory), dtype="float32", max_model_len=2048, limit_mm_per_prompt={"image": 4, "video": 0})
    return MULTIMODAL_REGISTRY.create_processor(arguments.create_model_config())


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A chat format with tiles, and a transcript that shows an image."""
    chat = ChatFormat.from_directory(policy("internvl", tmp_path_factory.mktemp("policy")))
    transcript = Transcript(chat, max_tokens=2000)
    show(transcript, "What is to be seen?", [picture(0, 112, 84)])
    return chat, transcript


def updated(check, *requests, removed=(), moved=()):
    """The logits of two requests behind the check, all 1 before it. `requests`, (parameters, prompt), are new in the batch."""
    added = [(row, params, prompt, []) for row, (params, prompt) in enumerate(requests)]
    check.update_state(BatchUpdate(batch_size=2, removed=removed, added=added, moved=moved))
    return check.apply(torch.ones(2, VOCABULARY))


def new_check():
    return PromptCheck(None, torch.device("cpu"), False)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.sees and name != "qwen3_5"])
def test_vllm_makes_the_transcript_of_what_it_is_sent(tmp_path, name):
    """Two images side by side, an answer, a third image, and the beginning of a turn that an update cut off."""
    directory = policy(name, tmp_path)
    chat, processor = ChatFormat.from_directory(directory), vllms_processor(directory)
    transcript, prompts = Transcript(chat, max_tokens=2000), Prompts(chat.images)
    show(transcript, "What is to be seen?", [picture(0, 112, 84), picture(1, 40, 150)])
    said = chat.encode_action("Let me look.")
    transcript.append_generation(Generation(said, [-1.0] * len(said), "stop", 0))
    show(transcript, "Here it is.", [picture(2, 40, 150)])
    cut = said[:4]
    sent, whole = [*prompts.joined(transcript.token_ids, transcript.images), *cut], [*transcript.token_ids, *cut]
    assert sent.count(chat.image_token) == 3
    images = processor.info.parse_mm_data({"image": [image.image for image in transcript.images]})
    made = processor(sent, images)["prompt_token_ids"]
    assert made == whole
    assert updated(new_check(), (SamplingParams(**prompts.checked(whole, transcript.images)), made)).eq(1).all()


def test_images_that_are_not_those_of_the_prompt_are_not_sent(shown):
    chat, transcript = shown
    prompts = Prompts(chat.images)
    for images, words in ((2 * transcript.images, "2 images take"), ([], "0 images take")):
        with pytest.raises(ValueError, match=words):
            prompts.joined(transcript.token_ids, images)
    with pytest.raises(ValueError, match="takes no images"):
        Prompts(None).joined([1, 2], transcript.images)


@pytest.mark.parametrize("made", [[1, 2, 2], [1, 2], None])
def test_another_prompt_is_refused_and_no_other_request(shown, made):
    chat, transcript = shown
    prompts = Prompts(chat.images)
    params = SamplingParams(**prompts.checked([1, 2, 3], transcript.images))
    right, wrong = updated(new_check(), (params, [1, 2, 3]), (params, made))
    assert right.eq(1).all()
    assert torch.softmax(wrong, dim=-1).nonzero().tolist() == [[chat.image_token]]
    assert params.stop_token_ids == [chat.image_token]
    assert prompts.refused([chat.image_token])
    text = SamplingParams(**prompts.checked([1, 2, 3], []))
    assert updated(new_check(), (text, made)).eq(1).all()


def test_a_refusal_goes_with_its_request(shown):
    chat, transcript = shown
    params = SamplingParams(**Prompts(chat.images).checked([1, 2, 3], transcript.images))
    check = new_check()
    first, second = updated(check, (params, [9]), (params, [1, 2, 3]), moved=[(0, 1, MoveDirectionality.SWAP)])
    assert first.eq(1).all()
    assert not second.eq(1).all()
    assert updated(check, removed=[1]).eq(1).all()
