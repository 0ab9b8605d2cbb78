"""A reranker without a cross-encoder: lexical features alone are weighed against the twin's similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from textsiam.inference.fast.fast_tower import Precision
from textsiam.legacy.names import old_arguments
from textsiam.rerank.base import BaseReranker


class LexicalReranker(BaseReranker):
    """How far a twin's similarity can be trusted, by the words that a pair shares; costs next to nothing.

    Example:
        >>> twin.reranker = LexicalReranker().fit(pairs, similarity)  # doctest: +SKIP
    """

    @old_arguments(wording="lexical_features")
    def fit(
        self, pairs: Any, similarity: np.ndarray, *, band: Sequence[float] = (0.01, 0.99), lexical_features: bool = True
    ) -> LexicalReranker:
        """Learn from labelled pairs that the twin did not see, thousands of them; see `BaseReranker.fit`."""
        if not lexical_features:
            raise ValueError("lexical_features is False, and a lexical reranker looks at nothing else")
        return super().fit(pairs, similarity, band=band, lexical_features=True)

    def logits(
        self, texts: Sequence[str], left: np.ndarray, right: np.ndarray, *, precision: Precision = "auto"
    ) -> np.ndarray:
        """Return a logit of 0 for each pair: no cross-encoder is asked."""
        return np.zeros(len(left), np.float32)
