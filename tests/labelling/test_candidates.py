"""Candidates are kept beside the answers about them: what was proven holds where scores are rounded otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from textsiam import Twin
from textsiam.data.tables.errors import DataError
from textsiam.labelling.aim import Aim
from textsiam.labelling.candidates import candidates_file, find_candidates, kept_candidates
from textsiam.labelling.session import Session
from textsiam.saving import SaveError

TEXTS = [f"how do I {verb} {what}" for verb in ("mend", "paint", "sell") for what in ("a door", "a car", "my bike")]


@pytest.fixture(scope="module")
def twin(tower) -> Twin:
    return Twin(tower)


@pytest.fixture
def labels(tmp_path):
    return tmp_path / "labels.tsv"


def elsewhere(twin, monkeypatch):
    """Have a twin encode as another processor does: the last digits differ."""
    encode, rng = twin.encode, np.random.default_rng(0)

    def rounded(texts, **options):
        vectors = encode(texts, **options) + rng.normal(0, 1e-3, (len(texts), twin.dim)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    monkeypatch.setattr(Twin, "encode", lambda self, texts, **options: rounded(texts, **options))


def answered(session, count):
    for _ in range(count):
        session.answer(question := session.ask("anna"), "y" if question.left % 3 == question.right % 3 else "n", "anna")


def test_answers_hold_where_scores_are_rounded_otherwise(twin, labels, monkeypatch):
    ids, found = list("abcdefghi"), find_candidates(twin, TEXTS)
    found.save(labels)
    session = Session(found, ids, TEXTS, labels, Aim(0.3, 0.8, 30))
    answered(session, 36)
    promised = session.certificate()
    elsewhere(twin, monkeypatch)
    anew = find_candidates(twin, TEXTS)
    assert (anew.left != found.left).any()  # near-equal ones change places
    with pytest.raises(DataError, match="give other scores here"):
        Session(anew, ids, TEXTS, labels)
    kept = kept_candidates(labels, twin, TEXTS)
    again = Session(kept, ids, TEXTS, labels)
    assert again.certificate() == promised
    assert promised.pairs > 0
    flagged = kept.duplicates(twin, TEXTS, promised.threshold, again.decision())
    assert flagged.distinct == promised.pairs
    assert np.array_equal(flagged.similarity, found.scores[: promised.pairs])


def test_what_is_kept_says_what_was_found(twin, labels):
    texts = [*TEXTS, TEXTS[0], TEXTS[4]]  # copies
    found = find_candidates(twin, texts)
    found.save(labels)
    kept = kept_candidates(labels, twin, texts)
    for name in ("left", "right", "scores"):
        assert np.array_equal(getattr(kept, name), getattr(found, name))
    one, other = (c.duplicates(twin, texts, float(found.scores[9]), None) for c in (found, kept))
    assert np.array_equal(one.left, other.left)
    assert np.array_equal(one.right, other.right)
    assert one.clusters == other.clusters
    assert one.copies == other.copies == 2


def test_those_of_another_collection_or_model_are_not_taken(twin, fresh_tower, labels):
    found = find_candidates(twin, TEXTS)
    found.save(labels)
    written = candidates_file(labels).read_bytes()
    assert kept_candidates(labels, twin, TEXTS[1:]) is None
    next(fresh_tower.parameters()).data.mul_(1.01)
    assert kept_candidates(labels, Twin(fresh_tower), TEXTS) is None
    assert kept_candidates(labels.with_name("none.tsv"), twin, TEXTS) is None
    found.save(labels)
    assert candidates_file(labels).read_bytes() == written
    find_candidates(twin, TEXTS[1:]).save(labels)
    assert len(kept_candidates(labels, twin, TEXTS[1:])) == 28


@pytest.mark.parametrize("cut", [0, 7, -9])
def test_a_damaged_file_is_named(twin, labels, cut):
    find_candidates(twin, TEXTS).save(labels)
    place = candidates_file(labels)
    place.write_bytes(place.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"labels\.candidates\.parquet: is missing or damaged"):
        kept_candidates(labels, twin, TEXTS)


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [
        ("left", 3, -1),
        ("right", 0, 9),
        ("left", 1, 8),
        ("scores", 2, 7.0),
        ("scores", -1, -np.inf),
        ("scores", 0, np.nan),
    ],
)
def test_pairs_that_cannot_be_are_refused(twin, labels, column, row, value):
    found = find_candidates(twin, TEXTS)
    getattr(found, column)[row] = value
    found.save(labels)
    with pytest.raises(DataError, match=r"parquet: is damaged: its pairs are not of 9 texts, best first; delete it"):
        kept_candidates(labels, twin, TEXTS)


def test_a_place_that_cannot_be_written_to_is_named(twin, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match=r"cannot write .*labels\.candidates\.parquet"):
        find_candidates(twin, TEXTS).save(tmp_path / "file" / "labels.tsv")
