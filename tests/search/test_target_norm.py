"""Target-centric score normalization: what it learns, what it takes, and that it leaves alone what it cannot help."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from textsiam.models.twin import Twin
from textsiam.search.galleries.target_norm import MOST, TargetNorm, fit_target_norms, offsets, own_similarities
from textsiam.search.gallery import Gallery

DIM = 24


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def hands(rng, people, each, *, uneven):
    """Return inputs (people, each, DIM): some people are alike every time and others are not, if `uneven`."""
    spread = rng.uniform(0.1, 0.5, people) if uneven else np.full(people, 0.3)
    centres = unit(rng.normal(size=(people, DIM)))
    return unit(centres[:, None] + spread[:, None, None] * rng.normal(size=(people, each, DIM)))


def test_own_similarities_against_a_loop(tower: SentenceTransformer) -> None:
    twin, inputs = Twin(tower), [*hands(np.random.default_rng(0), 3, 4, uneven=True)]
    inputs[1] = inputs[1][:2]
    inputs.append(inputs[0][:1])
    expected = []
    for own in inputs:
        apart = [float(x @ unit(np.delete(own, i, axis=0).sum(0))) for i, x in enumerate(own)] if len(own) > 1 else []
        expected.append(np.mean(apart) if apart else np.nan)
    np.testing.assert_allclose(own_similarities(twin, inputs), expected, atol=1e-6)
    assert np.isnan(own_similarities(twin, [inputs[0][:1]])).all()


def test_inputs_that_cancel_each_other_out_have_a_number(tower: SentenceTransformer) -> None:
    x = unit(np.eye(DIM)[:1])
    assert np.isfinite(own_similarities(Twin(tower), [np.concatenate([x, x, -x])])).all()


def test_offsets_are_those_of_the_number_of_inputs() -> None:
    norms = {2: TargetNorm(0.5, 0.6), 5: TargetNorm(0.8, 0.7)}
    own = np.array([np.nan, 0.8, 0.8, 0.9])
    assert offsets(norms, [1, 2, 4, 9], own) == pytest.approx([0.0, 0.1, 0.1, 0.16])
    assert not offsets({}, [1, 2, 4, 9], own).any()
    assert not offsets({2: TargetNorm(0.5, 0.6), 5: TargetNorm(0.0, 0.7)}, [9], own[3:]).any()  # not that of two


def test_the_weight_is_the_mean_slope_of_genuine_and_impostor_scores(tower: SentenceTransformer) -> None:
    inputs = [*hands(np.random.default_rng(1), 150, 12, uneven=True)]
    norms = fit_target_norms(Twin(tower), inputs)
    assert sorted(norms) == [2, 3, 4, MOST]
    own = own_similarities(Twin(tower), [each[:5] for each in inputs])
    means = unit(np.array([each[:5].sum(0) for each in inputs]))
    scores = np.array([(each[5:] @ means.T).mean(0) for each in inputs])
    genuine = np.diag(scores)
    impostor = (scores.sum(0) - genuine) / (len(inputs) - 1)
    of_genuine, of_impostors = (np.polyfit(own, y, 1)[0] for y in (genuine, impostor))
    slope = (of_genuine + max(of_impostors, 0.0)) / 2
    assert norms[5].weight == pytest.approx(slope, abs=0.06)
    assert norms[5].usual == pytest.approx(own.mean(), abs=0.02)
    assert norms[2].weight < norms[3].weight < norms[5].weight  # one comparison says less than five


def test_where_all_are_alike_hardly_anything_is_taken(tower: SentenceTransformer) -> None:
    inputs = [*hands(np.random.default_rng(2), 150, 8, uneven=False)]
    assert all(norm.weight < 0.15 for norm in fit_target_norms(Twin(tower), inputs).values())


def test_what_cannot_be_learned_changes_nothing(tower: SentenceTransformer) -> None:
    inputs = [*hands(np.random.default_rng(3), 20, 6, uneven=True)]
    assert fit_target_norms(Twin(tower), inputs[:3]) == {}  # three people
    assert fit_target_norms(Twin(tower), [each[:1] for each in inputs]) == {}
    assert fit_target_norms(Twin(tower), [each[:2] for each in inputs]) == {}  # two enrol, and nobody claims
    assert fit_target_norms(Twin(tower, copy.deepcopy(tower)), inputs) == {}  # two towers
    three = fit_target_norms(Twin(tower), [each[:3] for each in inputs])
    assert sorted(three) == [2, 3]
    assert three[2].weight == three[3].weight  # nobody has a fourth to claim with


def equal_error(genuine, impostors):
    at = np.sort(np.concatenate([genuine, impostors]))
    apart = [abs((genuine < t).mean() - (impostors >= t).mean()) for t in at]
    t = at[int(np.argmin(apart))]
    return ((genuine < t).mean() + (impostors >= t).mean()) / 2


def test_a_gallery_tells_imitations_better_and_promises_what_it_keeps(tower: SentenceTransformer, tmp_path) -> None:
    rng = np.random.default_rng(4)
    inputs = hands(rng, 120, 16, uneven=True)
    imitated = unit(inputs[:, 5:].mean(1, keepdims=True) + 0.28 * rng.normal(size=(120, 10, DIM)))
    plain = Gallery(twin := Twin(tower))
    twin.encode = lambda names, **_: inputs[tuple(zip(*names, strict=True))]  # pyright: ignore
    names = [f"p{i}" for i in range(120)]
    plain.add(inputs[:, :5].reshape(-1, DIM), np.repeat(names, 5).tolist())
    single = [f"single {i}" for i in range(10)]
    plain.add(hands(rng, 10, 1, uneven=True)[:, 0], single)
    gallery = Gallery(twin)
    gallery.add(np.concatenate([plain.references[name] for name in plain.names]),
                [name for name in plain.names for _ in plain.references[name]])  # fmt: skip
    probes = [(i, k) for i in range(60) for k in range(6, 12)]
    gallery.calibrate(probes, [f"p{i}" for i, _ in probes], far=0.01)  # pyright: ignore
    assert gallery.norms[5].weight > 0.3

    def error(g):
        asked = [f"p{i}" for i in range(60, 120)]  # who is in no probe
        genuine = [g.similarities_of(inputs[i, 12:], [name])[:, 0] for i, name in enumerate(asked, 60)]
        forged = [g.similarities_of(imitated[i], [name])[:, 0] for i, name in enumerate(asked, 60)]
        return equal_error(np.concatenate(genuine), np.concatenate(forged))

    assert error(gallery) < error(plain) - 0.03
    asked = inputs[100:110, 13]  # one input has no own similarity:
    np.testing.assert_array_equal(gallery.similarities_of(asked, single), plain.similarities_of(asked, single))
    one = gallery.judged(["p100"], inputs[100, 13:14])[0]
    assert one.similarity == pytest.approx(float(gallery.similarities_of(inputs[100, 13:14], ["p100"])[0, 0]), abs=1e-6)
    # every probe to every other identity that was compared: at most the rate asked for
    point = gallery.by_references[5]
    impostors = [gallery.similarities_of(inputs[i, 6:12], [n for n in names if n != f"p{i}"]) for i in range(60)]
    assert (np.concatenate(impostors) >= point.decision.threshold).mean() <= 0.0101
    gallery.save(tmp_path / "g")
    again = Gallery.load(tmp_path / "g", twin)
    assert again.norms == gallery.norms
    np.testing.assert_array_equal(again.similarities_of(asked), gallery.similarities_of(asked))
    again.add(inputs[100, 13:], ["p100"] * 3)  # what is known of the own inputs is known anew
    assert again.offsets(["p100"]) != gallery.offsets(["p100"])
    fresh = Gallery(twin)
    fresh.take_thresholds(gallery)
    assert fresh.norms == gallery.norms
