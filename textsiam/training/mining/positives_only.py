"""Learning from duplicates alone: the pairs labelled 0 that training, calibration and test need are mined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.data.splits import NAMES, Splits
from textsiam.data.tables.errors import DataError
from textsiam.models.distances import COSINE
from textsiam.models.scorer import Scorer
from textsiam.training.mining.offline import mine, mine_vectors
from textsiam.training.settings import Mining

TRAINED = Mining("random", rank_from=5, rank_to=50, positive_share=0.95)
"""Training is set against near texts, but for the nearest: many of those are duplicates that nobody has linked."""

JUDGED = Mining("random", rank_from=1, rank_to=20, max_similarity=0.9)
"""Held-out duplicates are set against texts of alike wording, but for all but copies."""

_WIDTH = 100  # of the vectors that say how alike two wordings are
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

    Alike is the cosine of character n-grams weighed by their rarity: tf-idf, reduced by a singular value decomposition.

    Args:
        pairs: Duplicates.
        known: More pairs whose duplicates are no negatives either.

    Raises:
        ValueError: All texts are of one cluster, so that no negative exists.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), sublinear_tf=True, max_features=50_000)
    counts = grams.fit_transform(pairs.texts)
    width = min(_WIDTH, min(counts.shape) - 1)
    vectors = TruncatedSVD(width, random_state=_SEED).fit_transform(counts) if width > 1 else counts.toarray()
    vectors = np.ascontiguousarray(vectors, np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    clusters = cluster_ids(Pairs.concat([pairs, *known]))[: len(pairs.texts)]
    return mine_vectors(COSINE, pairs, vectors, vectors, JUDGED, clusters=clusters, seed=_SEED).to_pairs()


def with_trained_negatives(
    twin: Scorer, pairs: Pairs, known: Sequence[Pairs] = (), *, others: Sequence[str] = ()
) -> Pairs:
    """Return duplicates, and after them pairs labelled 0 of their left texts with others that a twin holds for near.

    An untrained transformer holds everything for near, and so leaves hardly a text that is not too near: where less
    than half of the duplicates get one, the negatives are those of `by_wording`.

    Args:
        twin: As it is before the training.
        pairs: Duplicates.
        known: More pairs whose duplicates are no negatives either.
        others: More texts that may be negatives.
    """
    there = set(pairs.texts)
    pairs = replace(pairs, texts=[*pairs.texts, *(text for text in dict.fromkeys(others) if text not in there)])
    found = mine(twin, pairs, TRAINED, known=known, seed=_SEED)
    return found.to_pairs() if 2 * found.found >= len(pairs) else by_wording(pairs, known)
