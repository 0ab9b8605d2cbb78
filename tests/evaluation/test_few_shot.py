from __future__ import annotations

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from textsiam.evaluation import few_shot as module
from textsiam.evaluation.few_shot import evaluate_few_shot, few_shot, nearest_neighbour_baseline


def clouds(classes: int = 8, each: int = 6, *, noise: float = 0.6, dim: int = 5, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    vectors = rng.normal(size=(classes, dim))[labels] + noise * rng.normal(size=(labels.size, dim))
    order = rng.permutation(labels.size)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)[order], labels[order] * 3


def episodes_of(classes, **sizes):
    return module._draw(classes, len(classes), **{"way": 4, "shot": 1, "queries": 1, "episodes": 50, "seed": 0} | sizes)


def naive(vectors, classes, **sizes) -> np.ndarray:
    """The accuracy of each episode: loops over episodes, queries and classes."""
    shot = sizes.get("shot", 1)
    accuracies = []
    for episode in episodes_of(classes, **sizes):
        right = []
        for c, rows in enumerate(episode):
            for query in rows[shot:]:
                scores = []
                for other in episode:
                    prototype = sum(vectors[i] for i in other[:shot])
                    scores.append(float(vectors[query] @ prototype / np.linalg.norm(prototype)))
                right.append(int(np.argmax(scores)) == c)
        accuracies.append(np.mean(right))
    return np.array(accuracies)


@pytest.mark.parametrize(("way", "shot", "queries"), [(2, 1, 1), (4, 1, 3), (5, 3, 2), (8, 5, 1)])
@pytest.mark.parametrize("at_once", [1, 4_000_000])
def test_naive_loops_agree(monkeypatch: pytest.MonkeyPatch, way: int, shot: int, queries: int, at_once: int) -> None:
    monkeypatch.setattr(module, "_CELLS", at_once)
    vectors, classes = clouds(classes=8)
    sizes = {"way": way, "shot": shot, "queries": queries, "episodes": 40, "seed": 2}
    expected = naive(vectors, classes, **sizes)
    found = few_shot(vectors, classes, **sizes)
    assert found.value == pytest.approx(expected.mean())
    assert 0.4 < found.value <= 1.0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 5))
def test_an_episode_holds_no_example_twice(way: int, shot: int, queries: int, seed: int) -> None:
    _, classes = clouds(classes=5)
    drawn = episodes_of(classes, way=way, shot=shot, queries=queries, episodes=5, seed=seed)
    assert drawn.shape == (5, way, shot + queries)
    for episode in drawn:
        assert np.unique(episode).size == episode.size
        of = classes[episode]
        assert np.all(of == of[:, :1])
        assert np.unique(of[:, 0]).size == way


def test_every_class_and_example_has_its_turn() -> None:
    _, classes = clouds(classes=6, each=4)
    drawn = episodes_of(classes, way=2, episodes=3000)
    counts = np.bincount(drawn.ravel(), minlength=24)
    np.testing.assert_allclose(counts, 3000 * 4 / 24, rtol=0.2)


def test_a_collapsed_twin_guesses() -> None:
    _, classes = clouds()
    same = few_shot(np.ones((len(classes), 3)) / np.sqrt(3), classes, way=5, episodes=20)
    assert same.value == pytest.approx(1 / 5)
    noise = np.random.default_rng(0).normal(size=(len(classes), 64))
    random = few_shot(noise / np.linalg.norm(noise, axis=1, keepdims=True), classes, way=5, episodes=2000)
    assert random.value == pytest.approx(1 / 5, abs=0.06)


def test_more_shots_help_and_more_classes_do_not() -> None:
    vectors, classes = clouds(classes=20, each=8, noise=1.0)
    one, five = (few_shot(vectors, classes, way=5, shot=k, episodes=400).value for k in (1, 5))
    assert one + 0.1 < five
    assert few_shot(vectors, classes, way=20, episodes=200).value + 0.1 < one


def test_the_interval_covers_the_accuracy_over_other_classes() -> None:
    truth = np.mean([few_shot(*clouds(24, noise=0.9, seed=s), way=4, episodes=200).value for s in range(60)])
    found = [few_shot(*clouds(24, noise=0.9, seed=100 + s), way=4, episodes=200, seed=s) for s in range(60)]
    assert np.mean([e.low <= truth <= e.high for e in found]) >= 0.8
    episodes_alone = [1.96 * np.sqrt(e.value * (1 - e.value) / 800) for e in found]
    assert np.mean([abs(e.value - truth) <= half for e, half in zip(found, episodes_alone, strict=True)]) < 0.7


