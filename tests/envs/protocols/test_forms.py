"""The forms in which models write code and calls: each is read as what it means, or answered with what to write instead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turns import FENCE, call, calls, code, runs

from envs.protocols import Answer, Calls, DeepEyes, Hermes, Malformed
from envs.protocols.json_calls import calls_of

DEEPEYES, HERMES = DeepEyes(), Hermes()
ONE, TWO = "print(1)", "x = 1\nprint(x)"
MARKDOWN = f'print("""\n{FENCE}\nhi\n{FENCE}\n""")'


@pytest.mark.parametrize(
    ("inside", "source"),
    [
        ("print(1)", ONE),
        ("\nprint(1)\n", ONE),
        ('print("</code>")', 'print("</code>")'),
        ("# isn't </code>\nprint(1)", "# isn't </code>\nprint(1)"),
        (f"print('{FENCE}')", f"print('{FENCE}')"),
        ("\n~~~python\nprint(1)\n~~~\n", ONE),
        (f"\n{FENCE}`python\nprint(1)\n{FENCE}`\n", ONE),
        (f"{FENCE}PYTHON\r\nx = 1\r\nprint(x)\r\n{FENCE}", TWO),
        (f"{FENCE}{{python}}\nprint(1)\n{FENCE}", ONE),
        (f"{FENCE} python\nprint(1)\n{FENCE}", ONE),
        (f"{FENCE}ipython3\nprint(1)\n{FENCE}", ONE),
        (f'{FENCE}python title="a"\nprint(1)\n{FENCE}', ONE),
        (f"{FENCE}print(1){FENCE}", ONE),
        (f"{FENCE}python print(1){FENCE}", ONE),
        (f"{FENCE}python\nprint(1){FENCE}", ONE),
        (f"Let's run it:\n{FENCE}python\nprint(1)\n{FENCE}\n", ONE),
        (f"Let's run it: {FENCE}python\nprint(1)\n{FENCE}\n", ONE),
        (f"{FENCE}python\nprint(1)\n{FENCE}\nThis isn't hard.\n", ONE),
        (f"{FENCE}python\nprint(1)\n", ONE),
        (f"{FENCE}python\nx = 1\n{FENCE}\nand\n{FENCE}py\nprint(x)\n{FENCE}\n", TWO),
        (f"{FENCE}python\n{MARKDOWN}\n{FENCE}", MARKDOWN),
    ],
)
def test_code_is_read_however_it_is_fenced(inside, source):
    assert DEEPEYES.parse(f"<code>{inside}</code>") == runs(source)


@pytest.mark.parametrize("inside", ["", " \n", f"{FENCE}bash\nls\n{FENCE}", f"{FENCE}javascript\n1\n{FENCE}"])
def test_what_is_no_python_is_answered(inside):
    assert "write code as <code>" in DEEPEYES.parse(f"<code>{inside}</code>").reason


def test_a_fence_in_a_long_string_ends_no_code():
    source = f"text = '''\n{FENCE}\n</code>\n<answer>1</answer>\n'''\nprint(text)"
    assert DEEPEYES.parse(f"<code>\n{FENCE}python\n{source}\n{FENCE}\n</code>") == calls(("code", {"code": source}))


def test_a_fence_that_was_forgotten_does_not_reach_into_the_next_code():
    first = f"<code>\n{FENCE}python\nprint(1)\n</code>"
    assert DEEPEYES.parse(f"{first}\n{code('print(2)')}") == runs(ONE)


SEARCH = calls(("search", {"query": "x"}))


@pytest.mark.parametrize(
    "payload",
    [
        '{"name": "search", "args": {"query": "x"}}',
        '{"name": "search", "input": {"query": "x"}}',
        '{"name": "search", "arguments": {"query": "x"}, "parameters": {"query": "x"}}',
        '{"name": "search", "arguments": {}, "parameters": {"query": "x"}}',
        '{"name": "search", "query": "x"}',
        '{"tool": "search", "parameters": {"query": "x"}}',
        '{"function": "search", "arguments": {"query": "x"}}',
        '{"function": {"name": "search", "arguments": {"query": "x"}}}',
        '{"id": "1", "type": "function", "function": {"name": "search", "arguments": "{\\"query\\": \\"x\\"}"}}',
        '{"name": "search", "arguments": "\\"{\\\\\\"query\\\\\\": \\\\\\"x\\\\\\"}\\""}',
        '"{\\"name\\": \\"search\\", \\"arguments\\": {\\"query\\": \\"x\\"}}"',
        '{"name": "search", "arguments": {"query": "x",},}',
        '{"name": "search", // look\n "arguments": {"query": "x"}}',
        "{'name': 'search', 'arguments': {'query': 'x'}}",
        "{“name”: “search”, “arguments”: {“query”: “x”}}",
        f'{FENCE}JSON\n{{"name": "search", "arguments": {{"query": "x"}}}}\n{FENCE}',
        '~~~\n{"name": "search", "arguments": {"query": "x"}}\n~~~',
        '[{"name": "search", "arguments": {"query": "x"}}]',
        '{"tool_calls": [{"function": {"name": "search", "arguments": {"query": "x"}}}]}',
        "<function=search>\n<parameter=query>\nx\n</parameter>\n</function>",
        "<function=search><parameter=query>x</parameter>",
    ],
)
def test_a_call_is_read_in_the_forms_of_other_models(payload):
    for protocol in (DEEPEYES, HERMES):
        assert protocol.parse(f"<tool_call>{payload}</tool_call>") == SEARCH


@pytest.mark.parametrize(
    ("written", "value"),
    [("None", None), ("True", True), ("null", None), ("true", True), ("(1, 2)", [1, 2]), ("'it\\'s \"big\"'", 'it\'s "big"')],
)
def test_literals_of_python_are_values_of_json(written, value):
    assert calls_of([f"{{'name': 'a', 'arguments': {{'b': {written}}}}}"])[0].arguments == {"b": value}


@pytest.mark.parametrize("text", ["http://x // y", "a,}", "“big”", "it's None, true", "</tool_call>", "a\n\tb", "{'a': 1,}"])
def test_a_string_of_json_is_left_as_it_is(text):
    payload = call("a", b=text).removeprefix("<tool_call>\n").removesuffix("\n</tool_call>")
    assert calls_of([payload])[0].arguments == {"b": text}
    assert calls_of([payload[:-1] + ",}"])[0].arguments == {"b": text}


def test_a_value_of_qwen3_coders_form_may_hold_quotes():
    turn = '<tool_call>\n<function=search>\n<parameter=query>\n5" screen\n</parameter>\n</function>\n</tool_call>'
    assert DEEPEYES.parse(turn) == calls(("search", {"query": '5" screen'}))
    assert DEEPEYES.first_turn(f'{turn} so "') == turn


@pytest.mark.parametrize("between", ["\n", ", ", "", "\n\n"])
def test_objects_that_follow_one_another_are_calls(between):
    turn = f'<tool_call>{{"name": "a"}}{between}{{"name": "b"}}</tool_call>'
    assert HERMES.parse(turn) == calls("a", "b")


@pytest.mark.parametrize(
    ("payload", "remedy"),
    [
        ('{"name": "a", "arguments": {"b": 1}, "parameters": {"b": 2}}', "once"),
        ('{"search": {"query": "x"}}', '"name" and "arguments"'),
        ('{"name": "a"} please', "not JSON"),
        ('{"name": "a", "arguments": {"b": {1, 2}}}', "not JSON"),
        ("{'name': 'a', 'arguments': {'b': open('x')}}", "not JSON"),
        ('{"name": "zoom", "arguments": {"x": 1}, "arguments": {"x": 2}}', '"arguments" of a tool call once'),
        ('{"name": "zoom", "name": "search", "arguments": {}}', '"name" of a tool call once'),
        ('{"name": "zoom", "arguments": {"x": 1, "x": 2}}', '"x" of a tool call once'),
    ],
)
def test_a_call_of_two_meanings_or_none_is_answered(payload, remedy):
    assert remedy in DEEPEYES.parse(f"<tool_call>{payload}</tool_call>").reason


@pytest.mark.parametrize("name", ["code", "python", "code_interpreter", "execute_python", "Python"])
def test_a_call_of_code_may_give_its_source_as_text(name):
    assert HERMES.parse(call(name)[: -len("{}}\n</tool_call>")] + '"print(1)"}</tool_call>') == calls((name, {"code": ONE}))


@pytest.mark.parametrize(
    "turn",
    [
        '{"name": "search", "arguments": {"query": "x"}}',
        f'{FENCE}json\n{{"name": "search", "arguments": {{"query": "x"}}}}\n{FENCE}',
        '<function_call>{"name": "search", "arguments": {"query": "x"}}</function_call>',
        '<|python_tag|>{"name": "search", "parameters": {"query": "x"}}',
        "<function=search>\n<parameter=query>\nx\n</parameter>\n</function>",
        '<|tool_call|>{"name": "search", "arguments": {}}<|/tool_call|>',
        '[TOOL_CALLS][{"name": "search", "arguments": {"query": "x"}}]',
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>search",
        '<invoke name="search"><parameter name="query">x</parameter></invoke>',
        'Action: search\nAction Input: {"query": "x"}',
        code("print(1)"),
    ],
)
def test_a_call_without_its_tags_is_no_answer(turn):
    assert "<tool_call>" in HERMES.parse(f"<think>I look.</think>{turn}").reason
    assert isinstance(HERMES.parse(f"The answer: {turn}"), Answer)


def test_thoughts_that_are_closed_twice_leave_no_tag_in_the_answer():
    assert HERMES.parse("<think>I look.</think>\n</think>\n7") == Answer("7")


# Several actions in one turn.


ANSWER, CALL, CODE = "<answer>7</answer>", call("zoom"), code("print(1)")


@pytest.mark.parametrize(
    ("turn", "ignored"),
    [
        (CODE + CODE, "first <code> was carried out: 1 more <code> was ignored"),
        (CODE + CALL, "first <code> was carried out: 1 <tool_call> was ignored"),
        (CALL + CODE, "first <code> was carried out: 1 <tool_call> was ignored"),
        (CALL * 3, "first <tool_call> was carried out: 2 more <tool_call> were ignored"),
        ('<tool_call>[{"name": "a"}, {"name": "b"}]</tool_call>', "1 more <tool_call> was ignored"),
        (f'{CODE}<tool_call>{{"name": "zo', "1 <tool_call> was ignored"),
        (f"{CODE}{CALL}<answer>", "1 <answer> and 1 <tool_call> were ignored"),
        (ANSWER + "<answer>8</answer>", "first <answer> counted: 1 more <answer> was ignored"),
        (CODE + ANSWER + CALL, "first <answer> counted: 1 <code> and 1 <tool_call> were ignored"),
    ],
)
def test_what_is_not_carried_out_is_said(turn, ignored):
    action = DEEPEYES.parse(turn)
    assert ignored in action.note
    assert "\n" not in action.note
    assert not DEEPEYES.is_well_formed(turn)


@pytest.mark.parametrize("turn", [CODE, CALL, ANSWER, f"{ANSWER} because", f"<think>{CODE}{ANSWER}</think>{CALL}", f"{CODE} So."])
def test_one_action_needs_no_words(turn):
    assert DEEPEYES.parse(turn).note == ""


@pytest.mark.parametrize(
    ("turn", "note"),
    [
        (CALL * 2, ""),
        (f"{CALL}<tool_call>", "Your last <tool_call> was never closed"),
        (CALL + ANSWER, "only your first <answer> counted; ignored: 1 <tool_call>"),
        (ANSWER * 3, "ignored: 2 more <answer>"),
    ],
)
def test_hermes_says_what_it_leaves_out(turn, note):
    assert note.lower() in HERMES.parse(turn).note.lower()
    assert bool(HERMES.parse(turn).note) == bool(note)


@given(st.lists(st.sampled_from([ANSWER, CALL, CODE]), min_size=1, max_size=6))
def test_each_action_of_a_turn_is_carried_out_or_counted(actions):
    action = DEEPEYES.parse("\n".join(actions))
    counted = sum(int(word) for word in action.note.split() if word.isdecimal())
    assert not isinstance(action, Malformed)
    assert counted == len(actions) - 1
    assert isinstance(action, Calls) == (ANSWER not in actions)
