"""What every index must do, whatever it keeps its questions in."""

from __future__ import annotations

import itertools
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from textsiam.search.factory import create_index, open_index
from textsiam.search.index.base import IndexModel, Question, QuestionIndexError
from textsiam.search.index.folder import FolderIndex
from textsiam.search.index.memory import MemoryIndex
from textsiam.search.index.postgres import PostgresIndex

DIM = 24
MODEL = IndexModel("first", "a" * 64, DIM)
OTHER = IndexModel("second", "b" * 64, DIM)
BACKENDS = ["memory", "folder", "postgres", "docs/extending.md"]


NUMBERS = itertools.count(1)


def unit(count, seed=0, dim=DIM, around=None):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dim))
    if around is not None:
        vectors = around + 0.15 * vectors
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def questions(count, start=0):
    return [
        Question(f"q{i}", f"question number {i}?", {"forum": "ab"[i % 2], "year": 2000 + i % 5, "open": i % 3 == 0})
        for i in range(start, start + count)
    ]


def ids(hits):
    return [hit.question.id for hit in hits]


def pytest_generate_tests(metafunc):
    if "index" in metafunc.fixturenames:
        own = metafunc.config.getoption("--index-backend")
        metafunc.parametrize("index", BACKENDS if own is None else [own], indirect=True)


@pytest.fixture
def documented(tmp_path, monkeypatch):
    """The backend that docs/extending.md shows, as a module that can be imported."""
    page = (Path(__file__).resolve().parents[2] / "docs/extending.md").read_text(encoding="utf-8")
    section = page.split("## Add your own index backend")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    name = f"index_of_the_docs_{next(NUMBERS)}"
    (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return f"{name}.ArrayIndex"


@pytest.fixture
def index(request, tmp_path):
    if request.param == "folder":
        made = FolderIndex.create(tmp_path / "index", MODEL)
    elif request.param == "postgres":
        address = request.getfixturevalue("postgres_address")
        made = PostgresIndex.create(f"{address}#contract_{next(NUMBERS)}", MODEL)
    elif request.param == "memory":
        made = MemoryIndex(MODEL)
    else:
        own = request.param if request.param != "docs/extending.md" else request.getfixturevalue("documented")
        place = request.config.getoption("--index-location") or f"{tmp_path}/index{{}}"
        made = create_index(f"{own}:{place.replace('{}', str(next(NUMBERS)))}", MODEL)
    yield made
    made.close()


@pytest.fixture
def filled(index):
    """A thousand questions, some close together; returns the index and their vectors by place."""
    centres = unit(40, seed=1)
    vectors = np.concatenate([unit(25, seed=2 + i, around=centre) for i, centre in enumerate(centres)])
    index.upsert(questions(1000), vectors, model=MODEL)
    return index, vectors


def expected(vectors, query, *, k=None, threshold=None, kept=None):
    """The oracle: one product in double precision."""
    similarity = (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    rows = [i for i in range(len(vectors)) if kept is None or kept(i)]
    rows = [i for i in rows if threshold is None or float(similarity[i]) >= threshold]
    return [f"q{i}" for i in sorted(rows, key=lambda i: (-similarity[i], i))[:k]]


def test_an_empty_index_finds_nothing(index):
    assert index.count() == 0
    assert index.search(unit(2), model=MODEL, k=3) == [[], []]
    assert index.search(unit(1), model=MODEL, threshold=-1) == [[]]
    assert index.get(["q1"]) == [None]
    assert index.vectors([]).shape == (0, DIM)
    assert index.delete(["q1"]) == 0
    index.compact()
    index.rebuild()
    assert index.stats().questions == 0


def test_what_was_put_in_comes_out(filled):
    index, vectors = filled
    assert index.count() == index.stats().questions == 1000
    assert index.get(["q7", "nobody", "q999"]) == [questions(8)[7], None, questions(1000)[999]]
    np.testing.assert_array_equal(index.vectors(["q5", "q3", "q5"]), vectors[[5, 3, 5]])
    with pytest.raises(QuestionIndexError, match="there is no question 'nobody'"):
        index.vectors(["q1", "nobody"])


@pytest.mark.parametrize("ids", ["q1", b"q1"])
def test_one_string_is_no_list_of_ids(index, ids):
    index.upsert([Question(name, name) for name in ("q", "1", "q1")], unit(3), model=MODEL)
    for call in (index.delete, index.get, index.vectors):
        with pytest.raises(QuestionIndexError, match="q1', expected a list of ids"):
            call(ids)
    assert index.count() == 3


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("threshold", [0.95, 0.6, 0.2, -1.0])
def test_a_threshold_search_is_complete(filled, threshold, compacted):
    index, vectors = filled
    if compacted:
        index.compact()
    asked = np.concatenate([vectors[::250], unit(4, seed=99)])
    for query, hits in zip(asked, index.search(asked, model=MODEL, threshold=threshold), strict=True):
        assert ids(hits) == expected(vectors, query, threshold=threshold)
        assert all(hit.similarity >= threshold for hit in hits)
        assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("k", [1, 10, 5000])
def test_the_best_k(filled, k, compacted):
    index, vectors = filled
    if compacted:
        index.compact()
    asked = unit(5, seed=98)
    for query, hits in zip(asked, index.search(asked, model=MODEL, k=k), strict=True):
        assert ids(hits) == expected(vectors, query, k=k)


def test_the_best_k_above_a_threshold(filled):
    index, vectors = filled
    (hits,) = index.search(vectors[:1], model=MODEL, k=3, threshold=0.5)
    assert ids(hits) == expected(vectors, vectors[0], k=3, threshold=0.5)
    assert hits[0].question.id == "q0"
    assert hits[0].similarity == pytest.approx(1, abs=1e-6)


def test_the_threshold_itself_counts(index):
    """Numbers that float32 holds exactly: 0.5 reaches 0.5, and the next number does not."""
    vectors = np.zeros((2, DIM), np.float32)
    vectors[:, 0] = vectors[1, 1] = 1
    vectors[1] = 0
    vectors[1, :4] = 0.5
    index.upsert(questions(2), vectors, model=MODEL)
    assert ids(index.search(vectors[:1], model=MODEL, threshold=0.5)[0]) == ["q0", "q1"]
    assert ids(index.search(vectors[:1], model=MODEL, threshold=np.nextafter(0.5, 1))[0]) == ["q0"]


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ({"forum": "a"}, lambda i: i % 2 == 0),
        ({"year": 2003, "forum": "b"}, lambda i: i % 5 == 3 and i % 2 == 1),
        ({"year": [2001, 2002]}, lambda i: i % 5 in (1, 2)),
        ({"open": True}, lambda i: i % 3 == 0),
        ({"open": False}, lambda i: i % 3 != 0),
        ({"open": 1}, lambda i: False),
        ({"year": 2003.0}, lambda i: i % 5 == 3),
        ({"year": "2003"}, lambda i: False),
        ({"nothing": "x"}, lambda i: False),
        ({"forum": []}, lambda i: False),
    ],
)
def test_filters(filled, where, kept, compacted):
    index, vectors = filled
    if compacted:
        index.compact()
    assert index.count(where) == sum(map(kept, range(1000)))
    asked = np.concatenate([vectors[3:5], unit(1, seed=97)])
    for query, hits in zip(asked, index.search(asked, model=MODEL, k=20, where=where), strict=True):
        assert ids(hits) == expected(vectors, query, k=20, kept=kept)
    for query, hits in zip(asked, index.search(asked, model=MODEL, threshold=0.4, where=where), strict=True):
        assert ids(hits) == expected(vectors, query, threshold=0.4, kept=kept)


