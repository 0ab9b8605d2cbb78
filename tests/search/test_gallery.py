from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from textsiam.inference.encoders import ModelError
from textsiam.models.distances import DISTANCES
from textsiam.models.ensemble import Ensemble, Regions
from textsiam.models.learned import Mahalanobis
from textsiam.models.score_normalization import ScoreNormalization
from textsiam.models.twin import Twin
from textsiam.saving import SaveError
from textsiam.search.galleries import scores as module
from textsiam.search.gallery import Gallery
from textsiam.search.gallery_folder import scorer_fingerprint

IDENTITIES = 12


def vector(name: str, *, noise: float = 0.25) -> np.ndarray:
    """The vector of "person/take": near the others of that person."""
    person, take = (int(part) for part in name.split("/"))
    centre = np.random.default_rng(person).normal(size=6)
    found = centre / np.linalg.norm(centre) + noise * np.random.default_rng([person, take]).normal(size=6)
    return (found / np.linalg.norm(found)).astype(np.float32)


def faked(twin: Twin, sign: dict[str, float] | None = None) -> Twin:
    """Encode names of the form "person/take"; an asymmetric twin turns the vectors of a side over."""
    signs = sign or {"left": 1.0, "right": 1.0}
    twin.encode = lambda inputs, *, side="left", **_: (  # pyright: ignore[reportAttributeAccessIssue]
        np.stack([signs[side] * vector(name) for name in inputs]).astype(np.float32)
        if len(inputs)
        else np.zeros((0, 6), np.float32)
    )
    return twin


@pytest.fixture
def gallery(tower: SentenceTransformer) -> Gallery:
    gallery = Gallery(faked(Twin(tower)))
    for person in range(IDENTITIES):
        gallery.enroll(f"person {person}", [f"{person}/0", f"{person}/1", f"{person}/2"])
    return gallery


def calibration(people: int = IDENTITIES, takes: int = 20) -> tuple[list[str], list[str]]:
    rows = [(person, take) for person in range(people) for take in range(100, 100 + takes)]
    return [f"{p}/{t}" for p, t in rows], [f"person {p}" for p, _ in rows]


def test_an_identity_is_the_mean_of_its_inputs(gallery: Gallery) -> None:
    for row, person in zip(gallery.vectors(), range(IDENTITIES), strict=True):
        mean = sum(vector(f"{person}/{take}").astype(np.float64) for take in range(3))
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)
    assert gallery.names == [f"person {p}" for p in range(IDENTITIES)]
    assert set(gallery.shots.values()) == {3}
    assert len(gallery) == IDENTITIES


def test_enrolling_bit_by_bit_is_enrolling_at_once(tower: SentenceTransformer) -> None:
    once, bits = Gallery(faked(Twin(tower))), Gallery(faked(Twin(tower)))
    once.enroll("a", ["1/0", "1/1", "1/2"])
    for name in ("1/2", "1/0", "1/1"):
        bits.enroll("a", name)
    np.testing.assert_allclose(once.vectors(), bits.vectors(), atol=1e-7)
    assert once.shots == bits.shots == {"a": 3}


def test_removing(gallery: Gallery) -> None:
    before = gallery.vectors()
    gallery.remove("person 3")
    assert "person 3" not in gallery.names
    np.testing.assert_array_equal(gallery.vectors(), np.delete(before, 3, axis=0))
    with pytest.raises(KeyError, match="'person 3' is not enrolled"):
        gallery.remove("person 3")


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("rows", [1, 40, 65_536])
def test_similarities_against_a_loop(
    tower: SentenceTransformer, monkeypatch: pytest.MonkeyPatch, name: str, rows: int
) -> None:
    monkeypatch.setattr(module, "_ROWS", rows)
    gallery = Gallery(faked(Twin(tower, distance=name)))
    for person in range(5):
        gallery.enroll(str(person), [f"{person}/0", f"{person}/1"])
    inputs = [f"{p}/9" for p in range(7)]
    expected = [
        [gallery.twin.vector_similarity(vector(i)[None], v[None])[0] for v in gallery.vectors()] for i in inputs
    ]
    np.testing.assert_allclose(gallery.similarities(inputs), expected, atol=1e-5)


