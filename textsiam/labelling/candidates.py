"""The pairs of a collection that can be duplicates at all: the best-scored ones, ten for each question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from textsiam.data.tables.errors import DataError
from textsiam.data.texts import texts_digest
from textsiam.decision.decision import Decision
from textsiam.inference.batching import Progress
from textsiam.models.scorer import Scorer
from textsiam.search.duplicates import Duplicates, JoinedTexts
from textsiam.search.exact_duplicates import ExactDuplicates
from textsiam.search.gallery_folder import scorer_fingerprint
from textsiam.search.join.exact import FoundPairs, pairs_above
from textsiam.search.join.pair_files import facts_of_found, read_found, write_found

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
        vectors: Of the distinct texts, where they were encoded just now.
    """

    left: np.ndarray
    right: np.ndarray
    scores: np.ndarray
    model: str
    collection: str
    of: str = "model"
    vectors: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def duplicates(
        self,
        twin: Scorer,
        texts: Sequence[str],
        threshold: float,
        decision: Decision | None,
        *,
        expand_exact: bool = False,
        progress: Progress | None = None,
    ) -> Duplicates:
        """Return the pairs of texts whose score reaches a threshold, copies too, and their clusters.

        Args:
            twin: What scored the pairs.
            texts: The collection.
            threshold: Least score of a pair.
            decision: Says how probable each is.
            expand_exact: As for `textsiam.search.duplicates.find_duplicates`.
            progress: Called as `progress(done, total)` where the texts must be encoded, for the clusters.
        """
        keys = twin.to_keys(texts)
        copies = ExactDuplicates.among(keys)
        vectors = self.vectors
        if vectors is None:
            vectors = twin.encode([keys[int(i)] for i in copies.first], progress=progress)
        left, right = (np.searchsorted(copies.first, ends) for ends in (self.left, self.right))
        joined = JoinedTexts(copies, vectors, FoundPairs(left, right, self.scores))
        return joined.duplicates(twin, threshold, decision, expand_exact=expand_exact)

    def save(self, labels: Path) -> None:
        """Write the pairs beside a file of answers about them, unless they are there.

        Raises:
            SaveError: The disk is full or the place cannot be written to.
        """
        place, facts = candidates_file(labels), {"model": self.model, "collection": self.collection}
        if _known(place) != facts:
            write_found(place, [FoundPairs(self.left, self.right, self.scores)], facts=facts)


def candidates_file(labels: Path) -> Path:
    """Return where the candidates are kept that a file of answers is about."""
    return labels.with_suffix(".candidates.parquet")


def _known(place: Path) -> dict[str, str] | None:
    """Return of what model and collection the pairs in a file are; None where there is no file."""
    return facts_of_found(place) if place.exists() else None


def kept_candidates(labels: Path, twin: Scorer, texts: Sequence[str]) -> Candidates | None:
    """Return the candidates that are kept beside a file of answers; None where there are none of this collection.

    They are as they were scored when the first pair was asked about: another processor or number of threads rounds
    otherwise, so that near-equal scores would change places, and what is proven of the best pairs would be of others.

    Args:
        labels: The file of answers.
        twin: What scores pairs.
        texts: The collection.

    Raises:
        DataError: The file is damaged.
    """
    place = candidates_file(labels)
    known = _known(place)
    if known is None:  # and digests of model and texts need not be taken twice
        return None
    facts = {"model": scorer_fingerprint(twin), "collection": texts_digest(texts)}
    if known != facts:
        return None
    left, right, scores = read_found(place)
    whole = len(scores) > 0 and left.min() >= 0 and (left < right).all() and right.max() < len(texts)
    if not (whole and np.isfinite(scores).all() and (scores[1:] <= scores[:-1]).all()):
        raise DataError(f"{place}: is damaged: its pairs are not of {len(texts)} texts, best first; delete it")
    return Candidates(left, right, scores, facts["model"], facts["collection"])


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
    left, right = (copies.first[ends].astype(np.int64) for ends in (left, right))
    return Candidates(left, right, scores, scorer_fingerprint(twin), texts_digest(texts), vectors=vectors)


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
