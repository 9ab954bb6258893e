"""A transcript only grows, its mask is set exactly on sampled tokens, images and placeholders never part, and text from outside
can't produce special tokens. Token for token it is the chat template's own rendering."""

import io
from itertools import groupby
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from rollout_fakes import picture, show
from transformers import AutoProcessor

from envs.errors import TokenBudgetExceeded, UsageError
from rollout.config import History
from rollout.tokens.chat_format import ChatFormat, banned_token_ids
from rollout.tokens.images import ImageEncoder
from rollout.tokens.transcript import TRUNCATED, Transcript
from rollout.types import Generation

SPECIAL = ["<|im_end|>", "<|im_start|>assistant\n", "<|image_pad|>", "<|vision_start|>", "<|endoftext|>", "<|video_pad|>"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
LENIENT = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def column(transcript, name):
    (chain,) = transcript.chains
    return getattr(chain, name)


def sample(chat, text, version=3, stop=True):
    token_ids = chat.encode_action(text)
    token_ids = token_ids if stop else token_ids[:-1]
    return Generation(token_ids, [-0.25] * len(token_ids), "stop" if stop else "length", version)


def placeholder_runs(chat, token_ids):
    return [len(list(run)) for is_image, run in groupby(token_ids, key=lambda token: token == chat.image_token) if is_image]


def rendered(processor, chat, turns, system=None):
    """The template's rendering of (role, text, images), with each image placeholder repeated for its tokens."""
    messages = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    counts = []
    for role, text, images in turns:
        messages.append({"role": role, "content": [{"type": "image"}] * len(images) + [{"type": "text", "text": text}]})
        counts += [chat.image_tokens(*image.shape[:2]) for image in images]
    parts = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False).split("<|image_pad|>")
    text = parts[0] + "".join("<|image_pad|>" * count + part for count, part in zip(counts, parts[1:], strict=True))
    return processor.tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("template", [None, QWEN_TEMPLATE], ids=["starter", "qwen2.5-vl"])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_it_equals_the_chat_templates_own_rendering(policy_directory, template, system):
    processor = AutoProcessor.from_pretrained(policy_directory)
    processor.chat_template = template or processor.chat_template
    chat = ChatFormat(processor)
    images = [picture(0), picture(1, 28, 112), picture(2)]
    transcript = Transcript(chat, max_tokens=2000, system_prompt=system)
    turns = []
    for text, shown, action in [
        ("\n two  images?", images[:2], "print(1)"),
        ("\n1\n", images[2:], "say <answer>"),
        ("end", [], "x"),
    ]:
        show(transcript, text, shown)
        turns.append(("user", text, shown))
        assert transcript.token_ids == rendered(processor, chat, turns, system)
        transcript.append_generation(sample(chat, action))
        turns.append(("assistant", action, []))


@LENIENT
@given(first=TEXTS, action=TEXTS, second=TEXTS)
def test_any_text_is_tokenised_as_part_of_the_whole(chat, policy_directory, first, action, second):
    assume("<|" not in first + action + second)  # the reference would take it for a token
    transcript = Transcript(chat, max_tokens=4000)
    show(transcript, first)
    transcript.append_generation(sample(chat, action))
    show(transcript, second)
    processor = SimpleNamespace(apply_chat_template=chat.tokenizer.apply_chat_template, tokenizer=chat.tokenizer)
    turns = [("user", first, []), ("assistant", action, []), ("user", second, [])]
    assert transcript.token_ids == rendered(processor, chat, turns)


@LENIENT
@given(turns=st.lists(st.tuples(TEXTS, TEXTS, st.booleans()), min_size=1, max_size=4))
def test_it_only_grows_and_masks_exactly_what_was_sampled(chat, turns):
    transcript, sampled = Transcript(chat, max_tokens=5000), []
    before: list[int] = []
    for observation, action, stop in turns:
        show(transcript, observation)
        generation = sample(chat, action, stop=stop)
        transcript.append_generation(generation)
        sampled += generation.token_ids
        assert transcript.token_ids[: len(before)] == before
        before = list(transcript.token_ids)
    masked = [token for token, mask in zip(transcript.token_ids, column(transcript, "loss_mask"), strict=True) if mask]
    assert masked == sampled
    assert [version == 3 for version in column(transcript, "versions")] == [mask == 1 for mask in column(transcript, "loss_mask")]
    assert [logprob < 0 for logprob in column(transcript, "logprobs")] == [mask == 1 for mask in column(transcript, "loss_mask")]
    assert not any(column(transcript, "loss_mask")[: column(transcript, "prompt_length")])


