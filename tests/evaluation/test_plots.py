"""Plots are well-formed SVG whose marks stand where their values are, each with a description and its values as a table."""

import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from evaluation.pages.curves import Curve, Level, Mark, curves, smoothed
from evaluation.pages.document import picture
from evaluation.pages.marks import ticks
from evaluation.pages.plots import Line, Point, Row, lines, points, rows, scatter


def circles(plot):
    """Horizontal and vertical positions of the dots."""
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.-]+)" cy="([\d.-]+)"', str(plot))]


def svg(plot):
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", str(plot), re.DOTALL)[0])


def whole(plot):
    """The figure as a whole, which is XML as well."""
    return ElementTree.fromstring(str(plot))


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
    assert svg(figure).find("title").text == "t"
    assert svg(figure).find("desc").text == "a from +10 to +30; b from -10 to +10"
    assert [[cell.text for cell in row] for row in whole(figure).iter("tr")][2] == ["50", "–", "+0"]


NAN = float("nan")


@pytest.mark.parametrize(
    ("figure", "marks"),
    [
        (rows("t", []), 0),
        (rows("t", [Row("a", NAN), Row("b", 0.5, (NAN, 0.6)), Row("c", math.inf)]), 1),
        (lines("t", [], []), 0),
        (lines("t", ["x"], [Line("a", [0.5], [(0.4, 0.6)])]), 1),
        (lines("t", ["x", "y"], [Line("a", [NAN, 0.5], [(NAN, NAN), (0.4, 0.6)])]), 1),
        (curves("t", []), 0),
        (curves("t", [Curve("a", [1, 2], [NAN, NAN])], log=True), 0),
        (curves("t", [Curve("a", [1, 2, 3], [NAN, 0.5, math.inf], [NAN] * 3, [NAN] * 3)]), 1),
        (curves("t", [Curve("a", [1, 2, 3], [0.0, -1.0, 1e-5])], log=True), 1),
        (scatter("t", "x", "y", []), 0),
        (scatter("t", "x", "y", [Point("a", NAN, 0.1), Point("b", 0.2, 0.1)]), 1),
    ],
)
def test_nothing_and_no_number_have_no_mark(figure, marks):
    assert len(circles(figure)) == marks
    assert not re.search(r"nan|inf\b", str(figure))
    whole(figure)


def test_names_have_room():
    long = "runs/" + "x" * 300
    names = [mark.text for mark in svg(scatter("t", "x", "y", [Point(long, 0.5, 0.5), Point("b", 0.5, 0.5)])).iter("text")]
    assert max(map(len, names)) <= 40
    levels = re.findall(
        r'y="([\d.]+)" text-anchor="start"', str(scatter("t", "x", "y", [Point("a", 0.5, 0.5), Point("b", 0.51, 0.5)]))
    )
    assert abs(float(levels[0]) - float(levels[1])) >= 12
    places = [f"step_{number}" for number in range(17)]
    shown = re.findall(r'x="([\d.]+)" y="[\d.]+" text-anchor="middle">', str(lines("t", places, [Line("a", [0.1] * 17)])))
    assert min(float(later) - float(one) for one, later in itertools.pairwise(shown)) > 70
    assert not any(long[:20] in mark.text for mark in svg(lines("t", [long, "b"], [Line(long, [0.1, 0.2])])).iter("text"))


def test_a_scatter_plot_grows_to_the_right_and_up():
    (low, high) = circles(scatter("t", "x", "y", [Point("a", 0.0, 0.0), Point("b", 1.0, 1.0)]))
    assert high[0] > low[0] and high[1] < low[1]


def test_a_long_curve_is_drawn_in_means_of_neighbours_and_a_short_one_step_by_step():
    steps = [float(step) for step in range(1, 2001)]
    (faint, strong) = re.findall(r'd="M([^"]+)" fill="none"', str(curves("t", [Curve("a", steps, [step % 2 for step in steps])])))
    assert faint.count("L") == strong.count("L") <= 300
    (short,) = re.findall(r'd="M([^"]+)" fill="none"', str(curves("t", [Curve("a", steps[:5], [0.1] * 5)])))
    assert short.count("L") == 4


@pytest.mark.parametrize(("steps", "listed"), [(40, 40), (100, 100), (101, 11)])
def test_a_table_lists_each_step_unless_they_are_many(steps, listed):
    head, *body = curves("use", [Curve("all", [*range(steps)], [0.5] * steps)]).table
    assert head == ["step", "all"]
    assert len(body) == listed
    assert (body[0][0], body[-1][0]) == ("0", str(steps - 1))


def test_smoothing_leaves_out_what_is_not_there():
    assert smoothed([1.0, NAN, 3.0, NAN, NAN], 3) == pytest.approx([1.0, 2.0, 3.0, 3.0, NAN], nan_ok=True)


def test_marks_and_levels_are_named_and_stand_in_their_place():
    plot = curves("t", [Curve("a", [1, 2, 3], [0.1, 0.2, 0.3])], noted=[Mark(2, "alarm <b>")], levels=[Level(0.25, 0)])
    assert [one.text for one in svg(plot).iter("text") if one.text.startswith("alarm")] == ["alarm <b>"]
    assert "alarm <b> at 2" in svg(plot).find("desc").text


def test_a_picture_for_a_document_is_one_svg_with_its_own_colours_for_light_and_dark():
    plots = [rows("a & b", [Row("a", 0.5)]), curves("c", [Curve("a", [1, 2], [0.1, 0.2])])]
    root = ElementTree.fromstring(picture(plots))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme:dark" in root.find("{*}style").text
    assert len(root.findall("{*}svg")) == 2
