"""Raw pixels as a scorer of pairs: the line that every table of image twins should have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from textsiam.decision.decision import Decision, fit_decision

if TYPE_CHECKING:
    from textsiam.data.pairs import Pairs
    from textsiam.decision.thresholds import Rule

RAW_PIXELS = "raw pixels"
"""What reports call them."""

_AT_ONCE = 1024  # pairs


@dataclass
class RawPixels:
    """Pairs scored by the correlation of their pixels: images made grey, resized to a square and centred; the cosine.

    Attributes:
        side: Width and height in pixels.
        decision: What a score means; None until it is learned.
    """

    side: int = 32
    decision: Decision | None = None

    def vectors(self, names: Sequence[str]) -> NDArray[np.float32]:
        """Return the pixels (n, side²), of mean 0 and length 1; an image of one grey is all zeros."""
        from textsiam.images.names import open_picture

        pixels = [open_picture(name).convert("L").resize((self.side, self.side)) for name in names]
        found = np.array([np.asarray(each, np.float32).ravel() for each in pixels]).reshape(-1, self.side**2)
        found -= found.mean(axis=1, keepdims=True)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)

    def pair_similarity(self, texts: Sequence[str], left: np.ndarray, right: np.ndarray) -> NDArray[np.float64]:
        """Return the correlation (n,) of the images `texts[left[i]]` and `texts[right[i]]`, from −1 to 1.

        Raises:
            DataError: An image cannot be opened.
        """
        vectors = self.vectors(texts)
        parts = [slice(start, start + _AT_ONCE) for start in range(0, len(left), _AT_ONCE)]
        scores = [np.einsum("ij,ij->i", vectors[left[part]], vectors[right[part]]) for part in parts]
        return np.concatenate([np.zeros(0), *scores])

    def calibrate(self, pairs: Pairs, *, rule: Rule = "f1", prior: float | None = None) -> RawPixels:
        """Learn from labelled pairs when a score means "duplicate", as a twin does; returns itself.

        Raises:
            ValueError: Too few pairs, or only one class.
        """
        scores = self.pair_similarity(pairs.texts, pairs.left, pairs.right)
        self.decision = fit_decision(scores, pairs.labels, rule=rule, prior=prior)
        return self
