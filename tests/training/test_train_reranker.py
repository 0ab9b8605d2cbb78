from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.metrics import average_precision_score

from textsiam.inference.encoders import ModelError
from textsiam.rerank.cross_encoder import Combination, Reranker, cross_encoder
from textsiam.training.loop import train
from textsiam.training.settings import RerankerSettings, Settings
from textsiam.training.train_reranker import ByLength, label_pairs, train_reranker


@pytest.fixture
def backbone(driver, tmp_path) -> str:
    folder = str(tmp_path / "backbone")
    driver.small_twin(dropout=0).left.save_pretrained(folder, create_model_card=False)
    return folder


def knobs(backbone: str, **more) -> RerankerSettings:
    return RerankerSettings(**{"model": backbone, "batch_size": 8, "learning_rate": 1e-2, "max_tokens": 16, **more})


def test_it_learns_its_pairs(driver, backbone):
    pairs = driver.keyword_pairs(48)
    scores = [
        average_precision_score(pairs.labels, train_reranker(
            pairs, knobs(backbone, epochs=epochs, learning_rate=rate), device="cpu"
        ).logits(pairs.texts, pairs.left, pairs.right))
        for epochs, rate in ((1, 1e-9), (30, 1e-2))
    ]  # fmt: skip
    assert scores[0] < 0.8
    assert scores[1] > scores[0] + 0.15


def test_nothing_is_printed_where_results_go(driver, backbone, capsys):
    train_reranker(driver.keyword_pairs(24), knobs(backbone), device="cpu")
    assert capsys.readouterr().out == ""


def test_progress_counts_the_pairs_of_all_epochs_to_their_end(driver, backbone):
    told = []
    train_reranker(
        driver.keyword_pairs(24), knobs(backbone, epochs=2), device="cpu", progress=lambda *at: told.append(at)
    )
    assert told == [(8, 48), (16, 48), (24, 48), (32, 48), (40, 48), (48, 48)]


def test_a_training_that_diverges_leaves_no_reranker(driver, backbone):
    with pytest.raises(ValueError, match=r"diverged.*learning_rate \(1e\+20\)"):
        train_reranker(driver.keyword_pairs(24), knobs(backbone, epochs=3, learning_rate=1e20), device="cpu")


def test_the_same_seed_gives_the_same_weights(driver, backbone):
    pairs = driver.keyword_pairs(24)
    first, again, other = (
        train_reranker(pairs, knobs(backbone), seed=seed, device="cpu").model.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_what_cannot_be_learned_from_is_refused(driver, backbone):
    pairs = driver.keyword_pairs(24)
    with pytest.raises(ValueError, match="pairs of both labels"):
        train_reranker(pairs.select(pairs.labels == 1), knobs(backbone))
    with pytest.raises(ModelError, match="no such folder"):
        train_reranker(pairs, RerankerSettings(model="./nowhere"))
    for bad in ({"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"band": (0.9, 0.1)}, {"band": (0.0, 0.5)},
                {"duplicate_share": 1.0}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(bad))):
            RerankerSettings(**bad)


def test_batches_hold_pairs_of_like_length_and_every_pair_once():
    rng = np.random.default_rng(0)
    texts = [["x" * n for n in rng.integers(1, 80, 1000)] for _ in range(2)]
    dataset = Dataset.from_dict({"left": texts[0], "right": texts[1]})
    sampler = ByLength(dataset, batch_size=16, drop_last=False, seed=3)
    epochs = []
    for epoch in (0, 0, 1):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert epochs[0] == epochs[1] != epochs[2]
    lengths = np.array([len(a) + len(b) for a, b in zip(*texts, strict=True)])
    for batches in (epochs[0], epochs[2]):
        assert len(batches) == len(sampler) == 63
        assert sorted(row for batch in batches for row in batch) == list(range(1000))
        assert np.mean([np.ptp(lengths[batch]) for batch in batches]) < np.ptp(lengths) / 10


def test_a_share_of_duplicates_has_the_rarer_label_come_up_more_often():
    labels = np.array([1.0] * 90 + [0.0] * 10)
    dataset = Dataset.from_dict({"left": ["a"] * 100, "right": ["b"] * 100, "label": labels.tolist()})
    sampler = ByLength(dataset, batch_size=8, drop_last=False, seed=0, duplicate_share=0.5)
    seen = np.zeros(100, int)
    for epoch in range(9):
        sampler.set_epoch(epoch)
        rows = [row for batch in sampler for row in batch]
        assert len(rows) == 100
        assert labels[rows].sum() == 50
        seen += np.bincount(rows, minlength=100)
    assert (seen[:90] == 5).all()  # 450 of 90 in nine epochs: each lap goes on where the last epoch stopped
    assert (seen[90:] == 45).all()


def test_it_starts_from_a_tower(driver):
    tower = driver.small_twin(dropout=0).left
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    made = cross_encoder(tower, seed=1, device="cpu").model.bert.state_dict()
    theirs = tower[0].model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in made.items())
    pairs = driver.keyword_pairs(24)
    settings = RerankerSettings(model=None, learning_rate=1e-2, duplicate_share=0.5)
    train_reranker(pairs, settings, tower=tower, device="cpu")
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())


