from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from sklearn.metrics import average_precision_score

from textsiam.data.pairs import Pairs
from textsiam.inference.encoders import ModelError
from textsiam.models.asymmetric import sides
from textsiam.models.ensemble import Ensemble, average_twins
from textsiam.models.twin import Twin
from textsiam.rerank.cross_encoder import Combination, Reranker, cross_encoder
from textsiam.rerank.lexical_reranker import LexicalReranker


@pytest.fixture(scope="module")
def backbone(tower, tmp_path_factory) -> str:
    """The folder of the tiny tower: a backbone without an output layer."""
    folder = tmp_path_factory.mktemp("backbone")
    tower.save_pretrained(str(folder), create_model_card=False)
    return str(folder)


@pytest.fixture
def reranker(backbone) -> Reranker:
    return Reranker(cross_encoder(backbone, device="cpu"))


class Told(Reranker):
    """A reranker that says what it is told, and notes what it is asked."""

    def __init__(self, reranker: Reranker, say: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        super().__init__(reranker.model)
        self.say, self.asked = say, 0

    def logits(self, texts, left, right, *, precision="auto"):
        self.asked += len(left)
        return self.say(np.asarray(left), np.asarray(right)).astype(np.float32)


@pytest.fixture
def task() -> tuple[Pairs, np.ndarray]:
    """400 pairs, and similarities whose log odds of a duplicate are 8 s - 4."""
    rng = np.random.default_rng(0)
    similarity = rng.random(400).astype(np.float32)
    labels = (rng.random(400) < 1 / (1 + np.exp(4 - 8 * similarity))).astype(int)
    pairs = Pairs.from_texts([f"left {i}" for i in range(400)], [f"right {i}" for i in range(400)], labels.tolist())
    return pairs, similarity


def truth(pairs: Pairs) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    labels = dict(zip(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True), pairs.labels.tolist(), strict=True))
    return lambda left, right: np.array([6.0 * labels[p] - 3 for p in zip(left.tolist(), right.tolist(), strict=True)])


# --- the cross-encoder ----------------------------------------------------------------------------


def test_a_backbone_gets_an_output_layer_that_the_seed_draws(backbone, sentences):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    models = [cross_encoder(backbone, seed=seed, device="cpu") for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(2), expected)  # the random state is left alone
    first, again, other = (model.predict([(sentences[0], sentences[1])]) for model in models)
    assert first == again != other


def test_a_missing_cross_encoder_is_named(tmp_path):
    with pytest.raises(ModelError, match="no such folder"):
        cross_encoder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="cannot open the cross-encoder"):
        cross_encoder(tmp_path / "empty", device="cpu")


def test_several_outputs_are_refused(backbone):
    with pytest.raises(ModelError, match="one output, this one has 3"):
        Reranker(CrossEncoder(backbone, num_labels=3, device="cpu"))
    with pytest.raises(ModelError, match=r"without one is `LexicalReranker\(\)`"):
        Reranker(None)


def test_the_logit_is_the_mean_over_both_orders(reranker, sentences):
    left, right = np.arange(6), np.arange(6, 12)
    orders = [(sentences[a], sentences[b]) for a, b in zip([*left, *right], [*right, *left], strict=True)]
    expected = reranker.model.predict(orders, activation_fn=torch.nn.Identity()).reshape(2, 6)
    found = reranker.logits(sentences, left, right, precision="fp32")
    np.testing.assert_allclose(found, expected.mean(0), atol=1e-6)
    np.testing.assert_array_equal(reranker.logits(sentences, right, left, precision="fp32"), found)
    reranker.symmetric = False
    np.testing.assert_allclose(reranker.logits(sentences, left, right, precision="fp32"), expected[0], atol=1e-6)
    assert np.abs(expected[0] - expected[1]).max() > 1e-5
    assert reranker.logits(sentences, left[:0], right[:0]).shape == (0,)


