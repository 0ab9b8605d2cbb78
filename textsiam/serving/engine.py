"""The model as requests see it: inputs are checked before they wait, and waiting stops when the client is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from functools import cached_property, partial
from typing import Any, Literal, TypeVar

import numpy as np

from textsiam.data.tables.errors import DataError
from textsiam.decision.decision import Decision
from textsiam.decision.domain import DomainShift
from textsiam.inference.fast.processor import one_core
from textsiam.inference.inputs import TEXTS, inputs_of
from textsiam.inference.preprocessed import is_plain
from textsiam.inference.stages import raw_vectors, token_vectors
from textsiam.inference.tokens import token_limit
from textsiam.media.medium import Medium
from textsiam.models.domain import DomainWatch
from textsiam.models.scorer import Scorer
from textsiam.models.twin import Twin
from textsiam.search.galleries.drift import DriftWatch
from textsiam.search.index.base import IndexModel, QuestionIndexError
from textsiam.search.ingest import index_model
from textsiam.serving.admission.pictures import PATCH, Files
from textsiam.serving.admission.texts import Reading, Texts, Where, cannot
from textsiam.serving.batcher import Batcher, Closed, Overloaded
from textsiam.serving.limits import ServerSettings
from textsiam.serving.problem_details import Refused, too_large, unfit

log = logging.getLogger("textsiam.serving")

T = TypeVar("T")
Stage = Literal["vectors", "raw", "tokens"]
Gone = Callable[[], Awaitable[bool]]
"""Says whether the client has left."""

_SHORT, _FEW = 2000, 16  # characters, and inputs, that are looked at without handing them to another thread
_SHARED = 512  # tokens of a step up to which the twin has all cores share one batch
_LOOK = 0.1  # seconds between two looks whether the client is still there


class Engine:
    """Encodes and scores for many clients at once.

    Args:
        twin: What encodes and scores.
        settings: The limits.
        shift: In what the questions that are there differ from those that the decision was learned on.
    """

    def __init__(self, twin: Scorer, settings: ServerSettings, shift: DomainShift | None = None) -> None:
        self.twin, self.settings, self.watch, self.probes = twin, settings, DomainWatch(twin, shift), DriftWatch()
        self.batcher = Batcher(max_tokens=settings.max_tokens, max_queue=settings.max_queue)
        self._told = False
        sides = ("left",) if twin.right is None else ("left", "right")
        kinds = {side: inputs_of(twin.tower(side)) for side in sides}
        self.texts = {side: Texts(twin.tower(side), settings) for side, kind in kinds.items() if kind is TEXTS}
        self._files = {
            side: Files(kind, settings.max_tokens * PATCH) for side, kind in kinds.items() if isinstance(kind, Medium)
        }
        self._encoders: dict[tuple[str, str], Callable[[list[str]], np.ndarray]] = {}
        for side in sides:
            self._encoders["vectors", side] = partial(self._encoded, side)
            self._encoders["raw", side] = partial(raw_vectors, twin.tower(side))
            self._encoders["tokens", side] = partial(token_vectors, twin.tower(side))

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
        if "left" in self.texts:
            for count in (1, 400):  # alone in a batch, and one batch a core
                words = [f"warm {k}" for k in range(count)]
                self.batcher.encode(self._encoders["vectors", "left"], words, [4] * count).result()

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
        inputs: str | Sequence[int] | Sequence[str | Sequence[int]],
        gone: Gone,
        *,
        field: str,
        truncate: bool | None = None,
        side: str = "left",
        reading: Reading | None = None,
        stage: Stage = "vectors",
    ) -> tuple[np.ndarray, int]:
        """Encode inputs of a request.

        Args:
            inputs: n texts, lists of token ids, or images in base64; a single string counts as a list of it.
            gone: Says whether the client has left.
            field: Name of the inputs in the request, for messages.
            truncate: Cut what is longer than the model reads; None as the settings say.
            side: Which tower.
            reading: How texts are read, `truncate` included.
            stage: What of the model is wanted: "vectors" of length 1, "raw" ones, or those of "tokens".

        Returns:
            Vectors `(n, dim)` float32, or an array of n arrays `(tokens, width)`; and the tokens of all inputs.

        Raises:
            Refused: Too many or too large, not readable, not for this model, or the queue is full.
        """
        side = side if self.twin.right is not None else "left"  # both sides of one tower share their batches
        values, where = self._several(inputs, field)
        single = isinstance(self.twin, Twin)
        if stage != "vectors" and not (single and is_plain(self.twin.tower(side))):
            raise cannot("this model has no vectors but those of length 1")
        reading = reading or Reading(truncate)
        if (files := self._files.get(side)) is not None:
            if stage == "tokens" or reading.prompt is not None or not all(isinstance(v, str) for v in values):
                raise cannot(f"this model takes {files.medium.nouns}: they have no tokens and no prompts")
            alone = self.twin.tower(side) if single else None
            names, pixels = await files.opened(values, alone, where, gone)
            tokens = np.maximum(self._count(side, names), pixels)
        else:
            texts = self.texts[side]
            if not single and not all(isinstance(v, str) for v in values):
                raise cannot("the members of an ensemble read token ids in ways of their own")
            check = partial(texts.checked, values, where, reading)
            # Counting the tokens of a question takes less than handing that to another thread.
            names, tokens = check() if _is_short(values) else await asyncio.to_thread(check)
        total = int(tokens.sum())
        if stage == "tokens" and total > self.settings.max_tokens:
            raise too_large(f"{field}: {total:,} tokens, vectors of at most {self.settings.max_tokens:,} are given")
        future = self._queued(partial(self.batcher.encode, self._encoders[stage, side], names, tokens))
        return await self.wait(future, gone), total

    async def notice(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Look at questions, encoded as `(n, dim)`: every 256 of them are compared with what the decision knows."""
        taken = self.watch.take(texts, vectors) if "left" in self.texts else None
        if taken is not None and await asyncio.to_thread(self.watch.check, taken):
            log.warning("unlike what was learned", extra={"facts": {"reason": str(self.watch.shift)}})

    async def scores(
        self,
        one: str | Sequence[str],
        others: Sequence[str],
        gone: Gone,
        *,
        fields: tuple[str, str],
        truncate: bool | None = None,
        reading: Reading | None = None,
    ) -> np.ndarray:
        """Score an input against others, as the twin does: with its head, and its reranker where in doubt.

        Args:
            one: The left input; or n of them, each against the other that stands where it does.
            others: n right inputs.
            gone: Says whether the client has left.
            fields: Names of both in the request, for messages.
            truncate: As for `encode`.
            reading: As for `encode`.

        Returns:
            Similarities `(n,)` float32.

        Raises:
            Refused: As for `encode`.
        """
        reading = reading or Reading(truncate)
        v, _ = await self.encode(others, gone, field=fields[1], reading=reading, side="right")
        u, _ = await self.encode(one, gone, field=fields[0], reading=reading)
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

    def _score(self, one: str | Sequence[str], others: Sequence[str], u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Score inputs of vectors `u`, `(1, dim)` or `(n, dim)`, against others of `v`, `(n, dim)`."""
        lefts = [one] if isinstance(one, str) else list(one)
        left = np.arange(len(others)) % len(lefts)
        right = len(lefts) + np.arange(len(others))
        similarity = self.twin.vector_similarity(u[left], v)
        return self.twin.rescore([*lefts, *others], left, right, similarity)

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
        for files in self._files.values():
            files.close()
        return self.batcher.close(self.settings.grace)

    def _queued(self, add: Callable[[], Future[T]]) -> Future[T]:
        try:
            return add()
        except Overloaded as error:
            raise Refused(429, str(error), "Overloaded", retry_after=error.retry_after) from None
        except Closed as error:
            raise Refused(503, str(error), "Unhealthy", retry_after=5) from None

    def _encoded(self, side: str, names: list[str]) -> np.ndarray:
        """Encode the inputs of a step, with one thread a worker.

        Cores that share a small batch wait for each other after every operation, and where one of them has other work
        the clients get a seventh of what one core alone would give them. Larger batches have a worker for each core.
        """
        few = len(names) <= _SHARED and int(self._count(side, names).sum()) <= _SHARED
        with one_core(few and self.twin.device.type == "cpu"):
            return self.twin.encode(names, side=side)

    def _count(self, side: str, names: Sequence[str]) -> np.ndarray:
        if side in self.texts:
            return self.texts[side].count(names)
        tower = self.twin.tower(side)
        return inputs_of(tower).counter(tower)(names)

    def check_count(self, field: str, inputs: Sequence[Any]) -> None:
        """Refuse none, or too many, inputs of a request.

        Raises:
            Refused: There are none, or more than the settings allow.
        """
        if len(inputs) == 0:
            raise unfit(f"{field}: expected at least one input")
        if len(inputs) > self.settings.max_batch:
            raise too_large(f"{field}: {len(inputs):,} inputs, at most {self.settings.max_batch:,} are taken")

    def _several(self, inputs: Any, field: str) -> tuple[Sequence[Any], Where]:
        """Return inputs as a list, and what names one by its position; a text or its token ids may stand alone."""
        if isinstance(inputs, str) or (inputs and isinstance(inputs[0], int)):
            return [inputs], lambda _: field
        self.check_count(field, inputs)
        return inputs, lambda position: f"{field}[{position}]"


def _is_short(inputs: Sequence[Any]) -> bool:
    """Say whether inputs of a request are so little that looking at them delays nobody."""
    return len(inputs) <= _FEW and sum(map(len, inputs)) <= _SHORT
