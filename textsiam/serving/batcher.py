"""One worker thread that runs the model for all requests: bounded, fair, and within a token budget a step.

Requests wait in a queue bounded in tokens. In each step the worker takes inputs from all waiting requests, an equal
share of the budget for each, so that a request with 10,000 inputs slows a single question down by a step at most.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


class Overloaded(Exception):
    """The queue is full; `retry_after` says in how many seconds it is likely to have room."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("the queue is full: try again later")
        self.retry_after = retry_after


class Closed(Exception):
    """The server is shutting down and takes no more work."""


@dataclass(frozen=True)
class Load:
    """What the batcher is doing.

    Attributes:
        requests: Requests that wait or are in work.
        tokens: Tokens of theirs that are not encoded yet.
        fill: Share of the token budget that the last step used, 0 to 1.
        steps: Steps done since the start.
        failures: Steps that raised an error.
        tokens_per_second: Measured pace, 0 before the first step.
    """

    requests: int
    tokens: int
    fill: float
    steps: int
    failures: int
    tokens_per_second: float


@dataclass(eq=False)
class _Job:
    """A request: inputs to encode, and how its result is made of what `encode` returned in each step."""

    encode: Callable[[list[Any]], Any]
    inputs: Sequence[Any]
    tokens: np.ndarray
    whole: Callable[[list[Any]], Any] = np.concatenate
    future: Future[Any] = field(default_factory=Future)
    done: int = 0
    parts: list[Any] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """Tokens that are not encoded yet."""
        return int(self.tokens[self.done :].sum())


