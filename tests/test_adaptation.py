"""`textsiam adapt`: what it learns from, what it never sees, and that it keeps the better twin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from textsiam import adaptation
from textsiam.adaptation import adapt
from textsiam.data.clusters import normalised
from textsiam.data.tables.errors import DataError
from textsiam.forums.table import import_table
from textsiam.inference.encoders import ModelError
from textsiam.models.twin import Twin

WORDS = ["bread", "cactus", "tyre", "dog", "mountain", "swim", "sky", "sleep", "visa", "wine", "guitar", "egg",
         "knife", "tap", "cat"]  # fmt: skip
TOPICS = [f"{a} {b}" for i, a in enumerate(WORDS) for b in WORDS[i + 1 :]]


def make_forum(folder: Path, linked: int, *, dated: bool = True, bodies: bool = True, kind: str = "duplicate") -> Path:
    """Two questions about each of 105 topics; the newest topics are linked."""
    rows, links = ["id\ttitle\tbody\tcreated"], ["id1\tid2\tkind"]
    for k, topic in enumerate(TOPICS):
        dates = (f"{1800 + k}-01-01", f"{1801 + k}-01-01") if dated else ("", "")
        body = f"I ask about {topic}" if bodies else ""
        rows += [f"{k}\twhy {topic}\t{body}\t{dates[0]}", f"d{k}\t{topic} how\t{body}\t{dates[1]}"]
        if k >= len(TOPICS) - linked:
            links.append(f"d{k}\t{k}\t{kind}")
    folder.mkdir()
    (folder / "q.tsv").write_text("\n".join(rows) + "\n")
    (folder / "l.tsv").write_text("\n".join(links) + "\n")
    import_table(folder / "q.tsv", folder / "forum", text="{title}", links=folder / "l.tsv")
    return folder / "forum"


@pytest.fixture
def learned(monkeypatch) -> list:
    """What was learned from, a `Pairs` for each training."""
    noted, real = [], adaptation.train

    def train(twin, pairs, *given, **named):
        noted.append(pairs)
        return real(twin, pairs, *given, **named)

    monkeypatch.setattr(adaptation, "train", train)
    return noted


def test_links_are_learned_from_and_the_newest_judge(twin, tmp_path, learned):
    found = adapt(twin, make_forum(tmp_path / "a", len(TOPICS)), learning_rate=5e-3)
    assert (found.learned_from, found.judged_by) == ("duplicate links", "duplicate")
    assert (found.pairs, found.links, found.clusters) == (53, 21, 21)
    newest = {normalised(text) for topic in TOPICS[-52:] for text in (f"why {topic}", f"{topic} how")}
    (pairs,) = learned
    assert pairs.both_labels
    assert not newest & {normalised(text) for text in pairs.texts[: int(max(pairs.left.max(), pairs.right.max())) + 1]}
    assert found.adapted
    assert found.after > found.before
    assert found.difference is not None
    assert found.difference.value == pytest.approx(found.after - found.before)
    assert found.chosen_by is not None
    assert found.chosen_by.low > 0
    assert found.chosen_by.value != found.difference.value
    assert found.twin.decision is not None
    assert found.twin.collection is not None
    assert found.twin.provenance["adapted"]["links"] == 21


def test_few_links_judge_and_titles_and_bodies_are_learned_from(twin, tmp_path, learned):
    found = adapt(twin, make_forum(tmp_path / "a", 24, kind="related"), learning_rate=5e-3)
    assert (found.learned_from, found.judged_by) == ("titles and bodies", "duplicate and related")
    assert (found.pairs, found.links) == (2 * (len(TOPICS) - 24), 12)
    held_out = {text for topic in TOPICS[-24:] for text in (f"why {topic}", f"{topic} how")}
    assert not held_out & set(learned[0].texts)
    assert found.twin.decision is None
    fewer = adapt(twin, make_forum(tmp_path / "b", 19), pairs=40)
    assert (fewer.adapted, fewer.pairs, fewer.clusters, fewer.difference) == (False, 0, 9, None)
    assert len(learned) == 1  # what cannot be judged is not learned


@pytest.mark.parametrize(
    ("chosen", "test", "adapted"),
    [(0.3, 0.3, True), (0.3, 0.01, True), (0.3, -0.1, False), (0.02, 0.3, False), (-0.1, 0.3, False)],
)
def test_a_gain_counts_where_it_is_no_chance_on_links_that_choose_and_none_is_lost_on_others(
    chosen, test, adapted, twin, tmp_path, monkeypatch
):
    """Gains are as wide as ±0.2: one of 0.02 may be chance."""
    gains = iter([0, 0, chosen, test])

    def ranks(model, documents, links):
        return 0.5 + next(gains) + 0.2 * np.where(np.arange(2 * len(links)) % 4 < 2, 1, -1) * (model is not twin)

    monkeypatch.setattr(adaptation, "reciprocal_ranks", ranks)
    found = adapt(twin, make_forum(tmp_path / "a", 24), pairs=40)
    assert (found.adapted, found.twin is twin) == (adapted, not adapted)
    assert found.chosen_by.value == pytest.approx(chosen, abs=0.05)
    assert found.after - found.before == pytest.approx(test, abs=0.05)


def test_links_without_dates_are_split_at_random(twin, tmp_path):
    found = adapt(twin, make_forum(tmp_path / "a", len(TOPICS), dated=False))
    assert (found.learned_from, found.links) == ("duplicate links", 21)


def test_a_twin_that_became_worse_is_not_kept(twin, tmp_path, monkeypatch):
    before = twin.encode(["why bread"])

    def collapse(learner, *given, **named):
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter.zero_()
        return real(learner, *given, **named)

    real = adaptation.train
    monkeypatch.setattr(adaptation, "train", collapse)
    found = adapt(twin, make_forum(tmp_path / "a", 24), pairs=40)
    assert not found.adapted
    assert found.after < found.before
    assert found.twin is twin
    assert np.array_equal(twin.encode(["why bread"]), before)
    assert "adapted" not in twin.provenance


def test_without_a_link_nothing_is_judged_and_nothing_learned(twin, tmp_path, learned):
    found = adapt(twin, make_forum(tmp_path / "a", 0))
    assert (found.adapted, found.learned_from, found.before, found.twin) == (False, None, None, twin)
    assert found.to_dict()["decided"] is False
    assert not learned


def test_what_cannot_be_adapted_is_said(twin, tmp_path, fresh_tower):
    with pytest.raises(DataError, match="too little to learn from: fewer than 100 duplicate links, and 0 questions"):
        adapt(twin, make_forum(tmp_path / "a", 24, bodies=False))
    with pytest.raises(ModelError, match="a twin of one tower"):
        adapt(Twin(fresh_tower, twin.left), tmp_path / "a" / "forum")


def test_the_command_says_which_twin_it_keeps(twin, textsiam, tmp_path):
    twin.save_pretrained(tmp_path / "twin")
    forum = make_forum(tmp_path / "a", 40)
    arguments = ("adapt", tmp_path / "twin", forum, "--output", tmp_path / "out", "--learning-rate", "5e-3")
    status, out, err = textsiam(*arguments)
    assert (status, out) == (0, "")
    assert "20 links (duplicate and related) that neither trained nor chose: mean reciprocal rank" in err
    assert err.splitlines()[-1] == f"twin written to {tmp_path / 'out'}"
    said = textsiam(*arguments, "--json")
    assert said.json["output"] == str(tmp_path / "out")
    assert (f"{tmp_path / 'twin'} is kept as it is" in err) == (not said.json["adapted"])
    assert ("it has no decision: textsiam label" in err) == said.json["adapted"]
    assert Twin.from_pretrained(tmp_path / "out").encode(["why"]).shape == (1, 32)
    few = textsiam("adapt", tmp_path / "twin", make_forum(tmp_path / "b", 12), "--output", tmp_path / "out")
    assert "two times ten groups of linked questions are needed" in few.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{tmp}", "--output", "{tmp}/out"), "is no forum folder: make one with textsiam import"),
        (("{tmp}/a/forum", "--output", "{tmp}/a"), "is there already, and is no saved twin"),
        (("{tmp}/a/forum", "--output", "{tmp}/out", "--learning-rate", "0"), "--learning-rate must be > 0, got 0.0"),
    ],
)
def test_mistakes_are_said_before_anything_is_done(arguments, message, textsiam, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    make_forum(tmp_path / "a", 1)
    status, out, err = textsiam("adapt", "no-model", *(each.format(tmp=tmp_path) for each in arguments))
    assert (status, out) == (2, "")
    assert message in err
    assert not (tmp_path / "out").exists()
