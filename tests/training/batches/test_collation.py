from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs
from textsiam.inference.scratch import scratch_text_encoder
from textsiam.models.twin import Twin
from textsiam.training.batches.collation import Batch, Features, TrainingPairs
from textsiam.training.batches.sampling import Uniform, WithMined, epoch_order


def uniform(pairs: Pairs, batch_size: int) -> Uniform:
    return Uniform(np.arange(len(pairs)), batch_size)


def decode(tower: SentenceTransformer, chunks: Sequence[Features]) -> list[str]:
    """The texts of the chunks, in the order in which the tower encodes them."""
    return [
        tower.tokenizer.decode(row[mask.bool()], skip_special_tokens=True)
        for chunk in chunks
        for row, mask in zip(chunk["input_ids"], chunk["attention_mask"], strict=True)
    ]


def spelled(tower: SentenceTransformer, texts: Sequence[str]) -> list[str]:
    """The texts as the tokenizer spells them."""
    return [tower.tokenizer.decode(tower.tokenizer(t)["input_ids"], skip_special_tokens=True) for t in texts]


def pick(texts: Sequence[str], rows: Tensor) -> list[str]:
    return [texts[i] for i in rows.tolist()]


def same(a: Batch, b: Batch) -> bool:
    def equal(x: object, y: object) -> bool:
        if isinstance(x, Tensor):
            return torch.equal(x, y)
        if isinstance(x, list):
            return len(x) == len(y) and all(equal(p, q) for p, q in zip(x, y, strict=True))
        if isinstance(x, dict):
            return all(equal(x[k], y[k]) for k in x)
        return x is y

    return all(equal(x, vars(b)[name]) for name, x in vars(a).items())


@pytest.fixture(scope="module")
def other(sentences: list[str]) -> SentenceTransformer:
    """A tower with a vocabulary of its own."""
    return scratch_text_encoder(
        sentences, vocabulary=200, hidden=16, dim=32, max_tokens=24, seed=5, device="cpu"
    ).eval()


def test_rows_point_to_the_texts_of_their_pair(twin: Twin, pairs: Pairs) -> None:
    data = TrainingPairs(pairs, twin, uniform(pairs, 20), negatives=True)
    rows = np.array([7, 90, 3, 4, 60])
    negative = np.arange(len(pairs)) % len(pairs.texts)
    batch = data.collate(rows, negative)
    texts = decode(twin.left, batch.left)
    assert batch.right is None
    assert len(batch) == 5
    assert pick(texts, batch.left_rows) == spelled(twin.left, [pairs.left_texts[r] for r in rows])
    assert pick(texts, batch.right_rows) == spelled(twin.left, [pairs.right_texts[r] for r in rows])
    assert batch.negative_rows is not None
    assert pick(texts, batch.negative_rows) == spelled(twin.left, [pairs.texts[negative[r]] for r in rows])
    assert batch.labels.tolist() == pairs.labels[rows].tolist()
    clusters = cluster_ids(pairs)
    assert batch.left_clusters.tolist() == clusters[pairs.left[rows]].tolist()
    assert batch.right_clusters.tolist() == clusters[pairs.right[rows]].tolist()


@pytest.mark.parametrize("negatives", [False, True])
def test_each_distinct_text_of_a_batch_once(twin: Twin, pairs: Pairs, negatives: bool) -> None:
    data = TrainingPairs(pairs, twin, uniform(pairs, 48), negatives=negatives)
    for batch in data.epoch(0):
        texts = decode(twin.left, batch.left)
        assert len(set(texts)) == len(texts)
        used = [*batch.left_rows.tolist(), *batch.right_rows.tolist()]
        used += [] if batch.negative_rows is None else batch.negative_rows.tolist()
        assert set(used) == set(range(len(texts)))  # nothing is encoded for nothing
        assert len(texts) < 48 * 2  # texts do repeat in this batch


