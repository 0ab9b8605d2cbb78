"""Whitening of vectors by what inputs of one class differ in."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np
import torch

from textsiam.data.clusters import cluster_ids
from textsiam.inference.encoders import ModelError
from textsiam.training.settings import Whitening

if TYPE_CHECKING:
    from textsiam.data.pairs import Pairs
    from textsiam.models.twin import Twin

_MOST = 20_000  # inputs that a covariance is estimated from


def whiten(twin: Twin, pairs: Pairs, by: Whitening = "angle") -> None:
    """Have a twin's vectors pass a linear map that makes what inputs of one class differ in count less.

    Within-class covariance normalisation (Hatch, Kajarekar and Stolcke 2006): with the mean m of the vectors x and the
    covariance W of their differences from the mean of their class, a vector becomes W^-½ (x − m), brought to length 1.
    W is shrunk as Ledoit and Wolf (2004) do. The map is a `Dense` module at the end of the tower: it is saved, exported
    and trained with it.

    By "distance", a constant stands beside the components before the length is taken, as large as the root mean square
    length of the vectors: the cosine is then that of vectors seen from outside. Seen from the mean, two inputs that
    are both near to it point anywhere; where most inputs are nearly alike, as pictures of ink on white are, that is
    chance. Where vectors have many dimensions and few classes were known, the angle is better: lengths are chance then.

    Args:
        twin: One tower for both sides; it is changed.
        pairs: Whose clusters of duplicates are the classes. Of many inputs, whole classes are taken, 20,000 in all.
        by: What the cosine counts in the end.

    Raises:
        ValueError: `by` is something else.
        ModelError: The twin has two towers or a head, or there are not two classes of two inputs that differ.
    """
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize
    from sklearn.covariance import ledoit_wolf

    if by not in (known := get_args(Whitening)):
        raise ValueError(f"whitening must be one of {', '.join(known)}, got {by!r}")
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
    bias = -matrix @ vectors.mean(axis=0)
    if by == "distance":
        length = np.sqrt(np.mean(np.sum((vectors @ matrix + bias) ** 2, axis=1)))
        matrix, bias = np.vstack([matrix, np.zeros(len(matrix))]), np.append(bias, length)
    weight, bias = (torch.from_numpy(each).float() for each in (matrix, bias))
    width, tower = vectors.shape[1], twin.left
    added = Dense(width, len(bias), activation_function=torch.nn.Identity(), init_weight=weight, init_bias=bias)
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
