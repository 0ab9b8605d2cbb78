"""What comes out of a tower before its last module: vectors of tokens, and vectors whose length is not 1 yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from textsiam.inference.encoders import prepare
from textsiam.inference.fast.fast_tower import to_device
from textsiam.inference.tokens import chunk_by_tokens

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_BUDGET = 1024  # tokens of a batch


def raw_vectors(tower: SentenceTransformer, inputs: Sequence[str]) -> np.ndarray:
    """Encode inputs without scaling their vectors to length 1, in the tower's own number format.

    Args:
        tower: A tower of a transformer and modules behind it.
        inputs: n inputs, as strings that stand for them.

    Returns:
        Vectors `(n, dim)` float32.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize

    vectors = np.zeros((len(inputs), tower.get_embedding_dimension() or 0), np.float32)
    for rows, features in _passed(tower, inputs, Normalize):
        vectors[rows] = features["sentence_embedding"].float().cpu().numpy()
    return vectors


def token_vectors(tower: SentenceTransformer, inputs: Sequence[str]) -> np.ndarray:
    """Return the vectors of all tokens, special ones included, before they are pooled.

    Args:
        tower: A text tower.
        inputs: n texts.

    Returns:
        An array of n arrays, each `(tokens, width)` float32.
    """
    from sentence_transformers.sentence_transformer.modules import Pooling

    vectors = np.empty(len(inputs), object)
    for rows, features in _passed(tower, inputs, Pooling):
        found = features["token_embeddings"].float().cpu().numpy()
        kept = features["attention_mask"].bool().cpu().numpy()
        for row, one, mask in zip(rows.tolist(), found, kept, strict=True):
            vectors[row] = one[mask]
    return vectors


def _passed(
    tower: SentenceTransformer, inputs: Sequence[str], until: type[torch.nn.Module]
) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
    """Yield the rows of each batch, and what the modules before one of a kind make of it."""
    prepared = prepare(tower, inputs)
    for rows in chunk_by_tokens(prepared.lengths, _BUDGET):
        with torch.inference_mode():
            features = {k: to_device(v, tower.device) for k, v in prepared.collate(rows).items()}
            for module in tower:
                if isinstance(module, until):
                    break
                features = module(features)
        yield rows, features
