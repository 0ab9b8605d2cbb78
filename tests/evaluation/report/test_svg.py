from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from textsiam.evaluation.report.svg import Axis, Plot, round_step, thin, tick_labels


def plot(x=None, y=None):
    return Plot(x or Axis.unit("across"), y or Axis.unit("up"), title="<b>", description='"quoted" & more', ident="p")


@pytest.mark.parametrize(("width", "step"), [(1, 1), (1.1, 2), (2.2, 2.5), (3, 5), (7, 10), (0.03, 0.05)])
def test_round_step(width, step):
    assert round_step(width) == pytest.approx(step)


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ((0, 0.5, 1), ["0.0", "0.5", "1.0"]),
        ((-0.25, 0, 0.25), ["\N{MINUS SIGN}0.25", "0.00", "0.25"]),
        ((0, 500, 1000), ["0", "500", "1000"]),
        ((0, 5000, 10000), ["0", "5k", "10k"]),
        ((0, 12500, 25000), ["0.0", "12.5k", "25.0k"]),
        ((0, 5e-5, 1e-4), ["0", "5e-5", "1e-4"]),
        ((0, 2.5e-6), ["0", "2.5e-6"]),
        ((), []),
    ],
)
def test_tick_labels(ticks, labels):
    assert tick_labels(ticks) == labels


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.booleans())
@example(0.0625, 1e-6, False)  # ticks that differ in the seventh decimal
def test_fitted_axes_hold_their_data(low, width, snap):
    high = low + width
    axis = Axis.fitted("x", low, high, snap=snap)
    slack = 1e-6 * (axis.high - axis.low)
    assert len(set(tick_labels(axis.ticks))) == len(axis.ticks)
    assert axis.low <= low + slack
    assert axis.high >= high - slack
    assert 2 <= len(axis.ticks) <= 12
    assert all(axis.low - slack <= tick <= axis.high + slack for tick in axis.ticks)


@pytest.mark.parametrize("value", [0.0, 0.7, -3.0])
def test_an_axis_of_one_value_has_a_width(value):
    axis = Axis.fitted("x", value, value)
    assert axis.low < value < axis.high


def test_points_land_where_the_axes_say():
    chart = plot(Axis("x", 0, 10, (0, 10)), Axis("y", 0, 1, (0, 1)))
    chart.dots([0, 10], [0, 1], "k")
    chart.line([0, 5, 10], [1, 0.5, 0], "k")
    svg = chart.svg()
    assert re.findall(r'cx="(\S+)" cy="(\S+)"', svg) == [("44", "226"), ("368", "28")]
    assert 'd="M44 28L206 127L368 226"' in svg


def test_the_chart_is_well_formed_and_says_what_it_shows():
    chart = plot()
    chart.steps(np.array([0.0, 0.5, 1.0]), np.array([0.2, 0.8]), "k")
    chart.hover(np.array([0.0, 0.5, 1.0]), ["<i>", "b"])
    chart.dots([0.5], [0.5], "k", notes=["a & b"])
    chart.rule(2.0, "<script>")
    root = ElementTree.fromstring(chart.svg())
    assert root.get("role") == "img"
    assert root.find("title").text == "<b>"
    assert root.find("desc").text == '"quoted" & more'
    assert root.get("aria-labelledby") == f"{root.find('title').get('id')} {root.find('desc').get('id')}"
    assert [note.text for note in root.iter("title")] == ["<b>", "<i>", "b", "a & b"]
    assert [text.text for text in root.iter("text")][-3:] == ["up", "across", "<script>"]


def test_a_rule_outside_is_held_at_the_edge_with_its_label_inside():
    chart = plot()
    chart.rule(7.0, "far right")
    chart.rule(-7.0, "far left")
    root = ElementTree.fromstring(chart.svg())
    right, left = [text for text in root.iter("text") if text.get("class") == "note"]
    assert (right.get("x"), right.get("text-anchor")) == ("363", "end")
    assert (left.get("x"), left.get("text-anchor")) == ("49", "start")


def test_thinning_keeps_the_shape():
    x = np.linspace(0, 1, 5000)
    y = np.minimum(1.0, 50 * x)  # a corner at 0.02
    xs, ys = thin(x, y, limit=100)
    assert len(xs) <= 100
    assert (xs[0], ys[0], xs[-1], ys[-1]) == (0, 0, 1, 1)
    assert np.abs(np.interp(x, xs, ys) - y).max() < 0.02
    assert len(thin(x[:100], y[:100], limit=100)[0]) == 100


def test_thinning_a_point_that_does_not_move():
    xs, _ = thin(np.zeros(1000), np.zeros(1000), limit=10)
    assert 1 <= len(xs) <= 10
