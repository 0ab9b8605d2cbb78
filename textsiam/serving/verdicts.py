"""From a question to a verdict: the questions of the index that it is a duplicate of, and those a person should see."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from textsiam.search.index.base import Question, QuestionIndex, Where
from textsiam.search.index.validation import check_model
from textsiam.search.lookup import Checked, check
from textsiam.serving.engine import Engine, Gone
from textsiam.serving.page.reviews import Suspect

_SUSPECT = 0.25
"""Probability from which a new question's neighbour is put before a moderator; flagged ones always are."""
_SUSPECTS = 20  # of one question at most
_TOKENS = 64  # what scoring the candidates of a question takes of the model, about


class Looker:
    """Looks questions up in an index.

    Args:
        engine: Scores pairs.
        index: Where to look.

    Raises:
        QuestionIndexError: The index holds vectors of another model.
        ValueError: The towers of the twin differ.
    """

    def __init__(self, engine: Engine, index: QuestionIndex) -> None:
        if engine.twin.right is not None:
            raise ValueError("an index holds one kind of input, but the towers of this twin differ: serve it without")
        check_model(index.location, index.model, engine.model)
        self.engine, self.index = engine, index

    async def look(
        self,
        texts: Sequence[str],
        vectors: np.ndarray,
        gone: Gone,
        *,
        threshold: float | None = None,
        where: Where | None = None,
    ) -> list[Checked]:
        """Find the duplicates of each text; see `textsiam.search.lookup.check`.

        Raises:
            Refused: No threshold is given and there is no decision; or the queue is full.
            QuestionIndexError: The index cannot be read.
        """
        engine = self.engine

        def run() -> list[Checked]:
            count = self.index.count() + 1
            return check(
                engine.twin, self.index, texts, vectors=vectors, threshold=threshold, where=where, model=engine.model,
                decision=engine.decision(count) if threshold is None else engine.decision_for(count),
            )  # fmt: skip

        return await engine.work(run, _TOKENS * len(texts), gone)

    async def suspects(self, questions: Sequence[Question], vectors: np.ndarray, gone: Gone) -> list[Suspect]:
        """Return the pairs of new questions and those of the index that a moderator should look at.

        Without a decision there are none.
        """
        decision = await asyncio.to_thread(lambda: self.engine.decision_for(self.index.count() + 1))
        if decision is None:
            return []
        least = min(decision.threshold, decision.at_probability(_SUSPECT).threshold)
        found = await self.look([question.text for question in questions], vectors, gone, threshold=least)
        suspects = []
        for question, checked in zip(questions, found, strict=True):
            others = [one for one in checked.duplicates if one.question.id != question.id]
            suspects += [
                Suspect(
                    text1=question.text, text2=one.question.text, id1=question.id, id2=one.question.id,
                    similarity=one.similarity, probability=one.probability,
                    facts1=dict(question.metadata), facts2=dict(one.question.metadata),
                )
                for one in others[:_SUSPECTS]
            ]  # fmt: skip
        return suspects
