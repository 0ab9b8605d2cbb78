"""What texts and their scores look like in a domain, in figures, and whether others look alike.

A decision holds where pairs are like those that it was learned on. No label is needed to see that they are not.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

NEIGHBOURS = 256  # texts among which nearest neighbours are looked for; their scores depend on how many there are
FEWEST = 50  # texts, or pairs: fewer say nothing
_KEPT = 256  # values kept of a distribution
_WORDS, _COUNTED = 100, 1000  # words that a decision remembers, and that are counted to be compared with these
_KNOWN_WELL = 20  # times that a word must have been met
SIGNIFICANT = 1.63  # 1 % point of Kolmogorov's distribution
_DESIGN = 1.5  # words of one text are alike: their shares vary more than those of independent words
_MIXTURES = np.linspace(0.0, 1.0, 101)
# Scripts without spaces give characters, all others words.
_TOKEN = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|[^\W_]+|[^\w\s]")

# How far another domain's distribution may be from the decision's beyond what chance explains. Held-out samples of
# the same source stay below half of each; other forums in the same language exceed at least one.
_ALLOWED = {"wording": 0.05, "lengths": 0.1, "scores of random pairs": 0.1, "scores of nearest neighbours": 0.25}
ALLOWED_SCORES = 0.1


@dataclass(frozen=True)
class Difference:
    """How far a distribution is from that of the decision's domain: `distance` in 0 to 1, and what is `allowed`."""

    name: str
    distance: float
    allowed: float


