"""Which weights are trained, which of them decay, and by which optimizer."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from textsiam.inference.encoders import ModelError
from textsiam.models.twin import Twin
from textsiam.training.batches.collation import Batch
from textsiam.training.settings import Settings


def make_optimizer(twin: Twin, objective: torch.nn.Module, settings: Settings) -> torch.optim.AdamW:
    """Return AdamW over the weights to train: matrices with weight decay, biases and norms without."""
    trained = [p for module in (twin, objective) for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in twin.parameters())
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)


def make_schedule(optimizer: torch.optim.Optimizer, settings: Settings, total_steps: int) -> LRScheduler:
    """Return how the learning rate rises and falls."""
    warmup = round(settings.warmup * total_steps)
    return get_scheduler(settings.schedule, optimizer, num_warmup_steps=warmup, num_training_steps=total_steps)


def require_trainable(twin: Twin) -> None:
    """Refuse a twin that training cannot change.

    Raises:
        ModelError: It has no weights, or all of them are frozen.
    """
    if not any(p.requires_grad for p in twin.parameters()):
        kinds = ", ".join(type(module).__name__ for module in twin.left)
        raise ModelError(f"the model ({kinds}) has no weights that training could change: it scores as it is")


def freeze_unused(twin: Twin, batch: Batch) -> None:
    """Freeze parameters that the embeddings do not depend on (a pooler, say): distributed training stalls on them.

    Raises:
        ModelError: There are no others.
    """
    require_trainable(twin)
    device = next(twin.parameters()).device
    batch = batch.to(device)
    u, v = twin(batch.left, batch.right)
    parameters = [p for p in twin.parameters() if p.requires_grad]
    used = torch.autograd.grad(u.sum() + v.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, used, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)
