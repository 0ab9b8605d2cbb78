"""What only the index in a folder has: a file to begin with, other processes, merges that were broken off."""

from __future__ import annotations

import shutil
import sqlite3

import numpy as np
import pytest

from textsiam.search.factory import open_index
from textsiam.search.index import folder
from textsiam.search.index import in_memory_scan as resident
from textsiam.search.index import vector_cache as held
from textsiam.search.index.base import IndexModel, Question, QuestionIndexError
from textsiam.search.index.folder import FolderIndex

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
    monkeypatch.setattr(resident, "BLOCK", 64)
    made = FolderIndex.create(tmp_path / "index", MODEL)
    yield made
    made.close()


def test_many_merges_lose_nothing(index):
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
            fresh = FolderIndex(index.path)
            for query in queries:
                for threshold in (0.7, 0.2):
                    assert set(found(index, query, threshold=threshold)) == expected(content, query, threshold)
                    assert set(found(fresh, query, threshold=threshold)) == expected(content, query, threshold)
            fresh.close()
            assert len(list(index.path.glob("vectors-*"))) == (turn > 0 or merged)
    assert index.count() == len(content)


def test_two_handles_see_what_the_other_wrote(index):
    vectors = unit(300)
    index.upsert(questions(0, 100), vectors[:100], model=MODEL)
    other = FolderIndex(index.path)
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
    index = FolderIndex.create(tmp_path / "index", MODEL, merge_after=120)
    vectors = unit(400)
    for start in range(0, 400, 50):
        index.upsert(questions(start, start + 50), vectors[start : start + 50], model=MODEL)
    assert index.stats().unmerged == 100
    assert len(found(index, vectors[0], threshold=-2.0)) == 400
    index.close()


def test_vectors_held_in_memory_are_those_of_the_table(index):
    """Whatever other processes write, delete, merge and migrate between two searches."""
    vectors = unit(900)
    index.upsert(questions(0, 300), vectors[:300], model=MODEL)
    index.compact()
    other = FolderIndex(index.path)
    queries = unit(5, seed=5)
    content = {f"q{i}": vectors[i] for i in range(300)}

    def check():
        for query in queries:
            assert set(found(other, query, threshold=0.3)) == expected(content, query, 0.3)
            best = sorted(content, key=lambda name: -float(content[name].astype(np.float64) @ query))[:7]
            assert found(other, query, k=7) == best
        assert other.count() == len(content)

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
    (hits,) = other.search(queries[:1], model=IndexModel("next", "c" * 64, DIM), threshold=0.3)
    assert {hit.question.id for hit in hits} == expected(fresh, queries[0], 0.3)
    other.close()


def test_vectors_held_in_memory_are_made_again_when_most_are_dead(tmp_path):
    index = FolderIndex.create(tmp_path / "index", MODEL)
    for turn in range(4):
        vectors = unit(600, seed=turn)
        index.upsert(questions(0, 600), vectors, model=MODEL)
        assert found(index, vectors[5], k=1) == ["q5"]
        assert len(index._cache._vectors.view.rows) <= 1800
    index.close()


def merged_file(index):
    (file,) = index.path.glob("vectors-*.safetensors")
    return file


def table_reads(monkeypatch):
    """Count the vectors that are read from the table."""
    read, counts = held.changes_since, []

    def counted(*arguments):
        for rows, vectors in read(*arguments):
            counts.append(len(rows))
            yield rows, vectors

    monkeypatch.setattr(held, "changes_since", counted)
    return counts


def test_a_process_begins_with_the_file_and_reads_what_came_later(index, monkeypatch):
    vectors = unit(300)
    index.upsert(questions(0, 270), vectors[:270], model=MODEL)
    index.compact()
    index.upsert(questions(270, 300), vectors[270:], model=MODEL)
    index.delete(["q7"])
    counts = table_reads(monkeypatch)
    other = FolderIndex(index.path)
    assert len(found(other, vectors[0], threshold=-2.0)) == 299
    assert sum(counts) == 30
    other.close()


