"""Few-shot episodes: name an image (or a text) among classes of which one or a few examples are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from textsiam.decision.intervals import Estimate, Units, interval

if TYPE_CHECKING:
    from textsiam.models.scorer import Scorer

_CELLS = 4_000_000  # numbers compared at once, which bounds the memory
_RESAMPLES = 1000

Similarity = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Scores row i of `u` against row i of `v`, both (n, dim); (n,), larger is closer."""


class ClassedInputs(Protocol):
    """What is needed of labelled images here; any inputs of a twin will do."""

    @property
    def names(self) -> Sequence[str]:
        """The m inputs."""
        ...

    @property
    def classes(self) -> np.ndarray:
        """The class (m,) of each."""
        ...


def few_shot(
    vectors: np.ndarray,
    classes: ArrayLike,
    *,
    way: int = 20,
    shot: int = 1,
    queries: int = 1,
    episodes: int = 1000,
    seed: int = 0,
    similarity: Similarity | None = None,
    shots: np.ndarray | None = None,
) -> Estimate:
    """Return the accuracy of n-way k-shot episodes, with its 95 % interval over classes.

    An episode draws `way` classes, and of each class `shot` examples and `queries` others, all different. The
    shots of a class are averaged into its prototype, p_c = Σ v / ‖Σ v‖, and a query belongs to the class of the
    most similar prototype. Where several are equally similar, a query counts as 1 / their number, what a draw
    among them would give on average: so a twin that gives one vector to everything has the accuracy 1 / way.

    The interval is a percentile bootstrap that draws classes, each with all its queries: it tells what other classes
    would give. Where there are fewer than ten classes, a note stands in its place.

    Lake et al., "Human-level concept learning through probabilistic program induction", 2015; Vinyals et al.,
    "Matching Networks for One Shot Learning", 2016; prototypes: Snell et al., "Prototypical Networks for
    Few-shot Learning", 2017.

    Args:
        vectors: (m, dim), of length 1.
        classes: (m,) whole numbers.
        way: classes of an episode.
        shot: examples shown of each.
        queries: examples asked of each.
        episodes: how many.
        seed: of the episodes: equal classes, sizes and seed give equal episodes.
        similarity: what queries and prototypes are compared by; None takes the cosine.
        shots: (m, dim) vectors of the examples that are shown, where those are encoded otherwise.

    Raises:
        ValueError: if the shapes do not fit, a size is below 1, there are fewer classes than `way`, or a class
            has fewer than `shot + queries` examples.

    Example:
        >>> few_shot(np.eye(3)[[0, 0, 1, 1, 2, 2]], [0, 0, 1, 1, 2, 2], way=3, episodes=10).value
        1.0
    """
    asked, shown = np.asarray(vectors), np.asarray(vectors if shots is None else shots)
    if asked.ndim != 2 or shown.shape != asked.shape:
        raise ValueError(f"vectors must be (m, dim), got shapes {asked.shape} and {shown.shape}")
    drawn = _draw(classes, len(asked), way=way, shot=shot, queries=queries, episodes=episodes, seed=seed)

    def prototypes(rows: NDArray[np.int64]) -> np.ndarray:
        total = shown[rows].sum(axis=2, keepdims=True)
        length = np.linalg.norm(total, axis=-1, keepdims=True)
        return total / np.where(length > 0.0, length, 1.0)

    return _accuracy(drawn, shot, lambda rows: asked[rows], prototypes, similarity or _cosine, classes, seed)


