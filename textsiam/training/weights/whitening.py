"""Centring and whitening of vectors by what inputs of one class differ in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from textsiam.data.clusters import cluster_ids
from textsiam.inference.encoders import ModelError

if TYPE_CHECKING:
    from textsiam.data.pairs import Pairs
    from textsiam.models.twin import Twin

_MOST = 20_000  # inputs that a covariance is estimated from


def whiten(twin: Twin, pairs: Pairs) -> None:
    """Have a twin's vectors pass a linear map that makes what inputs of one class differ in count less.

    Within-class covariance normalisation (Hatch, Kajarekar and Stolcke 2006): with the mean m of the vectors x and the
    covariance W of their differences from the mean of their class, a vector becomes W^-½ (x − m), brought to length 1.
    W is shrunk as Ledoit and Wolf (2004) do. The map is a `Dense` module at the end of the tower: it is saved, exported
    and trained with it.

    Args:
        twin: One tower for both sides; it is changed.
        pairs: Whose clusters of duplicates are the classes. Of many inputs, whole classes are taken, 20,000 in all.

    Raises:
        ModelError: The twin has two towers or a head, or there are not two classes of two inputs that differ.
    """
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize
    from sklearn.covariance import ledoit_wolf

    places, classes = check_whitenable(twin, pairs)
    vectors = twin.encode([pairs.texts[i] for i in places]).astype(np.float64)
    _, classes, counts = np.unique(classes, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), vectors.shape[1]))
    np.add.at(means, classes, vectors)
    inside = vectors - (means / counts[:, None])[classes]
    covariance, _ = ledoit_wolf(inside, assume_centered=True)
    values, axes = np.linalg.eigh(covariance)
    if not values[0] > 0:
        raise ModelError("whitening: all inputs of a class have one and the same vector")
    scale = values**-0.5
    matrix = (axes * (scale / np.sqrt(np.mean(scale**2)))) @ axes.T  # as large as the identity
    weight, bias = (torch.from_numpy(each).float() for each in (matrix, -matrix @ vectors.mean(axis=0)))
    width, tower = vectors.shape[1], twin.left
    added = Dense(width, width, activation_function=torch.nn.Identity(), init_weight=weight, init_bias=bias)
    tower.append(added.to(tower.device))
    tower.append(Normalize())


def check_whitenable(twin: Twin, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs (n,) that whitening learns from, and the class of each.

    Raises:
        ModelError: The twin has two towers or a head, or there are not two classes of two inputs.
    """
    if twin.right is not None or twin.head is not None:
        raise ModelError("whitening takes one tower for both sides, and no head")
    clusters = cluster_ids(pairs)
    sizes = np.bincount(clusters)
    drawn = np.random.default_rng(0).permutation(np.flatnonzero(sizes > 1))
    if len(drawn) < 2:
        raise ModelError(f"{pairs.source}: whitening needs two classes of two inputs or more")
    kept = drawn[np.cumsum(sizes[drawn]) <= max(_MOST, sizes.max())]
    places = np.flatnonzero(np.isin(clusters, kept))
    return places, clusters[places]
