"""Duplicates alone: what they are set against, and what is never taken for a negative."""

from __future__ import annotations

import numpy as np
import pytest

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import DataError, Pairs
from textsiam.data.splits import split_pairs
from textsiam.training.mining.positives_only import (
    by_wording,
    positives_alone,
    with_judged_negatives,
    with_trained_negatives,
)


def same_cluster(pairs: Pairs, truth: list[list[str]]) -> list[bool]:
    cluster = {text: k for k, members in enumerate(truth) for text in members}
    return [cluster[a] == cluster[b] for a, b in zip(pairs.left_texts, pairs.right_texts, strict=True)]


def test_pairs_that_are_no_duplicates_are_left_out_with_their_texts(pairs):
    alone = positives_alone(pairs)
    assert (len(alone), alone.positives) == (pairs.positives, pairs.positives)
    few = Pairs.from_texts(["a", "a"], ["b", "c"], [1, 0])
    assert positives_alone(few).texts == ["a", "b"]
    with pytest.raises(DataError, match="memory: has no duplicate"):
        positives_alone(few.select([1]))


def test_wording_gives_negatives_of_other_clusters_that_are_alike(pairs, question_clusters):
    alone = positives_alone(pairs)
    found = by_wording(alone)
    mined = found.select(np.flatnonzero(found.labels == 0))
    assert found.left[: len(alone)].tolist() == alone.left.tolist()
    assert len(mined) > 0.9 * len(alone)
    assert not any(same_cluster(mined, question_clusters))
    assert by_wording(alone).fingerprint == found.fingerprint
    texts = ["red wine stain", "stain of red wine", "blue ink on paper", "ink on my paper", "red wine stains"]
    texts += [f"{word} {word}ish" for word in "abcdefghijklmnopqrstuvwxyz"]
    near = by_wording(
        Pairs.from_texts([texts[0], texts[2], *texts[5::2]], [texts[1], texts[3], *texts[6::2]], [1] * 15)
    )
    assert near.labels.tolist().count(0) > 10


def test_a_duplicate_that_another_split_knows_is_no_negative():
    pairs = Pairs.from_texts(["a cat", "a cap"], ["one cat", "one cap"], [1, 1])
    assert (by_wording(pairs).labels == 0).any()
    known = Pairs.from_texts(["one cat"], ["a cap"], [1])
    with pytest.raises(ValueError, match="duplicates of each other"):
        by_wording(pairs, [known])


def test_held_out_splits_get_negatives_of_their_own_texts(pairs):
    cut = split_pairs(positives_alone(pairs), validation=0.2, calibration=0.2, test=0.2)
    splits = with_judged_negatives(cut)
    assert splits.train is cut.train
    for name in ("validation", "calibration", "test"):
        part, before = splits.named()[name], cut.named()[name]
        assert part.both_labels
        assert set(part.texts) == set(before.texts)
    assert splits.report.leakage.clean
    assert [size.pairs for size in splits.report.sizes] == [len(part) for part in splits.named().values()]
    labelled = cut.replacing(test=pairs)
    assert with_judged_negatives(labelled).test is pairs


def test_train_is_set_against_near_texts_of_the_twin_or_of_the_forum(twin, pairs, question_clusters):
    alone = positives_alone(pairs)
    others = [f"something else about {word}" for word in ("bread", "wine", "cats", "Rome", "eggs")]
    found = with_trained_negatives(twin, alone, others=[*others, alone.texts[0]])
    assert found.both_labels
    assert found.positives == len(alone)
    mined = found.select(np.flatnonzero(found.labels == 0))
    ours = [*question_clusters, *([text] for text in others)]
    assert not any(same_cluster(mined, ours))
    clusters = dict(zip(alone.texts, cluster_ids(alone).tolist(), strict=True))
    assert all(clusters.get(a) != clusters.get(b, -1) for a, b in zip(mined.left_texts, mined.right_texts, strict=True))


class Judging:
    """Stands for a twin: the similarity of pairs, by their texts."""

    def __init__(self, similarity: dict[tuple[str, str], float]) -> None:
        self.similarity = similarity

    def pair_similarity(self, texts, left, right):
        return np.array([self.similarity.get((texts[a], texts[b]), 0.2) for a, b in zip(left, right, strict=True)])


def test_train_is_set_against_the_nearest_wording_that_the_twin_does_not_hold_for_a_duplicate():
    asked, again, unlinked = "how do I cook red rice", "cooking rice that is red", "how do I cook red rice well"
    near, far = "how do I cook red beets", "why is the sky blue"
    pairs = Pairs.from_texts([asked, far], [again, "blue sky why"], [1, 1])
    others = [far, near, unlinked, "bread"]
    similarity = {(asked, again): 0.8, (asked, unlinked): 0.77, (asked, near): 0.75}

    def negative(changed):
        found = with_trained_negatives(Judging(similarity | changed), pairs, others=others)
        assert found.left_texts[2] == asked
        return found.right_texts[2]

    assert negative({}) == near  # the other one is too similar: above 0.95 of 0.8
    assert negative({(asked, unlinked): 0.75}) == unlinked
    assert negative({(asked, near): 0.77}) not in (near, unlinked)
    assert negative({(asked, again): -1.0, (far, "blue sky why"): -1.0}) == unlinked  # it holds everything for near


def test_a_language_without_spaces_is_compared_by_its_letters():
    texts = [
        "自転車のタイヤを交換する方法",
        "タイヤの交換はどうやる",
        "自転車のブレーキを交換する方法",
        "赤ワインの染みを落とす",
        "ワインの染み抜き",
        "猫が鳴くのはなぜ",
    ]
    pairs = Pairs.from_texts([texts[0], texts[3]], [texts[1], texts[4]], [1, 1])
    found = with_trained_negatives(Judging({(texts[0], texts[1]): 0.9, (texts[3], texts[4]): 0.9}), pairs, others=texts)
    assert found.right_texts[2] == texts[2]


def test_texts_of_no_words_have_negatives_too():
    pairs = Pairs.from_texts(["???", "!!!", ":-)"], ["??", "!!", ":-("], [1, 1, 1])
    assert by_wording(pairs).both_labels
