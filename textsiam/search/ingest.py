"""A twin and an index together: what its vectors are known by, texts in, texts asked for, a change of twins."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textsiam.decision.domain import DomainShift
from textsiam.inference.batching import Progress
from textsiam.inference.cache import weights_fingerprint
from textsiam.models.domain import collection_shift
from textsiam.models.ensemble import members_digest
from textsiam.models.scorer import Scorer
from textsiam.search.index.base import Hit, IndexModel, Question, QuestionIndex, Where
from textsiam.search.index.validation import check_model

_BATCH = 2048
_DIRECTIONS = 512  # questions of an index that are looked at, some of them twice


@dataclass(frozen=True)
class Added:
    """What became of questions that were added: new ones, replaced ones, and those that were there as they are."""

    new: int
    replaced: int
    unchanged: int


def index_model(twin: Scorer, *, name: str = "a twin") -> IndexModel:
    """Return what an index knows the vectors of a twin or an ensemble by.

    The fingerprint covers the towers: all that a vector depends on. Head, reranker and decision may change without a
    migration. The number format plays no part: in bf16 the cosine of a vector to its fp32 self is at least 0.9999.

    Args:
        twin: What encodes.
        name: What messages call it.
    """
    return IndexModel(name, towers_digest(twin, type(twin).__name__).hexdigest(), twin.dim)


def towers_digest(twin: Scorer, kind: str) -> hashlib._Hash:
    """Begin a digest with `kind` and all that the vectors of a twin or an ensemble depend on."""
    digest, members = members_digest(twin, kind)
    for member in members:
        for tower in member.towers:
            digest.update(weights_fingerprint(tower, "any").encode())
    return digest


def add_questions(
    twin: Scorer,
    index: QuestionIndex,
    questions: Sequence[Question],
    *,
    model: IndexModel | None = None,
    progress: Progress | None = None,
) -> Added:
    """Encode questions and put them into an index, in batches: those that are there as they are, are left alone.

    Interrupted, every batch that was put in is there; called again, it goes on with the others.

    Args:
        twin: The twin whose vectors the index holds; the right tower of an asymmetric twin.
        index: Where to.
        questions: n questions with distinct ids.
        model: What `index_model(twin)` gave, where that is known: it reads all weights.
        progress: Called as `progress(done, total)` after every batch.

    Raises:
        QuestionIndexError: The index holds another model's vectors, or cannot be written.
    """
    model = model or index_model(twin)
    check_model(index.location, index.model, model)
    new = replaced = 0
    for start in range(0, len(questions), _BATCH):
        batch = questions[start : start + _BATCH]
        there = index.get([question.id for question in batch])
        due = [question for question, old in zip(batch, there, strict=True) if question != old]
        if due:
            index.upsert(due, twin.encode([question.text for question in due], side="right"), model=model)
        fresh = sum(old is None for old in there)
        new, replaced = new + fresh, replaced + len(due) - fresh
        if progress is not None:
            progress(start + len(batch), len(questions))
    return Added(new, replaced, len(questions) - new - replaced)


def first_replaced(index: QuestionIndex, questions: Sequence[Question]) -> tuple[Question, Question] | None:
    """Return the first of n questions whose id has another text in an index, and what the index has; None if none."""
    for start in range(0, len(questions), _BATCH):
        batch = questions[start : start + _BATCH]
        there = index.get([question.id for question in batch])
        for question, old in zip(batch, there, strict=True):
            if old is not None and old.text != question.text:
                return question, old
    return None


def search_texts(
    twin: Scorer,
    index: QuestionIndex,
    texts: Sequence[str],
    *,
    k: int | None = 10,
    threshold: float | None = None,
    where: Where | None = None,
    model: IndexModel | None = None,
) -> list[list[Hit]]:
    """Find the questions nearest to each text by cosine; see `QuestionIndex.search` and `add_questions`."""
    queries = twin.encode(texts, side="left")
    return index.search(queries, model=model or index_model(twin), k=k, threshold=threshold, where=where)


def migrate_index(twin: Scorer, index: QuestionIndex, *, name: str, progress: Progress | None = None) -> None:
    """Encode every question of an index with this twin, and serve its vectors; see `QuestionIndex.migrate`."""
    index.migrate(index_model(twin, name=name), lambda texts: twin.encode(texts, side="right"), progress=progress)


def index_shift(twin: Scorer, index: QuestionIndex) -> DomainShift | None:
    """Return in what the questions of an index differ from those that the twin's decision was learned on.

    An index cannot be read from end to end: the questions nearest to random directions stand for all.
    """
    directions = np.random.default_rng(0).normal(size=(_DIRECTIONS, index.model.dim)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    hits = index.search(directions, model=index.model, k=1) if index.count() else []
    texts = list(dict.fromkeys(hit.question.text for row in hits for hit in row))
    return collection_shift(twin, texts)
