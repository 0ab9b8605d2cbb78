from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from textsiam.evaluation.pairs import evaluate_pairs
from textsiam.inference.encoders import ModelError
from textsiam.inference.scratch import scratch_image_encoder, scratch_text_encoder
from textsiam.models.asymmetric import shared_layers, sides
from textsiam.models.ensemble import Ensemble, Regions, average_twins, open_scorer, squared_distances
from textsiam.models.twin import Twin
from textsiam.rerank.base import Combination
from textsiam.rerank.lexical_reranker import LexicalReranker
from textsiam.search.duplicates import find_duplicates, fit_collection_decision
from textsiam.search.nearest import best_matches


@pytest.fixture(scope="module")
def towers(sentences):
    """Three towers of one architecture and tokenizer, with other weights."""
    return [
        scratch_text_encoder(sentences, vocabulary=400, hidden=32, max_tokens=32, seed=seed, device="cpu").eval()
        for seed in range(3)
    ]


@pytest.fixture
def twins(towers) -> list[Twin]:
    return [Twin(tower) for tower in copy.deepcopy(towers)]


@pytest.fixture
def regions(tower, sentences) -> Regions:
    base = Twin(copy.deepcopy(tower))
    return Regions(base, base.encode(sentences[:3], precision="fp32"), 0.1)


# --- scores ---------------------------------------------------------------------------------------


def test_the_score_is_the_mean_of_the_members(twins, pairs):
    found = Ensemble(twins).pair_similarity(pairs.texts, pairs.left, pairs.right, precision="fp32")
    members = [twin.pair_similarity(pairs.texts, pairs.left, pairs.right, precision="fp32") for twin in twins]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.mean(members, 0), atol=1e-6)
    assert np.ptp(members, axis=0).max() > 0.05  # they do differ


@pytest.mark.parametrize("by_region", [False, True])
def test_vectors_have_length_one_and_their_cosine_is_the_score(twins, regions, pairs, by_region):
    ensemble = Ensemble(twins, regions=regions if by_region else None)
    vectors = ensemble.encode(pairs.texts, precision="fp32")
    assert vectors.shape == (48, ensemble.dim) == (48, 96)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    expected = ensemble.pair_similarity(pairs.texts, pairs.left, pairs.right, precision="fp32")
    np.testing.assert_allclose((vectors[pairs.left] * vectors[pairs.right]).sum(1), expected, atol=1e-5)
    np.testing.assert_allclose(
        ensemble.vector_similarity(vectors[pairs.left], vectors[pairs.right]), expected, atol=1e-5
    )
    blocks = list(ensemble.encode_stream(iter(pairs.texts), precision="fp32", block=20))
    assert [len(block) for block in blocks] == [20, 20, 8]
    np.testing.assert_allclose(np.concatenate(blocks), vectors, atol=1e-5)


def test_the_score_by_region_is_that_of_the_naive_loop(twins, regions, sentences):
    found = Ensemble(twins, regions=regions).similarity(sentences[:6], sentences[6:12], precision="fp32")
    for i in range(6):
        weights = []
        for text in (sentences[i], sentences[6 + i]):
            distances = [
                sum(
                    (a - b) ** 2
                    for a, b in zip(regions.base.encode([text], precision="fp32")[0].tolist(), c, strict=True)
                )
                for c in regions.centroids.tolist()
            ]
            raw = [np.exp(-d / regions.temperature) for d in distances]
            weights.append([r / sum(raw) for r in raw])
        scores = [twin.similarity([sentences[i]], [sentences[6 + i]], precision="fp32")[0] for twin in twins]
        expected = sum(np.sqrt(a * b) * s for a, b, s in zip(*weights, scores, strict=True))
        assert found[i] == pytest.approx(expected, abs=1e-5)


def test_a_text_on_a_centroid_belongs_there(regions, sentences):
    weights = regions.weights(sentences, precision="fp32")
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    assert weights[:3].argmax(1).tolist() == [0, 1, 2]
    hard = Regions(regions.base, regions.centroids, 1e-4).weights(sentences[:3], precision="fp32")
    np.testing.assert_allclose(hard, np.eye(3), atol=1e-6)


def test_one_hard_region_scores_as_its_member(twins, regions, sentences):
    hard = Regions(regions.base, regions.centroids, 1e-4)
    text = sentences[1]
    found = Ensemble(twins, regions=hard).similarity([text], [text], precision="fp32")
    assert found[0] == pytest.approx(1, abs=1e-5)


def test_squared_distances_by_hand():
    found = squared_distances(np.array([[0, 0], [3, 4]], np.float32), np.array([[3, 4], [0, 1]], np.float32))
    np.testing.assert_allclose(found, [[25, 1], [0, 18]])


@pytest.mark.parametrize("by_region", [False, True])
def test_the_score_is_symmetric_and_one_for_equal_texts(twins, regions, sentences, by_region):
    ensemble = Ensemble(twins, regions=regions if by_region else None)
    forth = ensemble.similarity(sentences[:8], sentences[8:16], precision="fp32")
    back = ensemble.similarity(sentences[8:16], sentences[:8], precision="fp32")
    np.testing.assert_allclose(forth, back, atol=1e-6)
    np.testing.assert_allclose(ensemble.similarity(sentences, sentences, precision="fp32"), 1, atol=1e-5)


