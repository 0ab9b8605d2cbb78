"""A job in partitions, with next to no memory, against the same texts in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from textsiam.data.stored_strings import store_strings
from textsiam.decision.decision import fit_decision
from textsiam.inference.unread import Unread
from textsiam.models.twin import Twin
from textsiam.search.duplicates import Duplicates, find_duplicates
from textsiam.search.join.ray import JobConfig


class Places:
    """Texts are numbers, and lie there on a line: a twin by euclidean distance is given their vectors."""

    def __init__(self, twin: Twin) -> None:
        self.twin = Twin(twin.left, distance="euclidean")
        self.twin.encode = self.encode  # pyright: ignore[reportAttributeAccessIssue]

    def encode(self, texts: Any, **_: object) -> np.ndarray:
        vectors = np.zeros((len(texts), self.twin.dim), np.float32)
        vectors[:, 0], vectors[:, 1] = 1, [float(text) for text in texts]
        return vectors


class Opinion:
    """A reranker that is in doubt about pairs at a distance of up to 1, and then goes by the texts."""

    combination, fitted = SimpleNamespace(low=-1.0), True

    def rescore(self, texts, left, right, similarity, *, precision="auto"):
        even = [(round(float(texts[a])) + round(float(texts[b]))) % 2 for a, b in zip(left, right, strict=True)]
        return np.where(similarity < -0.2, np.where(even, -0.1, -0.9), similarity).astype(np.float32)


@pytest.fixture
def places(twin: Twin) -> Places:
    return Places(twin)


def texts_of_a_line() -> st.SearchStrategy[list[str]]:
    """Places with copies, chains, one giant component and none at all: steps of any size, often none."""
    steps = st.lists(st.sampled_from([0.0, 0.0, 0.1, 0.3, 0.5, 0.7, 5.0]), max_size=25)
    return steps.flatmap(lambda s: st.permutations([f"{x:.1f}" for x in np.cumsum(s)]))


def same(one: Duplicates, other: Duplicates) -> None:
    for name in ("left", "right", "similarity", "probability"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert one.clusters == other.clusters
    assert (one.copies, one.distinct, one.unread) == (other.copies, other.distinct, other.unread)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=texts_of_a_line(),
    threshold=st.sampled_from([-0.15, -0.6, -0.8, -3.0]),
    size=st.sampled_from([1, 3, 100]),
    pairs=st.sampled_from([1, 2, 7, 1000]),
    expand=st.booleans(),
    reranked=st.booleans(),
    hide=st.booleans(),
)
def test_a_job_with_no_memory_gives_what_memory_gives(
    places: Places, monkeypatch, texts, threshold, size, pairs, expand, reranked, hide
) -> None:
    twin = places.twin
    twin.reranker = Opinion() if reranked else None  # pyright: ignore[reportAttributeAccessIssue]
    for module in ("stages", "rescoring"):
        monkeypatch.setattr(f"textsiam.search.join.{module}.opened", lambda *_: twin)
    monkeypatch.setattr("textsiam.search.join.job.scorer_fingerprint", lambda _: "0")
    monkeypatch.setattr("textsiam.search.join.sorted_pairs.BLOCK", 3)
    monkeypatch.setattr("textsiam.search.exact_duplicates.BLOCK", 3)
    monkeypatch.setattr("textsiam.search.join.pair_files.BLOCK", 3)
    monkeypatch.setattr("textsiam.search.join.stages._MAPPED", 2)
    monkeypatch.setattr("textsiam.data.stored_strings._BUCKETS", 3)
    known = -np.linspace(0, 2, 20), np.repeat([1, 0], 10)
    given = {"threshold": threshold, "decision": fit_decision(*known), "expand_exact": expand}
    if hide:
        rows = np.array([float(text) > 2 for text in texts], bool)
        given["unread"] = Unread(~rows & False, rows, rows, np.array([int(float(text)) for text in texts], np.int64))
    whole = find_duplicates(twin, texts, **given)
    with TemporaryDirectory() as folder:
        config = JobConfig("model", Path(folder) / "job", partition_size=size, pairs_in_memory=pairs)
        same(find_duplicates(twin, texts, **given, job=config), whole)
        stored = store_strings(Path(folder) / "texts", texts)
        same(find_duplicates(twin, stored, **given, job=replace(config, pairs_in_memory=3)), whole)