class Batcher:
    """Shares one model among many requests.

    Args:
        max_tokens: Budget of a step. The longest that a single question waits for others is one step.
        max_queue: Tokens that may wait; what comes on top is refused with `Overloaded`. A single request that is larger
            than the whole queue is taken when nothing else waits.

    Example:
        >>> with Batcher(max_tokens=8, max_queue=64) as batcher:
        ...     batcher.encode(lambda texts: np.ones((len(texts), 2)), ["a", "b"], [1, 1]).result().shape
        (2, 2)
    """

    def __init__(self, *, max_tokens: int = 4096, max_queue: int = 262_144) -> None:
        if max_tokens < 1 or max_queue < 1:
            raise ValueError(f"max_tokens and max_queue must be >= 1, got {max_tokens} and {max_queue}")
        self.max_tokens, self.max_queue = max_tokens, max_queue
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._tokens, self._fill, self._steps, self._failures, self._pace = 0, 0.0, 0, 0, 0.0
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def encode(
        self, encode: Callable[[list[Any]], np.ndarray], inputs: Sequence[Any], tokens: Sequence[int] | np.ndarray
    ) -> Future[np.ndarray]:
        """Encode inputs, together with those of other requests that have the same `encode`.

        Args:
            encode: From a list of m inputs to `(m, dim)`.
            inputs: n inputs, at least one.
            tokens: Size of each, `(n,)`.

        Returns:
            A future of the vectors `(n, dim)`; cancel it and what is not encoded yet never will be.

        Raises:
            Overloaded: Too many tokens wait.
            Closed: The batcher is shutting down.
        """
        if len(inputs) == 0 or len(inputs) != len(tokens):
            raise ValueError(f"expected as many tokens counts as inputs and at least one, got {len(inputs)} inputs")
        return self._add(_Job(encode, inputs, np.maximum(np.asarray(tokens, np.int64), 1)))

    def call(self, work: Callable[[], T], tokens: int) -> Future[T]:
        """Run any other work of the model, alone in a step; see `encode` for what is returned and raised."""
        sizes = np.array([max(tokens, 1)], np.int64)
        return self._add(_Job(lambda _: [work()], [None], sizes, whole=lambda parts: parts[0][0]))

    @property
    def load(self) -> Load:
        """What the batcher is doing at the moment."""
        with self._changed:
            return Load(len(self._jobs), self._tokens, self._fill, self._steps, self._failures, self._pace)

    @property
    def alive(self) -> bool:
        """Whether work is still taken and done."""
        return self._thread.is_alive() and not self._closing

    def close(self, timeout: float | None = None) -> bool:
        """Take no more work and finish what waits; returns whether all of it was finished within `timeout` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _add(self, job: _Job) -> Future[Any]:
        size = job.waiting
        with self._changed:
            if self._closing:
                raise Closed("the server is shutting down")
            if self._tokens and self._tokens + size > self.max_queue:
                excess = self._tokens + size - self.max_queue
                raise Overloaded(max(1.0, excess / self._pace) if self._pace else 1.0)
            self._jobs.append(job)
            self._tokens += size
            self._changed.notify()
        return job.future

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                self._drop_cancelled()
                if not self._jobs:
                    if self._closing:
                        return
                    continue
                step = self._next_step()
            self._run(step)

    def _drop_cancelled(self) -> None:
        # A future that runs cannot be cancelled, so it is never set running: cancelled is what a client gave up.
        for job in [job for job in self._jobs if job.future.cancelled()]:
            self._jobs.remove(job)
            self._tokens -= job.waiting

    def _next_step(self) -> list[tuple[_Job, int]]:
        """Take inputs of the requests that can run together: how many of each; the first request leads."""
        first = self._jobs[0]
        together = [job for job in self._jobs if job.encode == first.encode]
        left, counts = self.max_tokens, dict.fromkeys(together, 0)
        # In order of arrival, first an equal share for each, at least one input, then what small requests leave.
        for share in (self.max_tokens // len(together), self.max_tokens):
            for job in together:
                begun = job.done + counts[job]
                sums = np.cumsum(job.tokens[begun : begun + self.max_tokens])
                if not len(sums) or (sums[0] > left and job is not first):
                    continue
                count = int(np.searchsorted(sums, min(left, share), side="right"))
                count = max(count, int(counts[job] == 0))  # an input above the budget runs all the same
                counts[job] += count
                left -= int(sums[count - 1]) if count else 0
        # The next step starts with the request after this one, so that other kinds of work get their turn.
        self._jobs.rotate(-1)
        return [(job, count) for job, count in counts.items() if count]

    def _run(self, step: list[tuple[_Job, int]]) -> None:
        size = sum(int(job.tokens[job.done : job.done + count].sum()) for job, count in step)
        started = time.perf_counter()
        failed = 0
        try:
            self._do(step)
        except Exception as error:
            failed = 1
            if len(step) == 1:
                self._fail(step[0][0], error)
            else:  # one bad input must not fail the others that happened to stand beside it
                for part in step:
                    try:
                        self._do([part])
                    except Exception as own:
                        self._fail(part[0], own)
        seconds = max(time.perf_counter() - started, 1e-9)
        with self._changed:
            self._fill = min(1.0, size / self.max_tokens)
            self._pace = size / seconds if not self._pace else 0.9 * self._pace + 0.1 * size / seconds
            self._steps += 1
            self._failures += failed

    def _do(self, step: list[tuple[_Job, int]]) -> None:
        """Encode the inputs of a step together, and settle the requests that this finishes."""
        inputs = [value for job, count in step for value in job.inputs[job.done : job.done + count]]
        results, start = step[0][0].encode(inputs), 0
        if len(results) != len(inputs):
            raise RuntimeError(f"{len(inputs)} inputs were given to the model, {len(results)} vectors came back")
        for job, count in step:
            end = start + count
            job.parts.append(results[start:end])
            start = end
            with self._changed:
                if job not in self._jobs:
                    continue
                self._tokens -= int(job.tokens[job.done : job.done + count].sum())
                job.done += count
                finished = job.done == len(job.inputs)
                if finished:
                    self._jobs.remove(job)
            if finished:
                _settle(job.future, job.whole(job.parts))

    def _fail(self, job: _Job, error: Exception) -> None:
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
                self._tokens -= job.waiting
        if not job.future.cancelled():
            _settle(job.future, error=error)


def _settle(future: Future[Any], result: Any = None, error: Exception | None = None) -> None:
    """Give a future its result, unless the client gave up a moment ago."""
    if future.set_running_or_notify_cancel():
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
