"""Training a learned metric alone, on fixed embeddings; jointly with the twin, `losses_classifier.HeadLoss` does it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import average_precision_score

from textsiam.data.pairs import Pairs
from textsiam.models.learned import Head
from textsiam.models.twin import Twin
from textsiam.training.losses.classifier import head_loss


@dataclass(frozen=True)
class PairVectors:
    """Embedded pairs.

    Attributes:
        u: Of the left texts, `(n, dim)` float32.
        v: Of the right texts, `(n, dim)` float32.
        labels: 1 = duplicate, 0 = not, `(n,)`.
    """

    u: np.ndarray
    v: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, twin: Twin, pairs: Pairs) -> PairVectors:
        """Encode pairs."""
        return cls(*twin.pair_vectors(pairs.texts, pairs.left, pairs.right), pairs.labels)


def fit_head(
    head: Head,
    pairs: PairVectors,
    *,
    validation: PairVectors,
    epochs: int = 20,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    patience: int = 5,
    seed: int = 0,
) -> float:
    """Train a head on fixed embeddings; it ends with the weights of the best validation.

    Fit it on pairs that the towers were not trained on: on the others the embeddings are nearly right already, and
    little is left to learn. Then give it to the twin, and calibrate: `twin.head = head; twin.calibrate(pairs)`.

    Args:
        head: Trained in place.
        pairs: What it learns from.
        validation: Pairs that share no question with them.
        epochs: Passes over the pairs at most.
        batch_size: Pairs of a step.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        patience: Passes without a better average precision until it stops.
        seed: Fixes the order and the dropout.

    Returns:
        The best average precision on the validation pairs; that of the head as it came, if training found none better.
    """
    u, v, labels = map(torch.from_numpy, (pairs.u, pairs.v, pairs.labels.astype(np.int64)))
    seen_u, seen_v = torch.from_numpy(validation.u), torch.from_numpy(validation.v)
    head.cpu()
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=weight_decay)

    def measured() -> float:
        with torch.no_grad():
            scores = head.eval()(seen_u, seen_v)
        return float(average_precision_score(validation.labels, scores.numpy()))

    best, weights, stale = measured(), copy.deepcopy(head.state_dict()), 0
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for _ in range(epochs):
            head.train()
            for rows in torch.randperm(len(labels)).split(batch_size):
                optimizer.zero_grad()
                head_loss(head, u[rows], v[rows], labels[rows]).backward()
                optimizer.step()
            now = measured()
            stale = 0 if now > best else stale + 1
            if now > best:
                best, weights = now, copy.deepcopy(head.state_dict())
            if stale >= patience:
                break
    head.load_state_dict(weights)
    return best
