from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textsiam.data.clusters import cluster_ids
from textsiam.data.pairs import Pairs, ReadReport, read_pairs
from textsiam.inference.encoders import ModelError
from textsiam.inference.scratch import scratch_text_encoder
from textsiam.models.distances import COSINE, DISTANCES, EUCLIDEAN, SQUARED_EUCLIDEAN, Distance
from textsiam.models.twin import Twin
from textsiam.training.mining.offline import cross_encoder_check, mine, mine_vectors
from textsiam.training.settings import Mining

CATEGORIES = ("random", "easy", "semi-hard", "hard")


def on_a_line(**places: float) -> tuple[Pairs, np.ndarray]:
    """One pair of duplicates, a and p, and other texts, at places on a line."""
    names = list(places)
    others = [name for name in names if name not in ("a", "p")]
    pairs = Pairs.from_texts(["a", *others], ["p", *others], [1] * (1 + len(others)))
    vectors = np.array([[places[text]] for text in pairs.texts], np.float32)
    return pairs, vectors


LINE = {"a": 0.0, "p": 2.0, "h1": 1.0, "h2": 1.5, "s1": 2.5, "s2": 2.75, "e1": 4.0, "e2": 9.0}


def mined(pairs: Pairs, vectors: np.ndarray, mining: Mining, distance: Distance = EUCLIDEAN, **more) -> list[str]:
    triplets = mine_vectors(distance, pairs, vectors, vectors, mining, **more)
    return [pairs.texts[i] for i in triplets.negative]


# --- the categories -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("category", "expected"),
    [("hard", ["h1", "h2"]), ("semi-hard", ["s1", "s2"]), ("easy", ["e1", "e2"])],
)
def test_categories_on_a_line(category, expected):
    pairs, vectors = on_a_line(**LINE)
    # d(a,p) = 2, so that semi-hard ones lie between 2 and 3.
    for count in (1, 2, 5):
        assert mined(pairs, vectors, Mining(category, negatives=count, margin=1.0)) == expected[:count]


def test_random_negatives_are_any_others():
    pairs, vectors = on_a_line(**LINE)
    assert set(mined(pairs, vectors, Mining("random", negatives=9))) == set(LINE) - {"a", "p"}
    first = {mined(pairs, vectors, Mining("random"), seed=seed)[0] for seed in range(60)}
    assert first == set(LINE) - {"a", "p"}


def test_random_negatives_of_a_large_corpus_have_equal_chances():
    rng = np.random.default_rng(0)
    pairs = Pairs.from_texts(["a"] + [f"x{i}" for i in range(99)], ["p"] + ["y"] * 99, [1] + [0] * 99)
    vectors = rng.standard_normal((len(pairs.texts), 4)).astype(np.float32)
    drawn = [mined(pairs, vectors, Mining("random"), seed=seed)[0] for seed in range(2000)]
    counts = [drawn.count(text) for text in pairs.texts if text not in ("a", "p")]
    assert sum(counts) == 2000
    assert 4 < min(counts) <= max(counts) < 45  # 20 expected


@pytest.mark.parametrize("category", ["hard", "semi-hard", "easy"])
def test_borders_belong_to_no_category(category):
    pairs, vectors = on_a_line(a=0.0, p=2.0, like_p=2.0, at_margin=5.0**0.5)
    # Squared distances are 4 and, rounded, just over 5.
    assert mined(pairs, vectors, Mining(category, margin=1.0 + 1e-6), SQUARED_EUCLIDEAN) == (
        ["at_margin"] if category == "semi-hard" else []
    )


def test_ranks_count_from_the_nearest_text_of_another_cluster():
    pairs, vectors = on_a_line(**LINE)
    order = ["h1", "h2", "s1", "s2", "e1", "e2"]
    for first, last in ((1, 1), (2, 4), (5, 99)):
        ranks = Mining("random", rank_from=first, rank_to=last, negatives=6)
        assert sorted(mined(pairs, vectors, ranks)) == sorted(order[first - 1 : last])
    of_both = Mining("semi-hard", margin=1.0, rank_from=1, rank_to=3, negatives=6)
    assert mined(pairs, vectors, of_both) == ["s1"]
    assert mined(pairs, vectors, Mining("random", rank_from=50, rank_to=60)) == []
    one = Mining("random", rank_from=2, rank_to=4)
    assert {mined(pairs, vectors, one, seed=seed)[0] for seed in range(40)} == {"h2", "s1", "s2"}


