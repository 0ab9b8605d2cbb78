"""Gradient-cached batches: the gradient of a large batch in the memory of one of its chunks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn

from textsiam.training.batches.collation import Batch, Features
from textsiam.training.batches.crew import encoded_by_threads
from textsiam.training.batches.fused_layers import FusedLayers

_TOGETHER = 1 << 22  # numbers that processes exchange at once
_TABLE = 8192  # rows; a weight of more is a table of embeddings, of which a batch looks few up
Piece = tuple[list[Features], list[Features] | None]
"""What the twin encodes in one call: left chunks and right chunks."""


@contextmanager
def encoded(
    accelerator: Accelerator, model: nn.Module, batch: Batch, *, cached: bool, threads: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the left and the right embeddings of a batch; the block back-propagates the loss over them.

    Without the cache, the activations of all chunks live until then. With it (Gao et al. 2021, "Scaling Deep
    Contrastive Learning Batch Size under Memory Limited Setup"), chunks are encoded without a graph, the block finds
    the gradient with respect to the embeddings, and then each chunk is encoded again, with the same dropout, and
    differentiated on its own. The gradients of the weights are those of the whole batch up to rounding, for one more
    forward pass. (A module that notes its calls, as batch norm does, notes them twice.)

    Args:
        accelerator: Knows the number format, and how processes share gradients.
        model: The prepared twin.
        batch: What to encode.
        cached: Whether to encode twice and save memory.
        threads: How many share the chunks of a shared tower (see `crew`); 0: torch has the cores.
    """
    if threads:
        whole = accelerator.unwrap_model(model)  # how processes share its gradients is ours to say

        def encode(chunks: list[Features]) -> Tensor:
            return _embed(accelerator, whole, (chunks, None))[0]

        weights = [weight for weight in whole.parameters() if weight.requires_grad]
        half = accelerator.mixed_precision == "bf16"
        fused = FusedLayers(whole.left[0], torch.bfloat16 if half else torch.float32, threads)
        with encoded_by_threads(encode, weights, batch.left, threads, fused, cached=cached) as embeddings:
            yield embeddings, embeddings
        if accelerator.num_processes > 1 and accelerator.sync_gradients:
            _average(accelerator, [weight.grad for weight in weights if weight.grad is not None])
        return
    if not cached:
        yield _embed(accelerator, model, (batch.left, batch.right))
        return
    pieces, device = _pieces(batch), batch.labels.device
    states, parts = [], []
    for piece in pieces:
        states.append(_random_state(device))
        with torch.no_grad():
            parts.append(_embed(accelerator, model, piece))
    left = torch.cat([u for u, _ in parts]).requires_grad_()
    right = left if batch.right is None else torch.cat([v for _, v in parts]).requires_grad_()
    yield left, right
    after = _random_state(device)
    gradients = [_cut(left, [u for u, _ in parts])]
    if batch.right is not None:
        gradients.append(_cut(right, [v for _, v in parts]))
    # The piece that reaches all weights comes last.
    order = sorted(range(len(pieces)), key=lambda i: all(side is None or side for side in pieces[i]))
    for i in order:
        _restore(device, states[i])
        # The processes exchange gradients with the last piece, once a step as without the cache.
        with nullcontext() if i == order[-1] else accelerator.no_sync(model):
            outputs = _embed(accelerator, model, pieces[i])
            # Not `accelerator.backward`: these gradients are scaled and averaged over accumulated batches already.
            sides = [(o, g[i]) for o, g in zip(outputs, gradients, strict=False) if len(o)]
            torch.autograd.backward([o for o, _ in sides], [g for _, g in sides])
            del outputs, sides
    _restore(device, after)


def _average(accelerator: Accelerator, gradients: list[Tensor]) -> None:
    """Give all processes the mean of their gradients; of a table of embeddings, exchange what some process looked up.

    Many go in one exchange, since each has the processes wait for each other; `accelerator.reduce` would copy more.
    """
    rows = [_looked_up(each) if each.dim() > 1 and len(each) > _TABLE else ... for each in gradients]
    ends = np.cumsum([gradient[used].numel() for gradient, used in zip(gradients, rows, strict=True)])
    groups = (ends - 1) // _TOGETHER
    for group in np.unique(groups):
        some = [(gradients[i], rows[i]) for i in np.flatnonzero(groups == group)]
        parts = [gradient[used].flatten() for gradient, used in some]
        together = torch.cat(parts).div_(accelerator.num_processes)
        distributed.all_reduce(together)
        for (gradient, used), mean in zip(some, together.split([len(part) for part in parts]), strict=True):
            gradient[used] = mean.view_as(gradient[used])


def _looked_up(gradient: Tensor) -> Tensor:
    """Return the rows of a table that any process has a gradient of."""
    used = gradient.flatten(1).any(dim=1).to(torch.uint8)
    distributed.all_reduce(used, distributed.ReduceOp.MAX)
    return used.nonzero()[:, 0]


def _embed(accelerator: Accelerator, model: nn.Module, piece: Piece) -> tuple[Tensor, Tensor]:
    # One context for each call: weights that are cast without a graph must not be found again by a call with one.
    with accelerator.autocast():
        return model(*piece)


def _pieces(batch: Batch) -> list[Piece]:
    """Return the chunks one by one, in the order of `Twin.forward`, so that dropout draws as there.

    Between different towers, the last left chunk and the first right one stay together: the piece with which the
    processes exchange gradients must reach all weights.
    """
    if batch.right is None:
        return [([chunk], None) for chunk in batch.left]
    middle: Piece = (batch.left[-1:], batch.right[:1])
    return [*(([c], []) for c in batch.left[:-1]), middle, *(([], [c]) for c in batch.right[1:])]


def _cut(whole: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """Return the gradient of each part; zeros where the loss does not depend on them."""
    gradient = torch.zeros_like(whole) if whole.grad is None else whole.grad
    return list(gradient.split([len(part) for part in parts]))


def _random_state(device: torch.device) -> list[Tensor]:
    """Return the state of the random numbers of the CPU, and of the device if it has its own."""
    own = [] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state()]
    return [torch.get_rng_state(), *own]


def _restore(device: torch.device, state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    for own in state[1:]:
        torch.get_device_module(device).set_rng_state(own)
