"""The alarm: other texts are noticed, another share of duplicates is not, and chance raises none."""

from __future__ import annotations

import json

import numpy as np
import pytest

from textsiam.decision.decision import Decision, fit_decision
from textsiam.decision.domain import Domain, DomainShift, describe_domain, ks_distance, scores_shift

COMMON = ["how", "do", "i", "the", "what", "is", "a", "to", "in", "of", "can", "my"]
RARE = ["oven", "bread", "tyre", "cactus", "visa", "guitar", "knife", "swim", "sleep", "raise"]


def texts(n: int, seed: int, *, words: list[str] = COMMON, length: int = 9) -> list[str]:
    rng = np.random.default_rng(seed)
    frequent = rng.choice(words, size=(n, length), p=np.arange(len(words), 0, -1) / sum(range(len(words) + 1)))
    return [" ".join([*row[: rng.integers(4, length)], str(rng.choice(RARE))]) for row in frequent]


def similarity(m: int, seed: int, *, mean: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.normal(mean, 0.1, (m, m)), 1)
    return (upper + upper.T).astype(np.float32)


def domain(n: int, seed: int, m: int = 256, mean: float = 0.1, **kind) -> Domain:
    found = describe_domain(texts(n, seed, **kind), similarity(m, seed, mean=mean))
    assert found is not None
    return found


@pytest.mark.parametrize("n", [60, 500, 2000])
def test_chance_raises_no_alarm(n):
    known = domain(1000, 0)
    for seed in range(1, 41):
        assert domain(n, seed, min(n, 256)).shift_from(known) == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ({"words": COMMON[::-1]}, "wording"),
        ({"length": 25}, "lengths"),
        ({"mean": 0.25}, "scores of random pairs"),
        ({"mean": 0.4}, "scores of nearest neighbours"),
    ],
)
def test_each_difference_is_named(kind, name):
    found = domain(1000, 1, **kind).shift_from(domain(1000, 0))
    assert name in [one.name for one in found]
    assert all(one.distance > one.allowed for one in found)


def test_another_script_is_another_wording():
    rng = np.random.default_rng(0)
    japanese = ["".join(rng.choice(list("日本語質問犬猫何時"), 12)) for _ in range(300)]
    found = describe_domain(japanese, similarity(256, 1))
    assert found is not None
    assert found.tokens == 3600
    assert "wording" in [one.name for one in found.shift_from(domain(1000, 0))]


def test_few_texts_say_nothing():
    assert describe_domain(texts(49, 0), similarity(49, 0)) is None


def test_inputs_that_are_no_texts_have_scores_alone():
    images = describe_domain([], similarity(256, 1, mean=0.5))
    assert images is not None
    assert (images.texts, images.tokens, images.lengths.size) == (256, 0, 0)
    plain = describe_domain([], similarity(256, 0))
    assert plain is not None
    assert {one.name for one in images.shift_from(plain)} == {"scores of random pairs", "scores of nearest neighbours"}


def scores(
    n: int, share: float, seed: int, *, means: tuple[float, float] = (0.4, 0.8)
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < share).astype(np.int8)
    return rng.normal(np.array(means)[labels], 0.15).astype(np.float32), labels


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.95])
def test_another_share_of_duplicates_is_no_difference(share):
    known = scores(2000, 0.75, 0)
    assert ks_distance(known[0], scores(500, share, 1)[0]) > 0.1
    assert all(scores_shift(*known, scores(500, share, seed)[0]) == [] for seed in range(1, 21))


def test_scores_that_are_no_mixture_are_a_difference():
    known = scores(2000, 0.75, 0)
    (found,) = scores_shift(*known, scores(500, 0.5, 1, means=(0.0, 0.6))[0])
    assert found.name == "scores of the pairs"
    assert scores_shift(*known, scores(49, 0.5, 1, means=(0.0, 0.6))[0]) == []


def test_the_distance_is_that_of_scipy():
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(0)
    a, b = np.round(rng.normal(size=80), 1), np.round(rng.normal(0.3, size=120), 1)
    assert ks_distance(a, b) == pytest.approx(ks_2samp(a, b).statistic)


def test_a_saved_domain_finds_the_same():
    from dataclasses import replace

    known, other = domain(1000, 0), domain(1000, 1, length=25)
    decision = replace(fit_decision(*scores(300, 0.5, 0)), domain=known)
    facts = json.loads(json.dumps(decision.metadata()))
    restored = Decision.restore(facts, decision.tensors())
    assert restored.domain is not None
    assert other.shift_from(restored.domain) == other.shift_from(known) != []
    assert len(json.dumps(facts)) < 10_000


def test_a_decision_of_an_older_version_has_none():
    decision = fit_decision(*scores(300, 0.5, 0))
    old = {name: value for name, value in decision.metadata().items() if name not in ("domain", "feedback")}
    restored = Decision.restore(old, decision.tensors())
    assert (restored.domain, restored.feedback) == (None, None)


def test_the_message_is_one_line_that_says_what_to_do():
    shift = DomainShift(tuple(domain(1000, 1, length=25).shift_from(domain(1000, 0))))
    assert "\n" not in str(shift)
    assert "lengths" in str(shift)
    assert "textsiam recalibrate" in str(shift)
    assert json.loads(json.dumps(shift.to_dict()))["differences"][0]["distance"] > 0
