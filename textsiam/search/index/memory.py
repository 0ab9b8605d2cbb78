"""The reference index: a dictionary and one exact product; nothing is kept on disk."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from textsiam.search.index.base import (
    Encode,
    Hit,
    IndexModel,
    IndexStats,
    Progress,
    Question,
    QuestionIndexError,
    Where,
    exact_similarity,
    rank,
)
from textsiam.search.index.validation import (
    check_ids,
    check_model,
    check_questions,
    check_search,
    check_vectors,
    check_where,
    matches,
)


class MemoryIndex:
    """Questions and vectors in memory, searched exactly; see `QuestionIndex`.

    Args:
        model: What makes the vectors.

    Example:
        >>> model = IndexModel("example", "0" * 64, 2)
        >>> index = MemoryIndex(model)
        >>> index.upsert([Question("1", "why?")], np.array([[1.0, 0.0]]), model=model)
        >>> [hit.question.id for hit in index.search(np.array([[0.6, 0.8]]), model=model, threshold=0.5)[0]]
        ['1']
    """

    location = "memory"

    def __init__(self, model: IndexModel) -> None:
        self._model = model
        self._rows: dict[str, tuple[Question, np.ndarray]] = {}
        self._migration: tuple[IndexModel, dict[str, tuple[str, np.ndarray]]] | None = None
        self._lock = threading.RLock()

    @property
    def model(self) -> IndexModel:
        """Whose vectors it serves now."""
        return self._model

    def upsert(
        self, questions: Sequence[Question], vectors: np.ndarray, *, model: IndexModel, delete: Iterable[str] = ()
    ) -> int:
        """Forget, add or replace questions; see `QuestionIndex.upsert`."""
        with self._lock:
            check_model(self.location, self._model, model)
            checked = check_questions(questions, vectors, self._model.dim)
            deleted = self.delete(delete)
            self._rows |= {q.id: (q, vector.copy()) for q, vector in zip(questions, checked, strict=True)}
            return deleted

    def delete(self, ids: Iterable[str]) -> int:
        """Forget questions; returns how many were there."""
        with self._lock:
            return sum(self._rows.pop(name, None) is not None for name in set(check_ids(ids)))

    def get(self, ids: Sequence[str]) -> list[Question | None]:
        """Return the question of each id, None where there is none."""
        with self._lock:
            return [self._rows[name][0] if name in self._rows else None for name in check_ids(ids)]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """Return the vector of each id, `(n, dim)` float32."""
        ids = check_ids(ids)
        with self._lock:
            if missing := [name for name in ids if name not in self._rows]:
                raise QuestionIndexError(f"{self.location}: there is no question {missing[0]!r}")
            return np.array([self._rows[name][1] for name in ids], np.float32).reshape(-1, self._model.dim)

    def search(
        self,
        queries: np.ndarray,
        *,
        model: IndexModel,
        k: int | None = None,
        threshold: float | None = None,
        where: Where | None = None,
    ) -> list[list[Hit]]:
        """Find the most similar questions, exactly; see `QuestionIndex.search`."""
        check_search(k, threshold)
        allowed = check_where(where)
        with self._lock:
            check_model(self.location, self._model, model)
            rows = [row for row in self._rows.values() if matches(row[0].metadata, allowed)]
        asked = check_vectors(queries, model.dim)
        table = np.array([vector for _, vector in rows], np.float32).reshape(-1, model.dim)
        found = []
        for query in asked:
            similarity = exact_similarity(table, query)
            found.append([Hit(rows[i][0], float(similarity[i])) for i in rank(similarity, k, threshold).tolist()])
        return found

    def count(self, where: Where | None = None) -> int:
        """Count the questions (that match)."""
        allowed = check_where(where)
        with self._lock:
            return sum(matches(question.metadata, allowed) for question, _ in self._rows.values())

    def compact(self) -> None:
        """Do nothing: there is nothing to merge."""

    def rebuild(self) -> None:
        """Do nothing: a search looks at the questions themselves."""

    def migrate(self, model: IndexModel, encode: Encode, *, progress: Progress | None = None) -> None:
        """Encode every question with another model, then switch; see `QuestionIndex.migrate`."""
        if self._migration is None or self._migration[0] != model:
            self._migration = (model, {})
        fresh = self._migration[1]
        while True:
            with self._lock:
                due = [q for q, _ in self._rows.values() if q.id not in fresh or fresh[q.id][0] != q.text][:1024]
                if not due:
                    self._rows = {name: (row[0], fresh[name][1]) for name, row in self._rows.items()}
                    self._model, self._migration = model, None
                    return
            vectors = check_questions(due, encode([question.text for question in due]), model.dim)
            fresh |= {question.id: (question.text, vector) for question, vector in zip(due, vectors, strict=True)}
            if progress is not None:
                progress(len(fresh), max(len(fresh), len(self._rows)))

    def snapshot(self, target: str | Path) -> str:
        """Refuse: an index in memory has no folder."""
        raise QuestionIndexError("an index in memory has no snapshot: use one in a folder")

    def stats(self) -> IndexStats:
        """Count what is there."""
        with self._lock:
            size = sum(vector.nbytes + len(q.text) for q, vector in self._rows.values())
            following = None if self._migration is None else self._migration[0]
            return IndexStats(self.location, "memory", self._model, len(self._rows), 0, size, following)

    def close(self) -> None:
        """Keep everything: it goes with the object."""
