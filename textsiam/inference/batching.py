"""The fast path from texts to vectors.

Distinct inputs once; tokenised ahead in the background; batches of similar length within a token budget; bf16 where the
hardware has it; on a CPU one batch for each core, so that no core waits for another inside a batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from textsiam.inference.fast.fast_tower import DeviceRunner, FastTower, to_device
from textsiam.inference.fast.processor import one_core, share_out
from textsiam.inference.inputs import Prepared
from textsiam.inference.tokens import Tokens, chunk_by_tokens

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)`, in texts."""

_LARGE_JOB = 400_000  # tokens from which finding the best budget (about as long as 20,000 tokens) pays
_SMALL_JOB = 512  # tokens up to which all cores share one batch
# Tokens up to which one core does it all. Two are hardly faster, and where one of them has other work, as in a server,
# the first waits for it after every operation: 6 ms become 300.
_TINY_JOB = 64
_GRAIN = 256  # budgets of small jobs are multiples of so many tokens: a new shape of a batch costs time and memory
_SHARES = 8  # batches that a worker should have, where they are not too small then
BLOCK = 16_384
"""Texts that are tokenised, sorted by length and encoded together; the next block is tokenised meanwhile."""


def _out_of_memory(error: Exception) -> bool:
    # On a CPU torch raises a plain RuntimeError.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


class _Chunks:
    """The batches of a block that are still to be encoded; they become smaller when memory runs out."""

    def __init__(self, lengths: np.ndarray, budget: int, *, padded: bool = True) -> None:
        self.lengths, self.budget, self.padded = lengths, budget, padded
        self._lock = threading.Lock()
        self._pending = chunk_by_tokens(lengths, budget, padded=padded)[::-1]

    def __len__(self) -> int:
        return len(self._pending)

    def take(self) -> np.ndarray | None:
        with self._lock:
            return self._pending.pop() if self._pending else None

    def give_back(self, rows: np.ndarray) -> None:
        """Take back a batch that did not fit; whatever is left is cut anew, within half of the budget."""
        with self._lock:
            if len(rows) * self.lengths[rows].max() <= self.budget:  # or another worker has halved it already
                self.budget = max(1, self.budget // 2)
            rest = np.concatenate([rows, *self._pending[::-1]])
            self._pending = [
                rest[chunk] for chunk in chunk_by_tokens(self.lengths[rest], self.budget, padded=self.padded)
            ][::-1]

    def drop(self) -> None:
        """Leave nothing to do: a worker has failed."""
        with self._lock:
            self._pending = []


def encode(
    fast: FastTower,
    texts: Sequence[Any],
    *,
    prompt: str | None = None,
    token_budget: int | None = None,
    progress: Progress | None = None,
    broken: dict[str, str] | None = None,
) -> np.ndarray:
    """Encode texts: each distinct text once, batches of similar length within a token budget.

    Equal texts get bit-identical vectors. A text's vector depends on its batch only by rounding: at most
    1e-5 in any component in fp32, a cosine of at least 0.9999 in bf16.

    Args:
        fast: The tower to encode with.
        texts: n inputs of the tower's kind.
        prompt: What stands before each text; None is what the tower puts there.
        token_budget: Largest padded size of a batch, in tokens. None picks it for the device, by a short measurement
            when there is much to do. When memory runs out, the budget is halved and the batch repeated.
        progress: Called after each batch with the number of distinct texts done and in all.
        broken: Inputs that cannot be opened are put here, with the reason, and their vectors are NaN; None raises.

    Returns:
        Vectors of length 1, `(n, dim)` float32.

    Raises:
        TypeError: An input is none of the tower's kind; the message names its position.
        DataError: A file cannot be opened.
    """
    texts = fast.inputs.to_keys(texts)
    index = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    distinct = list(index)
    vectors = np.zeros((len(distinct), fast.dim), dtype=np.float32)
    blocks = (distinct[start : start + BLOCK] for start in range(0, len(distinct), BLOCK))
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, len(distinct))

    starts = range(0, len(distinct), BLOCK)
    for block, start in zip(_encode_blocks(fast, blocks, token_budget, advance, prompt, broken), starts, strict=True):
        vectors[start : start + BLOCK] = block
    vectors[[index[text] for text in broken or () if text in index]] = np.nan
    return vectors[[index[text] for text in texts]] if len(index) != len(texts) else vectors