def test_bf16_differs_by_rounding_only(reranker, sentences):
    left, right = np.arange(6), np.arange(6, 12)
    exact, fast = (reranker.logits(sentences, left, right, precision=p) for p in ("fp32", "bf16"))
    assert 0 < np.abs(exact - fast).max() < 0.02


def test_equal_pairs_are_read_once(reranker, sentences, monkeypatch):
    asked = []
    read = reranker._read
    monkeypatch.setattr(reranker, "_read", lambda rows, *more: asked.extend(rows) or read(rows, *more))
    found = reranker.logits(sentences, np.array([0, 1, 0, 2]), np.array([1, 0, 1, 3]))
    assert len(asked) == 4  # two distinct pairs, both orders
    assert found[0] == found[1] == found[2]


# --- combined with a twin -------------------------------------------------------------------------


def test_the_band_is_where_the_twin_alone_is_in_doubt(reranker, task):
    pairs, similarity = task
    told = Told(reranker, truth(pairs))
    combination = told.fit(pairs, similarity, band=(0.2, 0.7)).combination
    assert combination is not None
    edges = np.array([combination.low, combination.high])
    alone = 1 / (1 + np.exp(-(combination.slope * edges + combination.intercept)))
    np.testing.assert_allclose(alone, [0.2, 0.7], atol=1e-9)
    inside = combination.asks(similarity)
    assert 0 < inside.sum() < len(pairs)
    assert told.asked == inside.sum()  # fitting asks about no other pair
    told.asked = 0
    found = told.rescore(pairs.texts, pairs.left, pairs.right, similarity)
    assert told.asked == inside.sum()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[~inside], similarity[~inside])
    assert (found[inside] != similarity[inside]).all()


def test_a_score_means_what_the_twins_similarity_means(reranker, task):
    pairs, similarity = task
    told = Told(reranker, truth(pairs))
    combination = told.fit(pairs, similarity).combination
    assert combination is not None
    logits = told.logits(pairs.texts, pairs.left, pairs.right)
    both = combination.twin * similarity + combination.reranker * logits + combination.constant
    as_sure = combination.slope * combination.score(both) + combination.intercept
    np.testing.assert_allclose(as_sure, both, atol=1e-5)
    expected = 1 / (1 + np.exp(-both.astype(np.float64)))
    found = told.probability(pairs.texts, pairs.left, pairs.right, similarity)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_reranker_that_knows_puts_the_doubtful_pairs_in_order(reranker, task):
    pairs, similarity = task
    told = Told(reranker, truth(pairs)).fit(pairs, similarity)
    found = told.rescore(pairs.texts, pairs.left, pairs.right, similarity)
    inside = told.combination.asks(similarity)
    assert average_precision_score(pairs.labels[inside], found[inside]) == pytest.approx(1)
    before, after = (average_precision_score(pairs.labels, s) for s in (similarity, found))
    assert after > before + 0.05


def test_a_reranker_that_knows_next_to_nothing_changes_little(reranker, task):
    pairs, similarity = task
    told = Told(reranker, truth(pairs))
    right = told.say
    rng = np.random.default_rng(0)
    told.say = lambda left, right_: 0.02 * right(left, right_) + rng.normal(size=len(left))
    told.fit(pairs, similarity)
    odds = told.combination.log_odds(similarity, np.zeros(400))
    np.testing.assert_allclose(told.combination.score(odds), similarity, atol=0.1)
    assert 0 < told.combination.reranker < 0.5


@pytest.mark.parametrize("sign", [0, -1])
def test_a_reranker_that_knows_nothing_is_refused(reranker, task, sign):
    pairs, similarity = task
    told = Told(reranker, lambda left, right: sign * truth(pairs)(left, right))
    with pytest.raises(ValueError, match="logit does not rise with the labels"):
        told.fit(pairs, similarity)
    assert told.combination is None


