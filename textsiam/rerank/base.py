"""A reranker: a second look at the pairs where the twin's score leaves doubt, and how the two are combined."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from textsiam.decision.calibration import Platt, check_fraction, finite_scores, fit_platt, from_log_odds, log_odds
from textsiam.inference.encoders import ModelError
from textsiam.inference.fast.fast_tower import Precision
from textsiam.legacy.names import OldAttribute, old_arguments
from textsiam.rerank.lexical_features import LexicalFeatures

FORMAT = 4  # the first knew no wording, the second one forest of it, the third trees of scikit-learn
FILE = "reranker.json"
_FEWEST = 5  # pairs of each label inside the band that the combination is learned from

Fitted = TypeVar("Fitted", bound="BaseReranker")


@dataclass(frozen=True)
class Combination:
    """What the twin's similarity s and the reranker's logit z say together, and where z is worth asking for.

    The twin alone: logit P = slope · s + intercept. Both, where low ≤ s ≤ high: logit P = twin · s + reranker · z +
    constant. The score is the similarity at which the twin alone would be as sure, (logit P - intercept) / slope, so
    that scores from inside and outside the band have one meaning and can be ranked together.
    """

    slope: float
    intercept: float
    low: float
    high: float
    twin: float
    reranker: float
    constant: float

    def asks(self, similarity: np.ndarray) -> NDArray[np.bool_]:
        """Return which similarities leave doubt."""
        return (similarity >= self.low) & (similarity <= self.high)

    def log_odds(self, similarity: np.ndarray, logits: np.ndarray) -> NDArray[np.float64]:
        """Return the log odds of a duplicate, from both."""
        return self.twin * similarity.astype(np.float64) + self.reranker * logits + self.constant

    def score(self, odds: np.ndarray) -> NDArray[np.float64]:
        """Return the similarity at which the twin alone would have these log odds; it may lie beyond 1."""
        return (odds - self.intercept) / self.slope


class BaseReranker(ABC):
    """What a cross-encoder and lexical features have in common: how they are combined with a twin.

    Args:
        combination: Learned by `fit`.
        lexical_features: Learned by `fit`, where it is asked to: P is then the mean of what the combination and its
            trees say.
    """

    has_cross_encoder = False
    symmetric = True
    wording = OldAttribute("lexical_features")

    def __init__(self, combination: Combination | None = None, lexical_features: LexicalFeatures | None = None) -> None:
        self.combination, self.lexical_features = combination, lexical_features

    @property
    def fitted(self) -> bool:
        """Whether it is combined with a twin, so that `rescore` may be asked."""
        return self.combination is not None

    @abstractmethod
    def logits(
        self, texts: Sequence[str], left: np.ndarray, right: np.ndarray, *, precision: Precision = "auto"
    ) -> np.ndarray:
        """Return what is weighed against the similarity of each pair `texts[left[i]], texts[right[i]]`, `(n,)`."""

    @old_arguments(wording="lexical_features")
    def fit(
        self: Fitted,
        pairs: Any,
        similarity: np.ndarray,
        *,
        band: Sequence[float] = (0.1, 0.9),
        lexical_features: bool = False,
    ) -> Fitted:
        """Learn the combination from labelled pairs that neither training saw; returns the reranker itself.

        A threshold should be learned from other pairs than these: with `lexical_features` it would be too sure of
        itself.

        Args:
            pairs: A `textsiam.data.pairs.Pairs` (anything with texts, left, right, labels).
            similarity: The twin's own similarity of each pair, `(n,)`.
            band: Probabilities of the twin alone between which the reranker is asked.
            lexical_features: Learn from the words of the pairs too; thousands of pairs are wanted for it.

        Raises:
            ValueError: The similarities, or the logits in the band, do not rise with the labels; or too few pairs lie
                in the band.
        """
        scores, labels = finite_scores(similarity), np.asarray(pairs.labels)
        alone, low, high = _band(scores, labels, band)
        rows = np.flatnonzero((scores >= low) & (scores <= high))
        if min((labels[rows] == value).sum() for value in (0, 1)) < _FEWEST:
            raise ValueError(
                f"{len(rows)} calibration pairs, {int((labels[rows] == 1).sum())} of them duplicates, lie where the "
                f"twin is in doubt: the combination needs {_FEWEST} of each label; widen the band, or add pairs"
            )
        logits = self.logits(pairs.texts, pairs.left[rows], pairs.right[rows])
        features = np.stack([scores[rows], logits.astype(np.float64)], 1)
        twin, reranker, constant = _logistic(features, labels[rows])
        if twin < 0:  # a larger similarity never lowers a score
            twin, reranker, constant = _logistic(features * [0, 1], labels[rows])
        if reranker <= 0 and self.has_cross_encoder:
            raise ValueError(
                "the reranker's logit does not rise with the labels where the twin is in doubt: train it more"
            )
        sides = _sides(pairs.texts, pairs.left[rows], pairs.right[rows])
        self.lexical_features = LexicalFeatures.fit(*sides, features, labels[rows]) if lexical_features else None
        self.combination = Combination(alone.slope, alone.intercept, low, high, twin, reranker, constant)
        return self

    def rescore(
        self,
        texts: Sequence[str],
        left: np.ndarray,
        right: np.ndarray,
        similarity: np.ndarray,
        *,
        precision: Precision = "auto",
    ) -> np.ndarray:
        """Return the similarities, those in the band replaced by what twin and reranker say together, `(n,)` float32.

        Raises:
            ModelError: There is no combination yet.
        """
        combination = self._combined()
        rows = np.flatnonzero(combination.asks(similarity))
        odds = self._log_odds(texts, left[rows], right[rows], similarity[rows], precision)
        scores = similarity.astype(np.float32)
        scores[rows] = combination.score(odds)
        return scores

    def probability(
        self, texts: Sequence[str], left: np.ndarray, right: np.ndarray, similarity: np.ndarray
    ) -> NDArray[np.float64]:
        """Return P(duplicate) of every pair from twin and reranker together, in the band or not, `(n,)`.

        It holds for the share of duplicates of the pairs that the combination was learned from.

        Raises:
            ModelError: There is no combination yet.
        """
        return from_log_odds(self._log_odds(texts, left, right, similarity, "auto"))

    def _log_odds(
        self, texts: Sequence[str], left: np.ndarray, right: np.ndarray, similarity: np.ndarray, precision: Precision
    ) -> NDArray[np.float64]:
        """Return the log odds of a duplicate of each pair, by twin, reranker and (if learned) lexical features."""
        combination = self._combined()
        logits = self.logits(texts, left, right, precision=precision)
        odds = combination.log_odds(similarity, logits)
        if self.lexical_features is None:
            return odds
        evidence = np.stack([similarity, logits], 1).astype(np.float64)
        by_words = self.lexical_features.probability(*_sides(texts, left, right), evidence)
        return log_odds(np.mean([from_log_odds(odds), *by_words], 0))

    def _combined(self) -> Combination:
        if self.combination is None:
            raise ModelError("this reranker is not combined with a twin yet: run reranker.fit(pairs, similarity)")
        return self.combination

    def save_pretrained(self, path: str | Path) -> Path:
        """Save how it is combined with a twin, as `reranker.json`, and the trees beside it."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        combination = None if self.combination is None else asdict(self.combination)
        facts = {
            "format": FORMAT,
            "symmetric": self.symmetric,
            "combination": combination,
            "lexical_features": self.lexical_features is not None,
            "cross_encoder": self.has_cross_encoder,
        }
        if self.lexical_features is not None:
            self.lexical_features.save(folder)
        (folder / FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        return folder


def _band(scores: NDArray[np.float64], labels: NDArray[np.int8], band: Sequence[float]) -> tuple[Platt, float, float]:
    """Return the curve through the twin's similarities, and between which of them its probability is in the band."""
    low, high = (log_odds(check_fraction(value, name="band")) for value in band)
    if low >= high:
        raise ValueError(f"band must rise, got {tuple(band)}")
    alone = fit_platt(scores, labels)
    if alone.slope <= 0:
        raise ValueError("the twin's similarity does not rise with the labels: there is nothing to verify")
    low, high = (float((edge - alone.intercept) / alone.slope) for edge in (low, high))
    return alone, low, high


def _sides(texts: Sequence[str], left: np.ndarray, right: np.ndarray) -> tuple[list[str], list[str]]:
    """Return the left and the right texts of pairs."""
    return [texts[int(i)] for i in left], [texts[int(i)] for i in right]


def _logistic(features: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Return weights and intercept of a logistic regression on two features; a constant one has weight 0."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = features.mean(0), np.maximum(features.std(0), 1e-9)
    fitted = LogisticRegression().fit((features - mean) / scale, labels)
    weights = fitted.coef_[0] / scale
    return float(weights[0]), float(weights[1]), float(fitted.intercept_[0] - weights @ mean)