def test_an_upsert_replaces_and_a_search_sees_it_at_once(filled):
    index, vectors = filled
    for compacted in (False, True):
        if compacted:
            index.compact()
        fresh = unit(1, seed=50 + compacted)
        index.upsert([Question("q3", f"changed {compacted}", {"year": 1})], fresh, model=MODEL)
        vectors[3] = fresh
        assert index.count() == 1000
        assert index.get(["q3"]) == [Question("q3", f"changed {compacted}", {"year": 1})]
        (hits,) = index.search(fresh, model=MODEL, k=2)
        assert ids(hits) == expected(vectors, fresh[0], k=2)
        assert hits[0].question.text == f"changed {compacted}"
        (hits,) = index.search(vectors[:1], model=MODEL, threshold=0.3)
        assert ids(hits) == expected(vectors, vectors[0], threshold=0.3)
        assert index.count({"year": 1}) == 1


def test_delete(filled):
    index, vectors = filled
    assert index.delete(["q0", "q1", "nobody", "q0"]) == 2
    assert index.count() == 998
    gone = lambda i: i > 1  # noqa: E731
    for compacted in (False, True):
        if compacted:
            index.compact()
            assert index.delete(["q2"]) == 1
            gone = lambda i: i > 2  # noqa: E731
        (hits,) = index.search(vectors[:1], model=MODEL, threshold=0.3)
        assert ids(hits) == expected(vectors, vectors[0], threshold=0.3, kept=gone)
        assert index.get(["q0"]) == [None]
    index.upsert(questions(1), vectors[:1], model=MODEL)
    (hits,) = index.search(vectors[:1], model=MODEL, k=1)
    assert ids(hits) == ["q0"]
    assert index.count() == 998


