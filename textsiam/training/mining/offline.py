"""Mining negatives over a whole corpus: easy, semi-hard, hard or random ones, never of the anchor's own cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.inference.batching import Progress
from textsiam.inference.encoders import ModelError
from textsiam.models.distances import Distance
from textsiam.models.scorer import Scorer
from textsiam.training.mining.candidates import Candidates
from textsiam.training.mining.triplets import Triplets, check_apart
from textsiam.training.settings import Mining

Check = Callable[[Sequence[str], Sequence[str]], np.ndarray]
"""Called as `check(left_texts, right_texts)`; returns the probability that each pair is a duplicate, `(n,)`."""

_CHECK = "called a duplicate by the check"


def mine(
    twin: Scorer,
    pairs: Pairs,
    mining: Mining | None = None,
    *,
    known: Sequence[Pairs] = (),
    check: Check | None = None,
    seed: int | Sequence[int] = 0,
    progress: Progress | None = None,
) -> Triplets:
    """Mine negatives for every pair of duplicates, among all texts of the pairs.

    An asymmetric twin looks among right texts only. Memory: the vectors, 4 bytes a number, and a few blocks of
    distances; see `mine_vectors`.

    Args:
        twin: Encodes the texts; its distance is used.
        pairs: Labelled pairs.
        mining: Which negatives; None takes the defaults.
        known: More pairs whose duplicates join clusters: of other splits, say.
        check: Asked about candidates before they are taken; see `cross_encoder_check`.
        seed: Fixes whatever is drawn.
        progress: Called as `progress(done, total)`: in texts while they are encoded, then in pairs.

    Raises:
        ValueError: No pair of duplicates, or all texts are of one cluster.

    Example:
        >>> triplets = mine(twin, pairs, Mining(category="hard"))  # doctest: +SKIP
        >>> triplets.write("triplets.tsv")  # doctest: +SKIP
    """
    if twin.right is None:
        left = right = twin.encode(pairs.texts, progress=progress)
    else:
        left, right = (_side_vectors(twin, pairs, side, progress) for side in ("left", "right"))
    return mine_vectors(
        twin.distance,
        pairs,
        left,
        right,
        mining,
        candidates=None if twin.right is None else np.unique(pairs.right),
        clusters=cluster_ids(Pairs.concat([pairs, *known]))[: len(pairs.texts)] if known else None,
        check=check,
        seed=seed,
        progress=progress,
        device=twin.device,
    )


def _side_vectors(twin: Scorer, pairs: Pairs, side: Literal["left", "right"], progress: Progress | None) -> np.ndarray:
    """Return the vectors of the texts that stand on a side, zeros for all others, `(m, dim)` float32."""
    used = np.unique(getattr(pairs, side))
    vectors = np.zeros((len(pairs.texts), twin.dim), np.float32)
    vectors[used] = twin.encode([pairs.texts[i] for i in used], side=side, progress=progress)
    return vectors


def mine_vectors(
    distance: Distance,
    pairs: Pairs,
    left: np.ndarray,
    right: np.ndarray,
    mining: Mining | None = None,
    *,
    candidates: np.ndarray | None = None,
    clusters: np.ndarray | None = None,
    check: Check | None = None,
    seed: int | Sequence[int] = 0,
    progress: Progress | None = None,
    block: int = 4096,
    device: torch.device | str = "cpu",
) -> Triplets:
    """Mine negatives among texts that are encoded already.

    The search is exact: every anchor is compared with every candidate, a block of anchors with a block of candidates
    at a time, so that memory grows with `block²` and never with the square of the texts. Distances depend on the block
    by rounding only.

    Args:
        distance: What is near.
        pairs: Labelled pairs over m texts.
        left: Vectors of the texts as left ones, `(m, dim)` float32.
        right: Vectors of the texts as right ones; the same array where the sides share a tower.
        mining: Which negatives; None takes the defaults.
        candidates: Indices of the texts that may be negatives, ascending; None takes all.
        clusters: Cluster of each text, `(m,)`; None takes those that `pairs` form.
        check: As for `mine`.
        seed: As for `mine`.
        progress: Called as `progress(done, total)`, in pairs.
        block: Anchors, and candidates, compared at once.
        device: Where they are compared.

    Raises:
        ValueError: No pair of duplicates, or all candidates are of one cluster.
    """
    mining = mining or Mining()
    clusters = cluster_ids(pairs) if clusters is None else clusters
    rows = np.flatnonzero((pairs.labels == 1) & (pairs.left != pairs.right))
    if len(rows) == 0:
        raise ValueError(f"{pairs.source}: no pair of duplicates to mine negatives for")
    check_apart(pairs, clusters)
    found = Candidates(
        mining, distance, pairs, left, right, texts=candidates, clusters=clusters, rng=np.random.default_rng(seed),
        block=block, device=device,
    )  # fmt: skip
    parts: list[tuple[np.ndarray, ...]] = []
    for first in range(0, len(rows), block):
        part = rows[first : first + block]
        texts, distances, positive = found.window(part, spare=check is not None)
        fits = np.isfinite(distances)
        if check is not None:
            passed = _ask(check, mining, pairs, pairs.left[part], texts, fits)
            found.dropped[_CHECK] += int((fits & ~passed).sum())
            fits = passed
        at, column = (fits & (fits.cumsum(1) <= mining.negatives)).nonzero()
        parts.append((part[at], texts[at, column], positive[at], distances[at, column]))
        if progress is not None:
            progress(first + len(part), len(rows))
    row, negative, positive, distances = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Triplets(pairs, row, negative, positive, distances, searched=len(rows), dropped=dict(found.dropped))


def cross_encoder_check(name: str, *, device: str | None = None) -> Check:
    """Return a check that asks a `CrossEncoder` of sentence-transformers.

    Args:
        name: Folder or Hub id of a model with one output (a logit), or two (not a duplicate, duplicate).
        device: Where it runs; None lets torch choose.

    Raises:
        ModelError: It cannot be opened, or has other outputs.
    """
    from sentence_transformers import CrossEncoder

    try:
        encoder = CrossEncoder(name, device=device)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{name}: cannot be opened as a cross-encoder: {reason}") from error
    if encoder.num_labels not in (1, 2):
        raise ModelError(
            f"{name}: a check needs a cross-encoder with 1 or 2 outputs, this one has {encoder.num_labels}"
        )

    def check(left: Sequence[str], right: Sequence[str]) -> np.ndarray:
        both = list(zip(left, right, strict=True))
        logits = encoder.predict(
            both, activation_fn=torch.nn.Identity(), convert_to_tensor=True, show_progress_bar=False
        )
        logits = logits.double().reshape(len(both), -1)  # pyright: ignore[reportAttributeAccessIssue]
        return (logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1))[:, -1].cpu().numpy()

    return check


def _ask(
    check: Check, mining: Mining, pairs: Pairs, anchors: np.ndarray, texts: np.ndarray, fits: np.ndarray
) -> np.ndarray:
    """Return what still fits, `(r, w)`, when the check has passed the first negatives of each row that it needs."""
    fits, asked = fits.copy(), np.zeros_like(fits)
    while True:
        row, column = (fits & ~asked & (fits.cumsum(1) <= mining.negatives)).nonzero()
        if len(row) == 0:
            return fits
        left, right = ([pairs.texts[i] for i in ends] for ends in (anchors[row], texts[row, column]))
        fits[row, column] = np.asarray(check(left, right)) <= mining.check_above
        asked[row, column] = True