def test_too_similar_texts_are_dropped_and_counted():
    pairs, vectors = on_a_line(**LINE)
    hard = Mining("hard", negatives=5, max_similarity=-1.25)  # similarity is −d here
    triplets = mine_vectors(EUCLIDEAN, pairs, vectors, vectors, hard)
    assert [pairs.texts[i] for i in triplets.negative] == ["h2"]
    assert triplets.dropped == {"own cluster": 0, "too similar": 1}
    # A share of 0.8 leaves similarities up to −2 − 0.2·2 = −2.4; of 0.65, up to −2.7.
    for share, expected in ((0.8, ["s1", "s2"]), (0.65, ["s2"])):
        wanted = Mining("semi-hard", negatives=5, margin=1.0, positive_share=share)
        assert mined(pairs, vectors, wanted) == expected


def test_a_share_of_the_cosine():
    angles = np.radians([0, 60, 65, 80])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    pairs = Pairs.from_texts(["a", "n65"], ["p", "n80"], [1, 0])
    # cos 60° = 0.5, cos 65° = 0.42, cos 80° = 0.17
    for share, expected in ((0.9, ["n65", "n80"]), (0.8, ["n80"]), (0.3, [])):
        assert (
            mined(pairs, vectors, Mining("semi-hard", negatives=3, margin=0.5, positive_share=share), COSINE)
            == expected
        )


# --- clusters -------------------------------------------------------------------------------------


def test_a_duplicate_by_a_chain_is_no_negative_and_is_counted():
    # a = p and a = c by two pairs; c lies where the nearest hard negative would.
    pairs = Pairs.from_texts(["a", "p", "x"], ["p", "c", "y"], [1, 1, 0])
    vectors = np.array([[0.0], [2.0], [1.0], [1.5], [9.0]], np.float32)
    assert pairs.texts == ["a", "p", "c", "x", "y"]
    triplets = mine_vectors(EUCLIDEAN, pairs, vectors, vectors, Mining("hard"))
    by_row = dict(zip(triplets.row.tolist(), (pairs.texts[i] for i in triplets.negative), strict=True))
    assert by_row == {0: "x", 1: "x"}
    assert triplets.dropped["own cluster"] == 1  # c for the pair a, p; for p, c nothing lies nearer


def test_duplicates_of_other_pairs_join_clusters(twin: Twin):
    pairs = Pairs.from_texts(["a", "x"], ["p", "y"], [1, 0])
    known = Pairs.from_texts(["x", "z"], ["z", "a"], [1, 1])
    for seed in range(10):
        alone = mine(twin, pairs, Mining("random", negatives=9), seed=seed)
        assert {pairs.texts[i] for i in alone.negative} == {"x", "y"}
        informed = mine(twin, pairs, Mining("random", negatives=9), seed=seed, known=[known])
        assert {pairs.texts[i] for i in informed.negative} == {"y"}


@st.composite
def labelled(draw):
    """Pairs with planted chains, and vectors."""
    m = draw(st.integers(4, 14))
    rows = draw(
        st.lists(st.tuples(st.integers(0, m - 1), st.integers(0, m - 1), st.booleans()), min_size=1, max_size=20)
    )
    chain = draw(st.lists(st.integers(0, m - 1), min_size=2, max_size=5, unique=True))
    rows += [(a, b, True) for a, b in pairwise(chain)]
    left, right, labels = zip(*rows, (0, m, False), strict=True)
    pairs = Pairs(
        [f"text {i}" for i in range(m + 1)], np.array(left), np.array(right), np.array(labels, np.int8), "made",
        ReadReport("made", 0, 0),
    )  # fmt: skip
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    return pairs, rng.standard_normal((m + 1, 3)).astype(np.float32)


minings = st.builds(
    Mining,
    category=st.sampled_from(CATEGORIES),
    negatives=st.integers(1, 4),
    margin=st.sampled_from([0.05, 0.3, 1.0]),
    positive_share=st.sampled_from([None, 0.95, 0.5]),
    max_similarity=st.sampled_from([None, 0.6, -0.4]),
)


