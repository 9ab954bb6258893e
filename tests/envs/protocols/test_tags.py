"""What stands where in a turn: actions are read from left to right outside the thoughts, a tag inside an action is just text."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turns import FENCE, TAGGED, THOUGHTS, call, calls, code, runs

from envs.protocols import Answer, Call, Calls, DeepEyes, Hermes, Malformed
from envs.protocols.json_calls import MAX_CALLS, calls_of
from envs.protocols.tags import scan

ALL = frozenset({"answer", "code", "tool_call"})
DEEPEYES = DeepEyes()
LONG = 200_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
CALL = st.builds(Call, st.text(), st.dictionaries(st.text(), JSON, max_size=4))
TAG = st.sampled_from([f"<{close}{tag}>" for tag in ("think", "code", "tool_call", "answer") for close in ("", "/")])
PIECES = TAG | st.sampled_from([FENCE, f"{FENCE}python\n", "\n", '"', "{", "}", '{"name": "x"}', "\\"])
TURNS = st.lists(PIECES | st.text(max_size=4), max_size=12).map("".join)


def tags(text, wanted=ALL):
    return [block.tag for block in scan(text, wanted).blocks]


def the_call(payload):
    calls = calls_of([payload])
    return calls if isinstance(calls, Malformed) else calls[0]


# Where actions stand.


@pytest.mark.parametrize("thoughts", THOUGHTS.values(), ids=THOUGHTS)
def test_thoughts_hide_what_stands_in_them(thoughts):
    assert tags(thoughts + code("print(1)")) == ["code"]


@pytest.mark.parametrize("thoughts", THOUGHTS.values(), ids=THOUGHTS)
def test_what_is_visible_is_the_text_behind_the_thoughts(thoughts):
    assert scan(f"{thoughts}So it is 7.", ALL).visible.strip() == "So it is 7."


def test_blocks_are_in_order_with_their_places():
    text = f"first {call('a')} then {code('b')}"
    blocks = scan(text, ALL).blocks
    assert [text[block.start : block.end] for block in blocks] == [call("a"), code("b")]


def test_tags_outside_the_protocol_are_text():
    assert tags(code("<tool_call>"), frozenset({"answer"})) == []


def test_a_closing_tag_alone_is_text():
    found = scan("so </code> and </answer> and </tool_call>", ALL)
    assert (found.blocks, found.open_tag) == ((), None)


@pytest.mark.parametrize("tag", ["think", "code", "tool_call", "answer"])
def test_a_tag_that_is_never_closed_hides_what_follows(tag):
    found = scan(f"<answer>1</answer><{tag}> and <answer>2", ALL)
    assert (len(found.blocks), found.open_tag) == (1, tag)


@pytest.mark.parametrize("tag", ["<answer>", "<code>", "<tool_call>"])
def test_a_tag_that_was_mentioned_in_thoughts_of_the_template_is_no_action(tag):
    """Nothing opens those thoughts in the turn itself."""
    assert DEEPEYES.parse(f"I shall write {tag} later.</think>{code('print(1)')}") == runs("print(1)")


@pytest.mark.parametrize("mention", ["`<answer>`", "'<code>'", '"<tool_call>"', "<answer>", "<code>", "<tool_call>"])
def test_a_tag_that_is_only_named_opens_no_action(mention):
    for action in ("<answer>7</answer>", code("print(1)"), call("zoom")):
        turn = f"I end with {mention}: {action}"
        if mention.strip("`'\"") in action or mention[0] != "<":
            assert tags(turn) == tags(action)
            assert DEEPEYES.parse(turn) == DEEPEYES.parse(action)


@pytest.mark.parametrize(
    "example", [f"{FENCE}\n<answer>5</answer>\n{FENCE}", "`<answer>5</answer>`", f"{FENCE}xml\n{call('a')}\n{FENCE}"]
)
def test_an_example_is_an_action_only_if_there_is_no_other(example):
    assert DEEPEYES.parse(f"The form:\n{example}\nNow:\n{code('print(1)')}") == runs("print(1)")
    assert not isinstance(DEEPEYES.parse(example), Malformed)
    assert not DEEPEYES.ends_turn(example.rstrip("`\n"))


@pytest.mark.parametrize("turn", ["<ANSWER>7</ANSWER>", "<Answer>7</Answer>"])
def test_a_tag_in_capitals_is_read_but_not_well_formed(turn):
    for protocol in (DEEPEYES, Hermes()):
        assert protocol.parse(turn) == Answer("7")
        assert not protocol.is_well_formed(turn)


def test_an_action_before_thoughts_that_were_cut_off_counts():
    assert DEEPEYES.parse("<answer>1</answer><think>or <answer>2</answer>") == Answer("1")


@pytest.mark.parametrize("action", ["<answer>5</answer>", code("print(1)"), call("zoom")], ids=["answer", "code", "call"])
def test_an_action_in_thoughts_that_were_cut_off_was_only_considered(action):
    assert isinstance(DEEPEYES.parse(f"<think>I could write {action}, but first"), Malformed)


def test_a_second_closing_of_thoughts_is_text():
    assert DEEPEYES.parse("<think>a</think><answer>x</think></answer>") == Answer("x</think>")


# Tags inside actions.


@pytest.mark.parametrize("inside", ["</answer>", "<answer>7</answer>", "<think>", "</think>", "</code>", call("zoom"), TAGGED])
def test_a_tag_inside_code_is_part_of_the_code(inside):
    source = f"print({inside!r})"
    assert DEEPEYES.parse(code(source)) == runs(source)


@pytest.mark.parametrize("inside", ["</answer>", "<answer>7</answer>", "<think>", "</think>", "</tool_call>", code("x"), TAGGED])
def test_a_tag_inside_a_string_of_json_is_part_of_the_string(inside):
    assert DEEPEYES.parse(call("search", query=inside)) == calls(("search", {"query": inside}))


def test_a_call_behind_one_with_a_tag_in_its_string_is_a_call():
    both = call("search", query="</tool_call> \\") + call("zoom")
    assert Hermes().parse(both) == calls(("search", {"query": "</tool_call> \\"}), "zoom")


def test_a_string_of_json_that_is_never_closed_does_not_swallow_the_rest():
    assert DEEPEYES.parse('<tool_call>{"name": "x}</tool_call> so <answer>1</answer>') == Answer("1")


def test_code_with_a_tag_inside_is_well_formed():
    assert DEEPEYES.is_well_formed(code("print('<answer>1</answer>')"))


def test_a_call_with_a_tag_inside_is_well_formed():
    assert DEEPEYES.is_well_formed(call("search", query="<code>"))


def test_an_answer_with_an_action_inside_is_not_well_formed():
    assert not DEEPEYES.is_well_formed(f"<answer>{call('zoom')}</answer>")


@pytest.mark.parametrize("thoughts", THOUGHTS.values(), ids=THOUGHTS)
def test_thoughts_and_one_action_are_well_formed(thoughts):
    # Thoughts come once; the second is a text before the action.
    assert DEEPEYES.is_well_formed(f"{thoughts}<answer>7</answer>") == (thoughts != THOUGHTS["two"])


@pytest.mark.parametrize("fence", ["```python", "```py", "```", "```python  ", "```Python", "```python3", "```python\r"])
def test_a_fence_may_name_python_or_nothing(fence):
    assert DEEPEYES.parse(f"<code>{fence}\nprint(1)\n```</code>") == runs("print(1)")


def test_code_outside_a_fence_is_read_but_not_well_formed():
    assert DEEPEYES.parse("<code>print(1)</code>") == runs("print(1)")
    assert not DEEPEYES.is_well_formed("<code>print(1)</code>")


# Near-JSON.


@pytest.mark.parametrize(
    "payload",
    [
        '{"name": "search", "arguments": {"query": "x"}}',
        '{"name": "search", "arguments": "{\\"query\\": \\"x\\"}"}',
        '{"name": "search", "parameters": {"query": "x"}}',
        '```json\n{"name": "search", "arguments": {"query": "x"}}\n```',
        '```\n{"name": "search", "arguments": {"query": "x"}}\n```',
        '\n\n{"arguments": {"query": "x"}, "name": "search", "id": 5}\n',
    ],
)
def test_json_that_others_take_is_taken(payload):
    assert the_call(payload) == Call("search", {"query": "x"})


@pytest.mark.parametrize("nothing", ["", ', "arguments": {}', ', "arguments": ""', ', "arguments": null', ', "parameters": null'])
def test_a_call_may_have_no_arguments(nothing):
    assert the_call(f'{{"name": "zoom"{nothing}}}') == Call("zoom", {})


def test_a_raw_line_break_in_a_string_is_taken():
    assert the_call('{"name": "search", "arguments": {"query": "a\nb\tc"}}') == Call("search", {"query": "a\nb\tc"})


@pytest.mark.parametrize(
    ("payload", "remedy"),
    [
        ("", "not JSON"),
        ("search(x)", "not JSON"),
        ('{"name": "search"', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"name": "x", "arguments": ' + "9" * 5000 + "}", "not JSON"),
        ("[]", '"name" and "arguments"'),
        ("null", '"name"'),
        ('"arguments"', '"name"'),
        ('["arguments"]', '"name"'),
        ("5", '"name"'),
        ('{"arguments": {}}', '"name" and "arguments"'),
        ('{"name": 5}', '"name" and "arguments"'),
        ('{"name": "x", "arguments": [1]}', "is a JSON object"),
        ('{"name": "x", "arguments": "[1]"}', "is a JSON object"),
        ('{"name": "x", "arguments": 5}', "is a JSON object"),
        ('{"name": "x", "arguments": "x"}', "not JSON"),
    ],
    ids=lambda text: text[:24],
)
def test_what_is_no_call_has_a_remedy(payload, remedy):
    action = the_call(payload)
    assert isinstance(action, Malformed)
    assert remedy in action.reason


def test_the_calls_of_a_turn_are_bounded():
    payloads = ['{"name": "x"}'] * (MAX_CALLS + 1)
    assert len(calls_of(payloads[:-1])) == MAX_CALLS
    assert f"at most {MAX_CALLS} tool calls" in calls_of(payloads).reason


# Whatever a model writes.


ACTIONS = st.sampled_from(["<answer>7</answer>", code("print(1)"), call("zoom")])
MENTIONS = st.lists(
    st.sampled_from(
        ["<answer>", "</answer>", "<code>", "</code>", "<tool_call>", "</tool_call>", "<answer>5</answer>", FENCE, "\n"]
    )
    | st.sampled_from([code("print(5)"), call("crop"), "perhaps", " ", "it is", "5", "[", "{", "."]),
    max_size=10,
).map("".join)


@settings(max_examples=200)
@given(MENTIONS, ACTIONS, st.sampled_from(["think", "thinking", "THINK"]), st.booleans(), st.sampled_from([DeepEyes(), Hermes()]))
def test_nothing_in_thoughts_is_acted_on(thoughts, action, tag, opened, protocol):
    turn = f"{'' if opened else f'<{tag}>'}{thoughts}</{tag}>\n\n{action}"
    assert protocol.parse(turn) == protocol.parse(action)
    assert protocol.is_well_formed(turn) == protocol.is_well_formed(action)
    assert protocol.first_turn(turn) == turn


@given(MENTIONS, st.sampled_from([DeepEyes(), Hermes(), Hermes("tag")]))
def test_nothing_in_thoughts_that_were_cut_off_is_acted_on(thoughts, protocol):
    turn = f"<think>{thoughts}"
    assert isinstance(protocol.parse(turn), Malformed)
    assert not protocol.ends_turn(turn)


@settings(max_examples=150)
@given(TURNS, st.sampled_from([DeepEyes(), Hermes(), Hermes("tag", parallel=False)]))
def test_no_turn_raises(text, protocol):
    protocol.parse(text)
    protocol.is_well_formed(text)
    protocol.ends_turn(text)
    assert text.startswith(protocol.first_turn(text))


@settings(max_examples=150)
@given(TURNS, st.sampled_from([DeepEyes(), Hermes(), Hermes("tag")]))
def test_what_is_well_formed_can_be_read(text, protocol):
    if protocol.is_well_formed(text):
        assert not isinstance(protocol.parse(text), Malformed)


@given(CALL)
def test_a_call_that_was_written_is_read_again(one):
    assert DEEPEYES.parse(DEEPEYES.write(Calls((one,)))) == Calls((one,))


@given(st.text().filter(lambda text: not re.search(r"<[/\w]", text)))
def test_an_answer_that_was_written_is_read_again(text):
    """Any text but one with tags of its own."""
    assert DEEPEYES.parse(DEEPEYES.write(Answer(text))) == Answer(text.strip())


@given(st.lists(st.sampled_from(["x = 1", "    y", "", "'<answer>1</answer>'", "'</code>'", "'</think>'"])).map("\n".join))
def test_code_that_was_written_is_read_again(source):
    assert DEEPEYES.parse(DEEPEYES.write(runs(source))) == runs(source.rstrip())


def test_a_call_of_code_with_more_than_its_source_is_written_as_json():
    action = calls(("code", {"code": "x", "seconds": 5}))
    assert DEEPEYES.write(action).startswith("<tool_call>")
    assert DEEPEYES.parse(DEEPEYES.write(action)) == action


def test_several_calls_are_no_turn_of_the_default_protocol():
    with pytest.raises(ValueError, match="one call"):
        DEEPEYES.write(calls("a", "b"))


# Where a turn ends.


@pytest.mark.parametrize("stop", DEEPEYES.stop)
@pytest.mark.parametrize(
    "before",
    [
        "<think>I shall end with ",
        f"<think>I could run {FENCE}",
        f"<code>\n{FENCE}python\nprint('",
        '<tool_call>{"name": "search", "arguments": {"query": "',
        '<tool_call>{"name": "search", "arguments": {"query": "a \\" quote and ',
        f"{THOUGHTS['own']}<code>\n{FENCE}python\nprint('",
        f"{THOUGHTS['opened by the template']}<code>\n{FENCE}\nx = '",
    ],
)
def test_a_stop_text_inside_thoughts_code_or_json_ends_no_turn(stop, before):
    assert not DEEPEYES.ends_turn(before + stop)


@pytest.mark.parametrize(
    "text",
    [
        f"<code>\n{FENCE}python\nimage_1.crop((336, 336, </answer>",
        f"<code>\n{FENCE}python\nprint('x')  # a comment\n</answer>",
        f'<code>\n{FENCE}python\nx = """a\n\'"""\n</tool_call>',
        '<tool_call>{"name": "search"</answer>',
        "<answer>2</code>",
    ],
)
def test_the_end_of_another_action_ends_the_turn_too(text):
    """What a model writes in the wrong place is malformed; it does not go on from there."""
    assert DEEPEYES.ends_turn(text)
    assert isinstance(DEEPEYES.parse(text), Malformed)


