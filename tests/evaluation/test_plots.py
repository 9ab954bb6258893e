"""Plots are well-formed SVG in one page that asks for nothing from outside, and their marks stand where their values are."""

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from evaluation.plots import Line, Point, Row, lines, page, points, rows, scatter, ticks
from evaluation.referee.page import referee_page
from trajectories import CODE, grouped, trajectory

from evaluation.ablation import FULL
from evaluation.referee.outcomes import WITHOUT
from evaluation.referee.report import judged


def circles(figure):
    """Horizontal and vertical positions of the dots."""
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.-]+)" cy="([\d.-]+)"', figure)]


def svg(figure):
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", figure, re.DOTALL)[0])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.3, 0.2), (0, 0.013), (-7, 93)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 8
    assert low <= found[0] < found[-1] <= high


def test_rows_stand_where_their_values_are():
    figure = rows("t", [Row("a", 0.0), Row("b", 0.5, (0.4, 0.6)), Row("c & d", 1.0)], bounds=(0.0, 1.0))
    (first, second, third) = [x for x, _ in circles(figure)]
    assert second - first == pytest.approx(third - second, abs=0.2)
    assert "c & d" in "".join(svg(figure).itertext())


def test_lines_leave_out_what_is_not_there():
    figure = lines(
        "t", ["0", "50", "100"], [Line("a", [0.1, None, 0.3]), Line("b", [-0.1, 0.0, 0.1], [(-0.2, 0.0)] * 3)], form=points
    )
    assert len(circles(figure)) == 5
    assert svg(figure).get("aria-label") == "t"


NAN = float("nan")


@pytest.mark.parametrize(
    ("figure", "marks"),
    [
        (rows("t", []), 0),
        (rows("t", [Row("a", NAN), Row("b", 0.5, (NAN, 0.6)), Row("c", math.inf)]), 1),
        (lines("t", [], []), 0),
        (lines("t", ["x"], [Line("a", [0.5], [(0.4, 0.6)])]), 1),
        (lines("t", ["x", "y"], [Line("a", [NAN, 0.5], [(NAN, NAN), (0.4, 0.6)])]), 1),
        (scatter("t", "x", "y", []), 0),
        (scatter("t", "x", "y", [Point("a", NAN, 0.1), Point("b", 0.2, 0.1)]), 1),
    ],
)
def test_nothing_and_no_number_have_no_mark(figure, marks):
    assert len(circles(figure)) == marks
    assert not re.search(r"nan|inf\b", figure)
    svg(figure)


def test_names_have_room():
    long = "runs/" + "x" * 300
    names = [text for text in svg(scatter("t", "x", "y", [Point(long, 0.5, 0.5), Point("b", 0.5, 0.5)])).itertext() if text]
    assert max(map(len, names)) <= 40
    levels = re.findall(r'y="([\d.]+)" text-anchor="start"', scatter("t", "x", "y", [Point("a", 0.5, 0.5), Point("b", 0.51, 0.5)]))
    assert abs(float(levels[0]) - float(levels[1])) >= 12
    places = [f"step_{number}" for number in range(17)]
    shown = re.findall(r'x="([\d.]+)" y="[\d.]+" text-anchor="middle">', lines("t", places, [Line("a", [0.1] * 17)]))
    assert min(float(later) - float(one) for one, later in itertools.pairwise(shown)) > 70
    assert long[:20] not in lines("t", [long, "b"], [Line(long, [0.1, 0.2])])


def test_a_scatter_plot_grows_to_the_right_and_up():
    (low, high) = circles(scatter("t", "x", "y", [Point("a", 0.0, 0.0), Point("b", 1.0, 1.0)]))
    assert high[0] > low[0] and high[1] < low[1]


def test_the_referees_page_holds_all_plots_and_needs_nothing_from_outside():
    episodes = [trajectory([CODE], f"g{item}", correct=item != 1, needs=item < 2) for item in range(4)]
    without = [trajectory(group=f"g{item}", correct=item > 1, needs=item < 2) for item in range(4)]
    groups = {FULL: grouped(*episodes), WITHOUT: grouped(*without)}
    text = referee_page("<b>", judged({"step_1": groups, "base": groups}, ["base", "step_1"]))
    assert text.count("<svg") == 6
    assert not re.search(r"https?:|src=|@import|url\(|<script|<link|<b>", text)
    assert "prefers-color-scheme:dark" in text
    for figure in re.findall(r"<figure>.*?</figure>", text, re.DOTALL):
        svg(figure)
    svg(page("t", [rows("t", [Row("a", 0.5)])]))
