"""The fast path from texts to vectors.

Distinct inputs once; tokenised ahead in the background; batches of similar length within a token budget; bf16 where the
hardware has it; on a CPU one batch for each core, so that no core waits for another inside a batch.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor, nn

from textsiam.models.encoders import inputs_of
from textsiam.models.fused import FusedBert, fusable
from textsiam.models.inputs import Prepared
from textsiam.models.tokens import chunk_by_tokens

Precision = Literal["auto", "fp32", "bf16"]
Progress = Callable[[int, int], None]
"""Called as `progress(done, total)`, in texts."""

# On CPUs small batches stay in the cache; an accelerator wants to be filled. The first is taken for small jobs, the
# fastest one for large jobs.
_BUDGETS = {"cpu": (1024, 512, 2048, 4096), "else": (65_536, 16_384, 262_144)}
_LARGE_JOB = 400_000  # tokens from which finding the best budget (about as long as 20,000 tokens) pays
_SMALL_JOB = 512  # tokens up to which all cores share one batch
_AS_IT_IS = (torch.float32, torch.preserve_format)
BLOCK = 16_384
"""Texts that are tokenised, sorted by length and encoded together; the next block is tokenised meanwhile."""


def fast_dtype(device: torch.device, precision: Precision = "auto") -> torch.dtype:
    """Return the number format that inference uses on a device.

    `auto` is bf16 where the hardware multiplies it natively (CPUs with avx512_bf16 or AMX, GPUs with bf16),
    fp32 elsewhere. In bf16 a vector's cosine to its fp32 self is at least 0.9999.

    Raises:
        ValueError: Unknown precision.
    """
    if precision == "fp32":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    if precision != "auto":
        raise ValueError(f"precision must be 'auto', 'fp32' or 'bf16', got {precision!r}")
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        checks = (getattr(torch.cpu, n, None) for n in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        native = device.type == "cpu" and any(check() for check in checks if check is not None)
    return torch.bfloat16 if native else torch.float32


class FastTower:
    """A tower as inference sees it: the backbone in a fast number format, pooling and normalisation in fp32.

    Args:
        tower: Where the weights come from.
        dtype: Number format of the backbone.
        device: Where to encode; None stays where the tower is.
        compiled: Compile the backbone with `torch.compile`. One that is fused is left as it is.

    Attributes:
        replicas: The same tower on other devices, which share its work.
    """

    def __init__(
        self,
        tower: SentenceTransformer,
        dtype: torch.dtype,
        device: torch.device | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        self.source = tower
        self.inputs = inputs_of(tower)
        self.tower = tower if device in (None, tower.device) else copy.deepcopy(tower).to(device).eval()
        self.dtype = dtype
        self.replicas: list[FastTower] = []
        self._version = _weights_version(tower)
        backbone: nn.Module = self.tower[0]
        # Copies and not casts: training goes on with the fp32 weights.
        if self.supported and fusable(backbone):
            self.backbone = FusedBert(backbone, dtype)  # pyright: ignore[reportArgumentType]
        elif self.supported and (compiled or (dtype, self.inputs.memory_format) != _AS_IT_IS):
            self.backbone = copy.deepcopy(backbone).to(dtype).eval()
            _lay_out(self.backbone, self.inputs.memory_format)
            if compiled:
                self.backbone.compile(dynamic=True)
        else:
            self.backbone = backbone

    @property
    def supported(self) -> bool:
        """Whether the tower is a transformer with plain pooling; any other one encodes by its own means."""
        pooling = next((m for m in self.tower if isinstance(m, Pooling)), None)
        return isinstance(self.tower[0], Transformer) and pooling is not None and pooling.include_prompt

    @property
    def number_format(self) -> str:
        """What vectors of the same weights differ by, beside rounding."""
        return str(self.dtype)

    @property
    def stale(self) -> bool:
        """Whether the weights of the tower have changed since this copy was made."""
        return self.backbone is not self.source[0] and self._version != _weights_version(self.source)

    @property
    def workers(self) -> int:
        """How many batches are encoded at once: one for each core of a CPU; on a GPU, one while the next is made."""
        return torch.get_num_threads() if self.tower.device.type == "cpu" else 2

    @property
    def budgets(self) -> tuple[int, ...]:
        """Token budgets worth trying on the device, the one for small jobs first."""
        return _BUDGETS["cpu" if self.tower.device.type == "cpu" else "else"]

    @cached_property
    def best_budget(self) -> int:
        """The fastest token budget, measured on made-up inputs the first time it is asked for."""
        on_cpu, cores = self.tower.device.type == "cpu", torch.get_num_threads()
        try:
            if on_cpu:
                torch.set_num_threads(1)  # as the workers have it
            return min(self.budgets, key=self._seconds_per_token)
        finally:
            torch.set_num_threads(cores)

    def _seconds_per_token(self, budget: int) -> float:
        device = self.tower.device
        features = {k: _moved(t, device) for k, t in self.inputs.made_up(self.tower, budget).items()}
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            self(dict(features)).cpu()
            seconds.append(time.perf_counter() - started)
        return min(seconds) / budget

    def __call__(self, features: dict[str, Any]) -> Tensor:
        """Return the embeddings of one padded batch, `(batch, dim)` float32."""
        state = self.backbone({k: _cast(v, self.dtype) for k, v in features.items()})
        state["token_embeddings"] = state["token_embeddings"].float()
        for module in list(self.tower)[1:]:
            state = module(state)
        return state["sentence_embedding"]


def _lay_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    for parameter in module.parameters():
        if parameter.dim() == 4 and memory_format != torch.preserve_format:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


def _cast(feature: Any, dtype: torch.dtype) -> Any:
    """Return a feature in the number format of the weights; ids and masks stay integers."""
    return feature.to(dtype) if isinstance(feature, Tensor) and feature.is_floating_point() else feature


def _out_of_memory(error: Exception) -> bool:
    # On a CPU torch raises a plain RuntimeError.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


def _weights_version(tower: SentenceTransformer) -> tuple[tuple[int, int, float], ...]:
    # Fused optimizers leave no trace in `_version`, so a few values of every parameter are looked at too.
    parameters = [p.detach() for p in (*tower.parameters(), *tower.buffers())]
    sample = torch.stack([p.reshape(-1)[:64].float().sum() for p in parameters]).tolist()
    return tuple((p.data_ptr(), p._version, value) for p, value in zip(parameters, sample, strict=True))


class _Chunks:
    """The batches of a block that are still to be encoded; they become smaller when memory runs out."""

    def __init__(self, lengths: np.ndarray, budget: int) -> None:
        self.lengths, self.budget = lengths, budget
        self._lock = threading.Lock()
        self._pending = chunk_by_tokens(lengths, budget)[::-1]

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
            self._pending = [rest[chunk] for chunk in chunk_by_tokens(self.lengths[rest], self.budget)][::-1]

    def drop(self) -> None:
        """Leave nothing to do: a worker has failed."""
        with self._lock:
            self._pending = []


def encode(
    fast: FastTower,
    texts: Sequence[Any],
    *,
    token_budget: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Encode texts: each distinct text once, batches of similar length within a token budget.

    Equal texts get bit-identical vectors. A text's vector depends on its batch only by rounding: at most
    1e-5 in any component in fp32, a cosine of at least 0.9999 in bf16.

    Args:
        fast: The tower to encode with.
        texts: n inputs of the tower's kind.
        token_budget: Largest padded size of a batch, in tokens. None picks it for the device, by a short measurement
            when there is much to do. When memory runs out, the budget is halved and the batch repeated.
        progress: Called after each batch with the number of distinct texts done and in all.

    Returns:
        Vectors of length 1, `(n, dim)` float32.

    Raises:
        TypeError: An input is none of the tower's kind; the message names its position.
        DataError: An image cannot be opened.
    """
    texts = fast.inputs.named(texts)
    index = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    distinct = list(index)
    vectors = np.zeros((len(distinct), fast.tower.get_embedding_dimension() or 0), dtype=np.float32)
    blocks = (distinct[start : start + BLOCK] for start in range(0, len(distinct), BLOCK))
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, len(distinct))

    start = 0
    for block in _encode_blocks(fast, blocks, token_budget, advance):
        vectors[start : start + len(block)] = block
        start += len(block)
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
    if block < 1:
        raise ValueError(f"block must be >= 1, got {block}")
    places: list[list[int]] = []  # of the blocks that were read and not yet encoded, where each text's vector stands

    def blocks() -> Iterator[list[str]]:
        count, part = 0, []
        for part in _parts(texts, block):
            names = fast.inputs.named(part, count)
            count += len(part)
            index = {text: row for row, text in enumerate(dict.fromkeys(names))}
            places.append([index[text] for text in names])
            yield list(index)

    for vectors in _encode_blocks(fast, blocks(), token_budget, lambda count: None):
        yield vectors[places.pop(0)]