def test_equal_vectors_come_in_the_order_in_which_they_were_added(index):
    vectors = np.repeat(unit(1), 6, axis=0)
    index.upsert(questions(6), vectors, model=MODEL)
    index.upsert([Question("q2", "again")], vectors[:1], model=MODEL)
    assert ids(index.search(vectors[:1], model=MODEL, k=4)[0]) == ["q0", "q1", "q2", "q3"]
    index.compact()
    assert ids(index.search(vectors[:1], model=MODEL, threshold=0.9)[0]) == [f"q{i}" for i in range(6)]


def test_another_model_is_refused_by_name(filled):
    index, _ = filled
    for model in (OTHER, IndexModel("first", "a" * 64, DIM + 1)):
        fresh = unit(1, dim=model.dim)
        with pytest.raises(QuestionIndexError, match=r"of 'first' \(a+, 24 .*some of '(first|second)'"):
            index.upsert(questions(1, start=5000), fresh, model=model)
        with pytest.raises(QuestionIndexError, match="textsiam index migrate"):
            index.search(fresh, model=model, k=1)
    assert index.count() == 1000


@pytest.mark.parametrize(
    ("question", "vector", "message"),
    [
        (Question("", "text"), unit(1)[0], "the id is ''"),
        (Question("x", "  "), unit(1)[0], "question 'x': the text is '  '"),
        (Question("x", "a\0b"), unit(1)[0], "expected some text"),
        (Question("x", "a", {"a b": 1}), unit(1)[0], "metadata key 'a b'"),
        (Question("x", "a", {"a": None}), unit(1)[0], "'a' is None"),
        (Question("x", "a", {"a": float("nan")}), unit(1)[0], "'a' is nan"),
        (Question("x", "a", {"a": 2**70}), unit(1)[0], "64 bits"),
        (Question("x", "a"), 2 * unit(1)[0], "question 'x' has length 2"),
        (Question("x", "a"), np.full(DIM, np.nan), "has length nan"),
        (Question("q0", "a"), unit(1)[0], "id 'q0' stands twice"),
    ],
)
def test_malformed_questions_change_nothing(index, question, vector, message):
    with pytest.raises(QuestionIndexError, match=message):
        index.upsert([*questions(1), question], np.stack([unit(1)[0], vector]), model=MODEL)
    assert index.count() == 0


def test_malformed_searches_are_refused(index):
    for asked, message in (({}, "k, a threshold"), ({"k": 0}, "k must be >= 1"), ({"threshold": float("nan")}, "nan")):
        with pytest.raises(QuestionIndexError, match=message):
            index.search(unit(1), model=MODEL, **asked)
    with pytest.raises(QuestionIndexError, match=r"expected vectors of shape \(n, 24\)"):
        index.search(unit(1)[0], model=MODEL, k=1)
    with pytest.raises(QuestionIndexError, match="query 1 has length 0"):
        index.search(np.stack([unit(1)[0], np.zeros(DIM)]), model=MODEL, k=1)
    with pytest.raises(QuestionIndexError, match="a vector for each of 2 questions, got 1"):
        index.upsert(questions(2), unit(1), model=MODEL)


def test_migrate_serves_the_old_model_until_all_are_encoded(filled):
    index, vectors = filled
    fresh = unit(1100, seed=7)
    seen = []

    def encode(texts):
        if not seen:  # what is written meanwhile is not lost, and what is changed is encoded as it is now
            assert ids(index.search(vectors[:1], model=MODEL, k=1)[0]) == ["q0"]
            index.upsert(questions(10, start=1000), unit(10, seed=3), model=MODEL)
            index.delete(["q4"])
        seen.extend(texts)
        if len(seen) == len(texts):
            index.upsert([Question("q5", "question number 1099?")], unit(1, seed=4), model=MODEL)
        return fresh[[int(text.split()[-1][:-1]) for text in texts]]

    told = []
    index.migrate(OTHER, encode, progress=lambda done, total: told.append((done, total)))
    assert index.model == OTHER
    assert index.count() == 1009
    assert told[-1][0] == told[-1][1]
    np.testing.assert_array_equal(index.vectors(["q0", "q5", "q1003"]), fresh[[0, 1099, 1003]])
    for compacted in (False, True):
        if compacted:
            index.compact()
        assert ids(index.search(fresh[[6, 1099]], model=OTHER, k=1)[0]) == ["q6"]
        assert ids(index.search(fresh[[1099]], model=OTHER, threshold=0.99)[0]) == ["q5"]
    with pytest.raises(QuestionIndexError, match="holds vectors of 'second'"):
        index.search(vectors[:1], model=MODEL, k=1)
    index.upsert(questions(1, start=2000), unit(1), model=OTHER)
    assert index.stats().migrating_to is None