@pytest.mark.parametrize("harm", ["lost", "cut short", "half of it zeros", "of another width", "no such file format"])
def test_a_file_that_cannot_be_read_costs_time_and_nothing_else(index, monkeypatch, harm, tmp_path):
    vectors = unit(300)
    index.upsert(questions(0, 300), vectors, model=MODEL)
    index.delete(["q5"])
    index.compact()
    file = merged_file(index)
    if harm == "lost":
        file.unlink()
    elif harm == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
    elif harm == "half of it zeros":  # its shapes are right: only the digest tells
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    elif harm == "of another width":
        other = IndexModel("other", "b" * 64, 8)
        narrow = FolderIndex.create(tmp_path / "narrow", other)
        few = np.eye(8, dtype=np.float32)[np.arange(100) % 8]
        narrow.upsert(questions(0, 100), few, model=other)
        narrow.compact()
        shutil.copy(merged_file(narrow), file)
        narrow.close()
    else:
        file.write_bytes(b"nonsense" * 1000)
    counts = table_reads(monkeypatch)
    for _ in range(2):
        other = FolderIndex(index.path)
        assert len(found(other, vectors[7], threshold=-2.0)) == 299
        assert found(other, vectors[7], k=1) == ["q7"]
        other.rebuild()
        other.close()
    assert sum(counts) == 299  # by the first one only: the file was made again


def test_compaction_makes_a_damaged_file_again(index):
    index.upsert(questions(0, 300), unit(300), model=MODEL)
    index.compact()
    whole = merged_file(index).read_bytes()
    merged_file(index).write_bytes(whole[:-64] + bytes(64))
    index.compact()
    assert merged_file(index).read_bytes()[-64:] == whole[-64:]


def test_a_vector_that_was_damaged_in_the_table_is_named(index):
    index.upsert(questions(0, 80), unit(80), model=MODEL)
    index.close()
    for harm in (np.full(DIM, 1e20, np.float32).tobytes(), b"short"):
        with sqlite3.connect(index.path / "questions.sqlite") as table:
            table.execute("UPDATE vectors_1 SET vector = ? WHERE row = 3", (harm,))
        table.close()
        again = FolderIndex(index.path)
        with pytest.raises(QuestionIndexError, match="the vector of row 3 "):
            found(again, unit(1)[0], k=1)
        again.close()


def test_an_index_taken_back_to_an_old_copy_of_its_table_does_not_use_a_newer_file(index, tmp_path):
    vectors = unit(400)
    index.upsert(questions(0, 200), vectors[:200], model=MODEL)
    index.compact()
    index.close()
    shutil.copy(index.path / "questions.sqlite", tmp_path / "old.sqlite")
    index.upsert(questions(200, 300), vectors[200:300], model=MODEL)
    index.compact()
    index.close()
    for file in index.path.glob("questions.sqlite*"):
        file.unlink()
    shutil.copy(tmp_path / "old.sqlite", index.path / "questions.sqlite")
    again = FolderIndex(index.path)
    again.upsert(questions(300, 400), vectors[300:], model=MODEL)
    assert found(again, vectors[350], k=1) == ["q350"]
    assert len(found(again, vectors[0], threshold=-2.0)) == 300
    again.close()


