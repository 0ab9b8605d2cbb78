from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textsiam.rerank.lexical_features import FEATURES, LexicalFeatures, words


def learned(left: list[str], right: list[str], evidence: np.ndarray, labels: np.ndarray) -> LexicalFeatures:
    return LexicalFeatures.fit(left, right, evidence, labels)


@pytest.fixture(scope="module")
def task() -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Pairs whose evidence misleads where no word is shared."""
    rng = np.random.default_rng(0)
    vocabulary = [f"word{i}" for i in range(60)]
    left, right, labels = [], [], []
    for _ in range(800):
        a = rng.choice(vocabulary, 5, replace=False).tolist()
        shared = int(rng.integers(0, 2))
        rest = [w for w in vocabulary if w not in a]
        b = [*a[: 3 * shared], *rng.choice(rest, 5 - 3 * shared, replace=False).tolist()]
        left.append(" ".join(a))
        right.append(" ".join(b))
        labels.append(shared and rng.random() < 0.7)
    labels = np.array(labels, int)
    evidence = np.stack([rng.normal(size=800) + labels, rng.normal(size=800)], 1)
    return left, right, evidence, labels


@pytest.fixture(scope="module")
def lexical(task) -> LexicalFeatures:
    return learned(*task)


def test_features_by_hand() -> None:
    lexical = LexicalFeatures(9, {"is": 8, "python": 4}, trees=())
    found = dict(zip(FEATURES, lexical.features(["Is Python 3 old?"], ["is python OLD"])[0], strict=True))
    common = log(10 / 9) + log(10 / 5) + log(10)
    assert found["words shared, by weight"] == pytest.approx(common / (common + log(10)))
    assert found["words shared"] == pytest.approx(3 / 4)
    assert found["words shared, of the shorter text"] == 1
    first, second = "is python 3 old?", "is python old"
    letters = [{t[i : i + 3] for i in range(len(t) - 2)} for t in (first, second)]
    assert found["three letters shared"] == pytest.approx(len(letters[0] & letters[1]) / len(letters[0] | letters[1]))
    assert found["weight left over, more"] == pytest.approx(log(10))
    assert found["weight left over, less"] == 0
    assert (found["words of both"], found["difference in words"]) == (7, 1)
    assert (found["numbers that differ"], found["same last word"]) == (1, 1)


@given(st.text(max_size=40), st.text(max_size=40))
def test_the_order_of_a_pair_means_nothing_and_all_is_finite(one: str, other: str) -> None:
    lexical = LexicalFeatures(5, {"a": 3}, trees=())
    there, back = lexical.features([one], [other]), lexical.features([other], [one])
    np.testing.assert_array_equal(there, back)
    assert there.shape == (1, len(FEATURES))
    assert np.isfinite(there).all()
    same = dict(zip(FEATURES, lexical.features([one], [one])[0], strict=True))
    assert same["weight left over, more"] == same["numbers that differ"] == same["difference in words"] == 0


def test_words_are_told_apart_in_any_script() -> None:
    assert words("Don't STOP: Straße 2.5!") == ["don't", "stop", "strasse", "2.5"]
    assert words("что это?") == ["что", "это"]
    assert words("?!") == []


def test_it_learns_where_the_evidence_misleads(lexical, task) -> None:
    left, right, _, labels = task
    fooled = np.tile([[3.0, 3.0]], (800, 1))  # as sure as can be
    shared = lexical.features(left, right)[:, FEATURES.index("words shared")] > 0
    for found in lexical.probability(left, right, fooled):
        assert found[~shared].max() < 0.1
        assert found[shared].mean() > labels[shared].mean()


def test_more_evidence_never_makes_it_less_sure(lexical, task) -> None:
    left, right, evidence, _ = task
    before = lexical.probability(left, right, evidence)
    for column in (0, 1):
        after = lexical.probability(left, right, evidence + np.eye(2)[column])
        assert (after >= before).all()


def test_words_of_one_text_only_are_not_kept(task) -> None:
    left, right, evidence, labels = task
    left = [f"{text} unique{i}" for i, text in enumerate(left)]
    lexical = learned(left, right, evidence, labels)
    assert not [word for word in lexical.counts if word.startswith("unique")]
    assert min(lexical.counts.values()) > 1
    assert lexical.texts == len({*left, *right})


def test_too_few_pairs_are_refused(task) -> None:
    left, right, evidence, labels = task
    rows = np.concatenate([np.flatnonzero(labels == 0)[:300], np.flatnonzero(labels == 1)[:20]])
    with pytest.raises(ValueError, match="50 pairs of each label in the band, there are 20"):
        learned([left[i] for i in rows], [right[i] for i in rows], evidence[rows], labels[rows])