@dataclass(frozen=True)
class DomainShift:
    """In what texts, or scores, differ from those that a decision was learned on."""

    differences: tuple[Difference, ...]

    def __str__(self) -> str:
        """Return one line: what differs, and what to do."""
        parts = ", ".join(f"{d.name} ({d.distance:.2f}, at most {d.allowed:.2f} is usual)" for d in self.differences)
        return (
            f"these texts are unlike those that the decision was learned on: {parts}; thresholds and probabilities may "
            "not hold: label some pairs and run `textsiam recalibrate`, or `textsiam calibrate` with a few hundred"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what fits in JSON."""
        return {"message": str(self), "differences": [asdict(one) for one in self.differences]}


@dataclass(frozen=True, eq=False)
class Domain:
    """Figures of texts and of their scores; no text is kept.

    Attributes:
        texts: How many texts were looked at.
        tokens: How many words, or characters of scripts without spaces, these have.
        words: The most frequent of these, case-folded, with their shares: the wording. A hundred are saved.
        lengths: Sorted lengths in characters, at most 256 of them.
        random: Sorted similarities of texts to others drawn at random, at most 256.
        nearest: Sorted similarities of texts to the nearest of 255 others; empty where there were fewer.
    """

    texts: int
    tokens: int
    words: Mapping[str, float] = field(repr=False)
    lengths: NDArray[np.float32] = field(repr=False)
    random: NDArray[np.float32] = field(repr=False)
    nearest: NDArray[np.float32] = field(repr=False)

    def shift_from(self, known: Domain) -> list[Difference]:
        """Return in what this domain differs from a known one by more than is allowed, and more than by chance."""
        samples = {
            "lengths": (self.lengths, known.lengths, self.texts, known.texts),
            "scores of random pairs": (self.random, known.random, *(min(d.texts, NEIGHBOURS) for d in (self, known))),
            "scores of nearest neighbours": (self.nearest, known.nearest, NEIGHBOURS, NEIGHBOURS),
        }
        found = [_wording(self, known)] if self.tokens and known.tokens else []
        for name, (new, old, n, m) in samples.items():
            if new.size and old.size:
                chance = SIGNIFICANT * math.sqrt(1.0 / n + 1.0 / m)
                found.append(Difference(name, ks_distance(new, old), _ALLOWED[name] + chance))
        return [one for one in found if one.distance > one.allowed]

    def metadata(self) -> dict[str, Any]:
        """Return what fits in JSON; with `tensors` it restores the domain."""
        return {"texts": self.texts, "tokens": self.tokens, "words": dict(list(self.words.items())[:_WORDS])}

    def tensors(self) -> dict[str, np.ndarray]:
        """Return copies of the arrays."""
        return {name: getattr(self, name).copy() for name in ("lengths", "random", "nearest")}

    @classmethod
    def restore(cls, metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Domain:
        """Return the domain that gave this metadata and these tensors.

        Raises:
            KeyError: A part is missing.
        """
        facts: dict[str, Any] = {name: metadata[name] for name in ("texts", "tokens", "words")}
        for name in ("lengths", "random", "nearest"):
            facts[name] = np.array(tensors[name], np.float32)
        return cls(**facts)


def describe_domain(texts: Sequence[str], similarity: NDArray[np.float32]) -> Domain | None:
    """Return the figures of texts.

    Args:
        texts: n texts, none for other inputs, whose names say nothing.
        similarity: (m, m) of a sample of at most 256 of the inputs to each other.

    Returns:
        The domain; None where fewer than 50 inputs were sampled.
    """
    m = len(similarity)
    if m < FEWEST:
        return None
    off = ~np.eye(m, dtype=bool)
    counts = Counter(token for text in texts for token in _TOKEN.findall(text.casefold()))
    total = counts.total()
    nearest = np.where(off, similarity, -np.inf).max(1) if m == NEIGHBOURS else np.zeros(0)
    return Domain(
        texts=len(texts) or m,
        tokens=total,
        words={word: round(count / total, 6) for word, count in counts.most_common(_COUNTED)},
        lengths=kept([len(text) for text in texts]),
        random=kept(similarity[off]),
        nearest=kept(nearest),
    )


def scores_shift(scores: ArrayLike, labels: ArrayLike, new: ArrayLike) -> list[Difference]:
    """Return whether the scores of other picked pairs are no mixture of the known ones of both classes.

    Another share of duplicates mixes both classes otherwise, and is no difference: the distance is the smallest of
    Kolmogorov and Smirnov's over all shares π, min_π max_s |F(s) - π F₁(s) - (1 - π) F₀(s)|.

    Args:
        scores: (n,) of the pairs that a decision was learned on.
        labels: (n,) their labels.
        new: (k,) scores of other pairs; fewer than 50 say nothing.
    """
    known, y, values = np.asarray(scores), np.asarray(labels), np.asarray(new)
    if values.size < FEWEST or not 0 < y.sum() < y.size:
        return []
    grid = np.unique(np.concatenate([known, values]))
    ones, zeros, other = (_cdf(part, grid) for part in (known[y == 1], known[y == 0], values))
    gaps = other - zeros - _MIXTURES[:, None] * (ones - zeros)
    distance = float(np.abs(gaps).max(axis=1).min())
    fewest = min(int(y.sum()), int(y.size - y.sum()))
    allowed = ALLOWED_SCORES + SIGNIFICANT * math.sqrt(1.0 / values.size + 1.0 / fewest)
    return [Difference("scores of the pairs", distance, allowed)] if distance > allowed else []


def ks_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Return the distance of Kolmogorov and Smirnov between two samples: the largest gap of their distributions."""
    first, second = np.asarray(a), np.asarray(b)
    grid = np.concatenate([first, second])
    return float(np.abs(_cdf(first, grid) - _cdf(second, grid)).max())


def _cdf(sample: NDArray[Any], grid: NDArray[Any]) -> NDArray[np.float64]:
    return np.searchsorted(np.sort(sample), grid, side="right") / sample.size


def kept(values: Iterable[float] | NDArray[Any]) -> NDArray[np.float32]:
    """Return the values sorted, or as many of them, evenly spaced in rank, as are kept: 256."""
    ordered = np.sort(np.asarray(list(values) if not isinstance(values, np.ndarray) else values, np.float32))
    if ordered.size <= _KEPT:
        return ordered
    return ordered[((np.arange(_KEPT) + 0.5) * ordered.size / _KEPT).astype(np.int64)]


def _wording(new: Domain, known: Domain) -> Difference:
    """Compare the shares of the words that are frequent in the known domain, by their total variation."""
    # the rest, also what was too rare to be known well, counts as one word
    words = [word for word, share in list(known.words.items())[:_WORDS] if share * known.tokens >= _KNOWN_WELL]
    theirs, ours = (np.array([domain.words.get(word, 0.0) for word in words]) for domain in (known, new))
    theirs, ours = (np.append(shares, max(1.0 - shares.sum(), 0.0)) for shares in (theirs, ours))
    pooled = (theirs * known.tokens + ours * new.tokens) / (known.tokens + new.tokens)
    # the mean of |difference of two shares| that are equal, halved
    chance = np.sqrt(pooled * (1.0 - pooled) * (1.0 / known.tokens + 1.0 / new.tokens) / (2.0 * math.pi)).sum()
    distance = float(np.abs(theirs - ours).sum()) / 2.0
    return Difference("wording", distance, _ALLOWED["wording"] + _DESIGN * float(chance))