def test_a_similarity_that_misleads_in_the_band_has_no_weight(reranker, task):
    pairs, similarity = task
    told = Told(reranker, truth(pairs))
    logits = truth(pairs)(pairs.left, pairs.right) + 4 * similarity  # the reranker knows the similarity, and more
    known = dict(zip(pairs.left.tolist(), logits.tolist(), strict=True))
    told.say = lambda left, right: np.array([known[i] for i in left.tolist()])
    assert told.fit(pairs, similarity).combination.twin == 0
    assert told.combination.reranker > 0.5


def test_the_combination_is_the_logistic_regression_of_both(reranker, task):
    pairs, similarity = task
    rng = np.random.default_rng(1)
    noise = dict(zip(pairs.left.tolist(), rng.normal(size=400) + 2 * pairs.labels, strict=True))
    told = Told(reranker, lambda left, right: np.array([noise[i] for i in left.tolist()])).fit(pairs, similarity)
    combination = told.combination
    inside = combination.asks(similarity)
    p = told.probability(pairs.texts, pairs.left, pairs.right, similarity)[inside]
    logits = told.logits(pairs.texts, pairs.left, pairs.right)[inside]
    error = p - pairs.labels[inside]
    assert abs(error.sum()) < 0.05
    # Where the likelihood minus the penalty on the standardised weights is largest, their gradients cancel.
    for feature, weight in ((similarity[inside], combination.twin), (logits, combination.reranker)):
        scale = feature.astype(np.float64).std()
        assert (error * (feature - feature.mean()) / scale).sum() == pytest.approx(-weight * scale, abs=0.05)
    assert combination.reranker > 0.5


def test_the_order_of_the_pairs_does_not_matter(reranker, task):
    pairs, similarity = task
    told = Told(reranker, truth(pairs))
    first = told.fit(pairs, similarity).combination
    second = told.fit(pairs.select(np.arange(400)[::-1]), similarity[::-1]).combination
    assert astuple(first) == pytest.approx(astuple(second), abs=1e-6)


