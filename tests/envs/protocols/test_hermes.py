"""The protocol "hermes": any number of calls in one turn, a turn without one is the answer, and "native", its form over an API."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turns import TAGGED, THOUGHTS, call, calls

from envs import tool
from envs.errors import UsageError
from envs.protocols import Answer, Call, Calls, Hermes, Malformed, Native
from envs.protocols.json_calls import MAX_CALLS

TURN, TAG, ONE = Hermes(), Hermes(answer="tag"), Hermes(parallel=False)
CALL = st.builds(Call, st.text(), st.dictionaries(st.text(), st.text() | st.integers() | st.none(), max_size=3))


@tool
def zoom(factor: int = 2):
    """Zoom in."""


@pytest.mark.parametrize("thoughts", THOUGHTS.values(), ids=THOUGHTS)
@pytest.mark.parametrize("protocol", [TURN, TAG], ids=["turn", "tag"])
def test_calls_are_read_behind_any_thoughts(thoughts, protocol):
    assert protocol.parse(f"{thoughts}{call('a', x=1)}\n{call('b')}") == calls(("a", {"x": 1}), "b")


@pytest.mark.parametrize("thoughts", THOUGHTS.values(), ids=THOUGHTS)
def test_a_turn_without_a_call_is_the_answer(thoughts):
    assert TURN.parse(f"{thoughts} It is 7.\n") == Answer("It is 7.")


@pytest.mark.parametrize("protocol", [TURN, TAG], ids=["turn", "tag"])
def test_what_stands_in_answer_tags_is_the_answer(protocol):
    assert protocol.parse("So it is <answer> 7 </answer>.") == Answer("7")


def test_an_answer_by_tag_needs_its_tag():
    action = TAG.parse("It is 7.")
    assert isinstance(action, Malformed)
    assert "<answer>" in action.reason


def test_code_in_an_answer_is_part_of_it():
    assert TURN.parse("```python\nprint('<code>')\n```") == Answer("```python\nprint('<code>')\n```")


def test_words_before_a_call_are_no_answer():
    assert TURN.parse(f"Let me look.\n{call('zoom')}") == calls("zoom")


@pytest.mark.parametrize("text", ["", "  \n", "<think>I think.</think>", "I think.\n</think>\n"])
def test_an_empty_turn_is_malformed(text):
    assert "empty" in TURN.parse(text).reason


@pytest.mark.parametrize("protocol", [TURN, TAG], ids=["turn", "tag"])
@pytest.mark.parametrize("tag", ["think", "tool_call", "answer"])
def test_a_tag_that_was_cut_off_is_malformed(protocol, tag):
    action = protocol.parse(f"I see. <{tag}>5, or perhaps")
    assert f"<{tag}>" in action.reason


@pytest.mark.parametrize("inside", [TAGGED, "</tool_call>", "a\nb", "</think>"])
def test_a_tag_inside_json_is_part_of_it(inside):
    assert TURN.parse(call("search", query=inside)) == calls(("search", {"query": inside}))


def test_one_call_that_cannot_be_read_makes_the_turn_malformed():
    assert isinstance(TURN.parse(f"{call('zoom')}<tool_call>oops</tool_call>"), Malformed)


def test_too_many_calls_are_malformed_and_said_to_be():
    assert f"at most {MAX_CALLS} tool calls in one turn, not {MAX_CALLS + 1}" in TURN.parse(call("x") * (MAX_CALLS + 1)).reason


def test_the_same_call_may_come_twice():
    assert TURN.parse(call("zoom") * 2) == calls("zoom", "zoom")


# Stop texts.


def test_each_form_stops_where_a_turn_may_end():
    assert [protocol.stop for protocol in (TURN, TAG, ONE, Hermes("tag", False))] == [
        (),
        ("</answer>",),
        ("</tool_call>",),
        ("</answer>", "</tool_call>"),
    ]


def test_without_stop_texts_the_whole_text_is_the_turn():
    assert TURN.first_turn(call("a") + call("b")) == call("a") + call("b")


def test_one_call_at_a_time_ends_the_turn_at_the_first():
    assert ONE.first_turn(call("a") + call("b")) == call("a")


@pytest.mark.parametrize(
    ("protocol", "before", "stop"),
    [
        (TAG, "<think>perhaps ", "</answer>"),
        (TAG, '<tool_call>{"name": "', "</answer>"),
        (ONE, "<think>perhaps ", "</tool_call>"),
        (ONE, '<tool_call>{"name": "search", "arguments": {"query": "', "</tool_call>"),
    ],
)
def test_a_stop_text_inside_thoughts_or_json_ends_no_turn(protocol, before, stop):
    assert not protocol.ends_turn(before + stop)


@pytest.mark.parametrize("thoughts", THOUGHTS.values(), ids=THOUGHTS)
def test_a_turn_ends_behind_its_call(thoughts):
    turn = thoughts + call("search", query="</tool_call>")
    assert ONE.ends_turn(turn)


# Well-formed turns.


@pytest.mark.parametrize(
    "text",
    ["It is 7.", call("a"), call("a") + call("b"), f"Let me look. {call('a')}", f"<think>x</think>{call('a')}", "x</think>7"],
)
def test_calls_or_an_answer_are_well_formed(text):
    assert TURN.is_well_formed(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<think>x",
        f"{call('a')} and so",
        f"{call('a')}<answer>1</answer>",
        "<answer>1</answer><answer>2</answer>",
        "<tool_call>x</tool_call>",
        f"{call('a')}<tool_call>",
    ],
)
def test_anything_else_is_not_well_formed(text):
    assert not TURN.is_well_formed(text)


# Writing.


@given(st.lists(CALL, min_size=1, max_size=4))
def test_calls_that_were_written_are_read_again(several):
    assert TURN.parse(TURN.write(Calls(tuple(several)))) == Calls(tuple(several))


@given(st.text(min_size=1).filter(lambda text: "</answer>" not in text))
@pytest.mark.parametrize("protocol", [TURN, TAG], ids=["turn", "tag"])
def test_an_answer_that_was_written_is_read_again(protocol, text):
    assert protocol.parse(protocol.write(Answer(text))) == Answer(text.strip())


def test_an_answer_is_written_plainly():
    assert (TURN.write(Answer("7")), TAG.write(Answer("7"))) == ("7", "<answer>7</answer>")


def test_an_answer_that_reads_like_something_else_is_written_in_tags():
    assert TURN.parse(TURN.write(Answer("write <think> first"))) == Answer("write <think> first")


def test_a_malformed_turn_cannot_be_written():
    with pytest.raises(ValueError):
        TURN.write(Malformed("no"))


# What a model is told.


def test_the_tools_are_shown_in_the_words_of_the_models_own_template():
    text = TURN.instructions([zoom.guide])
    assert text.startswith("# Tools\n\nYou may call one or more functions")
    assert json.dumps(zoom.guide.schema) in text


def test_without_tools_nothing_is_explained():
    assert TURN.instructions([]) == ""


def test_an_answer_by_tag_is_explained_in_any_case():
    assert all("<answer>" in TAG.instructions(tools) for tools in ([], [zoom.guide]))


def test_each_result_is_a_message_of_the_role_tool():
    messages = TURN.results([Call("a"), Call("b")], [("one", ()), ("two", ())])
    assert [(message.role, message.text) for message in messages] == [("tool", "one"), ("tool", "two")]


def test_native_writes_and_reads_as_hermes():
    action = calls(("a", {"x": 1}), "b")
    assert Native().native
    assert Native().parse(Native().write(action)) == TURN.parse(TURN.write(action)) == action


def test_an_unknown_form_of_answers_is_refused():
    with pytest.raises(UsageError, match="write turn or tag"):
        Hermes(answer="json")
