"""How high a twin ranks the questions that a link connects, among all of a collection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from textsiam.data.pairs import Pairs
from textsiam.decision.intervals import FEWEST, Estimate, interval
from textsiam.models.scorer import Scorer

_BLOCK = 1024


def reciprocal_ranks(twin: Scorer, documents: Sequence[str], links: Pairs) -> np.ndarray:
    """Return, for each linked text, 1 / the rank of the nearest text that it is linked to.

    It is ranked among all documents but the text itself, and those that it is linked to as well; what is as near stands
    before it, so that a collapsed twin earns nothing.

    Args:
        twin: Encodes the texts; its distance ranks them.
        documents: m distinct texts, those of `links` among them.
        links: Pairs labelled 1, of either direction.

    Returns:
        `(q,)`, in the order of the texts that `links` uses.
    """
    place = {text: k for k, text in enumerate(documents)}
    at = np.array([place[text] for text in links.texts])
    partners: dict[int, set[int]] = {}
    for a, b in zip(at[links.left].tolist(), at[links.right].tolist(), strict=True):
        partners.setdefault(a, set()).add(b)
        partners.setdefault(b, set()).add(a)
    queries: list[int] = at[np.unique(np.r_[links.left, links.right])].tolist()
    vectors = torch.from_numpy(twin.encode(documents))
    found = []
    for first in range(0, len(queries), _BLOCK):
        block = queries[first : first + _BLOCK]
        for query, distance in zip(block, twin.distance.all_pairs(vectors[block], vectors), strict=True):
            linked = torch.tensor(sorted(partners[query] - {query}))
            nearest = distance[linked].min()
            distance[torch.tensor([query, *linked.tolist()])] = float("inf")
            found.append(1 / (1 + int((distance <= nearest).sum())))
    return np.array(found)


def difference(
    before: np.ndarray, after: np.ndarray, clusters: np.ndarray, *, bootstrap: int = 1000, seed: int = 0
) -> Estimate | None:
    """Return the mean of `after - before` with its 95 % interval; None where fewer than ten clusters carry it.

    Args:
        before: A figure of each query, `(q,)`.
        after: Another one.
        clusters: Cluster of each query: what is drawn again, whole.
        bootstrap: Resamples.
        seed: Of the resampling.
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    count, total = np.bincount(cluster), np.bincount(cluster, weights=after - before)
    if len(count) < FEWEST:
        return None
    drawn = np.random.default_rng(seed).multinomial(len(count), np.full(len(count), 1 / len(count)), size=bootstrap)
    return interval(float((after - before).mean()), (drawn @ total) / (drawn @ count))