@pytest.fixture
def misled() -> tuple[Pairs, np.ndarray, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """1,000 pairs of which half share no word and are no duplicates, though similarity and logit are as high."""
    rng = np.random.default_rng(0)
    shared = rng.random(1000) < 0.5
    labels = (shared & (rng.random(1000) < 0.6)).astype(int)
    left = [f"alpha beta {i}" for i in range(1000)]
    right = [f"alpha beta gamma {i}" if s else f"delta epsilon zeta x{i}" for i, s in enumerate(shared)]
    logits = rng.normal(size=1000) + labels
    pairs = Pairs.from_texts(left, right, labels.tolist())
    known = dict(zip(pairs.left.tolist(), logits.tolist(), strict=True))
    return pairs, rng.normal(size=1000) + labels, lambda left, right: np.array([known[i] for i in left.tolist()])


def test_the_wording_says_how_far_both_can_be_trusted(reranker, misled, tmp_path):
    pairs, similarity, say = misled
    arguments = pairs.texts, pairs.left, pairs.right, similarity
    told = Told(reranker, say).fit(pairs, similarity, band=(0.01, 0.99))
    assert told.lexical_features is None
    alone = told.rescore(*arguments)
    before = told.probability(*arguments)
    told.fit(pairs, similarity, band=(0.01, 0.99), lexical_features=True)
    found = told.rescore(*arguments)
    inside = told.combination.asks(similarity)
    np.testing.assert_array_equal(found[~inside], alone[~inside])
    scores = [average_precision_score(pairs.labels[inside], s[inside]) for s in (alone, found)]
    assert scores[1] > scores[0] + 0.05
    evidence = np.stack([similarity, say(pairs.left, pairs.right).astype(np.float32)], 1).astype(np.float64)
    by_words = told.lexical_features.probability(pairs.left_texts, pairs.right_texts, evidence)
    expected = (before + by_words.sum(0)) / 3  # the regression, the forest and the boosted trees
    np.testing.assert_allclose(told.probability(*arguments), expected, atol=1e-9)

    folder = told.save_pretrained(tmp_path / "reranker")
    again = Reranker.from_pretrained(folder, device="cpu")
    np.testing.assert_array_equal(Told.rescore(again_told(again, say, reranker), *arguments), found)
    whole = (folder / "lexical_features.json").read_text()
    for damaged in (whole[:-3000], whole.replace("left_child=", "left_child=9", 1)):
        (folder / "lexical_features.json").write_text(damaged)
        with pytest.raises(ModelError, match=r"reranker\.json"):
            Reranker.from_pretrained(folder, device="cpu")
    told.fit(pairs, similarity, band=(0.01, 0.99))  # without it again
    assert told.lexical_features is None


def test_the_wording_is_weighed_without_a_cross_encoder(misled, tmp_path):
    pairs, similarity, _ = misled
    arguments = pairs.texts, pairs.left, pairs.right, similarity
    reranker = LexicalReranker().fit(pairs, similarity, band=(0.01, 0.99))
    assert reranker.fitted
    assert reranker.combination is not None
    assert reranker.combination.reranker == 0
    found = reranker.rescore(*arguments)
    inside = reranker.combination.asks(similarity)
    np.testing.assert_array_equal(found[~inside], similarity[~inside].astype(np.float32))
    before, after = (average_precision_score(pairs.labels[inside], s[inside]) for s in (similarity, found))
    assert after > before + 0.05
    folder = reranker.save_pretrained(tmp_path / "reranker")
    assert {path.name for path in folder.iterdir()} == {"reranker.json", "lexical_features.json"}
    again = Reranker.from_pretrained(folder)
    assert isinstance(again, LexicalReranker)
    np.testing.assert_array_equal(again.rescore(*arguments), found)
    with pytest.raises(ValueError, match="looks at nothing else"):
        again.fit(pairs, similarity, lexical_features=False)
    turned = Pairs.from_texts(pairs.right_texts, pairs.left_texts, pairs.labels.tolist())
    np.testing.assert_array_equal(again.rescore(turned.texts, turned.left, turned.right, similarity), found)


def again_told(loaded: Reranker, say: Callable[[np.ndarray, np.ndarray], np.ndarray], reranker: Reranker) -> Told:
    told = Told(reranker, say)
    told.combination, told.lexical_features = loaded.combination, loaded.lexical_features
    return told


def test_too_few_pairs_for_the_wording_leave_the_reranker_as_it_was(reranker, task):
    pairs, similarity = task
    told = Told(reranker, truth(pairs)).fit(pairs, similarity)
    before = told.combination
    rows = np.r_[np.flatnonzero(pairs.labels == 1)[:30], np.flatnonzero(pairs.labels == 0)[:100]]
    few = pairs.select(rows)
    told.say = truth(few)
    with pytest.raises(ValueError, match="lexical features are learned from 50 pairs"):
        told.fit(few, similarity[rows], band=(0.01, 0.99), lexical_features=True)
    assert told.combination is before


def test_a_reranker_of_the_first_format_is_read(reranker, tmp_path):
    folder = reranker.save_pretrained(tmp_path / "reranker")
    file = folder / "reranker.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({"format": 1, **{k: facts[k] for k in ("symmetric", "combination")}}))
    assert Reranker.from_pretrained(folder, device="cpu").lexical_features is None


def test_what_cannot_be_combined_is_refused(reranker, task):
    pairs, similarity = task
    told = Told(reranker, truth(pairs))
    assert not told.fitted
    with pytest.raises(ModelError, match=r"run reranker\.fit"):
        told.rescore(pairs.texts, pairs.left, pairs.right, similarity)
    with pytest.raises(ValueError, match="does not rise with the labels"):
        told.fit(pairs, -similarity)
    with pytest.raises(ValueError, match="band must rise"):
        told.fit(pairs, similarity, band=(0.9, 0.1))
    with pytest.raises(ValueError, match="widen the band"):
        told.fit(pairs, similarity, band=(0.49, 0.5))
    with pytest.raises(ValueError, match="band"):
        told.fit(pairs, similarity, band=(0.0, 0.5))


# --- on disk --------------------------------------------------------------------------------------


def test_save_and_load(reranker, pairs, tmp_path):
    reranker.combination = Combination(8.0, -4.0, 0.2, 0.8, 5.0, 1.5, -2.0)
    reranker.symmetric = False
    reranker.save_pretrained(tmp_path / "reranker")
    again = Reranker.from_pretrained(tmp_path / "reranker", device="cpu")
    assert (again.combination, again.symmetric) == (reranker.combination, False)
    similarity = np.linspace(0, 1, len(pairs)).astype(np.float32)
    arguments = pairs.texts, pairs.left, pairs.right
    np.testing.assert_array_equal(again.rescore(*arguments, similarity), reranker.rescore(*arguments, similarity))
    plain = CrossEncoder(str(tmp_path / "reranker"), device="cpu")
    rows = [(pairs.texts[0], pairs.texts[1])]
    np.testing.assert_array_equal(plain.predict(rows), reranker.model.predict(rows))
    assert not [p for p in (tmp_path / "reranker").rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]


def test_damage_is_named(reranker, tmp_path):
    folder = reranker.save_pretrained(tmp_path / "reranker")
    file = folder / "reranker.json"
    facts = json.loads(file.read_text())
    assert Reranker.from_pretrained(folder, device="cpu").combination is None
    for content, message in (
        ("{", "reranker.json"),
        (json.dumps({**facts, "format": 9}), "format is 9"),
        (json.dumps({"format": 1, "symmetric": True}), "lacks 'combination'"),
        (json.dumps({**facts, "combination": {"slope": 1}}), "reranker.json"),
    ):
        file.write_text(content)
        with pytest.raises(ModelError, match=message):
            Reranker.from_pretrained(folder, device="cpu")


def test_a_combination_cannot_be_changed():
    combination = Combination(1.0, 0.0, -1.0, 1.0, 1.0, 1.0, 0.0)
    assert replace(combination, low=0.0).asks(np.array([-0.5, 0.0, 1.0, 1.1])).tolist() == [False, True, True, False]


# --- in a twin ------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True])
def test_a_twin_asks_its_reranker_and_keeps_it(twin, fresh_tower, reranker, pairs, tmp_path, half):
    if half:
        twin = Twin(*sides(fresh_tower, right_prompt="sky "))
    arguments = pairs.texts, pairs.left, pairs.right
    alone = twin.pair_similarity(*arguments)
    middle = float(np.median(alone))
    reranker.symmetric = not half
    reranker.combination = Combination(9.0, -9 * middle, middle, 2.0, 5.0, 1.0, -5 * middle)
    twin.reranker = reranker
    found = twin.pair_similarity(*arguments)
    np.testing.assert_array_equal(found, reranker.rescore(*arguments, alone))
    np.testing.assert_array_equal(found[alone < middle], alone[alone < middle])
    assert (found != alone).any()
    twin.calibrate(pairs).save_pretrained(tmp_path / "twin")
    again = Twin.from_pretrained(tmp_path / "twin", device="cpu")
    np.testing.assert_array_equal(again.pair_similarity(*arguments), found)
    assert again.compare(pairs.left_texts, pairs.right_texts) == twin.compare(pairs.left_texts, pairs.right_texts)
    np.testing.assert_array_equal(again.encode(pairs.texts), twin.encode(pairs.texts))
    assert average_twins([twin]).reranker is None
    with pytest.raises(ValueError, match="one of them has a reranker"):
        Ensemble([twin, twin])
