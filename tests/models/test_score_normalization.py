"""Score normalization: the cosine, less how crowded it is around both."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from textsiam.data.pairs import Pairs
from textsiam.inference.encoders import ModelError
from textsiam.models import score_normalization as module
from textsiam.models.ensemble import Ensemble
from textsiam.models.score_normalization import ScoreNormalization
from textsiam.models.twin import Twin


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    drawn = rng.normal(size=shape).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


@pytest.mark.parametrize(("size", "nearest"), [(50, 1), (50, 7), (3, 10)])
def test_it_is_what_the_formula_says(size, nearest, monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 4 * size)  # four rows at a time
    rng = np.random.default_rng(0)
    members, u, v = unit(rng, size, 6), unit(rng, 11, 6), unit(rng, 11, 6)
    crowded = [[np.mean(sorted(x @ m for m in members)[-nearest:]) for x in side] for side in (u, v)]
    expected = [a @ b - (r + s) / 2 for a, b, r, s in zip(u, v, *crowded, strict=True)]
    normalized = ScoreNormalization.of(2 * members, nearest=nearest)  # members of any length
    found = normalized(torch.from_numpy(3 * u), torch.from_numpy(v))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(normalized(torch.from_numpy(v), torch.from_numpy(3 * u)), found)
    assert normalized(torch.zeros(0, 6), torch.zeros(0, 6)).shape == (0,)


def test_one_threshold_fits_crowded_and_lonely_inputs():
    """Duplicates that stand alone are less similar than strangers in a crowd: no threshold on the cosine tells both."""
    rng = np.random.default_rng(1)

    def kin(centre: np.ndarray, spread: float, count: int) -> np.ndarray:
        drawn = centre + spread * unit(rng, count, 16)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    crowd, lonely = kin(unit(rng, 16), 0.45, 400), unit(rng, 400, 16)
    classes = np.concatenate([crowd, lonely])
    first, second = (np.concatenate([kin(c, 0.3 if k < 400 else 0.8, 1) for k, c in enumerate(classes)]) for _ in "ab")
    held = np.arange(0, 800, 2)  # the others are members
    others = held.reshape(2, -1)[:, ::-1].reshape(-1)  # another class, as crowded
    labels = np.r_[np.ones(400), np.zeros(400)]
    u, v = torch.from_numpy(first[np.r_[held, held]]), torch.from_numpy(second[np.r_[held, others]])

    def best(scores: torch.Tensor) -> float:
        return max(float(((scores >= t) == torch.from_numpy(labels == 1)).float().mean()) for t in scores)

    plain, against = best((u * v).sum(1)), best(ScoreNormalization.of(classes[1::2])(u, v))
    assert plain < 0.9
    assert against > plain + 0.05


@pytest.mark.parametrize(("size", "nearest"), [(0, 1), (1, 0)])
def test_nobody_is_no_member(size, nearest):
    with pytest.raises(ValueError, match=f"got {size} and {nearest}"):
        ScoreNormalization(4, size=size, nearest=nearest)


def scores(scorer: Twin | Ensemble, pairs: Pairs) -> np.ndarray:
    return scorer.pair_similarity(pairs.texts, pairs.left, pairs.right, precision="fp32")


def test_it_is_saved_with_the_twin(tower, pairs, sentences, tmp_path):
    twin = Twin(tower)
    cosine = scores(twin, pairs)
    twin.head = ScoreNormalization.of(twin.encode(sentences[:20], precision="fp32"), nearest=3)
    twin.calibrate(pairs)
    found = scores(twin, pairs)
    assert np.abs(found - cosine).max() > 0.1
    twin.save_pretrained(tmp_path / "twin")
    again = Twin.from_pretrained(tmp_path / "twin", device="cpu")
    np.testing.assert_allclose(scores(again, pairs), found, atol=1e-6)
    assert again.head is not None
    assert float(again.head.candidate_threshold) == float(twin.head.candidate_threshold) > -1
    lefts, rights = pairs.left_texts[:3], pairs.right_texts[:3]
    assert again.compare(lefts, rights) == twin.compare(lefts, rights)


@pytest.fixture
def ensemble(tower) -> Ensemble:
    other = copy.deepcopy(tower)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return Ensemble([Twin(tower), Twin(other)])


def test_an_ensemble_has_one_for_all_its_members_together(ensemble, pairs, sentences, tmp_path):
    vectors = ensemble.encode(pairs.texts, precision="fp32")
    members = ensemble.encode(sentences[:20], precision="fp32")
    ensemble.head = ScoreNormalization.of(members, nearest=3)
    near = np.sort(vectors @ members.T, 1)[:, -3:].mean(1)
    cosine = (vectors[pairs.left] * vectors[pairs.right]).sum(1)
    found = scores(ensemble, pairs)
    np.testing.assert_allclose(found, cosine - (near[pairs.left] + near[pairs.right]) / 2, atol=1e-5)
    ensemble.calibrate(pairs)
    ensemble.save_pretrained(tmp_path / "ensemble")
    again = Ensemble.from_pretrained(tmp_path / "ensemble", device="cpu")
    np.testing.assert_allclose(scores(again, pairs), found, atol=1e-6)
    assert again.head is not None
    assert float(again.head.candidate_threshold) == float(ensemble.head.candidate_threshold) > -1


def test_only_an_ensemble_with_a_head_is_of_the_new_format(ensemble, tmp_path):
    """Earlier versions would open it and score without the head."""
    for count, head in ((1, None), (2, ScoreNormalization.of(np.eye(2, ensemble.dim, dtype=np.float32)))):
        ensemble.head = head
        ensemble.save_pretrained(tmp_path / str(count))
        facts = json.loads((tmp_path / str(count) / "ensemble.json").read_text())
        assert facts["format"] == count
        if head is None:  # as written before there were heads
            del facts["head"]
            (tmp_path / "1" / "ensemble.json").write_text(json.dumps(facts))
        assert (Ensemble.from_pretrained(tmp_path / str(count)).head is None) == (head is None)


def test_vectors_of_another_width_are_refused(ensemble):
    with pytest.raises(ValueError, match=f"of 3 components, those of this ensemble have {ensemble.dim}"):
        Ensemble(ensemble.twins, head=ScoreNormalization(3, size=1))


def test_damaged_members_are_named(tower, tmp_path):
    Twin(tower, head=ScoreNormalization(32, size=2)).save_pretrained(tmp_path / "twin")
    file = tmp_path / "twin" / "textsiam.json"
    facts = json.loads(file.read_text())
    facts["head"]["size"] = 3
    file.write_text(json.dumps(facts))
    with pytest.raises(ModelError, match="size mismatch"):
        Twin.from_pretrained(tmp_path / "twin")
