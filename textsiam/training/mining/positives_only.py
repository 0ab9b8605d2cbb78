"""Learning from duplicates alone: the pairs labelled 0 that training, calibration and test need are mined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.data.splits import NAMES, Splits
from textsiam.data.tables.errors import DataError
from textsiam.models.scorer import Scorer
from textsiam.training.mining.triplets import check_apart, with_negatives

SHARE = 0.95
"""A text whose similarity is above this share of the duplicate's is no negative for training (Moreira et al. 2024)."""

_TRAINED_RANKS = 8  # nearest texts that are looked at for one to train against
_JUDGED_RANKS = 20  # of which held-out duplicates are set against one
_COPY = 0.9  # similarity of wording above which a text is the same again
_ALPHABET = r"[\u0e00-\u0eff\u3040-\u9fff]"  # Thai, Lao, Japanese and Chinese have no spaces: their letters are terms
_EVERYWHERE = 0.05  # terms that a greater share of the texts has say nothing, and take the time;
_MANY = 50  # but of so many texts at least
_BLOCK = 256
_SEED = 0


def positives_alone(pairs: Pairs) -> Pairs:
    """Return the duplicates; other pairs are left out, with the texts that no duplicate has.

    Raises:
        DataError: There is no duplicate.
    """
    if not pairs.positives:
        raise DataError(f"{pairs.source}: has no duplicate, and duplicates alone are to be learned from")
    return pairs if pairs.positives == len(pairs) else pairs.select(pairs.labels == 1)


def with_judged_negatives(splits: Splits) -> Splits:
    """Set each duplicate of the held-out splits against a text of alike wording of its split.

    No model has a say, so that none is at an advantage: words alone do. A split that has pairs labelled 0 already is
    left as it is, and so is train.
    """
    held_out = {name: part for name, part in splits.named().items() if name != NAMES[0] and len(part)}
    found = {
        name: by_wording(part, [other for other in splits.named().values() if len(other)])
        for name, part in held_out.items()
        if part.positives == len(part)
    }
    return splits.replacing(**found) if found else splits


def by_wording(pairs: Pairs, known: Sequence[Pairs] = ()) -> Pairs:
    """Return duplicates, and after them pairs labelled 0 of their left texts with others that are alike in wording.

    One of the `_JUDGED_RANKS` nearest is drawn, copies apart.

    Args:
        pairs: Duplicates.
        known: More pairs whose duplicates are no negatives either.

    Raises:
        ValueError: All texts are of one cluster, so that no negative exists.
    """
    near, similarity, strangers = _near(pairs, known, _JUDGED_RANKS)
    fits = strangers & (similarity <= _COPY)
    return _against(pairs, near, np.where(fits, np.random.default_rng(_SEED).random(near.shape), 0.0))


def with_trained_negatives(
    twin: Scorer, pairs: Pairs, known: Sequence[Pairs] = (), *, others: Sequence[str] = ()
) -> Pairs:
    """Return duplicates, and after them pairs labelled 0 of their left texts with the nearest others in wording.

    Wording brings what a twin has to learn to tell apart; the twin keeps away what is a duplicate that nobody has
    linked: a text whose similarity is above `SHARE` of the duplicate's is passed over. An untrained transformer holds
    everything for near: where that leaves less than half of the duplicates a negative, it is not asked.

    Args:
        twin: As it is before the training.
        pairs: Duplicates.
        known: More pairs whose duplicates are no negatives either.
        others: More texts that may be negatives.

    Raises:
        ValueError: All texts are of one cluster, so that no negative exists.
    """
    there = set(pairs.texts)
    pairs = replace(pairs, texts=[*pairs.texts, *(text for text in dict.fromkeys(others) if text not in there)])
    near, _, strangers = _near(pairs, known, _TRAINED_RANKS)
    own, fits = twin.pair_similarity(pairs.texts, pairs.left, pairs.right), np.zeros_like(strangers)
    limit = own - (1 - SHARE) * np.abs(own)
    for rank, stranger in enumerate(strangers.T):
        rows = np.flatnonzero(stranger & ~fits.any(axis=1))  # for most the nearest fits: the others need no vector
        if len(rows):
            similarity = twin.pair_similarity(pairs.texts, pairs.left[rows], near[rows, rank])
            fits[rows, rank] = similarity <= limit[rows]
    if 2 * fits.any(1).sum() < len(pairs):
        fits = strangers
    return _against(pairs, near, fits / np.arange(1, near.shape[1] + 1))


def _near(pairs: Pairs, known: Sequence[Pairs], count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the texts nearest in wording to each left one, their similarity, and which are of other clusters.

    The similarity is the cosine of tf-idf vectors of words and pairs of words. Every left text is compared with every
    text, a block at a time.

    Returns:
        Three arrays `(n, count)`; nearest first.
    """
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    clusters = cluster_ids(Pairs.concat([pairs, *known]))[: len(pairs.texts)]
    check_apart(pairs, clusters)
    pattern = rf"{_ALPHABET}|(?:(?!{_ALPHABET})\w)+"
    knobs: Any = {"token_pattern": pattern, "norm": None, "alternate_sign": False}
    terms = HashingVectorizer(ngram_range=(1, 2), **knobs)
    counts: Any = terms.transform(pairs.texts)
    counts = counts[:, counts.getnnz(axis=0) <= max(_MANY, _EVERYWHERE * len(pairs.texts))]
    vectors: Any = TfidfTransformer(sublinear_tf=True).fit_transform(counts).astype(np.float32)
    everything, rng = vectors.T.tocsr(), np.random.default_rng(_SEED)
    count, parts = min(count, len(pairs.texts) - 1), []
    for first in range(0, len(pairs), _BLOCK):
        left = pairs.left[first : first + _BLOCK]
        cosine = (vectors[left] @ everything).toarray()
        for end in (left, pairs.right[first : first + _BLOCK]):
            cosine[np.arange(len(left)), end] = -1.0
        near = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        near = np.take_along_axis(near, np.argsort(-np.take_along_axis(cosine, near, axis=1), axis=1), axis=1)
        cosine = np.take_along_axis(cosine, near, axis=1)
        near = np.where(cosine > 0, near, rng.integers(len(pairs.texts), size=near.shape))  # no term in common
        parts.append((near, cosine, clusters[near] != clusters[left][:, None]))
    near, cosine, strangers = (np.concatenate(each) for each in zip(*parts, strict=True))
    return near, cosine, strangers


def _against(pairs: Pairs, near: np.ndarray, preferred: np.ndarray) -> Pairs:
    """Return the pairs, and after them each left text with the one of `near` that is preferred most, but for zeros."""
    rows = np.flatnonzero(preferred.max(axis=1) > 0)
    return with_negatives(pairs, rows, near[rows, preferred[rows].argmax(axis=1)])
