"""What the texts of a domain and their scores look like to a twin: what its decision remembers, and is warned by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from textsiam.data.tables.arrays import Vectors
from textsiam.decision.collection import CollectionDecision
from textsiam.decision.decision import Decision
from textsiam.decision.domain import FEWEST, NEIGHBOURS, Domain, DomainShift, describe_domain, scores_shift
from textsiam.inference.encoders import inputs_of
from textsiam.inference.inputs import TEXTS

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from textsiam.data.pairs import Pairs

_READ = 2000  # texts whose wording and lengths are looked at


class VectorScorer(Protocol):
    """What is needed of a twin here."""

    @property
    def decision(self) -> Decision | None:
        """What turns a similarity of picked pairs into a verdict."""
        ...

    @property
    def collection(self) -> CollectionDecision | None:
        """The same for all pairs of a collection."""
        ...

    def tower(self, side: str = "left") -> SentenceTransformer:
        """Return the tower of a side; what it takes, all of them take."""
        ...

    def pair_vectors(self, texts: Sequence[str], left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors of both sides of pairs given as indices into texts."""
        ...

    def vector_similarity(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Score row i of `u` against row i of `v`."""
        ...


def domain_of(
    twin: VectorScorer,
    texts: Sequence[str],
    *,
    apart: Sequence[str] | None = None,
    seed: int = 0,
    vectors: Vectors | None = None,
) -> Domain | None:
    """Return the figures of texts, or of images, whose names say nothing; at most 256 of them are encoded.

    Args:
        twin: Scores them, without its reranker.
        texts: Texts, or names of images.
        apart: Those of them that are compared with each other; None takes all.
        seed: Which of them are looked at.
        vectors: Of the texts that are compared, where they are at hand: then nothing is encoded.

    Returns:
        The domain; None where there are fewer than 50.
    """
    rng, compared = np.random.default_rng(seed), texts if apart is None else apart
    rows: list[int] = rng.permutation(len(compared))[:NEIGHBOURS].tolist()
    if len(rows) < FEWEST:
        return None
    if vectors is None:
        each = np.arange(len(rows))
        u, v = twin.pair_vectors([compared[i] for i in rows], each, each)
    else:
        u = v = vectors[np.array(rows)]
    words = inputs_of(twin.tower()) is TEXTS
    read: list[int] = rng.permutation(len(texts))[:_READ].tolist() if words else []
    return describe_domain([texts[i] for i in read], _all_pairs(twin, u, v))


def _all_pairs(twin: VectorScorer, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the similarity of every two of m inputs, `(m, m)`, 0 on the diagonal, by their vectors on both sides."""
    m = len(u)
    similarity = np.zeros((m, m), np.float32)
    for i in range(m - 1):  # a row at a time: all pairs at once would take 100 MB
        similarity[i, i + 1 :] = twin.vector_similarity(np.repeat(u[i : i + 1], m - 1 - i, axis=0), v[i + 1 :])
    return similarity + similarity.T


def domain_of_pairs(twin: VectorScorer, pairs: Pairs, *, seed: int = 0) -> Domain | None:
    """Return the figures of the texts of pairs; no text is compared with its partner, and no label is read."""
    chosen = np.random.default_rng(seed).random(len(pairs)) < 0.5
    apart = dict.fromkeys(np.where(chosen, pairs.left, pairs.right).tolist())
    return domain_of(twin, pairs.texts, apart=[pairs.texts[i] for i in apart], seed=seed)


def domain_shift(decision: Decision, new: Domain | None, scores: Any = ()) -> DomainShift | None:
    """Return in what texts, or the scores of picked pairs, differ from those that a decision was learned on.

    Args:
        decision: What may not hold; one without a domain, such as those of 0.1, is not asked.
        new: The figures of the texts.
        scores: Of all pairs, (n,), where these were picked as the pairs were that the decision was learned on. Where
            those were chosen by their score, for `recalibrate` or `textsiam label`, they are not compared.

    Returns:
        The differences; None where there are none.
    """
    if decision.domain is None:
        return None
    found = [] if new is None else new.shift_from(decision.domain)
    if decision.feedback is None and decision.certificate is None:
        found += scores_shift(decision.scores, decision.labels, scores)
    return DomainShift(tuple(found)) if found else None


def pairs_shift(twin: VectorScorer, decision: Decision | None, pairs: Pairs, scores: Any) -> DomainShift | None:
    """Return in what pairs, scored (n,), differ from those that a decision was learned on, None if in nothing."""
    if decision is None or decision.domain is None:
        return None
    return domain_shift(decision, domain_of_pairs(twin, pairs), scores)


def collection_shift(twin: VectorScorer, texts: Sequence[str], *, vectors: Vectors | None = None) -> DomainShift | None:
    """Return in what the texts of a collection differ from those that the decision was learned on, None if in nothing.

    Args:
        twin: Has the decision, and scores; at most 256 of the texts are encoded.
        texts: Texts, or names of images.
        vectors: Of the texts, where they are at hand: then none is encoded.
    """
    known = _known(twin)
    return None if known is None else domain_shift(known, domain_of(twin, texts, vectors=vectors))


def _known(twin: VectorScorer) -> Decision | None:
    """Return the decision whose domain a collection is compared with; None where none remembers one."""
    decisions = [None if twin.collection is None else twin.collection.decision, twin.decision]
    # the first one remembers one where `recalibrate` has moved it
    return next((one for one in decisions if one is not None and one.domain is not None), None)


class DomainWatch:
    """Looks whether texts that come in one after the other are like those that the decision was learned on.

    Args:
        twin: Has the decision, and scores.
        shift: What is known before the first of them.

    Attributes:
        shift: In what the last texts that were looked at differ, None if in nothing.
    """

    def __init__(self, twin: VectorScorer, shift: DomainShift | None = None) -> None:
        self.shift, self._twin = shift, twin
        self._vectors: dict[str, np.ndarray] = {}

    def take(self, texts: Sequence[str], vectors: np.ndarray) -> dict[str, np.ndarray] | None:
        """Keep n texts and their vectors, (n, dim); once 256 distinct ones are there, give them up to be checked."""
        for text, vector in zip(texts, vectors, strict=True):
            if len(self._vectors) == NEIGHBOURS:
                break
            if text not in self._vectors:
                self._vectors[text] = vector.copy()  # of a batch, only what is kept stays in memory
        if len(self._vectors) < NEIGHBOURS:
            return None
        taken, self._vectors = self._vectors, {}
        return taken

    def check(self, taken: dict[str, np.ndarray]) -> bool:
        """Compare texts that were given up; returns whether they are unlike and those before were not."""
        before, known = self.shift, _known(self._twin)
        if known is None:
            return False
        vectors = np.stack(list(taken.values()))
        self.shift = domain_shift(known, describe_domain(list(taken), _all_pairs(self._twin, vectors, vectors)))
        return before is None and self.shift is not None
