"""The process that compares expressions: a right answer does not wait behind endless ones, what takes too long is killed, memory is
bounded, a dead process is replaced, and nothing is left behind."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from envs.scoring import Kind, Scoring, is_right
from envs.scoring.mathematics import equivalent
from envs.scoring.mathematics.client import Client, client
from envs.scoring.mathematics.latex import expression

MATH = Scoring(Kind.MATH)
ENDLESS = r"\sum_{n=1}^{9999} \frac{1}{n^{3}+\sin(n)}"


def children(process):
    """The ids of a process's children."""
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


async def test_a_right_answer_does_not_wait_behind_endless_ones():
    finished = []

    async def one(name, answer, truth):
        right = await equivalent(answer, truth)
        finished.append(name)
        return right

    endless = [asyncio.ensure_future(one("endless", f"{ENDLESS}+{number}", r"\sqrt{7}")) for number in range(6)]
    assert await one("right", r"\sqrt{8}", r"2\sqrt{2}")
    assert "right" in finished[:3], finished  # some may end at once, none of the slow lane does
    for task in endless:
        task.cancel()
    await asyncio.gather(*endless, return_exceptions=True)


@pytest.mark.parametrize(
    "tower",
    ["9^{9^{9}}", "9^{9^{9^{9}}}", "9^9^9", "2^{99999999}", "99999999!", r"\sqrt{2}^{9^{9^{9}}}", "((9^{99})^{99})^{99}", "9!!!!"],
)
async def test_a_tower_of_powers_is_wrong(tower):
    assert not await is_right("Q", tower, "5", MATH)


async def test_abandoned_comparisons_are_killed():
    await equivalent("x+x", "2x")
    server = client._process.pid
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await equivalent(ENDLESS, r"\sqrt{3}")
    await equivalent("y+y", "2y")
    for _ in range(200):
        if not children(server):
            break
        await asyncio.sleep(0.02)
    assert children(server) == []


async def test_a_process_that_dies_is_replaced():
    assert await equivalent("a+a", "2a")
    os.kill(client._process.pid, signal.SIGKILL)
    assert await equivalent("b+b", "2b")


async def test_event_loops_and_threads_share_the_process():
    rights = await asyncio.gather(*(asyncio.to_thread(asyncio.run, equivalent(f"{n}x+x", f"{n + 1}x")) for n in range(2, 6)))
    assert rights == [True] * 4


def test_nothing_is_left_behind(tmp_path):
    script = tmp_path / "score.py"
    script.write_text(
        "import asyncio\nfrom envs.scoring import Kind, Scoring, is_right\nfrom envs.scoring.mathematics.client import client\n"
        'print(asyncio.run(is_right("Q", "x+x", "2x", Scoring(Kind.MATH))), client._process.pid)\n'  # no __main__ guard is needed
    )
    run = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    )
    right, process = run.stdout.split()
    assert right == "True"
    assert not Path("/proc", process).exists()


async def test_closing_ends_the_process():
    other = Client()
    assert await other.compare("x+x", "2x")
    process = other._process.pid
    other.close()
    assert not Path("/proc", str(process)).exists()


SAME = [
    [r"\frac{1}{3}", r"\dfrac13", "1/3", r"\frac{2}{6}", r"3^{-1}", r"0.\overline{3}", r"\boxed{\frac{1}{3}}", "**1/3**",
    r"\tfrac{1}{3}"],
    [r"\sqrt{12}", r"2\sqrt{3}", "2√3", "2*sqrt(3)", r"\frac{6}{\sqrt{3}}", "12^{1/2}", r"\(2\sqrt3\)"],
    ["x^2-1", "(x-1)(x+1)", r"x \cdot x - 1", "-1 + x**2", r"\left(x+1\right)\left(x-1\right)"],
    ["2^{70}", "4^{35}", r"2 \cdot 2^{69}", r"\frac{2^{71}}{2}"],
    ["2^{71}"],
    [r"\{1, 2\}", "1, 2", "2 and 1", r"x = 1 \text{ or } x = 2"],
    [r"\{1, 3\}"],
    ["(1, 2)", r"\left(1, 2\right)"],
    ["(2, 1)"],
    ["[1, 2]"],
    ["no solution", r"\text{No solution}"],
]  # fmt: skip


async def test_different_values_are_never_equal_and_equal_ones_always():
    pairs = [(one, mine[0], True) for mine in SAME for one in mine]
    pairs += [(mine[-1], theirs[0], False) for mine, theirs in zip(SAME, SAME[1:] + SAME[:1], strict=True)]
    rights = await asyncio.gather(*(is_right("Q", one, other, MATH) for one, other, _ in pairs))
    assert [pair for pair, right in zip(pairs, rights, strict=True) if right is not pair[2]] == []


def test_a_text_of_many_equal_pieces_is_rewritten_or_refused():
    for piece in ("^{", "^", "sqrt(", r"\frac{", "(", "{", "1 ", "1,", "a", r"\text{", "|", r"\left(", "9^", "and ", "√", "½"):
        assert expression((piece * 299)[:299]).number is None
