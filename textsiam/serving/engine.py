"""The model as requests see it: inputs are checked before they wait, and waiting stops when the client is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from functools import cached_property, partial
from typing import TypeVar

import numpy as np

from textsiam.data.tables.errors import DataError
from textsiam.decision.decision import Decision
from textsiam.inference.encoders import inputs_of
from textsiam.inference.inputs import TEXTS
from textsiam.inference.tokens import token_limit
from textsiam.models.scorer import Scorer
from textsiam.search.index.base import IndexModel, QuestionIndexError
from textsiam.search.ingest import index_model
from textsiam.serving.batcher import Batcher, Closed, Overloaded
from textsiam.serving.limits import ServerSettings
from textsiam.serving.problem_details import Refused, too_large, unfit

log = logging.getLogger("textsiam.serving")

T = TypeVar("T")
Gone = Callable[[], Awaitable[bool]]
"""Says whether the client has left."""

_SHORT, _FEW = 2000, 16  # characters, and inputs, that are looked at without handing them to another thread
_LOOK = 0.1  # seconds between two looks whether the client is still there


class Engine:
    """Encodes and scores for many clients at once.

    Args:
        twin: What encodes and scores.
        settings: The limits.
    """

    def __init__(self, twin: Scorer, settings: ServerSettings) -> None:
        self.twin, self.settings = twin, settings
        self.batcher = Batcher(max_tokens=settings.max_tokens, max_queue=settings.max_queue)
        self._told = False
        sides = ("left",) if twin.right is None else ("left", "right")
        self._encoders = {side: partial(twin.encode, side=side) for side in sides}
        self._counters = {side: inputs_of(twin.tower(side)).counter(twin.tower(side)) for side in sides}

    @cached_property
    def model(self) -> IndexModel:
        """What an index knows the twin's vectors by."""
        return index_model(self.twin)

    @property
    def longest(self) -> int | None:
        """Tokens of an input that the model reads; None for images, and where nothing is cut."""
        return token_limit(self.twin.tower())

    def warm_up(self) -> None:
        """Encode once, so that the first client does not wait for what is made on first use."""
        if self.longest is not None:
            for count in (1, 400):  # alone in a batch, and one batch a core
                words = [f"warm {k}" for k in range(count)]
                self.batcher.encode(self._encoders["left"], words, [4] * count).result()

    def decision(self, texts: int | None = None) -> Decision:
        """Return what turns a similarity into a probability, as `decision_for` does.

        Raises:
            Refused: The model has learned none.
        """
        if (decision := self.decision_for(texts)) is None:
            raise Refused(409, "this model has no decision: run twin.calibrate(pairs) and save it", "Conflict")
        return decision

    def decision_for(self, texts: int | None = None) -> Decision | None:
        """Return the decision that applies; see `Scorer.decision_for`, whose warning is logged once."""
        return self.twin.decision_for(texts, tell=self._log_once)

    def _log_once(self, message: str) -> None:
        if not self._told:
            self._told = True
            log.warning("precision out of reach", extra={"facts": {"reason": message}})

    async def encode(
        self,
        inputs: str | Sequence[str],
        gone: Gone,
        *,
        field: str,
        truncate: bool | None = None,
        side: str = "left",
    ) -> tuple[np.ndarray, int]:
        """Encode inputs of a request.

        Args:
            inputs: n texts, or images in base64; a single one counts as a list of it.
            gone: Says whether the client has left.
            field: Name of the inputs in the request, for messages.
            truncate: Cut what is longer than the model reads; None as the settings say.
            side: Which tower.

        Returns:
            Vectors `(n, dim)` float32 of length 1, and the tokens of all inputs.

        Raises:
            Refused: Too many or too large, not readable, or the queue is full.
        """
        side = side if self.twin.right is not None else "left"  # both sides of one tower share their batches
        check = partial(self._checked, inputs, field, truncate, side)
        # Counting the tokens of a question takes less than handing that to another thread.
        names, tokens = check() if _is_short(inputs) else await asyncio.to_thread(check)
        future = self._queued(partial(self.batcher.encode, self._encoders[side], names, tokens))
        return await self.wait(future, gone), int(tokens.sum())

    async def scores(
        self, one: str, others: Sequence[str], gone: Gone, *, fields: tuple[str, str], truncate: bool | None = None
    ) -> np.ndarray:
        """Score an input against others, as the twin does: with its head, and its reranker where in doubt.

        Args:
            one: The left input.
            others: n right inputs.
            gone: Says whether the client has left.
            fields: Names of both in the request, for messages.
            truncate: As for `encode`.

        Returns:
            Similarities `(n,)` float32.

        Raises:
            Refused: As for `encode`.
        """
        v, _ = await self.encode(others, gone, field=fields[1], truncate=truncate, side="right")
        u, _ = await self.encode(one, gone, field=fields[0], truncate=truncate)
        return await self.work(partial(self._score, one, others, u, v), 16 * len(v), gone)

    async def work(self, run: Callable[[], T], tokens: int, gone: Gone) -> T:
        """Run what scores vectors: in a thread of its own, or by the batcher where that takes the model.

        Args:
            run: The work.
            tokens: How much of the model's time it takes, in tokens.
            gone: Says whether the client has left.

        Raises:
            Refused: The queue is full.
        """
        if not self.twin.scores_by_model:
            return await asyncio.to_thread(run)
        return await self.wait(self._queued(partial(self.batcher.call, run, tokens)), gone)

    def _score(self, one: str, others: Sequence[str], u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Score an input, `u` of `(1, dim)`, against others, `v` of `(n, dim)`."""
        similarity = self.twin.vector_similarity(np.repeat(u, len(v), axis=0), v)
        right = np.arange(1, len(others) + 1)
        return self.twin.rescore([one, *others], np.zeros_like(right), right, similarity)

    async def wait(self, future: Future[T], gone: Gone) -> T:
        """Wait for work of the batcher; give it up when the client has left.

        Raises:
            Refused: The work failed.
        """
        waiting = asyncio.wrap_future(future)
        try:
            while not (await asyncio.wait({waiting}, timeout=_LOOK))[0]:
                if await gone():
                    raise Refused(499, "the client has left", "Validation")
            return waiting.result()
        except DataError as error:
            raise unfit(str(error)) from error
        except (Refused, QuestionIndexError, asyncio.CancelledError):
            raise
        except Exception as error:
            raise Refused(424, "the model could not encode this request", "Backend") from error
        finally:
            future.cancel()

    def close(self) -> bool:
        """Finish what was taken, within the grace of the settings; returns whether all of it was."""
        return self.batcher.close(self.settings.grace)

    def _queued(self, add: Callable[[], Future[T]]) -> Future[T]:
        try:
            return add()
        except Overloaded as error:
            raise Refused(429, str(error), "Overloaded", retry_after=error.retry_after) from None
        except Closed as error:
            raise Refused(503, str(error), "Unhealthy", retry_after=5) from None

    def _checked(
        self, inputs: str | Sequence[str], field: str, truncate: bool | None, side: str
    ) -> tuple[list[str], np.ndarray]:
        """Return the names and sizes of inputs that may wait for the model."""
        settings = self.settings
        values, alone = ([inputs], True) if isinstance(inputs, str) else (inputs, False)

        def where(position: int) -> str:
            return field if alone else f"{field}[{position}]"

        if len(values) == 0:
            raise unfit(f"{field}: expected at least one input")
        if len(values) > settings.max_batch:
            raise too_large(f"{field}: {len(values):,} inputs, at most {settings.max_batch:,} are taken")
        tower = self.twin.tower(side)
        kind, limit, names = inputs_of(tower), token_limit(tower), []
        for position, value in enumerate(values):
            if kind is TEXTS and len(value) > settings.max_characters:
                most = f"at most {settings.max_characters:,} are taken"
                raise too_large(f"{where(position)}: {len(value):,} characters, {most}")
            try:
                names.append(kind.received(value))
            except DataError as error:
                raise unfit(f"{where(position)}: {error}") from error
        tokens = self._counters[side](names)
        if limit is None:
            return names, tokens
        if not (settings.truncate if truncate is None else truncate) and (tokens > limit).any():
            at = int(np.argmax(tokens > limit))
            hint = 'send "truncate": true to cut it'
            raise too_large(f"{where(at)}: {tokens[at]:,} tokens, the model reads {limit:,}; {hint}")
        return names, np.minimum(tokens, limit)


def _is_short(inputs: str | Sequence[str]) -> bool:
    """Say whether inputs of a request are so little that looking at them delays nobody."""
    if isinstance(inputs, str):
        return len(inputs) <= _SHORT
    return len(inputs) <= _FEW and sum(map(len, inputs)) <= _SHORT