def test_a_turn_cut_off_by_length_is_closed_by_an_unsampled_end_token(chat):
    whole, cut = (Transcript(chat, max_tokens=500) for _ in range(2))
    for transcript, stop in ((whole, True), (cut, False)):
        show(transcript, "go")
        transcript.append_generation(sample(chat, "abc", stop=stop))
        show(transcript, "on")
    assert whole.token_ids == cut.token_ids
    position = column(cut, "prompt_length") + 3
    assert cut.token_ids[position] == chat.end_of_turn
    assert (column(whole, "loss_mask")[position], column(cut, "loss_mask")[position]) == (1, 0)


@pytest.mark.parametrize("history", list(History))
def test_a_turn_of_no_tokens_is_a_turn(chat, history):
    empty, ended = (Transcript(chat, max_tokens=500, history=history) for _ in range(2))
    for transcript, token_ids in ((empty, []), (ended, [chat.end_of_turn])):
        show(transcript, "go")
        transcript.append_generation(Generation(token_ids, [-0.5] * len(token_ids), "stop", 0))
        show(transcript, "on")
    assert empty.token_ids == ended.token_ids
    assert [chain.turns for chain in empty.chains] == [1]


@LENIENT
@given(pieces=st.lists(st.one_of(st.sampled_from(SPECIAL), TEXTS), max_size=6))
def test_special_tokens_cannot_be_produced_by_an_observation(chat, pieces):
    special = {token_id for token_id, token in chat.tokenizer.added_tokens_decoder.items() if token.special}

    def count(text):
        transcript = Transcript(chat, max_tokens=5000)
        show(transcript, text, [picture(0)])
        return [token for token in transcript.token_ids if token in special]

    assert count("".join(pieces)) == count("")


@LENIENT
@given(max_tokens=st.integers(20, 200), images=st.integers(0, 6), length=st.integers(0, 150), reserve=st.integers(1, 10))
def test_images_and_placeholders_agree_whatever_has_to_be_left_out(chat, max_tokens, images, length, reserve):
    transcript = Transcript(chat, max_tokens=max_tokens, reserve_tokens=reserve)
    show(transcript, "q", [])
    transcript.append_generation(sample(chat, "a"))
    before = list(transcript.token_ids)
    text = "x" * length
    try:
        seen = show(transcript, text, [picture(number) for number in range(images)])
    except TokenBudgetExceeded:
        assert transcript.token_ids == before
        assert transcript.images == []
        return
    assert len(transcript.token_ids) <= max_tokens - reserve
    assert [image.sha256 for image in transcript.images] == [image.sha256 for image in seen.images]
    assert placeholder_runs(chat, transcript.token_ids) == [chat.image_tokens(56, 84)] * len(seen.images)
    assert seen.text == text or TRUNCATED in seen.text or "left out" in seen.text or seen.text == ""


def test_long_text_is_cut_to_the_observation_limit_and_marked(chat):
    transcript = Transcript(chat, max_tokens=500, observation_tokens=50)
    seen = show(transcript, "y" * 300)
    assert seen.text.endswith(TRUNCATED)
    assert 40 <= chat.count(seen.text) <= 50


def test_of_a_text_only_as_much_is_tokenized_as_can_fit(chat, monkeypatch):
    lengths, count = [], ChatFormat.count
    monkeypatch.setattr(ChatFormat, "count", lambda self, text: lengths.append(len(text)) or count(self, text))
    seen = show(Transcript(chat, max_tokens=500, observation_tokens=50), "y" * 1_000_000)
    assert seen.text.endswith(TRUNCATED)
    assert max(lengths) < 20_000


def test_a_text_that_is_cut_before_it_is_tokenized_is_marked_though_the_rest_fits(chat, monkeypatch):
    """As one whose tokens stand for more characters than are reckoned with."""
    monkeypatch.setattr("rollout.tokens.transcript._CHARACTERS", 0)
    assert show(Transcript(chat, max_tokens=500, observation_tokens=50), "y" * 10).text == TRUNCATED


def test_an_image_of_impossible_shape_is_left_out_of_a_result_with_its_placeholder(chat):
    transcript = Transcript(chat, max_tokens=500)
    show(transcript, "q")
    transcript.append_generation(sample(chat, "a"))
    seen = show(transcript, "look", [picture(0, 1, 300), picture(1)])
    assert len(seen.images) == 1
    assert "1 of 2 images left out" in seen.text
    assert len(placeholder_runs(chat, transcript.token_ids)) == 1


