"""Components, clusters, canonical questions, contradictions and near-identical texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textsiam.data.clusters import (
    canonical,
    cluster_ids,
    connected_components,
    contradictions,
    near_identical,
    normalised,
)
from textsiam.data.components import by_first_appearance
from textsiam.data.pairs import Pairs

GRAPHS = st.integers(1, 9).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=12))
)


def naive_components(n, edges):
    """Spread the smaller number along every edge until nothing changes, then renumber."""
    labels = list(range(n))
    changed = True
    while changed:
        changed = False
        for a, b in edges:
            low = min(labels[a], labels[b])
            if labels[a] != low or labels[b] != low:
                labels[a] = labels[b] = low
                changed = True
    return [sorted(set(labels)).index(label) for label in labels]


@settings(deadline=None)  # the first example imports scipy
@given(GRAPHS)
def test_components_against_a_naive_reference(graph):
    n, edges = graph
    left, right = np.array(edges, dtype=int).reshape(-1, 2).T
    found = connected_components(n, left, right)
    assert found.tolist() == naive_components(n, edges)
    assert found.dtype == np.int32


def test_components_of_nothing_and_wrong_edges():
    none = np.zeros(0, dtype=int)
    assert connected_components(0, none, none).tolist() == []
    assert connected_components(3, none, none).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="an edge leaves the 2 nodes"):
        connected_components(2, np.array([0]), np.array([2]))
    with pytest.raises(ValueError, match="edges need two ends each"):
        connected_components(2, np.array([0, 1]), np.array([1]))


def test_many_copies_of_an_edge_do_not_overflow():
    ends = np.zeros(256, dtype=int)
    assert connected_components(2, ends, ends + 1).tolist() == [0, 0]


def test_numbering_by_first_appearance():
    assert by_first_appearance(np.array([7, 3, 7, 0, 3])).tolist() == [0, 1, 0, 2, 1]


def pairs_of(*triples):
    left, right, labels = zip(*triples, strict=True)
    return Pairs.from_texts(left, right, labels)


def test_clusters_follow_label_1_only():
    pairs = pairs_of(("a", "b", 1), ("c", "d", 0), ("b", "c", 1), ("e", "f", -1))
    clusters = dict(zip(pairs.texts, cluster_ids(pairs).tolist(), strict=True))
    assert clusters["a"] == clusters["b"] == clusters["c"]
    assert len({clusters[text] for text in "cdef"}) == 4


def test_canonical_is_most_connected_then_shortest_then_first():
    pairs = pairs_of(
        ("hub of it", "x", 1), ("y", "hub of it", 1), ("long one", "brief", 1), ("same", "size", 1),
        ("z", "z", 1), ("x", "w", 0),
    )  # fmt: skip
    chosen = canonical(pairs, cluster_ids(pairs))
    assert {pairs.texts[i] for i in chosen} == {"hub of it", "brief", "same", "z", "w"}
    assert [cluster_ids(pairs)[i] for i in chosen] == list(range(len(chosen)))


def test_contradictions_direct_and_transitive():
    pairs = pairs_of(
        ("a", "b", 1), ("b", "c", 1), ("c", "a", 0),  # through b
        ("d", "e", 1), ("e", "d", 0),  # the same pair
        ("f", "f", 0),  # equal texts
        ("f", "f", 1), ("a", "d", 0), ("g", "h", -1),
    )  # fmt: skip
    found = contradictions(pairs, cluster_ids(pairs))
    assert found.direct.tolist() == [3, 4, 5, 6]
    assert found.transitive.tolist() == [2]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("What's  YOUR age??", "what s your age"),
        ("what s your age", "what s your age"),
        ("STRASSE", "strasse"),
        ("Straße!", "strasse"),
        ("“Quoted” — text…", "quoted text"),
        ("cafe\u0301", "café"),
        ("\uff26\uff35\uff2c\uff2c\u3000width", "full width"),
        ("snake_case", "snake case"),
        ("???", "???"),
        ("…", "…"),
        ("हिन्दी में?", "हिन्दी में"),
    ],
)
def test_normalised(text, form):
    assert normalised(text) == form


def test_near_identical_groups():
    texts = ["How old?", "how OLD", "How cold?", "how old !", "?", "!"]
    assert near_identical(texts).tolist() == [0, 0, 1, 0, 2, 3]


@given(st.text(max_size=12))
def test_normalised_is_idempotent_and_not_empty(text):
    form = normalised(text)
    assert normalised(form) == form
    assert bool(form) == bool(text)