def evaluate_few_shot(
    twin: Scorer,
    images: ClassedInputs,
    *,
    way: int = 20,
    shot: int = 1,
    queries: int = 1,
    episodes: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Encode the images once and return the accuracy of the twin in n-way k-shot episodes; see `few_shot`.

    Pairs are scored as the twin scores vectors, so by its head where there is one. The two towers of an asymmetric twin
    encode queries (left) and shots (right). A reranker is not asked.

    Args:
        twin: The twin.
        images: Images (or other inputs) with their classes, of classes that training never saw.
        way: As for `few_shot`.
        shot: As for `few_shot`.
        queries: As for `few_shot`.
        episodes: As for `few_shot`.
        seed: As for `few_shot`.

    Raises:
        ValueError: As for `few_shot`.
    """
    asked = {"way": way, "shot": shot, "queries": queries, "seed": seed}
    _draw(images.classes, len(images.names), episodes=1, **asked)  # refuse before anything is encoded
    shots = None if twin.right is None else twin.encode(images.names, side="right")
    similarity, vectors = twin.vector_similarity, twin.encode(images.names)
    return few_shot(vectors, images.classes, episodes=episodes, similarity=similarity, shots=shots, **asked)


def nearest_neighbour_baseline(
    images: ClassedInputs,
    *,
    way: int = 20,
    shot: int = 1,
    queries: int = 1,
    episodes: int = 1000,
    seed: int = 0,
    side: int = 28,
) -> Estimate:
    """Return the accuracy of the nearest neighbour in raw pixels, on the episodes that `few_shot` draws.

    Every image is resized to `side` × `side`; a query belongs to the class of the shot with the smallest Euclidean
    distance between pixels. Lake et al. and Vinyals et al. print this baseline too ("pixels").

    Args:
        images: Images with their classes.
        way: As for `few_shot`.
        shot: As for `few_shot`.
        queries: As for `few_shot`.
        episodes: As for `few_shot`.
        seed: As for `few_shot`.
        side: Width and height in pixels.

    Raises:
        ValueError: As for `few_shot`, or a side below 1.
        DataError: An image cannot be opened.
    """
    if side < 1:
        raise ValueError(f"side must be at least 1 pixel, got {side}")
    drawn = _draw(images.classes, len(images.names), way=way, shot=shot, queries=queries, episodes=episodes, seed=seed)
    used, rows = np.unique(drawn, return_inverse=True)
    pixels = np.stack([_pixels(name, side) for name in (images.names[int(i)] for i in used)])
    return _accuracy(
        rows.reshape(drawn.shape), shot, lambda r: pixels[r], lambda r: pixels[r], lambda u, v: -((u - v) ** 2).sum(1),
        np.asarray(images.classes)[used], seed,
    )  # fmt: skip


def _draw(
    classes: ArrayLike, count: int, *, way: int, shot: int, queries: int, episodes: int, seed: int
) -> NDArray[np.int64]:
    """Return the examples (episodes, way, shot + queries) of every episode: the shots, then the queries."""
    for name, value in (("way", way), ("shot", shot), ("queries", queries), ("episodes", episodes)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    labels = np.asarray(classes)
    if labels.shape != (count,):
        raise ValueError(f"expected one class for each of {count} vectors, got shape {labels.shape}")
    names, sizes = np.unique(labels, return_counts=True)
    each = shot + queries
    if names.size < way:
        raise ValueError(f"{way}-way episodes need at least {way} classes, got {names.size}")
    if (small := np.flatnonzero(sizes < each)).size:
        raise ValueError(
            f"{shot}-shot episodes with {queries} queries need {each} examples of each class, but class "
            f"{names[small[0]]} has {sizes[small[0]]}; {small.size} of {names.size} classes have too few"
        )
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    rng = np.random.default_rng(seed)
    drawn = np.empty((episodes, way, each), np.int64)
    for episode in drawn:
        for row, c in enumerate(rng.choice(names.size, way, replace=False)):
            episode[row] = rng.choice(members[c], each, replace=False)
    return drawn


def _accuracy(
    drawn: NDArray[np.int64],
    shot: int,
    asked: Callable[[NDArray[np.int64]], np.ndarray],
    shown: Callable[[NDArray[np.int64]], np.ndarray],
    similarity: Similarity,
    classes: ArrayLike,
    seed: int,
) -> Estimate:
    """Return the mean accuracy of the episodes, whose examples are of these classes.

    `asked` gives the vectors (…, dim) of rows (…,), `shown` those of a class (e, way, s, dim) of its shots
    (e, way, shot): of the s vectors of a class the most similar one counts.
    """
    episodes, way, each = drawn.shape
    queries = each - shot
    dim = asked(drawn[:1, :1, :1]).shape[-1]
    at_once = max(1, _CELLS // (way * queries * way * shot * dim))
    shares = np.empty((episodes, way))
    for start in range(0, episodes, at_once):
        part = drawn[start : start + at_once]
        u, v = asked(part[:, :, shot:]), shown(part[:, :, :shot])
        n, kept = len(part), v.shape[2]
        shape = (n, way * queries, way * kept, dim)
        left = np.broadcast_to(u.reshape(n, -1, 1, dim), shape).reshape(-1, dim)
        right = np.broadcast_to(v.reshape(n, 1, -1, dim), shape).reshape(-1, dim)
        scores = np.asarray(similarity(left, right)).reshape(n, way * queries, way, kept).max(axis=3)
        own = np.take_along_axis(scores, np.repeat(np.arange(way), queries)[None, :, None], axis=2)
        best = scores.max(axis=2, keepdims=True)
        right_share = np.where(own == best, 1.0 / (scores == best).sum(axis=2, keepdims=True), 0.0)
        shares[start : start + n] = right_share.reshape(n, way, queries).mean(axis=2)
    asked_of = np.unique(np.asarray(classes)[drawn[:, :, 0]], return_inverse=True)[1].ravel()
    count, right = np.bincount(asked_of), np.bincount(asked_of, shares.ravel())
    units = Units.alone(count.size, noun="classes")
    samples = np.concatenate([weights @ right / (weights @ count) for weights in units.weights(_RESAMPLES, seed)])
    return interval(float(shares.mean()), samples, note=units.too_few(count > 0))


def _cosine(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", u, v)


def _pixels(name: str, side: int) -> NDArray[np.float32]:
    from textsiam.images.names import open_picture  # only this baseline looks at pixels

    picture = open_picture(name).convert("RGB").resize((side, side))
    return np.asarray(picture, dtype=np.float32).ravel() / 255.0
