"""How many clusters are wholly right: exact where all is judged, and near the truth where little is."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import sample_pairs
from textsiam.labelling.aim import Aim
from textsiam.labelling.candidates import find_candidates
from textsiam.labelling.pure_clusters import PureClusters, pure_clusters, pure_clusters_of
from textsiam.labelling.session import Session
from textsiam.models.twin import Twin


class Made:
    """Clusters with a known truth: each a list of the questions that its members ask."""

    def __init__(self, asked: list[list[int]]) -> None:
        ends = np.cumsum([0, *map(len, asked)])
        self.clusters = [list(range(a, b)) for a, b in pairwise(ends.tolist())]
        pairs = [pair for members in self.clusters for pair in combinations(members, 2)]
        self.left, self.right = np.array(pairs, np.int64).T
        question = np.concatenate([np.array(part) + 1000 * n for n, part in enumerate(asked)])
        self.truth = question[self.left] == question[self.right]
        self.pure = sum(len(set(part)) == 1 for part in asked)

    def estimate(self, judged: int, seed: int, noise: float = 0.0) -> PureClusters:
        """Estimate it from so many pairs, drawn uniformly."""
        rng = np.random.default_rng(seed)
        answers = np.full(len(self.truth), -1, np.int8)
        drawn = rng.permutation(len(self.truth))[:judged]
        answers[drawn] = self.truth[drawn] ^ (rng.random(len(drawn)) < noise)
        right, wrong = (answers == 1).sum(), (answers == 0).sum()
        probability = rng.beta(right + 0.5, wrong + 0.5, (400, 1))
        stratum = np.zeros(len(answers), np.int64)
        return pure_clusters(self.clusters, self.left, self.right, stratum, answers, probability, rng, noise=noise)


def mixed(rng: np.random.Generator, clusters: int, impure: float) -> Made:
    """Clusters of two to six; an impure one has a stray member, or falls in two."""
    asked = []
    for _ in range(clusters):
        size = int(rng.choice([2, 3, 4, 6], p=[0.6, 0.2, 0.15, 0.05]))
        strays = int(rng.integers(1, size // 2 + 1)) if rng.random() < impure else 0
        asked.append([0] * (size - strays) + [1] * strays)
    return Made(asked)


def test_judging_all_is_exact():
    made = mixed(np.random.default_rng(0), 60, 0.3)
    found = made.estimate(len(made.truth), 0)
    assert (found.right, found.low, found.high) == (made.pure,) * 3
    assert str(found) == f"{made.pure} of 60 clusters are wholly right (estimate)"


def test_right_answers_that_tie_a_cluster_together_prove_it():
    made = Made([[0, 0, 0]])
    answers, rng = np.array([1, 1, -1], np.int8), np.random.default_rng(0)
    found = pure_clusters(
        made.clusters, made.left, made.right, np.zeros(3, np.int64), answers, np.full((400, 1), 0.1), rng
    )
    assert found.right == found.low == 1.0
    answers[1] = 0  # a wrong one refutes it
    found = pure_clusters(
        made.clusters, made.left, made.right, np.zeros(3, np.int64), answers, np.full((400, 1), 0.1), rng
    )
    assert found.high == 0.0


def test_a_share_of_right_pairs_is_no_share_of_right_clusters():
    """190 right pairs of one cluster and ten wrong twos: 95 % right pairs, one of eleven clusters."""
    made = Made([[0] * 20, *([0, 1] for _ in range(10))])
    assert made.truth.mean() == 0.95
    estimates = [made.estimate(100, seed) for seed in range(20)]
    assert np.mean([found.low <= 1 <= found.high for found in estimates]) >= 0.9
    assert np.mean([found.right for found in estimates]) < 4  # pairs alone would say 10
    assert made.estimate(150, 0).right < 2


@pytest.mark.parametrize("impure", [0.03, 0.15, 0.4])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_interval_holds_the_truth(impure, noise):
    """100 answers, 40 collections: the interval misses at most one in twenty, beyond chance; the mean is near."""
    rng, held, off = np.random.default_rng(round(100 * impure)), [], []
    for seed in range(40):
        made = mixed(rng, 150, impure)
        found = made.estimate(100, seed, noise)
        held.append(found.low <= made.pure <= found.high)
        off.append((found.right - made.pure) / 150)
    assert np.mean(held) >= 0.95 - 2 * (0.05 * 0.95 / 40) ** 0.5
    assert abs(np.mean(off)) <= 0.06


def test_clusters_without_pairs_are_copies_of_a_text():
    none = np.zeros(0, np.int64)
    found = pure_clusters([[0, 1], [5, 6]], none, none, none, none.astype(np.int8), np.full((9, 1), 0.5), RNG)
    assert (found.clusters, found.right, found.low) == (2, 2.0, 2.0)
    assert pure_clusters([], none, none, none, none.astype(np.int8), np.full((9, 1), 0.5), RNG).clusters == 0


@pytest.mark.slow
def test_the_sample_forum_has_so_many_pure_clusters(minilm):
    """Its clusters are complete. 100 answers of `label`, of 200 planned, three thresholds, 32 seeds each."""
    pairs = sample_pairs()
    twin, truth = Twin(minilm), cluster_ids(pairs)
    candidates = find_candidates(twin, pairs.texts)
    right, held, off = truth[candidates.left] == truth[candidates.right], [], []
    names = [str(n) for n in range(len(pairs.texts))]
    asked = {
        (a, b): said for a, b, said in zip(candidates.left.tolist(), candidates.right.tolist(), right, strict=True)
    }
    flagged = [
        candidates.duplicates(twin, pairs.texts, float(candidates.scores[size - 1]), None) for size in (200, 400, 1000)
    ]
    for seed in range(32):
        with TemporaryDirectory() as folder:
            session = Session(
                candidates, names, pairs.texts, Path(folder) / "labels.tsv", Aim(0.7, labels=200, seed=seed)
            )
            while len(session.plan.answers) < 100:
                question = session.ask("anna")
                session.answer(question, "y" if asked[question.left, question.right] else "n", "anna")
        for found in flagged:
            pure = sum(len(set(truth[members])) == 1 for members in found.clusters)
            estimate = pure_clusters_of(session, found.clusters, found.threshold)
            held.append(estimate.low <= pure <= estimate.high)
            off.append((estimate.right - pure) / len(found.clusters))
    assert np.mean(held) >= 0.95 - 2 * (0.05 * 0.95 / 32) ** 0.5  # three of the 96 share their answers
    assert abs(np.mean(off)) <= 0.08


RNG = np.random.default_rng(0)