def test_the_order_of_the_members_does_not_matter(twins, sentences):
    found = [Ensemble(order).similarity(sentences[:8], sentences[8:16]) for order in (twins, twins[::-1])]
    np.testing.assert_allclose(*found, atol=1e-6)


def test_nothing_to_score(twins):
    assert Ensemble(twins).similarity([], []).shape == (0,)
    assert Ensemble(twins).encode([]).shape == (0, 96)


def test_other_distances_are_averaged_but_have_no_vectors(towers, pairs):
    twins = [Twin(tower, distance="euclidean") for tower in towers]
    found = Ensemble(twins).pair_similarity(pairs.texts, pairs.left, pairs.right, precision="fp32")
    members = [twin.pair_similarity(pairs.texts, pairs.left, pairs.right, precision="fp32") for twin in twins]
    np.testing.assert_allclose(found, np.mean(members, 0), atol=1e-6)
    with pytest.raises(ModelError, match="score by euclidean"):
        Ensemble(twins).encode(pairs.texts)


def test_asymmetric_twins_score_each_side_with_its_tower(towers, regions, sentences):
    halves = [Twin(*sides(copy.deepcopy(tower), right_prompt="sky ")) for tower in towers]
    for ensemble in (Ensemble(halves), Ensemble(halves, regions=regions)):
        assert ensemble.right is not None
        u, v = (ensemble.encode(sentences[:9], side=side, precision="fp32") for side in ("left", "right"))
        expected = ensemble.similarity(sentences[:9], sentences[:9], precision="fp32")
        np.testing.assert_allclose((u * v).sum(1), expected, atol=1e-5)
        assert expected.min() < 0.999


