"""The picture of a plane has a cell for each pair of shares, coloured by kind, darker the more there are."""

import io

from PIL import Image

from curation.plane import Plane, draw_plane


def drawn(points, cells=4):
    plane = Plane(points, {"rl": "RL", "dropped": "dropped"}, cells, "title", "x", "y")
    return Image.open(io.BytesIO(draw_plane(plane))).convert("RGB")


def colour(picture, column, row, cells=4):
    """The colour at the left edge of a cell, where no number stands."""
    return picture.getpixel((2 * (70 + 46 * column) + 8, 2 * (64 + 46 * (cells - row)) + 46))


def test_each_point_colours_its_cell():
    picture = drawn([(0.0, 1.0, "rl")] * 9 + [(0.52, 0.25, "dropped")])
    many, few, none = colour(picture, 0, 4), colour(picture, 2, 1), colour(picture, 4, 4)
    assert many[2] > many[0] + 100, "blue"
    assert few[0] > few[2] and sum(few) > sum(many), "pale orange"
    assert none == (255, 255, 255)


def test_an_empty_plane_and_one_of_many_cells_are_drawn():
    assert drawn([]).size == (2 * (70 + 46 * 5 + 250), 2 * (64 + 46 * 5 + 62))
    assert drawn([(1.0, 1.0, "rl")], cells=16).size[0] == 2 * (70 + 46 * 17 + 250)
