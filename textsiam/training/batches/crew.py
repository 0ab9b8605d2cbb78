"""The chunks of a step shared among threads of one core each, which wait for one another twice a step.

Threads that compute one product together wait for each other after every operation: where one of their cores has other
work to do, all of them wait for it. Here each thread has chunks of its own, forward and backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from textsiam.inference.fast.fused_bert import fusable
from textsiam.inference.fast.processor import share_out
from textsiam.training.batches.collation import Features
from textsiam.training.batches.fused_layers import FusedLayers, Share, dropped, what_is_kept

_SHORT = 128  # tokens up to which two batched products beat the fused kernel, forward and backward

LookedUp = tuple[nn.Parameter, Tensor, Tensor]
"""A table, the ids that were looked up in it, `(n,)`, and the gradients of those rows, `(n, width)`."""


def shareable(tower: SentenceTransformer) -> bool:
    """Whether the chunks of a tower may be encoded in threads: whatever it draws is dropout that `OwnDropout` draws."""
    return fusable(tower[0]) and all(type(m).__module__.startswith("sentence_transformers.") for m in tower)


@contextmanager
def encoded_by_threads(
    encode: Callable[[list[Features]], Tensor],
    weights: Sequence[nn.Parameter],
    chunks: list[Features],
    threads: int,
    fused: FusedLayers,
    *,
    cached: bool = False,
) -> Iterator[Tensor]:
    """Yield the embeddings of all chunks; the block back-propagates the loss over them.

    Each thread encodes its chunks, keeps their graph, and differentiates it when the block has found the gradient with
    respect to the embeddings. Which chunks are whose, which dropout they get and in which order gradients are summed
    follows from the chunks, the number of threads and the state of torch's random numbers.

    With the cache no graph is kept: each thread then encodes its chunks once more, one by one, with the same dropout.

    Args:
        encode: Returns the embeddings of chunks, with gradients.
        weights: What the gradients are for.
        chunks: Features of all inputs.
        threads: How many there are; those that would have nothing to do are left out.
        fused: Layers that are computed otherwise; what their weights learn goes to them.
        cached: Whether to encode twice and save memory.
    """
    shares = _fair_shares([chunk["input_ids"].numel() for chunk in chunks], threads)
    apart = {id(part) for leaf in fused.leaves for part in leaf.parts}
    weights = [weight for weight in weights if id(weight) not in apart]

    def encode_some(numbers: list[int]) -> Tensor:
        return encode([chunks[i] for i in numbers])

    seeds = torch.randint(2**62, (len(shares),)).tolist()
    crew = [_Member(seed, share, encode_some, weights, cached) for seed, share in zip(seeds, shares, strict=True)]
    with fused.in_place():
        _together([partial(member.forward, fused) for member in crew])
    place = np.argsort(np.concatenate(shares))
    sizes = [len(chunk["input_ids"]) for chunk in chunks]
    whole = torch.cat([output.detach() for member in crew for output in member.outputs])
    parts = whole.split([sizes[i] for share in shares for i in share])
    embeddings = torch.cat([parts[i] for i in place]).requires_grad_()
    yield embeddings
    if embeddings.grad is None:
        return
    given = embeddings.grad.split(sizes)
    with fused.in_place():
        _together([partial(member.backward, fused, given) for member in crew])
    for member in crew:
        for number, part in member.gradients.items():
            weight = weights[number]
            weight.grad = part if weight.grad is None else weight.grad.add_(part)
    learned = [member.mode.share for member in crew]
    _together([partial(fused.give, learned, slice(k, None, threads)) for k in range(threads)])
    for member in crew:
        for weight, ids, rows in member.mode.looked_up:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            weight.grad.index_add_(0, ids, rows.to(weight.dtype))


class _Member:
    """What one thread does in a step.

    Args:
        seed: Of its dropout.
        share: The numbers of its chunks.
        encode: Returns the embeddings of chunks.
        weights: What `gradients` are for.
        cached: Whether chunks are encoded one by one, without a graph, and once more when they are differentiated.

    Attributes:
        outputs: Embeddings of each piece of the share; once it is differentiated, their gradient.
        gradients: Of weights, by their number.
    """

    def __init__(
        self,
        seed: int,
        share: list[int],
        encode: Callable[[list[int]], Tensor],
        weights: Sequence[nn.Parameter],
        cached: bool,
    ) -> None:
        self.mode, self._encode, self._weights, self._cached = OwnDropout(seed), encode, weights, cached
        self._pieces = [[i] for i in share] if cached else [share]
        self._states: list[Tensor] = []  # of the random numbers before each piece
        self.outputs: list[Tensor] = []
        self.gradients: dict[int, Tensor] = {}

    def forward(self, fused: FusedLayers) -> None:
        """Encode the share."""
        fused.of_this_thread(self.mode.share)
        for piece in self._pieces:
            self._states.append(self.mode.share.generator.get_state())
            with self.mode, torch.set_grad_enabled(not self._cached):
                self.outputs.append(self._encode(piece))

    def backward(self, fused: FusedLayers, given: Sequence[Tensor]) -> None:
        """Differentiate the share, whose embeddings have the gradients `given[i]` for chunk i."""
        fused.of_this_thread(self.mode.share)
        for n, piece in enumerate(self._pieces):
            if self._cached:
                self.mode.share.generator.set_state(self._states[n])
                with self.mode:
                    self.outputs[n] = self._encode(piece)
            gradient = torch.cat([given[i] for i in piece])
            found = torch.autograd.grad(self.outputs[n], self._weights, gradient, allow_unused=True)
            self.outputs[n] = gradient  # nothing needs the graph any more
            for number, part in enumerate(found):
                if part is not None and (known := self.gradients.setdefault(number, part)) is not part:
                    known.add_(part)


def _together(works: Sequence[Callable[[], None]]) -> None:
    share_out(works, lambda: None, alone=True)


def _fair_shares(sizes: Sequence[int], threads: int) -> list[list[int]]:
    """Deal chunks out, the largest first, each to the thread that has least (Graham 1969); in each, in order."""
    shares: list[list[int]] = [[] for _ in range(threads)]
    loads = [0] * threads
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        k = loads.index(min(loads))
        shares[k].append(i)
        loads[k] += sizes[i]
    return [sorted(share) for share in shares if share]


class OwnDropout(TorchFunctionMode):
    """Has dropout, in this thread, draw from random numbers of its own: torch's are one stream for all threads.

    What else is faster otherwise is computed here too: attention over short texts, and embeddings, whose gradient are
    the rows that were looked up, and not a table of zeros for each chunk.

    Args:
        seed: Of the numbers.

    Attributes:
        share: Its random numbers, and what its fused layers have learned.
        looked_up: In the order of the backward pass; to be added to the gradients of the tables.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.share = Share(torch.Generator().manual_seed(seed))
        self.looked_up: list[LookedUp] = []

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute here what is faster here; leave everything else as it is."""
        kwargs = kwargs or {}
        if function is F.dropout:
            return self._dropout(*args, **kwargs)
        if function is F.embedding:
            return self._embedding(*args, **kwargs)
        if function is F.scaled_dot_product_attention and (kwargs.get("dropout_p") or args[1].shape[-2] <= _SHORT):
            return self._attention(*args, **kwargs)
        return function(*args, **kwargs)

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """Return what `torch.nn.functional.dropout` does, in other places."""
        kept = self.share.kept(x.shape, x.dtype, p if training else 0.0)
        return x if kept is None else _Dropout.apply(x, kept, 1.0 / (1.0 - dropped(p)))  # pyright: ignore

    def _embedding(self, ids: Tensor, table: Tensor, padding_idx: int | None = None, **others: Any) -> Tensor:
        """Return rows of a table."""
        unusual = others.get("max_norm") is not None or others.get("scale_grad_by_freq") or others.get("sparse")
        if unusual or not (table.is_leaf and table.requires_grad):
            return F.embedding(ids, table, padding_idx, **others)
        return _LookUp.apply(table, ids, padding_idx, self.looked_up)

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        scale: float | None = None, **others: Any,
    ) -> Tensor:  # fmt: skip
        """Return softmax(QKᵀ/√d) V with dropout on the weights (Vaswani et al. 2017)."""
        if any(others.values()):
            raise ValueError(f"attention in threads takes no {', '.join(others)}")
        scores = (query @ key.transpose(-1, -2)).float() * (scale or 1.0 / math.sqrt(query.shape[-1]))
        if attn_mask is not None:
            fits = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -math.inf) if fits else scores + attn_mask
        return self._dropout(scores.softmax(-1).to(value.dtype), dropout_p) @ value


class _Dropout(torch.autograd.Function):
    """What dropout keeps, times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, factor: float) -> Tensor:
        ctx.kept, ctx.factor = kept, factor
        return what_is_kept(x, kept).mul_(factor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return what_is_kept(gradients[0], ctx.kept).mul_(ctx.factor), None, None


class _LookUp(torch.autograd.Function):
    """Rows of a table; where autograd would make a table of gradients, the rows' own are put into a list."""

    @staticmethod
    def forward(ctx: Any, table: nn.Parameter, ids: Tensor, padding: int | None, found: list[LookedUp]) -> Tensor:
        ctx.table, ctx.ids, ctx.padding, ctx.found = table, ids, padding, found
        return F.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        ids, rows = ctx.ids.reshape(-1), gradients[0].reshape(-1, ctx.table.shape[1])
        if ctx.padding is not None:  # which learns nothing
            real = ids != ctx.padding
            ids, rows = ids[real], rows[real]
        ctx.found.append((ctx.table, ids, rows))
        return None, None, None, None