def test_a_head_scores_and_towers_have_sides(tower: SentenceTransformer) -> None:
    twin = faked(Twin(tower, copy.deepcopy(tower), head=Mahalanobis(6, diagonal=True)), {"left": 1.0, "right": -1.0})
    assert isinstance(twin.head, Mahalanobis)
    with torch.no_grad():
        twin.head.factor.copy_(torch.tensor([3.0, 0.1, 2.0, 0.5, 1.0, 0.2]))
    gallery = Gallery(twin)
    gallery.enroll("a", "1/0")
    gallery.enroll("b", "2/0")
    np.testing.assert_allclose(gallery.vectors(), -np.stack([vector("1/0"), vector("2/0")]), atol=1e-6)
    u = np.stack([vector("3/0")] * 2)
    expected = twin.vector_similarity(u, gallery.vectors())
    np.testing.assert_allclose(gallery.similarities(["3/0"])[0], expected, atol=1e-5)
    gallery.calibrate(["1/1", "1/2", "1/3", "2/1", "2/2", "2/3"] * 2, ["b", "b", "b", "a", "a", "a"] * 2, far=0.2)
    assert gallery.verify("b", "3/0").similarity == pytest.approx(float(expected[1]), abs=1e-5)


def test_both_thresholds_against_loops(gallery: Gallery) -> None:
    inputs, names = calibration()
    assert gallery.calibrate(inputs, names, far=0.05) is gallery
    scores, own = gallery.similarities(inputs), [gallery.names.index(name) for name in names]
    genuine = np.array([row[c] for row, c in zip(scores, own, strict=True)])
    others = [np.delete(row, c) for row, c in zip(scores, own, strict=True)]
    pair, best = gallery.verification, gallery.identification
    assert pair is not None
    assert best is not None
    assert pair.false_accepts.value == pytest.approx(np.mean(np.concatenate(others) >= pair.decision.threshold))
    assert pair.true_accepts.value == pytest.approx(np.mean(genuine >= pair.decision.threshold))
    tops = np.array([row.max() for row in others])
    assert best.false_accepts.value == pytest.approx(np.mean(tops >= best.decision.threshold))
    found = (genuine >= best.decision.threshold) & (genuine > tops)
    assert best.true_accepts.value == pytest.approx(found.mean())
    for point in (pair, best):
        assert 0.0 < point.false_accepts.value <= 0.05
        assert point.probes == len(inputs)
    assert pair.false_accepts.value < pair.false_accepts.high < (pair.worst_case or 0.0) < 1.0
    assert best.false_accepts.note == "no bound: that takes probes of identities that are not enrolled"
    assert (pair.enrolled, best.enrolled) == (1, IDENTITIES - 1)
    assert best.decision.threshold > pair.decision.threshold
    assert gallery.identification_threshold() == best.decision.threshold


def test_verify_and_identify(gallery: Gallery) -> None:
    gallery.calibrate(*calibration(), far=0.05)
    assert gallery.verification is not None
    inputs = [f"{p}/{t}" for p in range(IDENTITIES) for t in (500, 501)]
    names = [f"person {int(i.split('/')[0])}" for i in inputs]
    verdicts, found = gallery.verify(names, inputs), gallery.identify(inputs)
    assert np.mean([v.duplicate for v in verdicts]) > 0.6
    assert np.mean([i.name == name for i, name in zip(found, names, strict=True)]) > 0.4
    scores = gallery.similarities(inputs)
    for row, verdict, identity, name in zip(scores, verdicts, found, names, strict=True):
        assert verdict.similarity == pytest.approx(row[gallery.names.index(name)], abs=1e-6)
        first, second = np.argsort(-row)[:2]
        assert identity.similarity == pytest.approx(row[first], abs=1e-6)
        assert identity.name == (gallery.names[first] if identity.similarity >= identity.threshold else None)
        assert identity.runner_up is not None
        assert identity.runner_up.name == gallery.names[second]
        assert identity.runner_up.similarity == pytest.approx(row[second], abs=1e-6)
        assert 0.0 < identity.probability < 1.0
    # others are mostly refused
    wrong = gallery.verify([*names[2:], *names[:2]], inputs)
    assert np.mean([v.duplicate for v in wrong]) < 0.2
    strangers = gallery.identify([f"{p}/0" for p in range(100, 200)])
    assert np.mean([i.name is None for i in strangers]) > 0.75


