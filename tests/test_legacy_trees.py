"""What version 0.1 saved, drawn by hand: files that it really wrote are opened by other tests."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from textsiam.legacy.trees import StoredTrees, stored_trees
from textsiam.rerank.cross_encoder import Reranker
from textsiam.rerank.lexical_reranker import LexicalReranker
from textsiam.training.settings import RerankerSettings


def two_trees(start: list[float] | None = None) -> dict[str, np.ndarray]:
    """x0 <= 0.5 ? (x1 <= 2 ? 0.1 : 0.3) : 0.9, and a leaf of 0.5."""
    arrays = {
        "roots": np.array([0, 5], np.int32),
        "feature": np.array([0, 1, -2, -2, -2, -2], np.int16),
        "threshold": np.array([0.5, 2.0, 0, 0, 0, 0]),
        "left": np.array([1, 2, -1, -1, -1, -1], np.int32),
        "right": np.array([4, 3, -1, -1, -1, -1], np.int32),
        "share": np.array([0, 0, 0.1, 0.3, 0.9, 0.5]),
    }
    return arrays if start is None else {**arrays, "start": np.array(start)}


ROWS = np.array([[0.5, 2.0], [0.5, 2.1], [0.6, 0.0]])
MEANS = np.array([0.3, 0.4, 0.7])


def test_stored_trees_by_hand() -> None:
    rows = np.tile(ROWS, (2000, 1))  # more than go down together
    np.testing.assert_allclose(StoredTrees(two_trees()).probability(rows), np.tile(MEANS, 2000))
    odds = 2 * MEANS - 1
    np.testing.assert_allclose(StoredTrees(two_trees([-1.0])).probability(ROWS), 1 / (1 + np.exp(-odds)))
    assert StoredTrees(two_trees()).probability(ROWS[:0]).shape == (0,)
    leaf = {n: a[5:6] for n, a in two_trees().items() if n != "roots"}
    assert StoredTrees({**leaf, "roots": np.array([0], np.int32)}).probability(ROWS).tolist() == [0.5] * 3


def test_a_forest_compares_in_single_precision() -> None:
    just_above = np.array([[np.float64(0.5) + 1e-12, 0.0]])
    assert StoredTrees(two_trees()).probability(just_above)[0] == pytest.approx(0.3)
    boosted = StoredTrees(two_trees([0.0])).probability(just_above)[0]
    assert boosted == pytest.approx(1 / (1 + np.exp(-1.4)))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("left", [0, 2, -1, -1, -1, -1], "leads nowhere"),  # a circle
        ("right", [6, 3, -1, -1, -1, -1], "leads nowhere"),  # past the end
        ("share", [0.0], "do not fit together"),
        ("roots", [0, 6], "do not fit together"),
        ("roots", [], "do not fit together"),
    ],
)
def test_damage_is_refused(name, value, message) -> None:
    with pytest.raises(ValueError, match=message):
        StoredTrees({**two_trees(), name: np.array(value)})


def test_files_of_one_forest_and_of_two_kinds_are_opened(tmp_path) -> None:
    file = tmp_path / "wording.safetensors"
    save_file(two_trees(), file)
    (one,) = stored_trees(file)
    np.testing.assert_allclose(one.probability(ROWS), MEANS)
    parts = {f"{k}.{n}": a for k, part in enumerate((two_trees(), two_trees([-1.0]))) for n, a in part.items()}
    save_file(parts, file)
    assert ["start" not in part.arrays for part in stored_trees(file)] == [True, False]
    del parts["0.left"]
    save_file(parts, file)
    with pytest.raises(KeyError, match="left"):
        stored_trees(file)


def test_a_reranker_without_a_cross_encoder_scores_as_it_did_and_is_saved_again(tmp_path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    forest = two_trees() | {"feature": np.array([2, 4, -2, -2, -2, -2], np.int16)}  # of the wording
    save_file({f"{k}.{n}": a for k in range(2) for n, a in forest.items()}, old / "wording.safetensors")
    knobs = {"slope": 8.0, "intercept": -4.0, "low": 0.1, "high": 0.9, "twin": 5.0, "reranker": 0.0, "constant": -2.0}
    facts = {"format": 3, "symmetric": True, "combination": knobs, "wording": {"texts": 9, "counts": {"is": 8}},
             "cross_encoder": False}  # fmt: skip
    (old / "reranker.json").write_text(json.dumps(facts))
    texts, left, right = ["is it", "is it", "no", "is it so"], np.array([0, 0, 1]), np.array([1, 2, 3])
    similarity = np.array([0.5, 0.5, 0.95], np.float32)
    reranker = Reranker.from_pretrained(old)
    assert isinstance(reranker, LexicalReranker)
    # The first two share all or nothing of their words: by hand, the trees say 0.7 and (0.1 + 0.5) / 2.
    mean = (1 / (1 + np.exp(-0.5)) + 2 * np.array([0.7, 0.3])) / 3
    expected = [*(np.log(mean / (1 - mean)) + 4) / 8, 0.95]
    found = reranker.rescore(texts, left, right, similarity)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    again = Reranker.from_pretrained(reranker.save_pretrained(tmp_path / "again"))
    np.testing.assert_array_equal(again.rescore(texts, left, right, similarity), found)


def test_no_epochs_are_a_lexical_reranker_and_a_warning() -> None:
    with pytest.warns(FutureWarning, match=r"reranker\.epochs: 0 is now reranker\.model: lexical"):
        settings = RerankerSettings(epochs=0, lexical_features=True, band=(0.01, 0.99))
    assert settings == RerankerSettings(model="lexical", band=(0.01, 0.99))
    assert settings.lexical_features
