"""What code was good for: it ran, it computed something, what it printed was used; and how calls failed."""

import json
import subprocess
import sys

import pytest

from rollout.code_use import CodeUse, call_errors, code_uses, computes_nothing, repeated_calls
from rollout.types import ToolCallRecord, Turn


def code(source, observation="", images=(), status="ok", tool="code"):
    action = f"<code>\n```python\n{source}\n```\n</code>"
    return Turn(action=action, observation=observation, images=list(images), tool_calls=[ToolCallRecord(tool, status, 0.1)])


def answer(text):
    return Turn(action=f"<answer>{text}</answer>")


@pytest.mark.parametrize(
    ("source", "nothing"),
    [
        ("# crop the image\n# then look", True),
        ("pass", True),
        ("import math\n'done'\n...", True),
        ("print('I will look at it')\nprint(42, 'x')", True),
        ("", True),
        ("print(-5, [1, (2, 3)], {'x': 4})", True),
        ("print(6 * 7)", False),
        ("print([x])", False),
        ("x = 5", False),
        ("image_1.crop((0, 0, 9, 9))", False),
        ("def (", False),
        ("print(f'{1}')", False),
        ("x" * 30_000, False),
    ],
)
def test_code_that_computes_nothing(source, nothing):
    assert computes_nothing(source) is nothing


def test_pythons_advice_on_a_policys_code_is_not_printed():
    read = "from rollout.code_use import computes_nothing; print(computes_nothing('x = \\'\\\\d\\''))"
    ran = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("False\n", "")


@pytest.mark.parametrize(
    ("turns", "unused"),
    [
        ([code("print(6 * 7)", "42"), answer("It is 42.")], False),
        ([code("print(6 * 7)", "42"), answer("7")], True),
        ([code("print(1 / 3)", "0.3333333333"), answer("0.33")], False),
        ([code("x = 5", "(no output)"), answer("5")], True),
        ([code("look()", "", images=["a"]), answer("red")], False),
        ([code("print(name)", "the Eiffel tower"), answer("Eiffel")], False),
        ([code("print(name)", "the red one"), answer("the blue one")], True),
        ([code("print(choice)", "B"), answer("B")], False),
        ([code("print(6 * 7)", "42"), code("print(42 + 1)", "43"), answer("43")], False),
        ([code("print(6 * 7)", "42")], True),
    ],
    ids=lambda turns: turns[-1].action if isinstance(turns, list) else None,
)
def test_output_that_no_later_turn_mentions_is_unused(turns, unused):
    assert code_uses(turns)[0].unused is unused


def test_a_block_that_failed_has_no_output_to_use():
    assert code_uses([code("1 / 0", "ZeroDivisionError: …", status="error")]) == (CodeUse(False, False, None),)


def test_blocks_of_a_hermes_turn_are_read_one_by_one():
    calls = "\n".join(
        f'<tool_call>{{"name": "code", "arguments": {{"code": "{source}"}}}}</tool_call>' for source in ("pass", "print(6 * 7)")
    )
    turn = Turn(action=calls, observation="42", tool_calls=[ToolCallRecord("code", "ok", 0.1)] * 2)
    assert code_uses([turn, answer("42")]) == (CodeUse(True, True, False), CodeUse(True, False, False))


def test_of_a_turn_in_another_protocol_nobody_says_whether_it_computes():
    turn = Turn(action="RUN 6 * 7", observation="42", tool_calls=[ToolCallRecord("code", "ok", 0.1)])
    assert code_uses([turn, answer("42")]) == (CodeUse(True, None, False),)


@pytest.mark.parametrize(
    ("turn", "kind"),
    [
        (code("(", "  File …\nSyntaxError: '(' was never closed", status="error"), "SyntaxError"),
        (code("x", "Traceback …\nNameError: name 'x' is not defined", status="error"), "NameError"),
        (code("x", "PIL.UnidentifiedImageError: cannot", status="error"), "other"),
        (code("x", "The code ran out of memory.", status="error"), "memory"),
        (code("x", "The code ran out of time.", status="timeout"), "timeout"),
        (code("x", "NameError: in a search result", status="error", tool="search"), "error"),
        (code("x", "…", status="unavailable", tool="search"), "unavailable"),
    ],
)
def test_errors_are_told_apart(turn, kind):
    assert [found for _, found in call_errors([turn])] == [kind]


CHAINED = "KeyError: 1\n\nDuring handling of the above exception, another exception occurred:\n\nTypeError: no"


@pytest.mark.parametrize(
    ("observation", "kinds"),
    [
        (
            "Traceback …\nNameError: name 'a' is not defined\n\nTraceback …\nZeroDivisionError: division",
            ["NameError", "ZeroDivisionError"],
        ),
        (f"{CHAINED}\nPIL.UnidentifiedImageError: cannot", ["TypeError", "other"]),
        ("The code ran out of memory.\nIndexError: 5", ["memory", "IndexError"]),
        ("ValueError: five", ["ValueError", "other"]),
    ],
)
def test_two_blocks_of_a_turn_have_an_error_each(observation, kinds):
    calls = [ToolCallRecord("code", "error", 0.1), ToolCallRecord("search", "timeout", 9.0), ToolCallRecord("code", "error", 0.1)]
    found = call_errors([Turn(action="", observation=observation, tool_calls=calls)])
    assert found == (("code", kinds[0]), ("search", "timeout"), ("code", kinds[1]))


def test_a_call_repeats_whatever_the_thoughts_before_it_and_beside_whatever_other():
    def turn(*sources, thought=""):
        texts = [json.dumps({"name": "code", "arguments": {"code": source}}) for source in sources]
        calls = "".join(f"<tool_call>{text}</tool_call>" for text in texts)
        return Turn(action=f"<think>{thought}</think>{calls}", tool_calls=[ToolCallRecord("code", "ok", 0.1) for _ in sources])

    assert repeated_calls([turn("a", "b"), turn("a", thought="again"), turn("c", "c")]) == 2
    assert repeated_calls([code("a"), code("b"), code("a")]) == 1
    unread = Turn(action="RUN a", tool_calls=[ToolCallRecord("code", "ok", 0.1)] * 2)
    assert repeated_calls([unread, unread]) == 2