def test_an_interrupted_migration_goes_on_where_it_stopped(index):
    vectors, fresh = unit(2500, seed=1), unit(2500, seed=2)
    index.upsert(questions(2500), vectors, model=MODEL)
    seen = []

    def encode(texts):
        if len(seen) >= 1024 and "interrupted" not in seen:
            seen.append("interrupted")
            raise KeyboardInterrupt
        seen.extend(texts)
        return fresh[[int(text.split()[-1][:-1]) for text in texts]]

    with pytest.raises(KeyboardInterrupt):
        index.migrate(OTHER, encode)
    assert (index.model, index.stats().migrating_to) == (MODEL, OTHER)
    assert ids(index.search(vectors[9:10], model=MODEL, k=1)[0]) == ["q9"]
    index.upsert([Question("q3", "question number 2400?")], vectors[3:4], model=MODEL)
    index.delete(["q4"])
    index.migrate(OTHER, encode)
    # one text twice, since it was changed, and the mark; some backends try one text before they begin
    assert len(seen) - 2502 in (0, 1)
    assert (index.model, index.stats().migrating_to) == (OTHER, None)
    np.testing.assert_array_equal(index.vectors(["q0", "q3", "q2499"]), fresh[[0, 2400, 2499]])
    assert index.count() == 2499


def test_searches_beside_a_writer_see_whole_upserts(index):
    """Two questions always change together; a search must never see one of them changed and the other not."""
    vectors = unit(4, seed=5)
    index.upsert(questions(2), vectors[:2], model=MODEL)
    problems, done = [], threading.Event()

    def look():
        try:
            while not done.is_set():
                hits = index.search(vectors[:1], model=MODEL, threshold=-1)[0]
                if len({hit.question.text for hit in hits}) != 1 or len(hits) != 2:
                    problems.append(hits)
        except Exception as error:
            problems.append(error)

    index.upsert([Question("q0", "round"), Question("q1", "round")], vectors[:2], model=MODEL)
    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(40):
        index.upsert([Question(f"q{i}", f"round {turn}") for i in (0, 1)], vectors[[turn % 2, 2]], model=MODEL)
        if turn % 20 == 10:
            index.compact()
    done.set()
    for thread in threads:
        thread.join()
    assert not problems


def test_a_backend_of_ones_own_is_opened_by_name_and_keeps_what_it_was_given(documented, tmp_path):
    place = f"{documented}:{tmp_path}/forum.npz"
    with pytest.raises(QuestionIndexError, match=r"forum.npz: holds no index"):
        open_index(place)
    made = create_index(place, MODEL)
    made.upsert(questions(3), unit(3), model=MODEL)
    made.delete(["q1"])
    made.close()
    again = open_index(place)
    assert type(again).__name__ == "ArrayIndex"
    assert again.get(["q0", "q1", "q2"]) == [questions(1)[0], None, questions(3)[2]]
    np.testing.assert_array_equal(again.vectors(["q2"]), unit(3)[2:])
    copy = again.snapshot(tmp_path / "copy.npz")
    assert open_index(f"{documented}:{copy}").count() == 2
    with pytest.raises(QuestionIndexError, match="is there already"):
        create_index(place, MODEL)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("no_such_module_here.Index:x", "no_such_module_here"),
        ("textsiam.search.index.memory.Nothing:x", "has no 'Nothing'"),
        ("textsiam.search.index.base.Question:x", "lacks create, upsert, delete"),
        ("redis://host/0", "an address that starts with redis://"),
    ],
)
def test_a_backend_that_is_none(place, message):
    with pytest.raises(QuestionIndexError, match=message):
        open_index(place)


def test_a_folder_whose_name_looks_like_a_backend_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FolderIndex.create(tmp_path / "my_index.Mine:forum", MODEL).close()
    open_index("my_index.Mine:forum").close()
    open_index(tmp_path / "my_index.Mine:forum").close()
