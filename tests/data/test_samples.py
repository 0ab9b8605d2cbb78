import csv
from collections import Counter
from importlib import resources

import numpy as np
import pytest

from textsiam.data.clusters import cluster_ids, contradictions, near_identical
from textsiam.data.pairs import sample_pairs
from textsiam.data.splits import split_pairs
from textsiam.data.texts import sample_questions
from textsiam.evaluation.slices import words

SAMPLES = resources.files("textsiam.data") / "samples"


@pytest.fixture(scope="module")
def pairs():
    return sample_pairs()


@pytest.fixture(scope="module")
def topics():
    with (SAMPLES / "forum_questions.tsv").open(encoding="utf-8", newline="") as file:
        return {row["question"]: row["topic"] for row in csv.DictReader(file, delimiter="\t")}


def test_columns_are_those_of_quora():
    with (SAMPLES / "forum_pairs.tsv").open(encoding="utf-8") as file:
        header = file.readline().rstrip("\n").split("\t")
    assert header == ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"]


def test_reading_drops_nothing(pairs):
    assert pairs.report.kept == pairs.report.rows
    assert pairs.report.warnings == ()


def test_there_are_enough_clusters_of_enough_paraphrases(pairs):
    sizes = np.bincount(cluster_ids(pairs))
    assert len(sizes) >= 300
    assert sizes.min() >= 3


def test_topics(pairs, topics):
    assert set(topics) == set(pairs.texts) == set(sample_questions().texts)
    assert len(set(topics.values())) >= 12
    assert min(Counter(topics.values()).values()) >= 50


def test_a_cluster_stays_in_one_topic(pairs, topics):
    clusters = cluster_ids(pairs)
    owner = {}
    for text, cluster in zip(pairs.texts, clusters, strict=True):
        assert owner.setdefault(cluster, topics[text]) == topics[text], text


def test_labels_do_not_contradict_each_other(pairs):
    found = contradictions(pairs, cluster_ids(pairs))
    assert len(found.direct) == len(found.transitive) == 0


def test_no_question_stands_twice(pairs):
    assert len(np.unique(near_identical(pairs.texts))) == len(pairs.texts)


def test_there_are_near_misses_and_far_paraphrases(pairs):
    def overlap(row):
        a, b = set(words(pairs.texts[pairs.left[row]])), set(words(pairs.texts[pairs.right[row]]))
        return len(a & b) / len(a | b)

    overlaps = np.array([overlap(row) for row in range(len(pairs))])
    assert (overlaps[pairs.labels == 0] >= 0.6).sum() >= 150
    assert (overlaps[pairs.labels == 1] <= 0.1).sum() >= 300


def test_questions_are_not_made_from_templates(pairs):
    openings = Counter(" ".join(words(text)[:3]) for text in pairs.texts)
    assert openings.most_common(1)[0][1] <= 0.06 * len(pairs.texts)


def test_a_split_loses_nothing(pairs):
    splits = split_pairs(pairs, validation=0.1, calibration=0.15, test=0.2)
    kept = sum(map(len, (splits.train, splits.validation, splits.calibration, splits.test)))
    assert kept == len(pairs)
