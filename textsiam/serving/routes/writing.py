"""Writing questions: into the index, and what it makes of the queue of suspects; all of it or nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import numpy as np

from textsiam.search.index.base import Question, QuestionIndexError
from textsiam.search.index.validation import check_questions
from textsiam.serving.engine import Engine, Gone
from textsiam.serving.page.reviews import Reviews, Suspect
from textsiam.serving.problem_details import too_large, unfit
from textsiam.serving.verdicts import Looker
from textsiam.serving.wire import Written

log = logging.getLogger("textsiam.serving")

Before = dict[str, tuple[Question, np.ndarray]]
"""Questions and their vectors, by id."""


class Writer:
    """Writes questions of requests, one request after the other.

    Args:
        engine: Encodes them.
        look: Finds those that look like others, in the index that is written to.
        reviews: Where these are queued; None queues none.
    """

    def __init__(self, engine: Engine, look: Looker, reviews: Reviews | None) -> None:
        self._engine, self._look, self._index, self._reviews = engine, look, look.index, reviews
        self._turn = asyncio.Lock()

    async def write(self, questions: Sequence[Question], delete: Sequence[str], gone: Gone) -> Written:
        """Forget questions, keep others, and have the queue of suspects follow.

        Raises:
            Refused: A question is unfit, or too many are given.
            QuestionIndexError: The index cannot be written; nothing has changed.
            ReviewsError: The queue cannot be written; nothing has changed.
        """
        most = self._engine.settings.max_batch
        for field, several in (("upsert", questions), ("delete", delete)):
            if len(several) > most:
                raise too_large(f"{field}: {len(several):,} questions, at most {most:,} are taken")
        vectors = np.zeros((0, self._engine.twin.dim), np.float32)
        if questions:
            texts = [question.text for question in questions]
            vectors, _ = await self._engine.encode(texts, gone, field="text", truncate=True)
            await self._engine.notice(texts, vectors)
            try:
                check_questions(questions, vectors, self._engine.twin.dim)
            except QuestionIndexError as error:
                raise unfit(str(error)) from error
        async with self._turn:
            # Once begun it is finished, whether the client waits for it or not.
            return await asyncio.shield(asyncio.ensure_future(self._written(questions, vectors, delete)))

    async def _written(self, questions: Sequence[Question], vectors: np.ndarray, delete: Sequence[str]) -> Written:
        if self._reviews is None:
            deleted = await asyncio.to_thread(self._put, questions, vectors, delete)
            return Written(upserted=len(questions), deleted=deleted, suspects=0)
        touched = list(dict.fromkeys([*(question.id for question in questions), *delete]))
        before = await asyncio.to_thread(self._stored, touched)
        deleted = await asyncio.to_thread(self._put, questions, vectors, delete)
        try:
            suspects = await self._look.suspects(questions, vectors, _stays) if questions else []
            queued = await asyncio.to_thread(self._follow, self._reviews, before, questions, touched, suspects)
        except BaseException:
            await asyncio.to_thread(self._restore, before, questions, touched)
            raise
        return Written(upserted=len(questions), deleted=deleted, suspects=queued)

    def _put(self, questions: Sequence[Question], vectors: np.ndarray, delete: Sequence[str]) -> int:
        if not questions:
            return self._index.delete(delete)
        more = {"delete": delete} if delete else {}
        return self._index.upsert(questions, vectors, model=self._engine.model, **more) or 0

    def _stored(self, ids: Sequence[str]) -> Before:
        there = [question for question in self._index.get(ids) if question is not None]
        vectors = self._index.vectors([question.id for question in there])
        return {question.id: (question, vector) for question, vector in zip(there, vectors, strict=True)}

    def _follow(
        self, reviews: Reviews, before: Before, questions: Sequence[Question], touched: Sequence[str],
        suspects: Sequence[Suspect],
    ) -> int:  # fmt: skip
        same = {q.id: q for q in questions if q.id in before and before[q.id][0].text == q.text}
        changed = [name for name in touched if name in before and name not in same]
        facts = {name: q.metadata for name, q in same.items() if before[name][0].metadata != q.metadata}
        return reviews.follow(changed, facts, suspects)

    def _restore(self, before: Before, questions: Sequence[Question], touched: Sequence[str]) -> None:
        """Put back what was there, except where somebody else has written since."""
        given = {question.id: question for question in questions}
        try:
            now = dict(zip(touched, self._index.get(touched), strict=True))
            mine = [name for name in touched if now[name] == given.get(name)]
            old = [before[name] for name in mine if name in before]
            vectors = np.array([vector for _, vector in old], np.float32).reshape(len(old), self._engine.twin.dim)
            self._put([question for question, _ in old], vectors, [name for name in mine if name not in before])
        except QuestionIndexError as error:
            log.error("write not taken back", exc_info=error, extra={"facts": {"questions": len(touched)}})


async def _stays() -> bool:
    return False