def test_one_is_a_list_of_one(gallery: Gallery) -> None:
    gallery.calibrate(*calibration(), far=0.05)
    assert gallery.verify("person 1", "1/7") == gallery.verify(["person 1"], ["1/7"])[0]
    assert gallery.identify("1/7") == gallery.identify(["1/7"])[0]
    assert gallery.verify([], []) == gallery.identify([]) == []


def test_of_equal_identities_the_first_is_named(tower: SentenceTransformer) -> None:
    gallery = Gallery(faked(Twin(tower)))
    for name in ("first", "second"):
        gallery.enroll(name, "1/0")
    gallery.enroll("person 1", "2/0")
    gallery.enroll("person 0", "0/0")
    gallery.calibrate(*calibration(2, 30), far=0.05)
    identity = gallery.identify("1/0")
    assert identity.name == "first"
    assert identity.runner_up == ("second", identity.similarity)


def test_a_gallery_of_one_has_no_runner_up(gallery: Gallery) -> None:
    gallery.calibrate(*calibration(), far=0.05)
    for name in gallery.names[1:]:
        gallery.remove(name)
    identity = gallery.identify("0/0")
    assert (identity.name, identity.runner_up) == ("person 0", None)


def test_an_identity_that_is_not_the_best_is_not_found(gallery: Gallery) -> None:
    for person in range(6):  # half of the identities under two names
        gallery.enroll(f"double {person}", [f"{person}/0", f"{person}/1", f"{person}/2"])
    gallery.calibrate(*calibration(), far=0.5)
    assert gallery.identification is not None
    assert gallery.identification.true_accepts.value <= 0.5


def test_the_false_alarms_to_expect_grow_with_the_gallery(gallery: Gallery) -> None:
    gallery.calibrate(*calibration(), far=0.05)
    assert gallery.identification is not None
    rate = gallery.identification.false_accepts.value
    assert gallery.false_alarm_rate() == pytest.approx(1 - (1 - rate) ** (IDENTITIES / (IDENTITIES - 1)))
    for person in range(50, 80):
        gallery.enroll(f"person {person}", f"{person}/0")
    assert gallery.false_alarm_rate() > 3 * rate


def test_without_calibration(gallery: Gallery) -> None:
    for call in (
        lambda: gallery.verify("person 1", "1/7"),
        lambda: gallery.identify("1/7"),
        gallery.false_alarm_rate,
        gallery.identification_threshold,
    ):
        with pytest.raises(
            ModelError,
            match=r"no thresholds yet: calibrate it \(textsiam gallery calibrate, gallery\.calibrate in Python\)",
        ):
            call()


def test_what_cannot_be_enrolled(gallery: Gallery) -> None:
    with pytest.raises(ValueError, match="needs a name, got ' '"):
        gallery.enroll(" ", "1/0")
    for name in ("Bo\nEve  3", "a\x1b[2J", "a\x7f", "a\u2028b"):
        with pytest.raises(ValueError, match="has control characters"):
            gallery.enroll(name, "1/0")
    with pytest.raises(ValueError, match="new: no inputs"):
        gallery.enroll("new", [])
    gallery.twin.encode = lambda inputs, **_: np.array([[1, 0], [-1, 0]], np.float32)  # pyright: ignore
    with pytest.raises(ValueError, match="opposite"):
        gallery.enroll("new", ["a", "b"])
    assert "new" not in gallery.names


def test_what_cannot_be_calibrated(gallery: Gallery) -> None:
    inputs, names = calibration()
    with pytest.raises(ValueError, match="'nobody' is not enrolled: 1 of the calibration identities"):
        gallery.calibrate(inputs, ["nobody", *names[1:]])
    with pytest.raises(ValueError, match="a name for each of 240 inputs, got 239"):
        gallery.calibrate(inputs, names[1:])
    with pytest.raises(ValueError, match="false accept rate must be between 0 and 1"):
        gallery.calibrate(inputs, names, far=1.5)
    with pytest.raises(ValueError, match=r"0\.001 needs at least 1000 impostor comparisons, got 240"):
        gallery.calibrate(inputs, names, far=0.001)
    assert gallery.verification is gallery.identification is None  # both or neither
    for name in gallery.names[1:]:
        gallery.remove(name)
    with pytest.raises(ValueError, match="compares identities, but 1 is enrolled"):
        gallery.calibrate(*calibration(1))


