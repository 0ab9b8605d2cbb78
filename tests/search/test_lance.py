"""What only the index in a folder has: LanceDB's copy, other processes, merges that were broken off."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from textsiam.search import lance_table, resident
from textsiam.search.index import IndexModel, Question, QuestionIndexError
from textsiam.search.lance import LanceIndex

pytest.importorskip("lancedb", reason="the extra 'index' is not installed (lancedb)")

DIM = 24
MODEL = IndexModel("first", "a" * 64, DIM)


def unit(count, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def questions(start, end):
    return [Question(f"q{i}", f"question {i}", {"even": i % 2 == 0}) for i in range(start, end)]


def found(index, query, **knobs):
    return [hit.question.id for hit in index.search(query[None], model=MODEL, **knobs)[0]]


def expected(content, query, threshold):
    names, vectors = list(content), np.stack(list(content.values()))
    similarity = (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    return {name for name, s in zip(names, similarity, strict=True) if float(s) >= threshold}


@pytest.fixture
def index(tmp_path, monkeypatch):
    monkeypatch.setattr(lance_table, "_ROWS_A_PARTITION", 40)
    made = LanceIndex.create(tmp_path / "index", MODEL)
    yield made
    made.close()


def test_many_partitions_and_many_merges_lose_nothing(index):
    rng = np.random.default_rng(3)
    content = {}
    queries = unit(6, seed=99)
    for turn in range(7):
        start = 1000 + turn * 60 if turn else 0
        batch = questions(start, start + (1000 if turn == 0 else 60))
        vectors = unit(len(batch), seed=turn)
        index.upsert(batch, vectors, model=MODEL)
        content |= {q.id: v for q, v in zip(batch, vectors, strict=True)}
        changed = rng.choice(sorted(content), 20, replace=False).tolist()
        vectors = unit(20, seed=100 + turn)
        index.upsert([Question(name, "changed") for name in changed], vectors, model=MODEL)
        content |= dict(zip(changed, vectors, strict=True))
        gone = rng.choice(sorted(content), 15, replace=False).tolist()
        assert index.delete(gone) == 15
        content = {name: v for name, v in content.items() if name not in gone}
        for merged in (False, True):
            if merged:
                index.compact()
                assert index.stats().unmerged == 0
            for query in queries:
                for threshold in (0.7, 0.2):
                    assert set(found(index, query, threshold=threshold)) == expected(content, query, threshold)
    assert index.count() == len(content)


def test_fewer_probes_miss_some_of_the_best_but_nothing_above_a_threshold(index):
    vectors = unit(2000)
    index.upsert(questions(0, 2000), vectors, model=MODEL)
    index.compact()
    hasty = LanceIndex(index.path, probes=1)
    queries = unit(50, seed=1)
    recalls = [len(set(found(hasty, query, k=10)) & set(found(index, query, k=10))) / 10 for query in queries]
    assert 0.05 < np.mean(recalls) < 0.95
    content = {f"q{i}": vector for i, vector in enumerate(vectors)}
    for query in queries[:10]:
        assert set(found(hasty, query, threshold=0.4)) == expected(content, query, 0.4)
    hasty.close()
    with pytest.raises(QuestionIndexError, match="probes must be >= 1"):
        LanceIndex(index.path, probes=0)


def test_two_handles_see_what_the_other_wrote(index):
    vectors = unit(300)
    index.upsert(questions(0, 100), vectors[:100], model=MODEL)
    other = LanceIndex(index.path)
    assert found(other, vectors[5], k=1) == ["q5"]
    index.upsert(questions(100, 200), vectors[100:200], model=MODEL)
    assert found(other, vectors[150], k=1) == ["q150"]
    other.compact()
    index.delete(["q150"])
    assert found(index, vectors[150], k=1) != ["q150"]
    assert found(other, vectors[150], k=1) == found(index, vectors[150], k=1)
    index.rebuild()
    other.upsert(questions(200, 300), vectors[200:], model=MODEL)
    for handle in (index, other):
        assert len(found(handle, vectors[0], threshold=-2.0)) == 299
    other.close()


def test_upserts_merge_by_themselves(tmp_path):
    index = LanceIndex.create(tmp_path / "index", MODEL, merge_after=120)
    vectors = unit(400)
    for start in range(0, 400, 50):
        index.upsert(questions(start, start + 50), vectors[start : start + 50], model=MODEL)
    assert index.stats().unmerged == 100
    assert len(found(index, vectors[0], threshold=-2.0)) == 400
    index.close()


def test_vectors_held_in_memory_are_those_of_the_table(index, monkeypatch):
    """Whatever other processes write, delete, merge and migrate between two searches."""
    monkeypatch.setattr(resident, "_BLOCK", 64)
    vectors = unit(900)
    index.upsert(questions(0, 300), vectors[:300], model=MODEL)
    index.compact()
    held = LanceIndex(index.path, resident=True)
    shutil.rmtree(index.path / "lance")  # is not even looked at
    queries = unit(5, seed=5)
    content = {f"q{i}": vectors[i] for i in range(300)}

    def check():
        for query in queries:
            assert set(found(held, query, threshold=0.3)) == expected(content, query, 0.3)
            best = sorted(content, key=lambda name: -float(content[name].astype(np.float64) @ query))[:7]
            assert found(held, query, k=7) == best
        assert held.count() == len(content)

    check()
    index.rebuild()
    for turn in range(3):
        start = 300 + 200 * turn
        index.upsert(questions(start, start + 200), vectors[start : start + 200], model=MODEL)
        content |= {f"q{i}": vectors[i] for i in range(start, start + 200)}
        gone = list(content)[turn::3]
        index.delete(gone)
        content = {name: vector for name, vector in content.items() if name not in gone}
        if turn:
            index.compact()  # forgets what was deleted, and the other one has not looked since
        check()
    fresh = dict(zip(content, unit(len(content), seed=9), strict=True))
    names = {f"question {name[1:]}": name for name in content}
    index.migrate(IndexModel("next", "c" * 64, DIM), lambda texts: np.stack([fresh[names[text]] for text in texts]))
    (hits,) = held.search(queries[:1], model=IndexModel("next", "c" * 64, DIM), threshold=0.3)
    assert {hit.question.id for hit in hits} == expected(fresh, queries[0], 0.3)
    held.close()


def test_vectors_held_in_memory_are_made_again_when_most_are_dead(tmp_path):
    index = LanceIndex.create(tmp_path / "index", MODEL, resident=True)
    for turn in range(4):
        vectors = unit(600, seed=turn)
        index.upsert(questions(0, 600), vectors, model=MODEL)
        assert found(index, vectors[5], k=1) == ["q5"]
        assert len(index._held._vectors.view.rows) <= 1800
    index.close()


def test_a_lost_copy_is_made_again(index):
    vectors = unit(200)
    index.upsert(questions(0, 200), vectors, model=MODEL)
    index.compact()
    other = LanceIndex(index.path)
    shutil.rmtree(index.path / "lance")
    with pytest.raises(QuestionIndexError, match="run textsiam index compact --rebuild"):
        found(other, vectors[0], k=1)
    other.rebuild()
    for handle in (other, index):
        assert len(found(handle, vectors[7], threshold=-2.0)) == 200
        assert found(handle, vectors[7], k=1) == ["q7"]
    other.close()


def test_a_merge_that_nobody_recorded_is_undone(index, monkeypatch):
    """As if the process had been killed after LanceDB had written and before the durable table said so."""
    vectors = unit(300)
    index.upsert(questions(0, 200), vectors[:200], model=MODEL)
    index.compact()
    index.upsert(questions(200, 220), vectors[200:220], model=MODEL)
    index.delete(["q3"])

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(index._lance, "_sync", killed)
        with pytest.raises(Killed):
            index.compact()
    index.upsert(questions(3, 4), vectors[3:4], model=MODEL)
    assert len(found(index, vectors[0], threshold=-2.0)) == 220
    index.compact()
    hits = found(index, vectors[0], threshold=-2.0)
    assert len(hits) == len(set(hits)) == 220
    assert index.stats().unmerged == 0


def test_a_snapshot_is_an_index_of_its_own(index, tmp_path):
    vectors = unit(120)
    index.upsert(questions(0, 100), vectors[:100], model=MODEL)
    place = index.snapshot(tmp_path / "copy")
    index.delete(["q7"])
    copy = LanceIndex(place)
    assert (copy.count(), index.count()) == (100, 99)
    assert copy.stats().unmerged == 0
    assert found(copy, vectors[7], k=1) == ["q7"]
    copy.upsert(questions(100, 120), vectors[100:], model=MODEL)
    assert (copy.count(), index.count()) == (120, 99)
    copy.close()
    with pytest.raises(QuestionIndexError, match="is there already"):
        index.snapshot(tmp_path / "copy")


def test_places_that_hold_no_index(tmp_path):
    with pytest.raises(QuestionIndexError, match="holds no index: make one with textsiam index create"):
        LanceIndex(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "questions.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(QuestionIndexError, match=r"cannot be read|is no index of questions"):
        LanceIndex(tmp_path / "other")
    with pytest.raises(QuestionIndexError, match="is there already"):
        LanceIndex.create(tmp_path / "other", MODEL)
