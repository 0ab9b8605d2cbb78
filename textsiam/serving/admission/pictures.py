"""Images and sounds of requests: what they decode to is bounded, by their headers, before any of it is decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from textsiam.data.tables.errors import DataError
from textsiam.media.medium import Medium
from textsiam.serving.heap import give_back_free_memory
from textsiam.serving.problem_details import Refused, too_large, unfit

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

T = TypeVar("T")

MAX_PIXELS = 1_600_000_000
"""Pixels of all images that wait, and so of a request's; of sounds as many samples."""
PATCH = 16 * 16
"""Pixels, or samples, that count as a token."""


class Files:
    """Opens the files of all requests in turn; a large one alone, and what the tower takes of it is all that is kept.

    Args:
        medium: What they are.
        large: Pixels, or samples, from which a file is large.
    """

    def __init__(self, medium: Medium, large: int) -> None:
        self.medium, self._large, self._waiting = medium, large, 0
        self._small = ThreadPoolExecutor(2, thread_name_prefix=medium.nouns)
        self._alone = ThreadPoolExecutor(1, thread_name_prefix=f"large-{medium.nouns}")

    async def opened(
        self,
        values: Sequence[str],
        tower: SentenceTransformer | None,
        where: Callable[[int], str],
        gone: Callable[[], Awaitable[bool]],
    ) -> tuple[list[str], np.ndarray]:
        """Check the files of a request.

        Args:
            values: n files as they came.
            tower: What large ones are made ready for; None leaves them to the step that encodes them.
            where: Names a file by its position, for messages.
            gone: Says whether the client has left.

        Returns:
            The strings that stand for them, and the tokens that decoding them counts as later, `(n,)` int64.

        Raises:
            Refused: One cannot be read, they are too large together, or too many wait.
        """
        sizes = await self._run(
            self._small, lambda: [_told(self.medium.received_size, v, where(k)) for k, v in enumerate(values)]
        )
        total = sum(sizes)
        if total > MAX_PIXELS:
            raise too_large(
                f"{where(0).partition('[')[0]}: {total:,} {self.medium.unit}, at most {MAX_PIXELS:,} are taken together"
            )
        if self._waiting + total > MAX_PIXELS:
            raise Refused(429, f"too many {self.medium.nouns} wait: try again later", "Overloaded", retry_after=5)
        self._waiting += total
        names, tokens = [], []
        try:
            for k, (value, size) in enumerate(zip(values, sizes, strict=True)):
                if await gone():
                    raise Refused(499, "the client has left", "Validation")
                is_large = size > self._large

                def open_one(value: str = value, k: int = k, ready: bool = is_large and tower is not None) -> str:
                    if not ready:
                        return _told(self.medium.received, value, where(k))
                    name = _told(self.medium.received, value, where(k), decode=False)
                    made = _told(self.medium.ready, name, where(k), tower)
                    give_back_free_memory()  # its pixels, which the heap would keep beside those of the next
                    return made

                names.append(await self._run(self._alone if is_large else self._small, open_one))
                tokens.append(1 if is_large and tower is not None else size // PATCH)
        finally:
            self._waiting -= total
        return names, np.array(tokens, np.int64)

    def close(self) -> None:
        """Open no more."""
        for pool in (self._small, self._alone):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)


def _told(work: Callable[..., T], value: str, place: str, *more: object, **options: object) -> T:
    """Return what is made of a file.

    Raises:
        Refused: It cannot be read; the message says where it stands.
    """
    try:
        return work(value, *more, **options)
    except DataError as error:
        raise unfit(f"{place}: {error}") from error