def test_claims_must_fit(gallery: Gallery) -> None:
    gallery.calibrate(*calibration(), far=0.05)
    with pytest.raises(KeyError, match="'nobody' is not enrolled"):
        gallery.verify("nobody", "1/7")
    with pytest.raises(ValueError, match="got 1 and 2"):
        gallery.verify(["person 1"], ["1/7", "1/8"])
    with pytest.raises(TypeError, match="or a list of each"):
        gallery.verify("person 1", ["1/7"])  # pyright: ignore


def test_nobody_enrolled(tower: SentenceTransformer) -> None:
    gallery = Gallery(Twin(tower))
    assert gallery.vectors().shape == (0, 32)
    with pytest.raises(ValueError, match="nobody is enrolled"):
        gallery.similarities(["a"])


# --- saving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_saved_gallery_says_the_same(gallery: Gallery, tmp_path, calibrated: bool) -> None:
    if calibrated:
        gallery.calibrate(*calibration(), far=0.05)
    assert gallery.save(tmp_path / "g") == tmp_path / "g"
    again = Gallery.load(tmp_path / "g", gallery.twin)
    assert (again.names, again.shots) == (gallery.names, gallery.shots)
    np.testing.assert_array_equal(again.vectors(), gallery.vectors())
    assert sorted(p.name for p in (tmp_path / "g").iterdir()) == ["gallery.json", "gallery.safetensors"]
    if not calibrated:
        assert again.verification is again.identification is None
        return
    inputs = [f"{p}/7" for p in range(20)]
    assert again.identify(inputs) == gallery.identify(inputs)
    assert again.verify("person 2", "2/8") == gallery.verify("person 2", "2/8")
    again.enroll("person 0", "0/50")  # what was read may be changed
    assert again.shots["person 0"] == 4
    again.save(tmp_path / "g")
    assert Gallery.load(tmp_path / "g", gallery.twin).shots["person 0"] == 4


def test_names_of_any_kind_and_an_empty_gallery_are_kept(tower: SentenceTransformer, tmp_path) -> None:
    gallery = Gallery(faked(Twin(tower)))
    gallery.save(tmp_path / "empty")
    assert Gallery.load(tmp_path / "empty", gallery.twin).names == []
    odd = ["Łukasz \N{SNOWMAN}", 'a "b"', "../c", "true"]
    for name in odd:
        gallery.enroll(name, "1/0")
    assert Gallery.load(gallery.save(tmp_path / "odd"), gallery.twin).names == odd


def test_vectors_of_another_model_are_refused(gallery: Gallery, fresh_tower: SentenceTransformer, tmp_path) -> None:
    gallery.save(tmp_path / "g")
    with torch.no_grad():
        next(fresh_tower.parameters()).add_(0.01)
    with pytest.raises(ModelError, match=r"gallery\.json: another model made these vectors"):
        Gallery.load(tmp_path / "g", Twin(fresh_tower))