@given(
    made=labelled(),
    mining=minings,
    name=st.sampled_from(sorted(DISTANCES)),
    block=st.integers(1, 7),
    ranked=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_against_a_loop_and_never_of_the_own_cluster(made, mining, name, block, ranked):
    pairs, vectors = made
    if ranked:
        mining = Mining(**{**vars(mining), "rank_from": 2, "rank_to": 5})
    distance, clusters = DISTANCES[name], cluster_ids(pairs)
    triplets = mine_vectors(distance, pairs, vectors, vectors, mining, seed=3, block=block)
    assert (clusters[triplets.anchor] != clusters[triplets.negative]).all()
    points = torch.from_numpy(vectors)
    table = distance.all_pairs(points, points)
    for row in np.flatnonzero((pairs.labels == 1) & (pairs.left != pairs.right)):
        a, p = pairs.left[row], pairs.right[row]
        others = [n for n in range(len(vectors)) if clusters[n] != clusters[a]]
        others.sort(key=lambda n: table[a, n].item())
        if ranked:
            others = others[1:5]
        near = distance(points[a][None], points[p][None]).item()
        like = distance.similarity(torch.tensor(near)).item()

        def fits(n, slack, near=near, like=like, a=a):
            d, s = table[a, n].item(), distance.similarity(table[a, n]).item()
            right = {
                "random": True,
                "easy": d > near + mining.margin - slack,
                "semi-hard": near - slack < d < near + mining.margin + slack,
                "hard": d < near + slack,
            }[mining.category]
            right &= mining.max_similarity is None or s <= mining.max_similarity + slack
            return right and (
                mining.positive_share is None or s <= like - (1 - mining.positive_share) * abs(like) + slack
            )

        surely, perhaps = ([n for n in others if fits(n, slack)] for slack in (-1e-5, 1e-5))
        at = triplets.row == row
        found = triplets.negative[at].tolist()
        assert len(set(found)) == len(found)
        assert set(found) <= set(perhaps)
        assert min(len(surely), mining.negatives) <= len(found) <= min(len(perhaps), mining.negatives)
        if surely == perhaps and not ranked and mining.category != "random":
            assert found == surely[: mining.negatives]  # the nearest
        np.testing.assert_allclose(triplets.negative_distance[at], table[a, found], atol=1e-5)
        np.testing.assert_allclose(triplets.positive_distance[at], near, atol=1e-6)
    d, near = triplets.negative_distance, triplets.positive_distance  # the formulas hold to the last bit
    assert (d < near).all() if mining.category == "hard" else True
    assert ((near < d) & (d < near + np.float32(mining.margin))).all() if mining.category == "semi-hard" else True


# --- determinism, memory, errors ------------------------------------------------------------------


@pytest.mark.parametrize(
    "mining", [Mining("random", negatives=3), Mining("random", rank_from=3, rank_to=30, negatives=3)]
)
def test_the_seed_fixes_what_is_drawn_and_the_block_does_not_matter(pairs: Pairs, mining):
    vectors = np.random.default_rng(1).standard_normal((len(pairs.texts), 8)).astype(np.float32)
    first = mine_vectors(COSINE, pairs, vectors, vectors, mining, seed=4)
    for block in (4096, 5):
        again = mine_vectors(COSINE, pairs, vectors, vectors, mining, seed=4, block=block)
        np.testing.assert_array_equal(again.negative, first.negative)
        np.testing.assert_array_equal(again.row, first.row)
    assert (mine_vectors(COSINE, pairs, vectors, vectors, mining, seed=5).negative != first.negative).any()


def many(n: int, anchors: int, dim: int = 8) -> tuple[Pairs, np.ndarray]:
    vectors = np.random.default_rng(0).standard_normal((n, dim)).astype(np.float32)
    left = np.arange(anchors)
    pairs = Pairs([str(i) for i in range(n)], left, left + anchors, np.ones(anchors), "many", ReadReport("many", 0, 0))
    return pairs, vectors


def test_no_block_is_larger_than_asked_for():
    pairs, vectors = many(700, 90)
    shapes = []

    def noting(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        shapes.append((len(u), len(v)))
        return COSINE.all_pairs(u, v)

    watched = Distance("cosine", COSINE.rowwise, noting, 2.0)
    mine_vectors(watched, pairs, vectors, vectors, Mining("hard"), block=64)
    assert np.max(shapes) == 64
    assert sum(a * b for a, b in shapes) == 90 * 700  # and everything was compared, once


def test_memory_beside_the_vectors_is_that_of_the_result():
    pairs, vectors = many(20_000, 4_000)
    clusters = cluster_ids(pairs)
    tracemalloc.start()
    try:
        mine_vectors(COSINE, pairs, vectors, vectors, Mining("random", negatives=2), clusters=clusters, block=512)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8e6  # numpy only; 4,000 · 20,000 distances would take 320 MB


def test_progress_counts_texts_and_then_pairs(twin: Twin, pairs: Pairs):
    seen = []
    mine(twin, pairs, Mining("random"), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (48, 48)  # pairs: 16 clusters of three wordings
    assert seen[-2] == (48, 48)  # texts


def test_without_duplicates_or_without_others_there_is_nothing_to_mine(twin: Twin):
    with pytest.raises(ValueError, match="memory: no pair of duplicates to mine negatives for"):
        mine(twin, Pairs.from_texts(["a", "c"], ["b", "c"], [0, 1]))
    with pytest.raises(ValueError, match="memory: all texts are duplicates of each other"):
        mine(twin, Pairs.from_texts(["a", "b"], ["b", "c"], [1, 1]))


def test_an_asymmetric_twin_looks_among_right_texts(fresh_tower, sentences):
    other = scratch_text_encoder(sentences, vocabulary=200, hidden=16, dim=32, max_tokens=24, seed=5, device="cpu")
    twin = Twin(fresh_tower, other.eval())
    pairs = Pairs.from_texts(["q one", "q two", "q three"], ["d one", "d two", "d three"], [1, 1, 0])
    triplets = mine(twin, pairs, Mining("random", negatives=9))
    assert {pairs.texts[i] for i in triplets.negative[triplets.row == 0]} == {"d two", "d three"}
    d = twin.distance
    u, v = (torch.from_numpy(twin.encode([pairs.texts[i] for i in ends], side=side))
            for ends, side in ((triplets.anchor, "left"), (triplets.negative, "right")))  # fmt: skip
    np.testing.assert_allclose(triplets.negative_distance, d(u, v), atol=1e-5)


def test_mine_finds_what_the_vectors_say(twin: Twin, pairs: Pairs):
    wanted = Mining("hard", negatives=2)
    vectors = twin.encode(pairs.texts)
    expected = mine_vectors(twin.distance, pairs, vectors, vectors, wanted)
    triplets = mine(twin, pairs, wanted)
    np.testing.assert_array_equal(triplets.negative, expected.negative)
    assert 0 < triplets.found <= triplets.searched == 48


# --- the check ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_the_check_drops_what_it_calls_duplicates_and_is_asked_about_nothing_else(count):
    pairs, vectors = on_a_line(**{**LINE, "h3": 1.75})
    asked = []

    def check(left, right):
        asked.extend(zip(left, right, strict=True))
        return np.array([0.9 if text == "h1" else 0.5 for text in right])

    wanted = Mining("hard", negatives=count, check_above=0.5)
    triplets = mine_vectors(EUCLIDEAN, pairs, vectors, vectors, wanted, check=check)
    assert [pairs.texts[i] for i in triplets.negative] == ["h2", "h3"][:count]
    assert asked == [("a", "h1"), ("a", "h2"), ("a", "h3")][: count + 1]
    assert triplets.dropped["called a duplicate by the check"] == 1


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_a_cross_encoder_gives_probabilities(tower, tmp_path, outputs):
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(tower.tokenizer), num_labels=outputs, **size)
    BertForSequenceClassification(config).eval().save_pretrained(tmp_path)
    tower.tokenizer.save_pretrained(tmp_path)
    if outputs == 3:
        with pytest.raises(ModelError, match="needs a cross-encoder with 1 or 2 outputs, this one has 3"):
            cross_encoder_check(str(tmp_path), device="cpu")
        return
    left, right = ["why is bread flat", "eggs"], ["bread collapses", "cats purr"]
    found = cross_encoder_check(str(tmp_path), device="cpu")(left, right)
    model = CrossEncoder(str(tmp_path), device="cpu")
    logits = torch.tensor(model.predict(list(zip(left, right, strict=True)), activation_fn=torch.nn.Identity()))
    logits = logits.double().reshape(2, -1)
    expected = logits.sigmoid()[:, 0] if outputs == 1 else logits.softmax(1)[:, 1]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_missing_cross_encoder_is_one_line(tmp_path):
    with pytest.raises(ModelError, match="cannot be opened as a cross-encoder") as raised:
        cross_encoder_check(str(tmp_path / "nothing"))
    assert "\n" not in str(raised.value)


# --- what comes of triplets -----------------------------------------------------------------------


def test_pairs_of_triplets_hold_each_new_negative_once():
    pairs = Pairs.from_texts(["a", "a", "n1", "p"], ["p", "q", "a", "n2"], [1, 1, 0, 0])
    vectors = np.array([[0.0], [4.0], [4.5], [1.0], [2.0]], np.float32)
    triplets = mine_vectors(EUCLIDEAN, pairs, vectors, vectors, Mining("hard", negatives=2))
    assert [(pairs.texts[a], pairs.texts[n]) for a, n in zip(triplets.anchor, triplets.negative, strict=True)] == [
        ("a", "n1"), ("a", "n2"), ("a", "n1"), ("a", "n2"),
    ]  # fmt: skip
    made = triplets.to_pairs()
    rows = list(zip(made.left_texts, made.right_texts, made.labels.tolist(), strict=True))
    assert rows[:4] == list(zip(pairs.left_texts, pairs.right_texts, pairs.labels.tolist(), strict=True))
    assert rows[4:] == [("a", "n2", 0)]  # (n1, a) was there
    assert made.texts == pairs.texts


def test_negatives_by_pair():
    pairs, vectors = on_a_line(**LINE)
    triplets = mine_vectors(EUCLIDEAN, pairs, vectors, vectors, Mining("hard", negatives=2))
    h1, h2 = pairs.texts.index("h1"), pairs.texts.index("h2")
    table = triplets.by_pair(3)
    assert table.shape == (len(pairs), 3)
    assert table[0].tolist() == [h1, h2, -1]
    assert (table[1:] == -1).all()
    assert triplets.by_pair(1)[0].tolist() == [h1]


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl"])
def test_a_written_file_is_read_again(twin: Twin, tmp_path, ending):
    awkward = ['say "hi"', "tab, comma; semicolon", "it's 5 o'clock", "ünïcödé ☃", "'quoted'", "back\\slash"]
    pairs = Pairs.from_texts(awkward, [f"{t} again" for t in awkward], [1] * len(awkward))
    triplets = mine(twin, pairs, Mining("random", negatives=2), seed=1)
    made = read_pairs(triplets.write(tmp_path / f"triplets{ending}"))

    def rows(some: Pairs) -> set[tuple[frozenset[str], int]]:
        ends = zip(some.left_texts, some.right_texts, some.labels.tolist(), strict=True)
        return {(frozenset((a, b)), y) for a, b, y in ends}

    assert rows(made) == rows(triplets.to_pairs())
    assert len(triplets) == 12


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"category": "soft"}, "category must be one of random, easy, semi-hard, hard, got 'soft'"),
        ({"negatives": 0}, "negatives must be >= 1, got 0"),
        ({"margin": 0.0}, "margin must be > 0, got 0.0"),
        ({"rank_from": 3}, "rank_from and rank_to go together"),
        ({"rank_from": 3, "rank_to": 2}, "1 <= rank_from <= rank_to, got 3 to 2"),
        ({"rank_from": 0, "rank_to": 2}, "1 <= rank_from <= rank_to, got 0 to 2"),
        ({"positive_share": 0.0}, r"positive_share must be in \(0, 1\], got 0.0"),
        ({"check_above": 1.5}, r"check_above must be in \[0, 1\], got 1.5"),
    ],
)
def test_knobs_that_make_no_sense_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        Mining(**knobs)
