"""What a tower does not read: texts of unknown tokens, and texts that differ behind the cut only."""

from __future__ import annotations

import numpy as np
import pytest

from textsiam.inference.unread import unread_of
from textsiam.models.twin import Twin
from textsiam.search.duplicates import find_duplicates

LONG = "Why does my bread collapse in the oven? " * 40
TEXTS = [
    "Why do cats purr?",
    "😀😀",
    "កម្ពុជា",
    "How do I say 😀 to cats?",
    "How do I say 😡 to cats?",
    f"{LONG} How do I reset it?",
    f"{LONG} Please delete my account.",
    "WHY DO CATS PURR?",
]


@pytest.fixture(scope="module")
def unread(minilm):
    return unread_of([minilm], TEXTS)


def test_what_is_not_read_is_found(unread):
    assert np.flatnonzero(unread.nothing).tolist() == [1, 2]
    assert np.flatnonzero(unread.partly).tolist() == [1, 2, 3, 4, 5, 6]
    assert np.flatnonzero(unread.cut).tolist() == [5, 6]


def test_pairs_that_nothing_read_tells_apart(unread):
    left, right = np.triu_indices(len(TEXTS), 1)
    alike = {(a, b) for a, b, hidden in zip(left, right, unread.differ_unread(left, right), strict=True) if hidden}
    nothing = {(a, b) for a, b in zip(left, right, strict=True) if {a, b} & {1, 2}}
    assert alike == nothing | {(3, 4), (5, 6)}  # and not 0 and 7, of which everything is read


def test_a_text_as_long_as_the_limit_is_not_cut(minilm):
    limit = minilm.max_seq_length
    found = unread_of([minilm], ["cat " * (limit - 2), "cat " * (limit - 1)])
    assert found.cut.tolist() == [False, True]
    assert found.differ_unread(np.array([0]), np.array([1])).tolist() == [True]


def test_what_one_of_several_towers_reads_is_read(minilm, tower):
    assert unread_of([tower], TEXTS[:1]).partly.shape == (1,)
    both = unread_of([minilm, tower], TEXTS)
    assert not both.nothing[[0, 3]].any()
    assert (both.nothing <= unread_of([minilm], TEXTS).nothing).all()


def test_such_pairs_are_left_out_and_counted(minilm, unread):
    twin, texts = Twin(minilm), [*TEXTS, "😀😀"]
    found = find_duplicates(twin, texts, threshold=0.999, unread=unread_of([minilm], texts))
    pairs = set(zip(found.left.tolist(), found.right.tolist(), strict=True))
    assert pairs == {(0, 7), (1, 8)}  # equal texts are duplicates whatever is read of them
    every = find_duplicates(twin, texts, threshold=0.999)
    assert {(3, 4), (5, 6)} <= set(zip(every.left.tolist(), every.right.tolist(), strict=True))
    assert found.unread == len(every) - len(found) >= 2


def test_commands_say_it(textsiam, minilm, tmp_path):
    model, file, index = tmp_path / "twin", tmp_path / "q.txt", tmp_path / "index"
    Twin(minilm).save_pretrained(model)
    file.write_text("\n".join(TEXTS) + "\n")
    assert textsiam("index", "create", model, index).status == 0
    for command in (
        ("flag", model, file, "--threshold", "0.99"),
        ("encode", model, file, "--output", tmp_path / "v.npy"),
        ("match", model, "--queries", file, "--documents", file),
        ("index", "add", model, index, file),
    ):
        said = textsiam(*command)
        assert said.status == 0, said.err
        assert "2 of 8 texts hold unknown tokens only, and the model reads nothing of them: 2, 3\n" in said.err
        assert "2 of 8 texts are cut after 256 tokens, the most that is read: 6, 7\n" in said.err
    said = textsiam("flag", model, file, "--threshold", "0.99", "--json").json
    assert {(p["id1"], p["id2"]) for p in said["pairs"]} == {("1", "8")}
    assert said["unread"] == {"unknown": 2, "cut": 2, "pairs": said["unread"]["pairs"]}
    assert said["unread"]["pairs"] >= 2
    told = textsiam("flag", model, file, "--threshold", "0.99", "--include-unread", "--json").json
    assert len(told["pairs"]) == 1 + said["unread"]["pairs"]
