"""Plots: coordinates, ticks, names, what is refused."""

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from anovl.errors import UsageError
from anovl.render.plots import _BARS, Histogram, Line, Plot, _ticks

DIAGONAL = Line("a & b", np.array([[0.0, 0.0], [1.0, 1.0]]))


def test_a_line_lies_between_the_corners_of_the_frame():
    root = ET.fromstring(Plot("t", "x", "y", (DIAGONAL,)).svg())  # noqa: S314 - our own text
    frame = next(node for node in root if node.tag.endswith("rect")).attrib
    left, top, width, height = (float(frame[name]) for name in ("x", "y", "width", "height"))
    (path,) = [node for node in root.iter() if node.tag.endswith("path") and node.find("{*}title") is not None]
    (x0, y0), (x1, y1) = (tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", path.attrib["d"]))
    assert (x0, y0) == pytest.approx((left, top + height))
    assert (x1, y1) == pytest.approx((left + width, top))
    assert path.find("{*}title").text == "a & b"


def test_texts_are_escaped_and_axes_named():
    text = Plot("<script>", "rate", "hits", (DIAGONAL,)).svg()
    assert "<script>" not in text
    texts = {node.text for node in ET.fromstring(text).iter()}  # noqa: S314 - our own text
    assert {"rate", "hits", "<script>"} <= texts


def test_dots_and_bands():
    dots = Line("dots", np.random.default_rng(0).random((7, 2)), dots=True, shade=np.linspace(0, 1, 7))
    band = Line("band", np.array([[0.0, 5.0], [2.0, 6.0]]), band=np.array([1.0, 1.0]))
    text = Plot("t", "", "", (dots, band), x_range=None, y_range=None, axes=False).svg()
    assert text.count("<circle") == 7
    assert text.count('Z"') == 1
    assert 'text-anchor="end"' not in text


def test_many_lines_have_no_legend():
    lines = tuple(Line(str(index), DIAGONAL.points) for index in range(20))
    text = Plot("t", "", "", lines).svg()
    assert len(set(re.findall(r'stroke="(#\w+)"', text))) == 20
    assert 'stroke-width="4"' not in text


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 0.3), (-3.0, 17.0), (90.1, 90.4), (0.0, 20.0)])
def test_ticks_are_round_and_inside(low, high):
    ticks = _ticks(low, high)
    assert 3 <= len(ticks) <= 9
    assert low <= ticks[0]
    assert ticks[-1] <= high
    assert np.ptp(np.diff(ticks)) < 1e-9


@pytest.mark.parametrize("points", [np.zeros(3), np.zeros((3, 3)), np.array([[0.0, np.nan]])])
def test_points_of_another_shape_are_refused(points):
    with pytest.raises(UsageError, match=r"finite points \[K, 2\]"):
        Line("a", points)


def test_a_histogram_counts_on_both_sides_of_the_threshold():
    text = Histogram("Scores <i>", np.array([0.1, 0.1, 0.5, 0.9]), 0.5, bins=8).svg()
    root = ET.fromstring(text)  # noqa: S314 - our own text
    bars = [(node.attrib["fill"], float(node.attrib["height"])) for node in root if node.tag.endswith("rect")]
    low, high = [height for fill, height in bars if fill == _BARS["below"]], [h for fill, h in bars if fill == _BARS["over"]]
    assert len(low) == 1
    assert len(high) == 2
    assert low[0] == pytest.approx(2 * high[0], abs=0.1)
    assert root.attrib["aria-label"] == "Scores <i>: 4 scores from 0.1 to 0.9, 2 at or over the threshold 0.5"
    assert Histogram("one value", np.array([0.5, 0.5]), 0.5).svg().count("<rect") == 1