def test_a_teacher_labels_what_it_is_sure_of(driver, backbone):
    pairs = driver.keyword_pairs(24)
    reranker = train_reranker(pairs, knobs(backbone), device="cpu")
    similarity = np.linspace(-1, 1, 24).astype(np.float32)
    with pytest.raises(ModelError, match=r"run reranker\.fit"):
        label_pairs(reranker, pairs, similarity)
    reranker.combination = Combination(1.0, 0.0, -1.0, 1.0, 5.0, 0.0, 0.0)  # the similarity alone
    unlabelled = type(pairs).from_texts(pairs.left_texts, pairs.right_texts, [-1] * 24)
    found = label_pairs(reranker, unlabelled, similarity, confidence=0.95)
    sure = np.abs(5 * similarity) >= np.log(19)
    assert 0 < len(found) == sure.sum() < 24
    np.testing.assert_array_equal(found.labels, (similarity[sure] > 0).astype(int))
    assert found.left_texts == [text for text, keep in zip(pairs.left_texts, sure, strict=True) if keep]
    for confidence in (0.5, 1.0):
        with pytest.raises(ValueError, match="confidence must be between"):
            label_pairs(reranker, unlabelled, similarity, confidence=confidence)


def test_it_rescues_a_twin_in_doubt(driver, backbone):
    pairs = driver.keyword_pairs(48)
    reranker = train_reranker(pairs, knobs(backbone, epochs=30), device="cpu")
    assert isinstance(reranker, Reranker)
    twin = driver.small_twin(dropout=0)
    similarity = twin.pair_similarity(pairs.texts, pairs.left, pairs.right)
    reranker.fit(pairs, similarity, band=(0.02, 0.98))
    found = reranker.rescore(pairs.texts, pairs.left, pairs.right, similarity)
    before, after = (average_precision_score(pairs.labels, s) for s in (similarity, found))
    assert after > before


def test_training_a_twin_validates_it_without_the_reranker_of_its_old_weights(driver, backbone, tmp_path):
    twin, plain = driver.small_twin(), driver.small_twin()
    twin.reranker = Reranker(cross_encoder(backbone, device="cpu"))  # not combined: it would fail if it were asked
    settings = Settings(epochs=1, batch_size=8, precision="fp32", tracker="none")
    results = [
        train(one, driver.keyword_pairs(24), driver.build_objective(["contrastive"]), output=tmp_path / str(n),
              settings=settings, validation=driver.keyword_pairs(24, seed=9), quiet=True)
        for n, one in enumerate((twin, plain))
    ]  # fmt: skip
    assert results[0].best_average_precision == results[1].best_average_precision
    assert not (tmp_path / "0" / "best" / "reranker").exists()