@pytest.mark.parametrize("text", [f"<code>\n{FENCE}python\nx = 1  # </code>", f'<code>\n{FENCE}python\nx = """a\n</code>'])
def test_a_comment_or_a_long_string_ends_no_turn(text):
    assert not DEEPEYES.ends_turn(text)


@pytest.mark.parametrize("thoughts", THOUGHTS.values(), ids=THOUGHTS)
@pytest.mark.parametrize(
    "action",
    [
        "<answer>1</answer>",
        code("print('</answer>')"),
        call("search", query="</tool_call>"),
        "<tool_call>not JSON</tool_call>",
        "x</code>",
    ],
)
def test_a_turn_ends_behind_its_action(thoughts, action):
    assert DEEPEYES.ends_turn(thoughts + action)
    assert DEEPEYES.first_turn(f"{thoughts}{action}\nTool: 42") == thoughts + action


@pytest.mark.parametrize(
    "turn",
    [
        f"<think>or </answer> or </code> or </tool_call></think>{code('1')}",
        code("print('</code> </answer> </tool_call>')"),
        call("search", query="</answer> </code> </tool_call>"),
        "<answer>1</answer>",
    ],
)
def test_what_a_model_wrote_behind_its_first_turn_is_cut_off(turn):
    assert DEEPEYES.first_turn(f"{turn}\n<answer>made up</answer>") == turn


