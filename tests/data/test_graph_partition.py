"""Regions cut out of one component: along the strongest ties, whatever the numbering of texts."""

from __future__ import annotations

import random

import numpy as np

from textsiam.data.graph_partition import cut_regions
from textsiam.data.pairs import Pairs
from textsiam.data.splits import NAMES, split_pairs


def test_a_region_takes_the_neighbour_with_the_largest_share_of_its_pairs_inside():
    # "s" has two pairs with "close", which has no other, and three with "far", which has six more elsewhere
    ties = [("s", "close", 2), ("s", "far", 3), ("far", "x", 3), ("far", "y", 3)]
    rows = [(a, b) for a, b, times in ties for _ in range(times)]
    left, right = zip(*rows, strict=True)
    pairs = Pairs.from_texts(left, right, [0] * len(rows))
    number = {text: i for i, text in enumerate(pairs.texts)}
    order = np.array([number[text] for text in ("s", "far", "close", "x", "y")])
    places = cut_regions(pairs, np.arange(5), order, np.full(5, -1), np.array([3]))
    # the one pair still missing is left missing: every other block would bring three, or none
    assert {text for text, place in zip(pairs.texts, places, strict=True) if place == 0} == {"s", "close"}


def test_blocks_already_placed_and_pairs_beyond_the_need_stay():
    pairs = Pairs.from_texts(["a"] * 5 + ["c"], ["b"] * 5 + ["d"], [1] * 6)
    blocks = np.array([0, 0, 1, 1])
    places = cut_regions(pairs, blocks, np.array([0, 1]), np.array([-1, -1]), np.array([3]))
    assert places.tolist() == [-1, 0]  # the first block has five pairs, two too many
    places = cut_regions(pairs, blocks, np.array([0, 1]), np.array([1, -1]), np.array([9, 0]))
    assert places.tolist() == [1, 0]


def test_a_cut_does_not_depend_on_the_order_of_rows():
    grid = [(f"{x} {y}", f"{x + dx} {y + dy}", 0) for x in range(30) for y in range(30) for dx, dy in ((0, 1), (1, 0))]
    shuffled = [(b, a, label) for a, b, label in grid]
    random.Random(0).shuffle(shuffled)
    both = []
    for rows in (grid, shuffled):
        left, right, labels = zip(*rows, strict=True)
        both.append(split_pairs(Pairs.from_texts(left, right, labels), test=0.2))
    assert both[0].report.cut
    assert both[0].report.dropped < 0.2 * len(grid)
    for name in NAMES:
        assert set(getattr(both[0], name).texts) == set(getattr(both[1], name).texts)