def encode_stream(
    fast: FastTower, texts: Iterable[Any], *, token_budget: int | None = None, block: int = BLOCK
) -> Iterator[np.ndarray]:
    """Encode texts from an iterator in bounded memory, block after block; the next block is tokenised meanwhile.

    Args:
        fast: The tower to encode with.
        texts: Any number of texts; a block of them is held at a time (two, with the one tokenised ahead).
        token_budget: As for `encode`.
        block: Texts of a block. Repeats inside a block are encoded once.

    Yields:
        Vectors of the texts, in order, `(≤ block, dim)` float32.

    Raises:
        TypeError: An input is not a string; the message names its position.
    """
    if isinstance(texts, str):
        raise TypeError("expected any number of inputs, got one str: write encode_stream([text])")
    if block < 1:
        raise ValueError(f"block must be >= 1, got {block}")
    places: list[list[int]] = []  # of the blocks that were read and not yet encoded, where each text's vector stands

    def blocks() -> Iterator[list[str]]:
        count, rest = 0, iter(texts)
        while part := list(islice(rest, block)):
            names = fast.inputs.to_keys(part, count)
            count += len(part)
            index = {text: row for row, text in enumerate(dict.fromkeys(names))}
            places.append([index[text] for text in names])
            yield list(index)

    for vectors in _encode_blocks(fast, blocks(), token_budget, lambda count: None):
        yield vectors[places.pop(0)]


def _encode_blocks(
    fast: FastTower,
    blocks: Iterator[list[str]],
    token_budget: int | None,
    advance: Callable[[int], None],
    prompt: str | None = None,
    broken: dict[str, str] | None = None,
) -> Iterator[np.ndarray]:
    """Yield the vectors of each block of distinct texts."""
    tower = fast.tower
    first = next(blocks, None)
    if first is None:
        return
    prepare = partial(fast.inputs.prepare, prompt=prompt, broken=broken)
    tokens = prepare(tower, first)
    with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as ahead:
        coming = (ahead.submit(prepare, tower, block) for block in blocks)
        while tokens is not None:
            following = next(coming, None)
            yield encode_tokens(fast, tokens, token_budget, advance)
            tokens = None if following is None else following.result()


def encode_tokens(
    fast: DeviceRunner, tokens: Prepared, token_budget: int | None, advance: Callable[[int], None]
) -> np.ndarray:
    """Return what comes out of tokenised inputs, `(m, dim)` float32; batches are shared out among the workers.

    Args:
        fast: What encodes.
        tokens: m inputs.
        token_budget: As for `encode`.
        advance: Called after each batch with its size.
    """
    tower = fast.tower
    vectors = np.zeros((len(tokens), fast.dim), dtype=np.float32)
    total = int(tokens.lengths.sum())
    crew = [fast] if total <= _SMALL_JOB else [one for one in (fast, *fast.replicas) for _ in range(one.workers)]
    was_training = tower.training
    if was_training:
        tower.eval()
    try:
        with torch.inference_mode():
            first, *_ = fast.budgets
            budget = token_budget or (fast.best_budget if total >= _LARGE_JOB else first)
        # Several batches for each worker, so that none waits long for the last one of another.
        share = -(-total // (_SHARES * len(crew)) // _GRAIN) * _GRAIN
        budget = min(budget, max(_SMALL_JOB, share))
        if not fast.padded and not isinstance(tokens, Tokens):  # whose lengths are guesses
            budget = 1
        chunks = _Chunks(tokens.lengths, budget, padded=fast.padded)
        lock = threading.Lock()

        @torch.inference_mode()
        def work(worker: DeviceRunner) -> None:
            while (rows := chunks.take()) is not None:
                try:
                    features = {k: to_device(t, worker.tower.device) for k, t in tokens.collate(rows).items()}
                    vectors[rows] = worker(features).cpu().numpy()
                except (RuntimeError, MemoryError) as error:
                    if len(rows) == 1 or not _out_of_memory(error):
                        raise
                    chunks.give_back(rows)
                    continue
                with lock:
                    advance(len(rows))

        works = [partial(work, one) for one in crew[: max(1, len(chunks))]]
        on_cpu = tower.device.type == "cpu"
        with one_core(on_cpu and total <= _TINY_JOB):
            share_out(works, chunks.drop, alone=on_cpu)
    finally:
        if was_training:
            tower.train()
    return vectors