@pytest.fixture(scope="module")
def keen_chat(policy_directory):
    """The chat format of a policy that takes larger images than the built-in one, as Qwen's do."""
    processor = AutoProcessor.from_pretrained(policy_directory)
    processor.image_processor.size = {"shortest_edge": 3136, "longest_edge": 12_845_056}
    return ChatFormat(processor)


@pytest.mark.parametrize("shapes", [[(1, 900)], [(5000, 1), (56, 84)], [(2000, 1500)], [(300, 400)] * 3], ids=str)
def test_a_questions_images_are_scaled_until_they_fit_beside_its_text(keen_chat, shapes):
    transcript = Transcript(keen_chat, max_tokens=300)
    seen = show(transcript, "x" * 60, [picture(0, *shape) for shape in shapes])
    assert seen.text == "x" * 60
    sizes = [image.pixels.shape[:2] for image in seen.images]
    assert placeholder_runs(keen_chat, transcript.token_ids) == [keen_chat.image_tokens(*size) for size in sizes]
    assert len(sizes) == len(shapes)
    if len(set(shapes)) == 1 and 1 not in shapes[0]:  # its proportions stay, and the room is used
        assert sizes[0][0] / sizes[0][1] == pytest.approx(shapes[0][0] / shapes[0][1], rel=0.02)
        assert len(transcript.token_ids) > 200


def test_a_questions_images_that_fit_are_shown_as_they_are(chat):
    pixels = picture(0, 112, 84)
    (image,) = show(Transcript(chat, max_tokens=500), "q", [pixels]).images
    assert np.array_equal(image.pixels, pixels)


def test_a_question_whose_images_do_not_fit_however_small_is_refused(chat):
    with pytest.raises(TokenBudgetExceeded, match="images do not fit"):
        show(Transcript(chat, max_tokens=40), "q", [picture(number) for number in range(30)])


def test_the_number_of_placeholders_is_the_image_processors(chat, policy_directory):
    processor = AutoProcessor.from_pretrained(policy_directory)
    for height, width in [(112, 112), (28, 28), (300, 40), (57, 83), (500, 500)]:
        grid = processor.image_processor([picture(0, height, width)], return_tensors="np")["image_grid_thw"][0]
        assert chat.image_tokens(height, width) == int(np.prod(grid)) // 4


def test_a_sampled_placeholder_or_a_missing_logprob_is_refused(chat):
    transcript = Transcript(chat, max_tokens=500)
    show(transcript, "go")
    with pytest.raises(ValueError, match="placeholder"):
        transcript.append_generation(Generation([chat.image_token], [-1.0], "length", 0))
    with pytest.raises(ValueError, match="log-probabilities"):
        transcript.append_generation(Generation([5, 6], [-1.0], "length", 0))


def test_the_same_pixels_give_the_same_name_and_the_png_gives_the_pixels_back():
    pixels = picture(5)
    first, second = ImageEncoder().encode(pixels), ImageEncoder().encode(pixels.copy())
    assert first.sha256 == second.sha256
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(first.png))), pixels)
    assert ImageEncoder().encode(picture(6)).sha256 != first.sha256


def test_an_image_is_encoded_once_and_one_larger_than_the_cache_every_time():
    small, large = picture(0, 2, 2), picture(0, 64, 64)
    encoder = ImageEncoder(cache_bytes=1000)
    assert encoder.encode(small) is encoder.encode(small.copy())
    assert encoder.encode(large) is not encoder.encode(large)
    assert encoder.encode(large).png == encoder.encode(large).png


def test_an_encoded_image_is_not_changed_by_its_source():
    encoder, pixels = ImageEncoder(), picture(5)
    name = encoder.encode(pixels).sha256
    original = pixels.copy()
    pixels[:] = 0
    assert np.array_equal(encoder.encode(original).pixels, original)
    assert encoder.encode(pixels).sha256 != name


def test_banned_are_the_special_tokens_and_the_unused_ids_but_not_the_end_of_turn(chat, policy_directory):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(policy_directory)
    banned = set(banned_token_ids(chat.tokenizer, config))
    size = config.get_text_config().vocab_size
    assert chat.end_of_turn not in banned
    assert {chat.image_token, config.video_token_id, config.vision_start_token_id, config.vision_end_token_id} <= banned
    assert set(range(len(chat.tokenizer), size)) <= banned
    assert chat.tokenizer.convert_tokens_to_ids("<|im_start|>") in banned
    assert not banned & set(chat.encode_action("print(1 + 2)\n é"))
    config.get_text_config().vocab_size = chat.end_of_turn
    with pytest.raises(UsageError, match=f"no embedding for the tokenizer's token {chat.end_of_turn} "):
        banned_token_ids(chat.tokenizer, config)
