"""Whitening by what inputs of one class differ in: the formula, what is saved, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import average_precision_score

from textsiam import Twin, read_images
from textsiam.data.pairs import Pairs
from textsiam.inference.encoders import ModelError, encoder
from textsiam.inference.scratch import scratch_image_encoder
from textsiam.media.pairs import draw_up_to
from textsiam.models.learned import PairHead
from textsiam.training.loop import train
from textsiam.training.losses import InfoNCELoss
from textsiam.training.losses.objective import Objective
from textsiam.training.settings import Settings
from textsiam.training.weights.whitening import whiten

WORDS = ["red", "blue", "green", "cold", "warm", "fast", "slow", "large", "small", "old", "new", "open", "wet", "dry"]
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def classes(of: int = 6, each: int = 4, seed: int = 0) -> Pairs:
    rng = np.random.default_rng(seed)
    said = [[f"why is the {WORDS[c]} {w}?" for w in rng.permutation(WORDS)[:each]] for c in range(of)]
    chains = [(a, b, 1) for texts in said for a, b in pairwise(texts)]
    return Pairs.from_texts(*zip(*chains, strict=True))


def by_formula(vectors: np.ndarray, classes: np.ndarray, others: np.ndarray, by: str) -> np.ndarray:
    """W^-½ (x − m) and, by distance, a constant, to length 1, one class at a time."""
    inside = np.concatenate([vectors[classes == c] - vectors[classes == c].mean(0) for c in set(classes.tolist())])
    values, axes = np.linalg.eigh(ledoit_wolf(inside, assume_centered=True)[0])
    known, made = ((each - vectors.mean(0)) @ axes @ np.diag(values**-0.5) for each in (vectors, others))
    if by == "distance":
        made = np.hstack([made, np.full((len(made), 1), np.sqrt(np.mean(np.sum(known**2, axis=1))))])
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.mark.parametrize("by", ["angle", "distance"])
def test_the_vectors_are_those_of_the_formula(by):
    twin, pairs = Twin.from_pretrained(MODEL), classes()
    others = [f"who is {w}?" for w in WORDS]
    known, asked = twin.encode(list(pairs.texts)), twin.encode(others)
    cluster = np.array([WORDS.index(text.split()[3]) for text in pairs.texts])
    expected = by_formula(known.astype(float), cluster, asked.astype(float), by)
    whiten(twin, pairs, by)
    found = twin.encode(others, precision="fp32")
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=3e-3)  # the known ones are in bfloat16 here


def drawings(folder, of: range, light: float) -> dict[str, list[str]]:
    """Write six pictures of each class, under a light that falls from the left or from the right."""
    rng = np.random.default_rng(of.start)
    made = {}
    for name in map(str, of):
        shape = rng.uniform(90, 165, (7, 7))
        for number in range(6):
            pixels = shape + np.linspace(-1, 1, 7) * rng.normal(0, light)
            path = folder / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((28, 28), Image.Resampling.NEAREST).save(path)
            made.setdefault(name, []).append(str(path))
    return made


def test_what_all_classes_differ_in_alike_counts_less_for_classes_never_seen(tmp_path):
    drawings(tmp_path / "seen", range(12), light=60)
    others = drawings(tmp_path / "unseen", range(12, 20), light=60)
    twins = [Twin(scratch_image_encoder(size=28, channels=1, seed=0)) for _ in range(2)]
    whiten(twins[1], draw_up_to(read_images(tmp_path / "seen"), 200))
    left, right = np.triu_indices(48, 1)
    same = left // 6 == right // 6
    apart = []
    for twin in twins:
        vectors = twin.encode([each for of in others.values() for each in of])
        apart.append(average_precision_score(same, (vectors @ vectors.T)[left, right]))
    assert apart[1] > apart[0] + 0.1


def test_a_whitened_twin_is_saved_and_trained_with_the_map(tmp_path):
    twin = Twin.from_pretrained(MODEL)
    whiten(twin, classes())
    assert [type(module).__name__ for module in twin.left][-3:] == ["Normalize", "Dense", "Normalize"]
    assert all(p.requires_grad for p in twin.left[-2].parameters())
    before = twin.encode(WORDS)
    twin.save_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(Twin.from_pretrained(tmp_path / "model").encode(WORDS), before)
    # a projection comes after the map, not in its place
    narrow = encoder(Twin.from_pretrained(tmp_path / "model").left, dim=8)
    assert [type(module).__name__ for module in narrow][-4:] == ["Normalize", "Dense", "Dense", "Normalize"]


@pytest.mark.parametrize(("seeds", "steps"), [(1, 0), (1, 1), (2, 1)])
def test_training_ends_with_it(tmp_path, seeds, steps):
    vectors = []
    for whitening in (None, "distance"):
        twin = Twin.from_pretrained(MODEL)
        settings = Settings(max_steps=steps, batch_size=8, seeds=seeds, whitening=whitening, tracker="none")
        objective = Objective({"info_nce": InfoNCELoss()})
        train(twin, classes(), objective, output=tmp_path / str(whitening), settings=settings, quiet=True)
        if whitening is None:
            whiten(twin, classes(), "distance")
        vectors.append(twin.encode(WORDS, precision="fp32"))
    np.testing.assert_array_equal(*vectors)


def test_what_cannot_be_whitened_is_refused():
    with pytest.raises(ValueError, match="whitening must be one of angle, distance, got 'length'"):
        whiten(Twin.from_pretrained(MODEL), classes(), "length")
    single = Pairs.from_texts(["a", "c"], ["b", "d"], [1, 0])
    with pytest.raises(ModelError, match="two classes of two inputs"):
        whiten(Twin.from_pretrained(MODEL), single)
    alike = Pairs.from_texts(["a", "b"], ["A", "B"], [1, 1])  # one vector each: the model reads no case
    with pytest.raises(ModelError, match="one and the same vector"):
        whiten(Twin.from_pretrained(MODEL), alike)
    sided = Twin(Twin.from_pretrained(MODEL).left, Twin.from_pretrained(MODEL).left)
    with pytest.raises(ModelError, match="one tower for both sides"):
        whiten(sided, classes())
    head = Twin.from_pretrained(MODEL)
    head.head = PairHead(head.dim)
    with pytest.raises(ModelError, match="no head"):
        whiten(head, classes())
