"""What leaks between sets, and what is in one."""

from __future__ import annotations

import json
from dataclasses import replace

from textsiam.data.leakage import data_report, leakage
from textsiam.data.pairs import Pairs, read_pairs


def pairs_of(*triples):
    left, right, labels = zip(*triples, strict=True) if triples else ((), (), ())
    return Pairs.from_texts(left, right, labels)


def test_leakage_by_hand():
    train = pairs_of(("a", "b", 1), ("c", "d", 0), ("How old?", "x", 0), ("p", "q", 1))
    test = pairs_of(("b", "e", 1), ("d", "c", 1), ("how OLD", "y", 0), ("p", "z", 0))
    found = leakage({"train": train, "test": test, "other": pairs_of(("1", "2", 1))})
    assert [(o.first, o.second) for o in found.overlaps] == [
        ("train", "test"),
        ("train", "other"),
        ("test", "other"),
    ]
    overlap = found.overlaps[0]
    assert overlap.shared_texts == 4  # b, d, c, p
    assert overlap.near_identical == 1  # how OLD
    assert overlap.shared_clusters == 3  # {a, b, e}, {c, d}, {p, q}
    assert overlap.contradictions == 2  # c-d, once in each
    assert overlap.examples == (
        "'b' is in both",
        "'d' is in both",
        "'c' is in both",
        "'How old?' and 'how OLD'",
    )
    assert (overlap.clean, found.overlaps[1].clean, found.clean) == (False, True, False)
    assert json.loads(json.dumps(found.to_dict()))["overlaps"][0]["shared_texts"] == 4
    lines = str(found).splitlines()
    assert lines[1].split() == ["train", "|", "test", "4", "1", "3", "2"]
    assert lines[4] == "  train | test: 'b' is in both"


def test_a_contradiction_through_a_cluster_that_crosses():
    train, test = pairs_of(("a", "b", 1), ("b", "c", 1)), pairs_of(("a", "c", 0))
    assert leakage({"train": train, "test": test}).overlaps[0].contradictions == 1


def test_contradictions_of_one_set_alone_do_not_leak():
    train, test = pairs_of(("a", "b", 1), ("b", "a", 0)), pairs_of(("c", "d", 1))
    assert leakage({"train": train, "test": test}).clean


def test_nothing_leaks_into_nothing():
    assert leakage({"train": pairs_of(("a", "b", 1)), "test": pairs_of()}).clean
    assert leakage({"train": pairs_of(("a", "b", 1))}).clean
    assert leakage({}).clean


def test_data_report_by_hand(tmp_path):
    path = tmp_path / "pairs.tsv"
    lines = ["a one\tb\t1", "b\tc\t1", "c\ta one\t0", "B !\td\t0", "e\tf\t1", "f\te\t1", "g\th\t0"]
    path.write_text("question1\tquestion2\tis_duplicate\n" + "\n".join(lines))
    report = data_report(read_pairs(path))
    assert (report.pairs, report.texts, report.positives, report.negatives, report.unlabelled) == (
        6,
        9,
        3,
        3,
        0,
    )
    assert (report.clusters, report.cluster_sizes) == (2, {2: 1, 3: 1})
    assert (report.direct, report.transitive) == (0, 1)
    assert report.near_identical == 1
    assert report.component_pairs == 3
    assert report.words[1] == 1
    assert report.read.duplicate_rows == 1
    assert report.examples == ("labelled 0 inside a duplicate cluster: 'c' and 'a one'",)
    saved = json.loads(json.dumps(report.to_dict()))
    assert saved["cluster_sizes"] == {"2": 1, "3": 1}
    assert saved["read"]["rows"] == 7
    text = str(report)
    assert f"{path}: 7 rows, 6 kept (1 repeated)" in text
    assert "3 (50.0%)" in text


def test_data_report_of_nothing():
    report = data_report(pairs_of())
    assert (report.pairs, report.clusters, report.component_pairs) == (0, 0, 0)
    assert "0 (0.0%)" in str(report)


def test_data_report_of_images_counts_no_words():
    pairs = replace(pairs_of(("a/1.png", "a/2.png", 1), ("a/1.png", "A/1.png", 0)), modality="image")
    report = data_report(pairs)
    assert (report.words, report.near_identical) == ((), 0)
    shown = str(report)
    assert "distinct images" in shown
    assert "images in the largest cluster" in shown
    assert "words" not in shown
    assert "near-identical" not in shown
