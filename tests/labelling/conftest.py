"""A small collection whose truth is known: candidates without a model."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from textsiam.labelling.candidates import Candidates


@pytest.fixture(scope="session")
def collection() -> tuple[Candidates, list[str], list[str], np.ndarray]:
    """Candidates among 24 questions, their ids, their texts, and which candidate is right."""
    rng = np.random.default_rng(0)
    left, right = (np.array(column) for column in zip(*combinations(range(24), 2), strict=True))
    scores = np.sort(rng.random(len(left)).astype(np.float32))[::-1]
    order = rng.permutation(len(left))
    truth = rng.random(len(left)) < np.where(scores > 0.6, 0.98, 0.03)
    candidates = Candidates(left[order], right[order], scores, "ab" * 32, "cd" * 32)
    return candidates, [f"q{i}" for i in range(24)], [f'what "is" {i}?\tand how' for i in range(24)], truth
