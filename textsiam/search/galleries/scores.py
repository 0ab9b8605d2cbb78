"""Identities as vectors, and what a twin says of inputs and all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from textsiam.models.scorer import Scorer

_ROWS = 65_536  # pairs scored at once


def directions(sums: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Return sums of vectors (n, dim) as float32 of length 1."""
    stacked = np.asarray(sums)
    return (stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def scores_of(twin: Scorer, probes: np.ndarray, enrolled: np.ndarray) -> np.ndarray:
    """Return the similarities (probes, enrolled) of vectors (probes, dim) and (enrolled, dim), all float32."""
    scores = np.empty((len(probes), len(enrolled)), np.float32)
    block = max(1, _ROWS // len(enrolled))
    for start in range(0, len(probes), block):
        part = probes[start : start + block]
        if twin.head is None:
            apart = twin.distance.all_pairs(torch.from_numpy(part), torch.from_numpy(enrolled))
            scores[start : start + block] = twin.distance.similarity(apart).numpy()
        else:  # it is asked about all of them
            u, v = np.repeat(part, len(enrolled), axis=0), np.tile(enrolled, (len(part), 1))
            scores[start : start + block] = twin.vector_similarity(u, v).reshape(len(part), -1)
    return scores
