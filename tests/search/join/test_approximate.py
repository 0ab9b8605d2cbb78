from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from textsiam.models.twin import Twin
from textsiam.search.duplicates import find_duplicates
from textsiam.search.join.approximate import (
    Sharding,
    find_centres,
    first_shared,
    measured_recall,
    members_of,
    most_pairs,
    nearest_centres,
)
from textsiam.search.join.exact import FoundPairs, pairs_above


def groups(n: int, dim: int = 16, *, spread: float = 0.35, seed: int = 0) -> np.ndarray:
    """Vectors in groups of five around centres that are themselves in a few regions."""
    rng = np.random.default_rng(seed)
    regions = rng.normal(size=(6, dim)).repeat(-(-n // 30), 0)
    centres = (regions + 0.8 * rng.normal(size=regions.shape)).repeat(5, 0)[:n]
    vectors = centres + spread * rng.normal(size=(n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def rows(found: FoundPairs) -> set[tuple[int, int, float]]:
    return set(zip(*(column.tolist() for column in found), strict=True))


@pytest.mark.parametrize("assignments", [1, 2, 3])
def test_most_pairs_are_exact_pairs_each_once_and_the_recall_is_what_is_missing(
    tower: SentenceTransformer, assignments: int
) -> None:
    twin, vectors = Twin(tower), groups(600)
    exact = pairs_above(twin, vectors, 0.8)
    sharding = Sharding(shards=12, assignments=assignments, sample=600)  # all of them: the recall is no estimate
    most = most_pairs(twin, vectors, 0.8, sharding=sharding)
    assert rows(most.pairs) <= rows(exact)
    assert len(rows(most.pairs)) == len(most.pairs.left)  # none twice
    assert most.recall is not None
    assert most.recall.value == pytest.approx(len(most.pairs.left) / len(exact.left))
    assert most.recall.low < most.recall.value <= most.recall.high
    assert (np.diff(most.pairs.left * 600 + most.pairs.right) > 0).all()


def test_more_assignments_find_more_and_one_shard_finds_all(tower: SentenceTransformer) -> None:
    twin, vectors = Twin(tower), groups(600, spread=0.6)
    exact = pairs_above(twin, vectors, 0.7)
    found = [
        len(most_pairs(twin, vectors, 0.7, sharding=Sharding(shards=20, assignments=a, sample=0)).pairs.left)
        for a in (1, 2, 4, 20)
    ]
    assert found == sorted(found)
    assert found[0] < found[1] <= found[3] == len(exact.left)
    one = most_pairs(twin, vectors, 0.7, sharding=Sharding(shards=1, sample=10))
    assert rows(one.pairs) == rows(exact)
    assert one.recall is not None
    assert one.recall.value == 1


def test_the_same_seed_finds_the_same(tower: SentenceTransformer) -> None:
    twin, vectors = Twin(tower), groups(300, spread=0.6)
    first, again, other = (
        most_pairs(twin, vectors, 0.7, sharding=Sharding(shards=30, assignments=1, sample=50, seed=seed))
        for seed in (0, 0, 1)
    )
    assert rows(first.pairs) == rows(again.pairs) != rows(other.pairs)
    assert first.recall == again.recall


def test_a_sample_estimates_the_recall_within_its_interval(tower: SentenceTransformer) -> None:
    twin, vectors = Twin(tower), groups(900, spread=0.5)
    points, exact = torch.from_numpy(vectors), pairs_above(twin, vectors, 0.75)
    kept = np.random.default_rng(0).random(len(exact.left)) < 0.8
    half = FoundPairs(*(column[kept] for column in exact))
    truth = kept.mean()
    rates = [measured_recall(twin, points, half, 0.75, sample=150, seed=seed) for seed in range(40)]
    inside = [rate is not None and rate.low <= truth <= rate.high for rate in rates]
    assert sum(inside) >= 34
    assert any(rate is not None and rate.high < 1 for rate in rates)


def test_recall_of_chunks_and_without_any_pair(tower: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    twin, vectors = Twin(tower), groups(200)
    points, exact = torch.from_numpy(vectors), pairs_above(twin, vectors, 0.8)
    some = FoundPairs(*(column[::2] for column in exact))
    whole = measured_recall(twin, points, some, 0.8, sample=50)
    monkeypatch.setattr("textsiam.search.join.approximate._OTHERS", 17)
    assert measured_recall(twin, points, some, 0.8, sample=50) == whole
    nothing = measured_recall(twin, points, FoundPairs.joined([]), 1.1, sample=50)
    assert nothing is not None
    assert (nothing.value, nothing.low) == (1.0, 0.0)
    assert measured_recall(twin, points, some, 0.8, sample=0) is None


def test_shards_of_vectors_against_a_loop() -> None:
    points = torch.from_numpy(groups(100))
    centres = find_centres(points, 7, seed=0)
    assert centres.shape == (7, 16)
    nearest = nearest_centres(points, centres, 3)
    products = points.double().numpy() @ centres.double().numpy().T
    assert nearest.tolist() == np.sort(np.argsort(-products, axis=1)[:, :3], axis=1).tolist()
    for shard, members in members_of(nearest):
        assert members.tolist() == [i for i in range(100) if shard in nearest[i]]
    left, right = np.triu_indices(100, 1)
    shared = [min(set(nearest[a]) & set(nearest[b]), default=-1) for a, b in zip(left, right, strict=True)]
    assert first_shared(nearest, left, right).tolist() == shared


def test_centres_are_nearer_than_those_picked_at_random() -> None:
    points = torch.from_numpy(groups(600))
    centres = find_centres(points, 10, seed=0)
    picked = points[torch.randperm(600, generator=torch.Generator().manual_seed(0))[:10]]
    assert (points @ centres.T).amax(1).mean() > (points @ picked.T).amax(1).mean() + 0.05


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_vectors(tower: SentenceTransformer, n: int) -> None:
    vectors = np.ones((n, 4), np.float32) / 2
    most = most_pairs(Twin(tower), vectors, 0.9)
    assert len(most.pairs.left) == n * (n - 1) // 2


def test_duplicates_of_shards_with_their_recall(twin: Twin, sentences: list[str]) -> None:
    texts = [*sentences, sentences[3]]
    seen = []
    found = find_duplicates(
        twin,
        texts,
        threshold=0.5,
        sharding=Sharding(shards=4, sample=20),
        joining=lambda done, total: seen.append((done, total)),
    )
    exact = find_duplicates(twin, texts, threshold=0.5)
    assert exact.recall is None
    assert found.recall is not None
    assert 0 < len(found) <= len(exact)
    assert (3, 48) in set(zip(found.left.tolist(), found.right.tolist(), strict=True))
    assert seen[-1][0] == seen[-1][1] > 0


@pytest.mark.parametrize(("name", "value", "least"), [("shards", 0, 1), ("assignments", 0, 1), ("sample", -1, 0)])
def test_numbers_out_of_range(name: str, value: int, least: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be >= {least}, got {value}"):
        Sharding(**{name: value})
