"""The pairs of a collection that can be duplicates at all: the best-scored ones, ten for each question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from textsiam.data.texts import texts_digest
from textsiam.decision.decision import Decision
from textsiam.inference.batching import Progress
from textsiam.models.scorer import Scorer
from textsiam.search.duplicates import Duplicates, JoinedTexts
from textsiam.search.exact_duplicates import ExactDuplicates
from textsiam.search.gallery_folder import scorer_fingerprint
from textsiam.search.join.exact import FoundPairs, pairs_above

PER_TEXT = 10
"""Candidates for each text of a collection."""
_ROWS = 256  # texts that are compared with all others, to find out how low candidates reach


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs of distinct texts, best first; equal scores in order of their texts.

    Attributes:
        left: Indices into the collection, `(n,)` int64.
        right: As many, each larger than the one of `left`.
        scores: Descending, `(n,)` float32.
        model: Digest of the model, 64 hexadecimal digits.
        collection: Digest of the texts.
        of: What `model` is the digest of.
        joined: The texts as they were encoded and compared; None for pairs that come from elsewhere.
    """

    left: np.ndarray
    right: np.ndarray
    scores: np.ndarray
    model: str
    collection: str
    of: str = "model"
    joined: JoinedTexts | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def duplicates(self, twin: Scorer, decision: Decision, *, expand_exact: bool = False) -> Duplicates:
        """Return the pairs that a decision flags among the texts, copies too, and their clusters; nothing is encoded.

        Args:
            twin: What scored the pairs.
            decision: Says from which score on.
            expand_exact: As for `textsiam.search.duplicates.find_duplicates`.

        Raises:
            ValueError: The pairs come from elsewhere.
        """
        if self.joined is None:
            raise ValueError("these pairs were not found by a join of texts, so that their texts are not known")
        return self.joined.duplicates(twin, decision.threshold, decision, expand_exact=expand_exact)


def find_candidates(
    twin: Scorer,
    texts: Sequence[str],
    *,
    per_text: float = PER_TEXT,
    progress: Progress | None = None,
    joining: Progress | None = None,
) -> Candidates:
    """Find the candidates of a collection by the exact join; exact copies of a text are left out.

    Args:
        twin: Scores pairs; its two sides share one tower.
        texts: The collection.
        per_text: How many pairs for each distinct text.
        progress: Called as `progress(done, total)` while texts are encoded.
        joining: Called as `joining(done, total)`, in pairs compared.

    Raises:
        ValueError: There are fewer than two distinct texts, or the towers of the twin differ.
    """
    if twin.right is not None:
        raise ValueError("duplicates are pairs of one kind of text, but the towers of this twin differ")
    keys = twin.to_keys(texts)
    copies = ExactDuplicates.among(keys)
    distinct = [keys[int(i)] for i in copies.first]
    if len(distinct) < 2:
        raise ValueError(f"a collection needs two distinct texts, got {len(distinct)}")
    vectors = twin.encode(distinct, progress=progress)
    wanted = round(per_text * len(distinct))
    floor = _score_of(twin, vectors, wanted)
    left, right, scores = pairs_above(twin, vectors, floor, progress=joining)
    scores = twin.rescore(distinct, left, right, scores)
    order = np.lexsort((right, left, -scores))[:wanted]
    left, right, scores = left[order], right[order], scores[order]
    return Candidates(
        copies.first[left],
        copies.first[right],
        scores,
        scorer_fingerprint(twin),
        texts_digest(texts),
        joined=JoinedTexts(copies, vectors, FoundPairs(left, right, scores)),
    )


def _score_of(twin: Scorer, vectors: np.ndarray, wanted: int) -> float:
    """Return the score above which lie a few more than `wanted` pairs, as some texts compared with all tell."""
    count = len(vectors)
    if wanted >= count * (count - 1) // 2:
        return -np.inf
    rows = np.random.default_rng(0).permutation(count)[:_ROWS]
    found = []
    for row in rows.tolist():
        others = np.delete(vectors, row, axis=0)
        found.append(twin.vector_similarity(np.repeat(vectors[row : row + 1], len(others), axis=0), others))
    found = np.concatenate(found)
    # each pair has two texts, and some room is left for chance
    place = min(len(found) - 1, round(1.25 * wanted * 2 * len(rows) / count) + 10)
    return float(np.partition(found, len(found) - 1 - place)[len(found) - 1 - place])
