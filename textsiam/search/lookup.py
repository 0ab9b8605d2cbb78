"""Is this question there already? The questions of an index that a new one is a duplicate of, as its twin decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textsiam.decision.decision import Decision
from textsiam.models.scorer import Scorer
from textsiam.search.index.base import Hit, IndexModel, Question, QuestionIndex, Where
from textsiam.search.ingest import index_model

# A score of the twin and one computed from the index's candidate threshold may differ by rounding.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Found:
    """A question of the index that a new one is a duplicate of.

    Attributes:
        question: The question.
        similarity: As the twin scores the pair; with its head, and with its reranker, where there is one.
        probability: P(duplicate); None where the twin has no decision.
    """

    question: Question
    similarity: float
    probability: float | None


@dataclass(frozen=True)
class Checked:
    """What the index says of a text.

    Attributes:
        text: The text.
        duplicates: All questions whose similarity reaches the threshold, best first.
        canonical: Of these the one that stands for them best: nearest to their mean. None where there is none.
        threshold: Similarity from which a question counts.
    """

    text: str
    duplicates: list[Found]
    canonical: Found | None
    threshold: float

    @property
    def is_duplicate(self) -> bool:
        """Whether the question is there already."""
        return bool(self.duplicates)


def check(
    twin: Scorer,
    index: QuestionIndex,
    texts: Sequence[str],
    *,
    vectors: np.ndarray | None = None,
    threshold: float | None = None,
    decision: Decision | None = None,
    where: Where | None = None,
    model: IndexModel | None = None,
) -> list[Checked]:
    """Find the questions of an index that each text is a duplicate of: all of them, in order.

    As for `find_duplicates`, the index finds candidates by cosine; where the twin has a head, it scores those above its
    candidate threshold, and where it has a reranker, that is asked about those in its band, unless the texts are equal.

    Args:
        twin: The twin whose vectors the index holds, whose sides share one tower.
        index: Where to look.
        texts: n texts.
        vectors: What `twin.encode(texts)` gave, where that was done already, `(n, dim)` float32.
        threshold: Least similarity of a duplicate; None takes the decision's.
        decision: Gives threshold and probabilities; None takes the twin's, for a collection as large as the index where
            it has learned one.
        where: Only questions whose metadata match.
        model: What `index_model(twin)` gave, where that is known: it reads all weights.

    Raises:
        ModelError: No threshold is given, and there is no decision.
        QuestionIndexError: The index holds another model's vectors, or cannot be read.
        ValueError: The towers differ, so that two texts of one kind cannot be compared.
        TypeError: `texts` is one text.
    """
    if isinstance(texts, str):
        raise TypeError("expected a list of texts, got one str: write check(twin, index, [text])")
    if twin.right is not None:
        raise ValueError(
            "duplicates are pairs of one kind of text, but the towers of this twin differ: use index search"
        )
    if decision is None:
        decision = twin.decision_for(index.count() + 1)
    if threshold is None:
        threshold = (decision or twin.require_decision()).threshold
    if vectors is None:
        vectors = twin.encode(texts)
    least = least_cosine(twin, threshold)
    hits = index.search(vectors, model=model or index_model(twin), threshold=least, where=where)
    found = _scored(twin, index, texts, vectors, hits)
    return [
        _checked(index, text, candidates, similarity, float(threshold), decision)
        for text, candidates, similarity in zip(texts, hits, found, strict=True)
    ]


def least_cosine(twin: Scorer, threshold: float) -> float:
    """Return the least cosine of two texts whose score may reach a threshold."""
    cosine = twin.distance.least_product(twin.candidate_threshold(threshold), 1.0)
    return max(cosine - _ROUNDING, -2.0)


def _scored(
    twin: Scorer, index: QuestionIndex, texts: Sequence[str], vectors: np.ndarray, hits: list[list[Hit]]
) -> list[np.ndarray]:
    """Return the twin's similarity of each text to each of its candidates."""
    left = np.repeat(np.arange(len(texts)), [len(row) for row in hits])
    others = [hit.question for row in hits for hit in row]
    if not others:
        return [np.zeros(0, np.float32) for _ in hits]
    if twin.scores_by_cosine:
        similarity = np.array([hit.similarity for row in hits for hit in row], np.float32)
    else:
        similarity = twin.vector_similarity(vectors[left], index.vectors([question.id for question in others]))
    asked = np.array([texts[i] != question.text for i, question in zip(left.tolist(), others, strict=True)])
    rows = np.flatnonzero(asked)
    together = [*texts, *(others[i].text for i in rows.tolist())]
    right = len(texts) + np.arange(len(rows))
    similarity[rows] = twin.rescore(together, left[rows], right, similarity[rows])
    return np.split(similarity, np.cumsum([len(row) for row in hits])[:-1])


def _checked(
    index: QuestionIndex,
    text: str,
    hits: list[Hit],
    similarity: np.ndarray,
    threshold: float,
    decision: Decision | None,
) -> Checked:
    order = [i for i in np.argsort(-similarity, kind="stable") if float(similarity[i]) >= threshold]
    scores = similarity[order]
    odds = [None] * len(order) if decision is None else decision.probability(scores).tolist()
    found = [Found(hits[i].question, s, p) for i, s, p in zip(order, scores.astype(float).tolist(), odds, strict=True)]
    canonical = found[0] if found else None
    if len(found) > 2:
        vectors = index.vectors([duplicate.question.id for duplicate in found])
        canonical = found[int(np.argmax(vectors @ vectors.mean(0)))]
    return Checked(text, found, canonical, threshold)