def test_a_merge_that_nobody_recorded_is_undone(index, monkeypatch):
    """As if the process had been killed after the file was written and before the durable table said so."""
    vectors = unit(300)
    index.upsert(questions(0, 200), vectors[:200], model=MODEL)
    index.compact()
    index.upsert(questions(200, 220), vectors[200:220], model=MODEL)
    index.delete(["q3"])

    class Killed(BaseException):
        pass

    write = folder.write_sidecar

    def killed(*arguments, **options):
        write(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(folder, "write_sidecar", killed)
        with pytest.raises(Killed):
            index.compact()
    assert len(list(index.path.glob("vectors-*"))) == 2
    index.upsert(questions(3, 4), vectors[3:4], model=MODEL)
    for handle in (index, FolderIndex(index.path)):
        assert len(found(handle, vectors[0], threshold=-2.0)) == 220
        handle.close()
    index.compact()
    hits = found(index, vectors[0], threshold=-2.0)
    assert len(hits) == len(set(hits)) == 220
    assert index.stats().unmerged == 0
    assert merged_file(index)


def test_a_first_search_writes_what_it_would_read_each_time(index, monkeypatch):
    vectors = unit(300)
    index.merge_after = None
    index.upsert(questions(0, 300), vectors, model=MODEL)
    counts = table_reads(monkeypatch)
    assert len(found(FolderIndex(index.path, merge_after=None), vectors[0], threshold=-2.0)) == 300
    assert sum(counts) == 300
    assert not list(index.path.glob("vectors-*"))
    for _ in range(2):
        assert len(found(FolderIndex(index.path, merge_after=200), vectors[0], threshold=-2.0)) == 300
    assert sum(counts) == 300
    assert merged_file(index).stat().st_mode & 0o777 == 0o666 & (index.path.stat().st_mode)


def test_most_of_what_is_stored_may_be_deleted(index):
    vectors = unit(3000)
    index.upsert(questions(0, 3000), vectors, model=MODEL)
    index.compact()
    index.delete([f"q{i}" for i in range(2000)])
    other = FolderIndex(index.path)
    for _ in range(2):
        assert len(found(other, vectors[0], threshold=-2.0)) == 1000
        assert len(other._cache._vectors.view.rows) == 1000
    other.close()


def test_an_older_moment_does_not_take_the_place_of_a_newer_file(index, monkeypatch):
    """One process begins at a moment, another deletes and merges meanwhile: what is deleted stays deleted."""
    vectors = unit(300)
    index.upsert(questions(0, 300), vectors, model=MODEL)
    late, write = FolderIndex(index.path, merge_after=100), folder.write_sidecar

    def meanwhile(*arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(folder, "write_sidecar", write)
            index.delete(["q9"])
            with index._tables.reading() as table:
                index._written_sidecar(table, folder.read_state(table), anew=True)
        return write(*arguments, **options)

    monkeypatch.setattr(folder, "write_sidecar", meanwhile)
    assert len(found(late, vectors[9], threshold=-2.0)) == 300  # as it was at that moment
    monkeypatch.undo()
    for handle in (late, index, FolderIndex(index.path)):
        assert "q9" not in found(handle, vectors[9], threshold=-2.0)
        handle.close()


def test_what_0_1_left_in_the_folder(index):
    """A copy of LanceDB's, which the table says is up to date: ignored, then removed."""
    vectors = unit(200)
    index.upsert(questions(0, 200), vectors, model=MODEL)
    index.delete(["q3"])
    with index._tables.writing() as table:
        table.execute("UPDATE state SET merged = clock, version = 7")
        table.execute("DELETE FROM deleted")
    (index.path / "lance" / "vectors_1.lance").mkdir(parents=True)
    (index.path / "lance" / "vectors_1.lance" / "data").write_bytes(b"of LanceDB")
    old = open_index(index.path)
    assert len(found(old, vectors[0], threshold=-2.0)) == 199
    assert (index.path / "lance").exists()
    old.compact()
    assert not (index.path / "lance").exists()
    assert len(found(FolderIndex(index.path), vectors[0], threshold=-2.0)) == 199
    old.close()


def test_names_and_knobs_of_0_1_still_work_and_warn(tmp_path):
    from textsiam.search.lance import LanceIndex

    with pytest.warns(
        DeprecationWarning, match=r"LanceIndex is deprecated: use textsiam.search.index.folder.FolderIndex"
    ):
        index = LanceIndex.create(tmp_path / "index", MODEL, merge_after=7)
    assert isinstance(index, FolderIndex)
    assert index.merge_after == 7
    index.close()
    with pytest.warns(DeprecationWarning, match="probes, resident: ignored"):
        open_index(tmp_path / "index", resident=True, probes=8).close()


def test_a_snapshot_is_an_index_of_its_own(index, tmp_path):
    vectors = unit(120)
    index.upsert(questions(0, 100), vectors[:100], model=MODEL)
    place = index.snapshot(tmp_path / "copy")
    index.delete(["q7"])
    copy = FolderIndex(place)
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
        FolderIndex(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "questions.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(QuestionIndexError, match=r"cannot be read|is no index of questions"):
        FolderIndex(tmp_path / "other")
    with pytest.raises(QuestionIndexError, match="is there already"):
        FolderIndex.create(tmp_path / "other", MODEL)