def test_a_text_without_a_whole_turn_is_kept():
    assert DEEPEYES.first_turn("I wonder </code") == "I wonder </code"


@given(st.text(alphabet='ab"\\{}<>/', max_size=40))
def test_a_query_of_any_characters_ends_at_its_closing_tag(query):
    text = call("search", query=query)
    assert json.loads(text[len("<tool_call>") : -len("</tool_call>")])["arguments"]["query"] == query
    assert DEEPEYES.first_turn(f"{text} more") == text


@pytest.mark.parametrize(
    ("text", "action", "ends"),
    [
        ('<tool_call>{"name": "x", "a": "' + '\\"' * LONG, Malformed, False),
        ('<tool_call>{"name": "x", "a": "' + '\\"' * LONG + "</tool_call>", Malformed, False),
        ("<tool_call>{" + "\\'" * LONG + "}</tool_call>", Malformed, True),
        (f"<tool_call>{'`' * LONG}</tool_call>", Malformed, True),
        ("<tool_call><function=f>" + "<parameter=a>" * LONG + "</tool_call>", Calls, True),
        (f"<code>{'`' * LONG}</code>", Malformed, True),
        (f"<code>```{'\n' * LONG}", Malformed, True),
        ('<code>"""\n' + '\\"""\n' * LONG, Malformed, False),
        ('<code>```python\n"""\n' + '\\"""\n' * LONG + "```</code>", Calls, True),
    ],
)
def test_repetition_up_to_the_limit_of_tokens_is_read_in_one_pass(text, action, ends):
    """Each of these took minutes or hours when the time went with the square of the length."""
    assert isinstance(DEEPEYES.parse(text), action)
    assert DEEPEYES.ends_turn(text) is ends
