"""The growing index of questions: what every backend does, and what it refuses.

An index holds questions (id, text, metadata) and one vector of length 1 for each, all made by one model. Backends:
`MemoryIndex` (reference), `FolderIndex` (a folder), `PostgresIndex` (a server); `textsiam.search.factory` opens them by
location, and one's own as well. This module needs neither torch nor a database.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

Scalar: TypeAlias = str | int | float | bool
Metadata: TypeAlias = Mapping[str, Scalar]
Where: TypeAlias = Mapping[str, Scalar | Sequence[Scalar]]
"""A filter: every key must have the value, or one of the values, that stands here."""
Encode: TypeAlias = Callable[[list[str]], np.ndarray]
"""Texts to vectors of length 1, `(n, dim)` float32."""
Progress: TypeAlias = Callable[[int, int], None]


class QuestionIndexError(ValueError):
    """An index that cannot be opened, read or written as asked; the message names it."""


@dataclass(frozen=True)
class Question:
    """A question with its id, and facts to filter by."""

    id: str
    text: str
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True)
class Hit:
    """A question that was found: `similarity` is the cosine of its vector and the query's."""

    question: Question
    similarity: float


@dataclass(frozen=True)
class IndexModel:
    """The model that makes an index's vectors: they are compared by fingerprint, the name is for people."""

    name: str
    fingerprint: str
    dim: int

    def __str__(self) -> str:
        return f"{self.name!r} ({self.fingerprint[:12]}, {self.dim} dimensions)"


@dataclass(frozen=True)
class IndexStats:
    """What an index holds.

    Attributes:
        location: Where it is; without a password.
        backend: "memory", "folder", "postgres", or what one's own says.
        model: Whose vectors it serves.
        questions: How many it holds.
        unmerged: Changes that the search structure has not taken in yet; searches see them all the same.
        size: Bytes on disk (in memory, for the reference).
        migrating_to: The model of an unfinished migration.
    """

    location: str
    backend: str
    model: IndexModel
    questions: int
    unmerged: int
    size: int
    migrating_to: IndexModel | None = None

    def facts(self) -> dict[str, Any]:
        """Return what fits in JSON."""
        return asdict(self)


class QuestionIndex(Protocol):
    """What every backend does. All methods may be called from several threads.

    A write is acknowledged by returning: from then on it survives the process, and every search that starts later sees
    it. A write that raises has changed nothing. Similarities are recomputed in double precision from the stored float32
    vectors, so that all backends rank alike; equally similar questions come in the order in which they were added.
    """

    @property
    def location(self) -> str:
        """Where the index is; without a password."""
        ...

    @property
    def model(self) -> IndexModel:
        """Whose vectors it serves now."""
        ...

    def upsert(
        self, questions: Sequence[Question], vectors: np.ndarray, *, model: IndexModel, delete: Iterable[str] = ()
    ) -> int:
        """Forget questions, then add others or replace those with the same id; all of it or nothing.

        Args:
            questions: n questions with distinct ids.
            vectors: `(n, dim)` float32, of length 1.
            model: What made the vectors.
            delete: Ids of what is forgotten first; those that are not there are passed over.

        Returns:
            How many of `delete` were there.

        Raises:
            QuestionIndexError: Another model's vectors, malformed questions, or a store that cannot be written.
        """
        ...

    def delete(self, ids: Iterable[str]) -> int:
        """Forget questions; those that are not there are passed over. Returns how many were there.

        Raises:
            QuestionIndexError: `ids` is one string.
        """
        ...

    def get(self, ids: Sequence[str]) -> list[Question | None]:
        """Return the question of each id, None where there is none.

        Raises:
            QuestionIndexError: `ids` is one string.
        """
        ...

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """Return the vector of each id, `(n, dim)` float32.

        Raises:
            QuestionIndexError: An id is not there, or `ids` is one string.
        """
        ...

    def search(
        self,
        queries: np.ndarray,
        *,
        model: IndexModel,
        k: int | None = None,
        threshold: float | None = None,
        where: Where | None = None,
    ) -> list[list[Hit]]:
        """Find the questions most similar to each query, best first.

        With a threshold the answer is complete: every question whose cosine reaches it, or the best k of these where k
        is given too. Without one, it is the best k; a backend that may miss some of these says so.

        Args:
            queries: `(q, dim)` float32, of length 1.
            model: What made them.
            k: How many at most.
            threshold: Least cosine.
            where: Only questions whose metadata match.

        Raises:
            QuestionIndexError: Another model's vectors, or neither k nor threshold.
        """
        ...

    def count(self, where: Where | None = None) -> int:
        """Count the questions (that match)."""
        ...

    def compact(self) -> None:
        """Take unmerged changes into the search structure, and give back the space of what was deleted."""
        ...

    def rebuild(self) -> None:
        """Make the search structure again from the durable table."""
        ...

    def migrate(self, model: IndexModel, encode: Encode, *, progress: Progress | None = None) -> None:
        """Encode every question with another model while the present one serves, then switch.

        Interrupted, it goes on where it stopped when called again with the same model. Questions written meanwhile are
        not lost: they are encoded before the switch.
        """
        ...

    def snapshot(self, target: str | Path) -> str:
        """Copy the index, as it is at one moment, to a new one of its own; returns where that is.

        Args:
            target: A new folder; on a server, the name of a new index in the same database.
        """
        ...

    def stats(self) -> IndexStats:
        """Count what is there."""
        ...

    def close(self) -> None:
        """Let go of files and connections; closing twice is fine."""
        ...


def rank(similarity: np.ndarray, k: int | None, threshold: float | None) -> np.ndarray:
    """Return the places of what a search keeps, best first; of equal ones the first.

    Args:
        similarity: `(n,)` float32, in the order in which the questions were added.
        k: As for `QuestionIndex.search`.
        threshold: As for `QuestionIndex.search`.
    """
    kept = np.arange(len(similarity))
    if threshold is not None:
        kept = np.flatnonzero(similarity.astype(np.float64) >= threshold)
    return kept[np.argsort(-similarity[kept], kind="stable")][:k]


def exact_similarity(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the cosine of every vector `(n, dim)` and the query `(dim,)`, in double precision, as float32."""
    return (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)


def rounding_margin(dim: int) -> float:
    """Return by how much a float32 dot product of two vectors of length 1 may be wrong, whatever the order of its sums.

    The bound is dim · 2⁻²⁴ · Σ|uᵢvᵢ| ≤ dim · 2⁻²⁴ (Higham 2002, section 3.1); twice that, for lengths that are not
    exactly 1 and for the higher terms.
    """
    return dim * 2.0**-23


def packed(metadata: Metadata) -> str:
    """Return metadata as one line of JSON."""
    return json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True)