def test_few_classes_have_a_word_in_place_of_an_interval() -> None:
    found = few_shot(*clouds(9), way=4)
    assert str(found).endswith("(no interval: 9 classes are too few for one)")
    assert np.isfinite(few_shot(*clouds(10), way=4).low)


def test_a_seed_is_a_set_of_episodes() -> None:
    vectors, classes = clouds()
    assert few_shot(vectors, classes, way=4, episodes=30) == few_shot(vectors, classes, way=4, episodes=30)
    assert few_shot(vectors, classes, way=4, episodes=30) != few_shot(vectors, classes, way=4, episodes=30, seed=1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"way": 9}, "9-way episodes need at least 9 classes, got 8"),
        ({"way": 2, "shot": 5, "queries": 2}, "need 7 examples of each class, but class 0 has 6; 8 of 8"),
        ({"way": 0}, "way must be at least 1, got 0"),
        ({"queries": 0}, "queries must be at least 1"),
        ({"episodes": 0}, "episodes must be at least 1"),
    ],
)
def test_what_cannot_be_drawn(sizes: dict[str, int], message: str) -> None:
    vectors, classes = clouds()
    with pytest.raises(ValueError, match=message):
        few_shot(vectors, classes, **sizes)


def test_shapes_must_fit() -> None:
    vectors, classes = clouds()
    with pytest.raises(ValueError, match="one class for each of 48 vectors"):
        few_shot(vectors, classes[1:], way=2)
    with pytest.raises(ValueError, match="vectors must be"):
        few_shot(vectors, classes, way=2, shots=vectors[:, :2])


class Known:
    """A twin whose inputs are row numbers, and that scores as it is told."""

    def __init__(self, left, right=None, similarity=None) -> None:
        self.vectors, self.right = {"left": left, "right": right}, right
        self.vector_similarity = similarity or (lambda u, v: (u * v).sum(1))

    def encode(self, inputs, *, side="left"):
        return self.vectors[side][[int(i) for i in inputs]]


def test_a_twin_is_scored_as_it_scores_pairs() -> None:
    vectors, classes = clouds(noise=0.3)
    images = SimpleNamespace(names=[str(i) for i in range(len(classes))], classes=classes)
    sizes = {"way": 4, "shot": 2, "episodes": 50}
    plain = evaluate_few_shot(Known(vectors), images, **sizes)
    assert plain.value == pytest.approx(few_shot(vectors, classes, **sizes).value)
    opposite = evaluate_few_shot(Known(vectors, similarity=lambda u, v: -(u * v).sum(1)), images, **sizes)
    assert opposite.value < 0.1 < plain.value
    # an asymmetric twin: the shots of the right tower lie elsewhere
    halves = Known(vectors, -vectors)
    assert evaluate_few_shot(halves, images, **sizes).value == pytest.approx(opposite.value)


def test_nothing_is_encoded_for_episodes_that_cannot_be_drawn() -> None:
    images = SimpleNamespace(names=["a", "b"], classes=np.array([0, 1]))
    with pytest.raises(ValueError, match="20-way"):
        evaluate_few_shot(SimpleNamespace(), images)


def picture(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.mark.parametrize("shot", [1, 3])
def test_the_baseline_is_the_nearest_neighbour_in_pixels(shot: int) -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(5), 5)
    drawings = rng.integers(0, 256, size=(5, 6, 6, 3))[classes] + rng.integers(-600, 600, size=(25, 6, 6, 3))
    pixels = np.clip(drawings, 0, 255)
    images = SimpleNamespace(names=[picture(p) for p in pixels], classes=classes)
    found = nearest_neighbour_baseline(images, way=4, shot=shot, episodes=50, side=6)
    right = []
    for episode in episodes_of(classes, shot=shot):
        for c, rows in enumerate(episode):
            nearest = [min(((pixels[rows[shot]] - pixels[i]) ** 2).sum() for i in other[:shot]) for other in episode]
            right.append(int(np.argmin(nearest)) == c)
    assert found.value == pytest.approx(np.mean(right))
    assert 0.3 < found.value < 0.95
    other = nearest_neighbour_baseline(images, way=4, shot=shot, episodes=50, side=3)
    assert other.value != found.value
    with pytest.raises(ValueError, match="side must be at least 1"):
        nearest_neighbour_baseline(images, way=4, side=0)