def test_embeddings_land_on_their_pairs(twin: Twin, pairs: Pairs) -> None:
    batch = next(TrainingPairs(pairs, twin, uniform(pairs, 16), token_budget=40).epoch(0))
    assert len(batch.left) > 3
    twin.eval()
    with torch.no_grad():
        u, v = twin(batch.left, batch.right)
    order = np.random.default_rng([0, 0]).permutation(96)[:16]
    found = (u[batch.left_rows] * v[batch.right_rows]).sum(1).numpy()
    expected = twin.similarity(
        [pairs.left_texts[i] for i in order], [pairs.right_texts[i] for i in order], precision="fp32"
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_chunks_keep_the_token_budget(twin: Twin, pairs: Pairs) -> None:
    for batch in TrainingPairs(pairs, twin, uniform(pairs, 24), token_budget=60).epoch(0):
        assert max(chunk["input_ids"].numel() for chunk in batch.left) <= 60


def test_asymmetric_twin_batches(fresh_tower: SentenceTransformer, other: SentenceTransformer, pairs: Pairs) -> None:
    twin = Twin(fresh_tower, copy.deepcopy(other))
    data = TrainingPairs(pairs, twin, uniform(pairs, 24), token_budget=80, negatives=True)
    rows = np.arange(0, 96, 9)
    negative = (np.arange(len(pairs)) * 7) % len(pairs.texts)
    batch = data.collate(rows, negative)
    assert batch.right is not None
    assert batch.negative_rows is not None
    left, right = decode(twin.left, batch.left), decode(other, batch.right)
    assert len(set(left)) == len(left)
    assert len(set(right)) == len(right)
    assert pick(left, batch.left_rows) == spelled(twin.left, [pairs.left_texts[r] for r in rows])
    assert pick(right, batch.right_rows) == spelled(other, [pairs.right_texts[r] for r in rows])
    assert pick(right, batch.negative_rows) == spelled(other, [pairs.texts[negative[r]] for r in rows])


# --- order ----------------------------------------------------------------------------------------


def rows_of(data: TrainingPairs, epoch: int, monkeypatch: pytest.MonkeyPatch, start: int = 0) -> list[list[int]]:
    """Which pairs each batch of an epoch is made of."""
    with monkeypatch.context() as patch:
        patch.setattr(data, "collate", lambda rows, negative, seed: rows.tolist())
        return list(data.epoch(epoch, start=start))


def test_an_epoch_has_every_pair_once(twin: Twin, pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    data = TrainingPairs(pairs, twin, uniform(pairs, 20))
    assert data.sampler.steps == 4
    batches = rows_of(data, 0, monkeypatch)
    assert [len(b) for b in batches] == [20] * 4
    seen = [row for b in batches for row in b]
    assert len(set(seen)) == 80  # 16 are left out, others in the next epoch
    assert set(seen) != {row for b in rows_of(data, 1, monkeypatch) for row in b}


def test_epochs_are_deterministic_and_differ(twin: Twin, pairs: Pairs) -> None:
    data, again = (TrainingPairs(pairs, twin, uniform(pairs, 24), seed=3, negatives=True) for _ in range(2))
    first = list(data.epoch(1))
    assert len(first) == 4
    assert all(same(a, b) for a, b in zip(first, data.epoch(1), strict=True))
    assert all(same(a, b) for a, b in zip(first, again.epoch(1), strict=True))
    assert not same(first[0], next(data.epoch(2)))
    other_seed = TrainingPairs(pairs, twin, uniform(pairs, 24), seed=4, negatives=True)
    assert not same(first[0], next(other_seed.epoch(1)))


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_resuming_gives_the_rest_of_the_epoch(twin: Twin, pairs: Pairs, start: int) -> None:
    data = TrainingPairs(pairs, twin, uniform(pairs, 24), negatives=True)
    whole = list(data.epoch(2))
    rest = list(data.epoch(2, start=start))
    assert len(rest) == 4 - start
    assert all(same(a, b) for a, b in zip(whole[start:], rest, strict=True))


@pytest.mark.parametrize("world", [2, 4])
def test_shares_of_all_processes_make_the_batch_of_one(twin: Twin, pairs: Pairs, world: int) -> None:
    alone = TrainingPairs(pairs, twin, uniform(pairs, 24), negatives=True)
    ranks = [
        TrainingPairs(pairs, twin, uniform(pairs, 24), negatives=True, rank=rank, world=world) for rank in range(world)
    ]
    for whole, *shares in zip(alone.epoch(0), *(data.epoch(0) for data in ranks), strict=True):
        for name in ("labels", "left_clusters", "right_clusters"):
            assert torch.equal(torch.cat([vars(s)[name] for s in shares]), vars(whole)[name])
        for name in ("left_rows", "right_rows", "negative_rows"):
            expected = pick(decode(twin.left, whole.left), vars(whole)[name])
            found = [t for s in shares for t in pick(decode(twin.left, s.left), vars(s)[name])]
            assert found == expected


# --- options and errors ---------------------------------------------------------------------------


def test_no_negatives_unless_asked(twin: Twin, pairs: Pairs) -> None:
    assert next(TrainingPairs(pairs, twin, uniform(pairs, 8)).epoch(0)).negative_rows is None


def test_to_device_keeps_everything(twin: Twin, pairs: Pairs) -> None:
    batch = next(TrainingPairs(pairs, twin, uniform(pairs, 8), negatives=True).epoch(0))
    assert same(batch, batch.to(torch.device("cpu")))
    moved = batch.to(torch.device("meta"))
    assert moved.labels.device.type == moved.negative_rows.device.type == "meta"
    assert {t.device.type for chunk in moved.left for t in chunk.values()} == {"meta"}
    assert moved.right is None


# --- mined negatives ------------------------------------------------------------------------------


def mined_for(pairs: Pairs, *rows: int) -> np.ndarray:
    """Two negatives for some pairs, texts of other clusters; one for the last of them; none for the rest."""
    clusters = cluster_ids(pairs)
    table = np.full((len(pairs), 2), -1)
    for row in rows:
        table[row] = np.flatnonzero(clusters != clusters[pairs.left[row]])[[row, row + 1]]
    table[rows[-1], 1] = -1
    return table


def test_mined_negatives_come_first(twin: Twin, pairs: Pairs) -> None:
    data = TrainingPairs(pairs, twin, uniform(pairs, 96), negatives=True)
    data.mined = mined_for(pairs, 3, 5, 8)
    seen = set()
    for epoch in range(20):
        (batch,) = data.epoch(epoch)
        texts = decode(twin.left, batch.left)
        assert batch.negative_rows is not None
        against = dict(
            zip(epoch_order(data.sampler, epoch, seed=0)[0].tolist(), pick(texts, batch.negative_rows), strict=True)
        )
        seen |= {(row, against[row]) for row in (3, 5, 8)}
    wanted = {(row, spelled(twin.left, [pairs.texts[n]])[0]) for row in (3, 5, 8) for n in data.mined[row] if n >= 0}
    assert seen == wanted


@pytest.mark.parametrize("negatives", [False, True])
def test_a_mined_pair_has_its_negative_on_the_right(twin: Twin, pairs: Pairs, negatives: bool) -> None:
    data = TrainingPairs(pairs, twin, WithMined(uniform(pairs, 9), pairs.labels, 3), negatives=negatives, seed=2)
    data.mined = mined_for(pairs, 3, 5, 8)
    clusters = cluster_ids(pairs)
    order = epoch_order(data.sampler, 1, seed=2, mined=data.mined)
    for rows, batch in zip(order, data.epoch(1), strict=True):
        texts = decode(twin.left, batch.left)
        for i, row in enumerate(rows.tolist()):
            left, right, label = texts[batch.left_rows[i]], texts[batch.right_rows[i]], int(batch.labels[i])
            assert left == spelled(twin.left, [pairs.left_texts[row % 96]])[0]
            if row < 96:
                assert (right, label) == (spelled(twin.left, [pairs.right_texts[row]])[0], pairs.labels[row])
            else:
                assert label == 0
                assert right in spelled(twin.left, [pairs.texts[n] for n in data.mined[row - 96] if n >= 0])
                assert batch.right_clusters[i] in clusters[data.mined[row - 96]]
                assert batch.left_clusters[i] != batch.right_clusters[i]


def test_where_nothing_was_mined_pairs_are_drawn(twin: Twin, pairs: Pairs) -> None:
    data = TrainingPairs(pairs, twin, WithMined(uniform(pairs, 6), pairs.labels, 6))
    data.mined = np.full((96, 1), -1)
    for batch in data.epoch(0):
        assert (batch.labels == 0).sum() >= 6
        assert (batch.left_clusters != batch.right_clusters)[batch.labels == 0].all()