def test_the_fingerprint_is_that_of_all_scores_depend_on(tower: SentenceTransformer) -> None:
    other = copy.deepcopy(tower)
    with torch.no_grad():
        next(other.parameters()).add_(0.01)
    heads = [Mahalanobis(32, diagonal=True) for _ in range(3)]
    heads[1].candidate_threshold.fill_(0.3)
    with torch.no_grad():
        heads[2].factor.mul_(2.0)
    scorers = [
        Twin(tower),
        Twin(other),
        Twin(tower, distance="euclidean"),
        Twin(tower, other),
        Twin(tower, head=heads[0]),
        Twin(tower, head=heads[2]),
        Ensemble([Twin(tower)]),
        Ensemble([Twin(tower), Twin(other)]),
        Ensemble([Twin(tower), Twin(other)], regions=Regions(Twin(tower), np.eye(2, 32, dtype=np.float32), 1.0)),
        Ensemble([Twin(tower), Twin(other)], regions=Regions(Twin(tower), np.ones((2, 32), np.float32), 1.0)),
    ]
    members = [np.eye(2, 64, k=k, dtype=np.float32) for k in range(2)]
    scorers += [Ensemble([Twin(tower), Twin(other)], head=ScoreNormalization.of(vectors)) for vectors in members]
    assert len({scorer_fingerprint(s) for s in scorers}) == len(scorers)
    assert scorer_fingerprint(Twin(copy.deepcopy(tower))) == scorer_fingerprint(scorers[0])
    # how far the head looks for candidates changes no score
    assert scorer_fingerprint(Twin(tower, head=heads[1])) == scorer_fingerprint(scorers[4])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "gallery.json").unlink(), "No such file"),
        (lambda f: (f / "gallery.json").write_text("{"), "gallery.json: "),
        (lambda f: (f / "gallery.json").write_text("{}"), "lacks 'format'"),
        (lambda f: (f / "gallery.safetensors").write_bytes(b"x"), "gallery.json: "),
        (lambda f: (f / "gallery.safetensors").unlink(), "gallery.json: "),
        (lambda f: _change(f, "format", 99), "format is 99, this version reads 1 and 2"),
        (lambda f: _change(f, "shots", {"a": 1}), "gallery.json: "),
        (lambda f: _change(f, "shots", [1]), "gallery.json: "),
        (lambda f: _change(f, "verification", {"far": 0.1}), "lacks 'decision'"),
    ],
)
def test_damage_is_one_clear_error(gallery: Gallery, tmp_path, damage, message) -> None:
    gallery.calibrate(*calibration(), far=0.05).save(tmp_path / "g")
    damage(tmp_path / "g")
    with pytest.raises(ModelError, match=message):
        Gallery.load(tmp_path / "g", gallery.twin)


def _change(folder, key, value) -> None:
    facts = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
    (folder / "gallery.json").write_text(json.dumps({**facts, key: value}), encoding="utf-8")


def test_a_failed_save_leaves_the_old_gallery(gallery: Gallery, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery.save(tmp_path / "g")
    gallery.enroll("new", "99/0")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("textsiam.search.gallery_folder.save_file", full)
    with pytest.raises(SaveError, match="the disk is full"):
        gallery.save(tmp_path / "g")
    assert len(Gallery.load(tmp_path / "g", gallery.twin)) == IDENTITIES
    assert [p.name for p in tmp_path.iterdir()] == ["g"]


def test_real_texts(twin: Twin, question_clusters) -> None:
    gallery = Gallery(twin)
    for texts in question_clusters:
        gallery.enroll(texts[0], texts[:2])
    gallery.calibrate([t[2] for t in question_clusters], [t[0] for t in question_clusters], far=0.1)
    identity = gallery.identify(question_clusters[0][0])
    assert identity.similarity > 0.5
    assert gallery.verify(question_clusters[0][0], question_clusters[0][1]).duplicate


def test_what_the_calibration_looked_like_is_kept_and_compared(gallery: Gallery, tmp_path) -> None:
    assert gallery.calibrate(*calibration()).usual is not None
    loaded = Gallery.load(gallery.save(tmp_path / "g"), gallery.twin)
    assert loaded.usual is not None
    assert (loaded.usual.inputs, loaded.usual.identities) == (20 * IDENTITIES, IDENTITIES)
    assert np.array_equal(loaded.usual.values, gallery.usual.values)
    others = [f"{person}/{take}" for person in range(IDENTITIES) for take in range(300, 320)]
    assert loaded.drift(loaded.similarities(others)) is None
    away = np.stack([vector(name) for name in others]) - 9.0 * loaded.vectors().mean(axis=0)
    found = loaded.drift(loaded.similarities_of(away / np.linalg.norm(away, axis=1, keepdims=True)))
    assert found is not None
    assert found.distance > found.allowed
    few = Gallery.load(Gallery(gallery.twin).save(tmp_path / "few"), gallery.twin)
    assert (few.usual, few.drift(np.zeros((60, 0), np.float32))) == (None, None)


def test_a_gallery_that_remembers_no_calibration_raises_no_alarm(gallery: Gallery, tmp_path) -> None:
    file = gallery.calibrate(*calibration()).save(tmp_path / "g") / "gallery.json"
    facts = json.loads(file.read_text())
    del facts["usual"]  # as those of before have none
    file.write_text(json.dumps(facts))
    assert Gallery.load(tmp_path / "g", gallery.twin).usual is None
