"""The parts of a synthesis: which demonstrations are equal, how difficult a question is, whose turn it is, how fast it may ask."""

import asyncio

import pytest

from curation.synthesis.attempts import identity
from curation.synthesis.journal import Lines
from curation.synthesis.ledger import BudgetSpent, Ledger, Pace
from curation.synthesis.selection import difficulty_of, never_drawn
from curation.synthesis.settings import BalanceConfig, SynthesizeConfig
from curation.synthesis.teachers import divided
from envs.errors import UsageError
from envs.protocols import DeepEyes
from rollout.tokens.chat_format import ChatMessage
from toolwise import synthesize


def code(source, thoughts=""):
    return f"{thoughts}<code>\n```python\n{source}\n```\n</code>"


def search(query):
    return f'<tool_call>{{"name": "search", "arguments": {{"query": "{query}"}}}}</tool_call>'


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ([code("x = 1\nprint(x)")], [code("x=1  # one\n\nprint( x )", "<think>Hm.</think>")], True),
        ([code("print(1)")], [code("print(2)")], False),
        ([code("print(1")], [code("print( 1")], False),
        ([search("a")], [search("a")], True),
        ([search("a")], [search("A")], False),
        ([search("a"), "<answer>7 km</answer>"], [search("a"), "<answer> 7  KM</answer>"], True),
        ([search("a"), search("b")], [search("b"), search("a")], False),
        ([search("a")], [search("a"), search("a")], False),
    ],
)
def test_equal_are_the_same_actions_in_the_same_order(one, other, equal):
    asked = [ChatMessage("user", "Q")]
    assert (identity(asked, DeepEyes(), one) == identity(asked, DeepEyes(), other)) is equal
    assert identity([ChatMessage("user", "R")], DeepEyes(), one) != identity(asked, DeepEyes(), one), "of another task"


@pytest.mark.parametrize(
    ("row", "column", "needed", "difficulty"),
    [
        ({"pass_rate_with": 0.25, "difficulty": "low"}, None, ("code",), "hard"),
        ({"pass_rate_without": 0.5}, None, None, "medium"),
        ({"pass_rate_with": None, "pass_rate_without": 1}, None, None, "easy"),
        ({"pass_rate_with": 0.5, "difficulty": "low"}, "difficulty", None, "low"),
        ({"level": 1}, None, None, "1"),
        ({"level": 1.0}, None, None, "1"),
        ({"difficulty": 0.9}, None, None, "0.9"),
        ({"pass_rate_with": "0.5"}, None, None, "medium"),
        ({"pass_rate_with": "high"}, None, None, "high"),
        ({"pass_rate_with": float("nan"), "pass_rate_without": 0.1}, None, None, "hard"),
        ({"mine": 1}, "mine", None, "1"),
        ({"mine": 0.9}, "mine", None, "easy"),
        ({}, None, (), "needs no tools"),
        (None, None, ("code",), "needs 1 tool"),
        (None, None, ("code", "text_search"), "needs 2 tools"),
        (None, None, None, "unknown"),
    ],
)
def test_a_question_is_as_difficult_as_its_row_or_its_tools_say(row, column, needed, difficulty):
    assert difficulty_of(row, column, needed) == difficulty


def test_at_any_moment_every_teacher_has_had_its_share():
    places = divided({"a": 2, "b": 1, "c": 1}, 400)
    for count in range(1, 401):
        for name, share in (("a", 0.5), ("b", 0.25), ("c", 0.25)):
            assert abs(places[:count].count(name) - share * count) <= 1


async def test_a_rate_limit_spaces_requests_evenly(monkeypatch):
    loop, now, begun = asyncio.get_running_loop(), [1000.0], []

    async def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(loop, "time", lambda: now[0])
    monkeypatch.setattr(asyncio, "sleep", sleep)
    pace = Pace(30)
    for units in (1, 1, 10, 1):
        await pace.wait()
        begun.append(now[0] - 1000)
        pace.charge(units)
    assert begun == [0, 2, 4, 24]


async def test_a_request_waits_for_room_that_others_may_leave_and_fails_if_none_will():
    ledger, ended = Ledger(token_budget=100), []

    async def ask(number, most, used):
        async with ledger.admitted(0.0, most):
            await asyncio.sleep(0)
            ledger.of("t").add(used, 0, 0.0, True)
        ended.append(number)

    await asyncio.gather(ask(1, 60, 10), ask(2, 60, 30), ask(3, 60, 20))
    assert (ended, ledger.tokens) == ([1, 2, 3], 60)
    with pytest.raises(BudgetSpent, match="60 tokens of token_budget=100 are spent"):
        await ask(4, 60, 10)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\xff\xfeU", "is no text in UTF-8 .byte 0.: save it as UTF-8"),
        (b" \n", "is empty: leave it out"),
        (None, "there is no such file"),
    ],
)
def test_a_prompt_that_says_nothing_is_refused_before_anybody_is_asked(tmp_path, content, complaint):
    path = tmp_path / "prompt.txt"
    if content is not None:
        path.write_bytes(content)
    teacher = {"url": "http://localhost:1/v1", "model": "m", "prompt": str(path)}
    with pytest.raises(UsageError, match=rf"teachers\.gpt\.prompt=.*{complaint}"):
        SynthesizeConfig(teachers={"gpt": teacher}).check()


def test_the_next_command_learns_nothing_if_nothing_is_kept(tmp_path, capsys):
    out = tmp_path / "out"
    teacher = ["+teachers.gpt.url=http://localhost:1/v1", "+teachers.gpt.model=m", "+teachers.gpt.price_out=1", "budget=0"]
    assert synthesize([*teacher, "episodes=2", "rollout.sandboxes_per_worker=0", f"out={out}"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"synthesize out={out} resume=true")


def test_what_no_question_is_of_is_said():
    balance = BalanceConfig(abilities={"vision": 1, "search": 1}, difficulties={"hard": 1})
    assert never_drawn(balance, {("search", "hard"), ("reasoning", "easy")}) == [
        "balance.abilities has vision, and no question that was looked at is of that kind: they are of reasoning, search"
    ]
    assert never_drawn(balance, ()) == []


def test_a_teacher_without_a_share_is_asked_nothing():
    assert divided({"a": 1.0, "b": 0.0}, 5) == ["a"] * 5
    teacher = {"url": "expert", "share": 0}
    with pytest.raises(UsageError, match="every teacher has share=0"):
        SynthesizeConfig(teachers={"e": teacher}).check()


@pytest.mark.parametrize("line", [b"\xff", b"\0\0", b"null"], ids=repr)
def test_a_broken_line_of_the_journal_is_named(tmp_path, line):
    path = tmp_path / "attempts.jsonl"
    path.write_bytes(b"{}\n" + line + b"\n")
    with pytest.raises(UsageError, match=r"attempts\.jsonl, line 2: .*: put the file back, or remove the line"):
        list(Lines(path))
