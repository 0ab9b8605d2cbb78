"""Which weights are trained, and which of them decay."""

from __future__ import annotations

from typing import Any

import torch

from textsiam.models.twin import Twin
from textsiam.training.batches import Batch
from textsiam.training.objective import Objective


def parameter_groups(twin: Twin, objective: Objective, weight_decay: float) -> list[dict[str, Any]]:
    """Return the parameters to train: matrices with weight decay, biases and norms without."""
    trained = [p for module in (twin, objective) for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def freeze_unused(twin: Twin, batch: Batch) -> None:
    """Freeze parameters that the embeddings do not depend on (a pooler, say): distributed training stalls on them."""
    device = next(twin.parameters()).device
    batch = batch.to(device)
    u, v = twin(batch.left, batch.right)
    parameters = [p for p in twin.parameters() if p.requires_grad]
    used = torch.autograd.grad(u.sum() + v.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, used, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)
