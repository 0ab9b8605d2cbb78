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

_SHORT = 128  # tokens up to which two batched products beat the fused kernel, forward and backward


def shareable(tower: SentenceTransformer) -> bool:
    """Whether the chunks of a tower may be encoded in threads: whatever it draws is dropout that `OwnDropout` draws."""
    return fusable(tower[0]) and all(type(m).__module__.startswith("sentence_transformers.") for m in tower)


@contextmanager
def encoded_by_threads(
    encode: Callable[[list[Features]], Tensor], weights: Sequence[nn.Parameter], chunks: list[Features], threads: int
) -> Iterator[Tensor]:
    """Yield the embeddings of all chunks; the block back-propagates the loss over them.

    Each thread encodes its chunks, keeps their graph, and differentiates it when the block has found the gradient with
    respect to the embeddings. Which chunks are whose, which dropout they get and in which order gradients are summed
    follows from the chunks, the number of threads and the state of torch's random numbers.

    Args:
        encode: Returns the embeddings of chunks, with gradients.
        weights: What the gradients are for.
        chunks: Features of all inputs.
        threads: How many there are; those that would have nothing to do are left out.
    """
    shares = _fair_shares([chunk["input_ids"].numel() for chunk in chunks], threads)
    seeds = torch.randint(2**62, (len(shares),)).tolist()
    outputs: list[Any] = [None] * len(shares)
    gradients: list[Any] = [None] * len(shares)

    def forward(k: int) -> None:
        with OwnDropout(seeds[k]):
            outputs[k] = encode([chunks[i] for i in shares[k]])

    def backward(k: int, gradient: Tensor) -> None:
        gradients[k] = torch.autograd.grad(outputs[k], weights, gradient, allow_unused=True)
        outputs[k] = None

    _together([partial(forward, k) for k in range(len(shares))])
    place = np.argsort(np.concatenate(shares))
    sizes = [len(chunk["input_ids"]) for chunk in chunks]
    parts = torch.cat([output.detach() for output in outputs]).split([sizes[i] for share in shares for i in share])
    embeddings = torch.cat([parts[i] for i in place]).requires_grad_()
    yield embeddings
    if embeddings.grad is None:
        return
    pieces = embeddings.grad.split(sizes)
    _together([partial(backward, k, torch.cat([pieces[i] for i in share])) for k, share in enumerate(shares)])
    for weight, *parts in zip(weights, *gradients, strict=True):
        for part in parts:
            if part is not None:
                weight.grad = part if weight.grad is None else weight.grad.add_(part)


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

    Attention over short texts is computed here too, with dropout or without: it is faster so.

    Args:
        seed: Of the numbers.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute dropout here, and attention with dropout or over short texts; leave everything else as it is."""
        kwargs = kwargs or {}
        if function is F.dropout:
            return self._dropout(*args, **kwargs)
        if function is F.scaled_dot_product_attention and (kwargs.get("dropout_p") or args[1].shape[-2] <= _SHORT):
            return self._attention(*args, **kwargs)
        return function(*args, **kwargs)

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """Return what `torch.nn.functional.dropout` does, in other places."""
        if not training or p == 0.0:
            return x
        # One factor for what is kept and for how much it grows: rounded first, so that the mean stays what it was.
        factor = torch.tensor(1.0 / (1.0 - p), dtype=x.dtype).item()
        kept = torch.empty_like(x, requires_grad=False).bernoulli_(1.0 / factor, generator=self.generator)
        return x * kept.mul_(factor)

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