def _parts(texts: Iterable[Any], size: int) -> Iterator[list[Any]]:
    part: list[Any] = []
    for text in texts:
        part.append(text)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _encode_blocks(
    fast: FastTower, blocks: Iterator[list[str]], token_budget: int | None, advance: Callable[[int], None]
) -> Iterator[np.ndarray]:
    """Yield the vectors of each block of distinct texts."""
    tower = fast.tower
    if not fast.supported:
        for block in blocks:
            yield tower.encode(block, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False)
            advance(len(block))
        return
    block = next(blocks, None)
    if block is None:
        return
    prepare = fast.inputs.prepare
    tokens = prepare(tower, block)
    with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as ahead:
        while block is not None:
            following = next(blocks, None)
            later = None if following is None else ahead.submit(prepare, tower, following)
            yield _encode_tokens(fast, tokens, token_budget, advance)
            block = following
            if later is not None:
                tokens = later.result()


def _encode_tokens(
    fast: FastTower, tokens: Prepared, token_budget: int | None, advance: Callable[[int], None]
) -> np.ndarray:
    """Return the vectors of tokenised texts, `(m, dim)` float32; the batches are shared out among the workers."""
    tower = fast.tower
    vectors = np.zeros((len(tokens), tower.get_embedding_dimension() or 0), dtype=np.float32)
    total = int(tokens.lengths.sum())
    crew = [fast] if total <= _SMALL_JOB else [one for one in (fast, *fast.replicas) for _ in range(one.workers)]
    was_training = tower.training
    if was_training:
        tower.eval()
    try:
        with torch.inference_mode():
            first, *_ = fast.budgets
            budget = token_budget or (fast.best_budget if total >= _LARGE_JOB else first)
        chunks = _Chunks(tokens.lengths, min(budget, max(_SMALL_JOB, -(-total // len(crew)))))
        lock = threading.Lock()

        @torch.inference_mode()
        def work(worker: FastTower) -> None:
            while (rows := chunks.take()) is not None:
                try:
                    features = {k: _moved(t, worker.tower.device) for k, t in tokens.collate(rows).items()}
                    vectors[rows] = worker(features).cpu().numpy()
                except (RuntimeError, MemoryError) as error:
                    if len(rows) == 1 or not _out_of_memory(error):
                        raise
                    chunks.give_back(rows)
                    continue
                with lock:
                    advance(len(rows))

        works = [partial(work, one) for one in crew[: max(1, len(chunks))]]
        _share_out(works, chunks.drop, alone=tower.device.type == "cpu")
    finally:
        if was_training:
            tower.train()
    return vectors


def _share_out(works: Sequence[Callable[[], None]], stop: Callable[[], None], *, alone: bool) -> None:
    """Run every work in a thread and wait for all; the first error stops the others and is raised.

    Args:
        works: Each works until there is nothing left; one alone runs in this thread.
        stop: Has the others find nothing left.
        alone: Give each worker one core: threads of their own would wait for each other after every operation.
    """
    if len(works) == 1:
        works[0]()
        return
    cores = torch.get_num_threads()

    def worker(work: Callable[[], None]) -> None:
        if alone:
            torch.set_num_threads(1)
        try:
            work()
        except BaseException:
            stop()
            raise

    try:
        with ThreadPoolExecutor(len(works), thread_name_prefix="encode") as pool:
            futures = [pool.submit(worker, work) for work in works]
            try:
                for future in futures:
                    future.result()
            except BaseException:  # Ctrl-C too
                stop()
                raise
    finally:
        if alone:
            torch.set_num_threads(cores)  # a part of the setting is the whole process's


def _moved(feature: Any, device: torch.device) -> Any:
    """Return a tensor on the device; to a GPU it is copied from pinned memory while other work goes on."""
    if not isinstance(feature, Tensor):
        return feature
    return feature.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else feature.to(device)
