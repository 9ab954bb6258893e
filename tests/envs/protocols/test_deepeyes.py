"""The protocol: which action a turn is, what counts as well-formed, and that tool output cannot speak in the model's or the
template's voice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.protocols import Answer, Call, Calls, DeepEyes, Malformed, escape

PROTOCOL = DeepEyes()
parse, is_well_formed = PROTOCOL.parse, PROTOCOL.is_well_formed


def code(source):
    return Calls((Call("code", {"code": source}),))


def call(name, **arguments):
    return Calls((Call(name, arguments),))


CODE = "<code>\n```python\nprint(1)\n```\n</code>"
DANGEROUS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|image_pad|>",
    "<image>",
    "<answer>",
    "</answer>",
    "<code>",
    "</code>",
    "<tool_call>",
    "<think>",
)


def test_answer_is_read_without_surrounding_space():
    assert parse("<answer> 42 </answer>") == Answer("42")


def test_code_is_what_stands_in_the_fence():
    assert parse(CODE) == code("print(1)")


def test_code_keeps_its_indentation():
    assert parse("<code>```python\nif 1:\n    print(1)\n```</code>") == code("if 1:\n    print(1)")


def test_tool_call_is_json():
    assert parse('<tool_call>{"name": "search", "arguments": {"query": "x"}}</tool_call>') == call("search", query="x")


def test_answer_outranks_code():
    assert parse(f"{CODE}<answer>1</answer>") == Answer("1")


def test_code_outranks_a_tool_call():
    assert parse(f'<tool_call>{{"name": "search"}}</tool_call>{CODE}') == code("print(1)")


def test_an_answer_inside_the_thoughts_is_not_an_answer():
    assert parse(f"<think>maybe <answer>1</answer></think>{CODE}") == code("print(1)")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "<answer>1",
        "<code>print(1)",
        "<tool_call>not json</tool_call>",
        '<tool_call>{"arguments": {}}</tool_call>',
        "<code>",
    ],
)
def test_what_cannot_be_read_is_malformed_with_a_remedy(text):
    action = parse(text)
    assert isinstance(action, Malformed)
    assert action.reason


@given(st.text())
def test_parse_never_raises(text):
    parse(text)


@pytest.mark.parametrize("text", ["<answer>1</answer>", CODE, f"<think>hm</think>\n{CODE}", '<tool_call>{"name": "x"}</tool_call>'])
def test_one_action_is_well_formed(text):
    assert is_well_formed(text)


@pytest.mark.parametrize(
    "text", ["", "so: <answer>1</answer>", f"{CODE}<answer>1</answer>", "<answer>1</answer><answer>2</answer>", "<think>x</think>"]
)
def test_anything_else_is_not_well_formed(text):
    assert not is_well_formed(text)


@given(st.lists(st.one_of(st.sampled_from(DANGEROUS), st.text(max_size=5))).map("".join))
def test_escaped_text_holds_no_tag_and_no_special_token(text):
    escaped = escape(text)
    assert not any(token in escaped for token in DANGEROUS)
    assert isinstance(parse(escaped), Malformed)


@given(st.lists(st.one_of(st.sampled_from(DANGEROUS), st.text(max_size=5))).map("".join))
def test_escaping_is_idempotent(text):
    assert escape(escape(text)) == escape(text)


def test_ordinary_text_is_left_alone():
    assert escape("a < b, x <- y, <div>") == "a < b, x <- y, <div>"


@pytest.mark.parametrize(
    "text", ["<image_1>", "<image_soft_token>", "< / answer>", "<start_of_image>", "<end_of_turn>", "</ tool_call>"]
)
def test_other_spellings_are_escaped_too(text):
    assert "<" not in escape(text)
