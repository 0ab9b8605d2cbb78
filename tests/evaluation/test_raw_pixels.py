"""Raw pixels as a scorer of pairs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from textsiam.evaluation.pairs import evaluate_pairs
from textsiam.evaluation.raw_pixels import RawPixels
from textsiam.images import pair_images


def test_the_score_is_the_correlation_of_the_pixels():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (6, 6), np.uint8) for _ in range(3)]
    pairs = pair_images([arrays[0], arrays[1], arrays[2]], [arrays[1], arrays[1], arrays[0]], [0, 1, 0])
    found = RawPixels(side=6).pair_similarity(pairs.texts, pairs.left, pairs.right)
    expected = [np.corrcoef(arrays[a].ravel(), arrays[b].ravel())[0, 1] for a, b in ((0, 1), (1, 1), (2, 0))]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_image_of_one_grey_correlates_with_nothing():
    pairs = pair_images([Image.new("L", (9, 9), 200)], [Image.new("L", (9, 9), 10)], [1])
    assert RawPixels().pair_similarity(pairs.texts, pairs.left, pairs.right).tolist() == [0.0]


def test_it_is_judged_as_a_twin_is():
    rng = np.random.default_rng(0)
    shapes = rng.integers(0, 256, (2, 8, 8))
    drawn = [[np.clip(s + rng.integers(-20, 20, s.shape), 0, 255).astype(np.uint8) for _ in range(20)] for s in shapes]
    left = [*drawn[0][:10], *drawn[0][:10]]
    right = [*drawn[0][10:], *drawn[1][:10]]
    pairs = pair_images(left, right, [1] * 10 + [0] * 10)
    pixels = RawPixels(side=8).calibrate(pairs, rule="accuracy")
    assert pixels.decision is not None
    evaluation = evaluate_pairs(pixels, pairs, name="raw pixels", bootstrap=0)
    assert evaluation.report.accuracy.value == pytest.approx(1.0)