def test_progress_reaches_the_end_once(twins, sentences):
    seen: list[tuple[int, int]] = []
    Ensemble(twins).encode(sentences, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (144, 144)


def test_what_makes_no_ensemble_is_refused(twins, towers, regions):
    with pytest.raises(ValueError, match="at least one twin"):
        Ensemble([])
    with pytest.raises(ValueError, match="one distance, got cosine, euclidean"):
        Ensemble([twins[0], Twin(towers[1], distance="euclidean")])
    with pytest.raises(ValueError, match="a region for each twin, got 3 and 2"):
        Ensemble(twins[:2], regions=regions)
    with pytest.raises(ValueError, match="temperature must be > 0"):
        Regions(regions.base, regions.centroids, 0.0)
    with pytest.raises(ValueError, match=r"centroids must be \(regions, 32\)"):
        Regions(regions.base, regions.centroids[:, :5], 1.0)


# --- as a twin ------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_region", [False, True])
def test_calibrate_compare_and_evaluate(twins, regions, pairs, by_region):
    ensemble = Ensemble(twins, regions=regions if by_region else None)
    with pytest.raises(ModelError, match="no decision yet"):
        ensemble.compare("a", "b")
    assert ensemble.calibrate(pairs) is ensemble
    verdicts = ensemble.compare(pairs.left_texts, pairs.right_texts)
    scores = ensemble.pair_similarity(pairs.texts, pairs.left, pairs.right)
    assert [v.duplicate for v in verdicts] == ensemble.require_decision().is_duplicate(scores).tolist()
    evaluation = evaluate_pairs(ensemble, pairs, bootstrap=0)
    np.testing.assert_allclose(evaluation.similarities, scores, atol=1e-4)


def test_duplicates_and_matches_work_unchanged(twins, pairs):
    ensemble = Ensemble(twins)
    ensemble.collection = fit_collection_decision(ensemble, pairs)
    found = find_duplicates(ensemble, pairs.texts, threshold=0.5)
    scores = ensemble.pair_similarity(pairs.texts, found.left, found.right)
    np.testing.assert_allclose(found.similarity, scores, atol=1e-3)  # bf16 may be on
    vectors = ensemble.encode(pairs.texts)
    where, _ = best_matches(ensemble, vectors, vectors, 1)
    assert where[:, 0].tolist() == list(range(48))


# --- members with rerankers -----------------------------------------------------------------------


def doubting() -> LexicalReranker:
    """A reranker without a cross-encoder that lowers whatever it is asked."""
    return LexicalReranker(combination=Combination(8.0, -4.0, -1.0, 2.0, 8.0, 0.0, -6.0))


def test_members_with_rerankers_are_refused_as_those_with_heads_are(twins):
    twins[1].reranker = doubting()
    with pytest.raises(ValueError, match="score by their distance, but one of them has a reranker"):
        Ensemble(twins)


def test_an_ensemble_of_0_1_with_such_members_scores_pairs_as_it_did_and_is_not_searched(twins, pairs, tmp_path):
    arguments = pairs.texts, pairs.left, pairs.right
    Ensemble(twins).calibrate(pairs).save_pretrained(tmp_path / "old")
    for k, twin in enumerate(twins):
        twin.reranker = doubting()
        twin.save_pretrained(tmp_path / "old" / f"member-{k}")
    old = open_scorer(tmp_path / "old", device="cpu")
    members = [twin.pair_similarity(*arguments) for twin in twins]
    np.testing.assert_allclose(old.pair_similarity(*arguments), np.mean(members, 0), atol=1e-6)
    assert old.compare(pairs.texts[0], pairs.texts[1]).threshold == old.require_decision().threshold
    old.save_pretrained(tmp_path / "again")
    again = open_scorer(tmp_path / "again", device="cpu")
    np.testing.assert_array_equal(again.pair_similarity(*arguments), old.pair_similarity(*arguments))
    with pytest.raises(ModelError, match="have rerankers, which no vector stands for"):
        find_duplicates(old, pairs.texts, threshold=0.5)


# --- on disk --------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_region", [False, True])
def test_save_and_load(twins, regions, pairs, tmp_path, by_region):
    ensemble = Ensemble(twins, regions=regions if by_region else None, provenance={"note": "größer"}).calibrate(pairs)
    ensemble.collection = fit_collection_decision(ensemble, pairs)
    assert ensemble.save_pretrained(tmp_path / "both") == tmp_path / "both"
    again = open_scorer(tmp_path / "both", device="cpu")
    assert isinstance(again, Ensemble)
    assert (again.provenance, len(again.twins)) == ({"note": "größer"}, 3)
    np.testing.assert_array_equal(again.encode(pairs.texts), ensemble.encode(pairs.texts))
    assert again.compare(pairs.left_texts, pairs.right_texts) == ensemble.compare(pairs.left_texts, pairs.right_texts)
    assert again.collection is not None
    assert again.collection.among(500).threshold == ensemble.collection.among(500).threshold
    assert not [p for p in (tmp_path / "both").rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]


def test_opening_a_twin_gives_a_twin(twins, tmp_path):
    twins[0].save_pretrained(tmp_path / "twin")
    assert isinstance(open_scorer(tmp_path / "twin", device="cpu"), Twin)


def test_damage_is_named(twins, regions, tmp_path):
    folder = Ensemble(twins, regions=regions).save_pretrained(tmp_path / "both")
    file = folder / "ensemble.json"
    facts = json.loads(file.read_text())
    for content, message in (
        ("{", "ensemble.json"),
        (json.dumps({**facts, "format": 99}), "format is 99"),
        (json.dumps({k: v for k, v in facts.items() if k != "members"}), "lacks 'members'"),
        (json.dumps({**facts, "members": ["member-9"]}), "member-9"),
    ):
        file.write_text(content)
        with pytest.raises(ModelError, match=message):
            open_scorer(folder, device="cpu")
    file.write_text(json.dumps(facts))
    (folder / "ensemble.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError):
        open_scorer(folder, device="cpu")


# --- weights --------------------------------------------------------------------------------------


def test_averaged_weights_are_the_mean(twins, sentences):
    before = [{n: t.clone() for n, t in twin.state_dict().items()} for twin in twins]
    mean = average_twins(twins)
    for name, value in mean.state_dict().items():
        torch.testing.assert_close(value, torch.stack([state[name] for state in before]).mean(0))
    for twin, state in zip(twins, before, strict=True):  # they stay as they are
        assert all(torch.equal(value, state[name]) for name, value in twin.state_dict().items())
    assert mean.encode(sentences).shape == (48, 32)
    np.testing.assert_allclose(average_twins(twins[:1]).encode(sentences), twins[0].encode(sentences), atol=1e-6)


def test_the_mean_of_asymmetric_twins_keeps_what_they_share(towers):
    halves = [Twin(*sides(copy.deepcopy(tower), shared_layers=1)) for tower in towers]
    mean = average_twins(halves)
    assert shared_layers(mean.left, mean.right) == 1
    assert sum(p.numel() for p in mean.parameters()) == sum(p.numel() for p in halves[0].parameters())


def test_only_twins_of_one_kind_have_weights_to_average(twins, towers, sentences):
    wide = Twin(scratch_text_encoder(sentences, vocabulary=400, hidden=64, max_tokens=32, device="cpu"))
    others = Twin(scratch_text_encoder(sentences[:9], vocabulary=400, hidden=32, max_tokens=32, device="cpu"))
    for other in (wide, others, Twin(towers[1], distance="euclidean"), Twin(towers[1], towers[2])):
        with pytest.raises(ValueError, match="only twins of one architecture"):
            average_twins([twins[0], other])
    with pytest.raises(ValueError, match="at least one twin"):
        average_twins([])


def test_twins_that_read_other_things_make_no_ensemble(towers):
    picture = Twin(scratch_image_encoder(size=16, widths=[4], depths=[1], dim=32, device="cpu"))
    with pytest.raises(ValueError, match="must read the same, got some for image and some for text"):
        Ensemble([Twin(towers[0]), picture])
