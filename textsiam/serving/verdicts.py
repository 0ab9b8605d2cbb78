"""From a question to a verdict: candidates of the index, scored as the twin scores them, by the learned decision."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from textsiam.models.decision import Decision
from textsiam.search.index import Hit, IndexModel, Question, QuestionIndex
from textsiam.serving.engine import Engine, Gone
from textsiam.serving.reviews import Suspect

Found = tuple[Hit, float | None]

_SUSPECT = 0.25
"""Probability from which a new question's neighbour is put before a moderator; flagged ones always are."""
_SUSPECTS = 20  # of one question at most


@dataclass(frozen=True)
class Seen:
    """What the index holds that is the same as a question.

    Attributes:
        hits: Questions and their probabilities, best first; None where the model has no decision.
        canonical: The one of them that is nearest to all others.
        threshold: Least similarity of a hit.
    """

    hits: list[Found]
    canonical: Found | None
    threshold: float


class Looker:
    """Looks questions up in an index.

    Args:
        engine: Scores pairs.
        index: Where to look.

    Raises:
        ValueError: The index holds vectors of another model, or the twin scores by another distance than the cosine.
    """

    def __init__(self, engine: Engine, index: QuestionIndex) -> None:
        twin = engine.twin
        if twin.distance.name != "cosine":
            raise ValueError(f"an index finds by cosine, but this twin scores by the {twin.distance.name} distance")
        self.engine, self.index = engine, index
        self.model: IndexModel = check_index(engine, index)

    def decision(self, questions: int) -> Decision:
        """Return the decision for a collection of this size, where the twin has learned one; else that for pairs.

        Raises:
            Refused: There is none.
        """
        collection = self.engine.twin.collection
        return self.engine.decision() if collection is None else collection.among(questions)

    async def look(
        self,
        texts: Sequence[str],
        vectors: np.ndarray,
        gone: Gone,
        *,
        threshold: float | None = None,
        limit: int = 10,
        where: Mapping[str, str | int | float | bool] | None = None,
    ) -> list[Seen]:
        """Find the duplicates of each text.

        Args:
            texts: n texts.
            vectors: Theirs, `(n, dim)`.
            gone: Says whether the client has left.
            threshold: Least similarity; None takes the decision's.
            limit: Duplicates of a text at most.
            where: Only questions with these metadata.

        Raises:
            Refused: No threshold is given and there is no decision.
            QuestionIndexError: The index cannot be read.
        """
        twin = self.engine.twin
        decision = None
        if threshold is None or twin.decision is not None or twin.collection is not None:
            decision = self.decision(await asyncio.to_thread(self.index.count))
        least = decision.threshold if threshold is None and decision is not None else float(threshold or 0.0)
        found = await self._scored(texts, vectors, least, gone, where)
        seen = []
        for hits in found:
            kept = hits[:limit]
            odds = [None] * len(kept) if decision is None else decision.probability(_scores(kept)).tolist()
            pairs: list[Found] = list(zip(kept, odds, strict=True))
            seen.append(Seen(pairs, await self._canonical(pairs), least))
        return seen

    async def suspects(self, questions: Sequence[Question], vectors: np.ndarray, gone: Gone) -> list[Suspect]:
        """Return the pairs of new questions and those of the index that a moderator should look at."""
        decision = self.decision(await asyncio.to_thread(self.index.count))
        doubtful = decision.scores[decision.probability(decision.scores) >= _SUSPECT]
        least = min(decision.threshold, float(doubtful.min()) if len(doubtful) else decision.threshold)
        found = await self._scored([q.text for q in questions], vectors, least, gone, None)
        suspects = []
        for question, hits in zip(questions, found, strict=True):
            others = [hit for hit in hits if hit.question.id != question.id][:_SUSPECTS]
            for hit, odds in zip(others, decision.probability(_scores(others)).tolist(), strict=True):
                suspects.append(
                    Suspect(text1=question.text, text2=hit.question.text, id1=question.id, id2=hit.question.id,
                            similarity=hit.similarity, probability=odds)
                )  # fmt: skip
        return suspects

    async def _scored(
        self,
        texts: Sequence[str],
        vectors: np.ndarray,
        least: float,
        gone: Gone,
        where: Mapping[str, str | int | float | bool] | None,
    ) -> list[list[Hit]]:
        """Return all questions whose score reaches `least`, for each text, best first."""
        twin, floor = self.engine.twin, least
        if twin.head is not None:
            floor = float(twin.head.floor)
        if not self.engine.scored_by_cosine and twin.verifier is not None and twin.verifier.combination is not None:
            floor = min(floor, twin.verifier.combination.low)
        search = self.index.search
        found = await asyncio.to_thread(search, vectors, model=self.model, threshold=max(floor, -1.0), where=where)
        if twin.head is None and self.engine.scored_by_cosine:
            return found
        counts = [len(hits) for hits in found]
        flat = [hit for hits in found for hit in hits]
        if not flat:
            return found
        v = await asyncio.to_thread(self.index.vectors, [hit.question.id for hit in flat])
        lefts = [text for text, count in zip(texts, counts, strict=True) for _ in range(count)]
        scores = await self.engine.rescored(
            lefts, [hit.question.text for hit in flat], np.repeat(vectors, counts, axis=0), v, gone
        )
        again, start = [], 0
        for count in counts:
            part = scores[start : start + count]
            order = [k for k in np.argsort(-part, kind="stable").tolist() if float(part[k]) >= least]
            again.append([Hit(flat[start + k].question, float(part[k])) for k in order])
            start += count
        return again

    async def _canonical(self, pairs: list[Found]) -> Found | None:
        if len(pairs) < 3:
            return pairs[0] if pairs else None
        vectors = await asyncio.to_thread(self.index.vectors, [hit.question.id for hit, _ in pairs])
        return pairs[int(np.argmax(vectors @ vectors.mean(0)))]


def check_index(engine: Engine, index: QuestionIndex) -> IndexModel:
    """Return the model of an index, once it is found to be the one that is served.

    Raises:
        ValueError: It is another one.
    """
    own = engine.fingerprint
    if index.model.fingerprint != own:
        raise ValueError(
            f"{index.location} holds vectors of {index.model}, but the model that is served is {own[:12]}: "
            "serve that model, or run textsiam index migrate"
        )
    return index.model


def _scores(hits: Sequence[Hit]) -> np.ndarray:
    return np.array([hit.similarity for hit in hits], np.float32)
