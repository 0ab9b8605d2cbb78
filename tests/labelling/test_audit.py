"""The precision of flagged pairs: against brute force, at the boundary, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from textsiam.data.tables.errors import DataError
from textsiam.labelling.aim import Aim
from textsiam.labelling.audit import answered_flagged, audit, open_flagged, precision_bounds
from textsiam.labelling.audit_plan import AuditPlan
from textsiam.labelling.flagged import read_flagged
from textsiam.labelling.session import Session

IDS = [f"q{i}" for i in range(40)]
TEXTS = [f"text {i // 2 if i < 4 else i}" for i in range(40)]  # q0 = q1, q2 = q3


@pytest.fixture
def flagged(tmp_path):
    """30 pairs; the first is a copy, and one is there twice, the other way round."""
    rows = ["q0\tq1", *(f"q{i}\tq{i + 5}" for i in range(4, 33)), "q9\tq4"]
    (tmp_path / "flagged.tsv").write_text("id1\tid2\n" + "\n".join(rows) + "\n")
    return read_flagged(tmp_path / "flagged.tsv")


def right(question) -> bool:
    return question.left % 4 != 0


def judge(session: Session, count: int) -> None:
    for _ in range(count):
        question = session.ask("anna")
        if question is None:
            break
        session.answer(question, "y" if right(question) else "n", "anna")


def opened(flagged, tmp_path, **aim) -> Session:
    return open_flagged(flagged, IDS, TEXTS, tmp_path / "audit.tsv", Aim(**aim), source="forum")


def test_judging_all_is_exact(flagged, tmp_path):
    session = opened(flagged, tmp_path)
    assert audit(flagged, session).sentences()[0] == "no pair is judged yet, of 29"
    judge(session, 100)
    found = audit(flagged, answered_flagged(flagged, tmp_path / "audit.tsv"))
    assert found == audit(flagged, session)
    assert (found.pairs, found.copies, found.right, found.wrong, found.unknown) == (29, 2, 21, 8, 0)
    assert found.low == found.high == found.precision == 21 / 29
    assert found.sentences() == [
        "precision 72.4%: all 29 pairs are judged, 21 are right",
        "recall is not known: `textsiam label MODEL QUESTIONS --flagged …` asks about missed pairs, too",
        "1 of 6 clusters are wholly right (estimate)",
        "2 rows are left out: their texts are equal, or the pair is there twice",
    ]


def test_part_of_them_gives_an_interval_at_any_confidence(flagged, tmp_path):
    session = opened(flagged, tmp_path, labels=15, confidence=0.9)
    judge(session, 15)
    assert session.plan.done
    found, wider = audit(flagged, session), audit(flagged, session, confidence=0.99)
    assert 0 < found.low < found.precision < found.high <= 1
    assert found.low <= 21 / 29 <= found.high
    assert wider.low <= found.low
    assert wider.high >= found.high
    assert wider.low < found.low or wider.high > found.high
    assert f"{found.right} of 15 judged are right (90% confidence)" in found.sentences()[0]
    assert json.loads(json.dumps(found.to_dict()))["low"] == found.low


def test_unknown_pairs_count_against_both_bounds():
    answers = [True] * 10 + [False] * 3
    low, high = precision_bounds([*answers, None, None], 60)
    assert low == precision_bounds([*answers, False, False], 60)[0]
    assert high == precision_bounds([*answers, True, True], 60)[1]
    assert precision_bounds([True, True, False, None], 4) == (2, 3)
    assert precision_bounds([], 9) == (0, 9)


def test_noise_widens_both_sides():
    answers = np.random.default_rng(0).permutation([True] * 30 + [False] * 10).tolist()
    (low, high), (lower, higher) = (precision_bounds(answers, 40, noise=noise) for noise in (0.0, 0.05))
    assert (low, high) == (30, 30)
    assert lower < 30 < higher


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9, 1.0])
def test_the_truth_is_hardly_ever_left_out_whenever_one_stops(share):
    """A population of 80, looked at after every fourth answer: out at any moment in 20 % of the runs at most."""
    rng = np.random.default_rng(round(100 * share))
    truth, runs, broken = np.arange(80) < round(80 * share), 60, 0
    for _ in range(runs):
        answers = rng.permutation(truth).tolist()
        looks = [precision_bounds(answers[:n], 80, confidence=0.8) for n in range(4, 81, 4)]
        broken += any(not low <= truth.sum() <= high for low, high in looks)
        assert looks[-1] == (truth.sum(), truth.sum())
    assert broken <= 0.2 * runs + 2 * (0.2 * 0.8 * runs) ** 0.5


def test_the_bounds_mirror_each_other():
    answers = [True, True, False, True, None, True, False, True]
    low, high = precision_bounds(answers, 30)
    flipped = [None if answer is None else not answer for answer in answers]
    assert precision_bounds(flipped, 30) == (30 - high, 30 - low)


def test_draws_are_uniform_and_each_pair_is_drawn_once(flagged, tmp_path):
    counts = np.zeros(30)
    for seed in range(600):
        session = opened(flagged, tmp_path, seed=seed)
        draw = session.plan.draw()
        assert draw.probability == 1 / 29
        counts[draw.rank] += 1
    assert counts[0] == 0  # the copy
    assert ((counts[1:] - 600 / 29) ** 2 / (600 / 29)).sum() < 60  # chi squared, 28 degrees: p = 0.0004
    plan = opened(flagged, tmp_path).plan
    drawn = [plan.draw().rank for _ in range(29)]
    assert sorted(drawn) == list(range(1, 30))
    assert plan.draw() is None


def test_going_on_is_never_having_stopped(flagged, tmp_path):
    judge(opened(flagged, tmp_path), 4)
    judge(opened(flagged, tmp_path), 6)
    whole = open_flagged(flagged, IDS, TEXTS, tmp_path / "whole.tsv", Aim(), source="forum")
    judge(whole, 10)
    assert opened(flagged, tmp_path).plan.draws == whole.plan.draws
    assert audit(flagged, opened(flagged, tmp_path)) == audit(flagged, whole)


def test_other_pairs_than_those_labelled_are_refused(flagged, tmp_path):
    judge(opened(flagged, tmp_path), 3)
    text = (tmp_path / "flagged.tsv").read_text()
    (tmp_path / "other.tsv").write_text(text.replace("q7\tq12\n", ""))
    other = read_flagged(tmp_path / "other.tsv")
    with pytest.raises(
        DataError, match=r"audit.tsv: the answers are not about the pairs of .*other.tsv as they are now"
    ):
        answered_flagged(other, tmp_path / "audit.tsv")
    with pytest.raises(DataError, match=r"audit.tsv: the answers are about another flagged file"):
        opened(other, tmp_path)
    with pytest.raises(DataError, match=r"audit.tsv: the answers are about another collection"):
        open_flagged(flagged, IDS, [*TEXTS[:-1], "changed"], tmp_path / "audit.tsv", source="forum")
    (tmp_path / "more.tsv").write_text("score\t" + text.replace("\nq", "\n0.5\tq"))  # another column is no other pair
    assert audit(read_flagged(tmp_path / "more.tsv"), opened(flagged, tmp_path)).right + 3 >= 3
    assert answered_flagged(read_flagged(tmp_path / "more.tsv"), tmp_path / "audit.tsv").plan.answers


@pytest.mark.parametrize(("column", "value"), [(3, "100000000"), (5, "77")])
def test_a_draw_that_fits_neither_candidates_nor_flagged_pairs_is_refused(flagged, tmp_path, column, value):
    judge(opened(flagged, tmp_path), 3)
    path = tmp_path / "audit.tsv"
    header, *lines = [line.split("\t") for line in path.read_text().splitlines()]
    for line in lines[:2]:
        line[1], line[column] = "recall" if column == 3 else line[1], value
    path.write_text("\n".join("\t".join(line) for line in [header, *lines]) + "\n")
    with pytest.raises(DataError, match=r"audit.tsv:\d: place \d+ among \d+ fits neither the \d+ candidates"):
        answered_flagged(flagged, path)


def test_a_flagged_pair_that_stands_twice_is_refused(flagged, tmp_path):
    judge(opened(flagged, tmp_path), 3)
    path = tmp_path / "audit.tsv"
    last = path.read_text().splitlines()[-1].split("\t")
    with path.open("a") as file:
        file.write("\t".join(["3", *last[1:]]) + "\n")
    with pytest.raises(DataError, match=r"audit.tsv:8: draw 3 is the pair .*, as draw 2 was: a pair is drawn once"):
        answered_flagged(flagged, path)


def test_no_answers_are_refused(flagged, tmp_path):
    with pytest.raises(DataError, match=r"none.tsv: no such file, or no answers in it: textsiam label --flagged makes"):
        answered_flagged(flagged, tmp_path / "none.tsv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tid2\nx\ty\n", "has no column 'id1', found 'a', 'id2'; flagged pairs are id1 and id2"),
        ("id1\tid2\n", "holds no pairs"),
        ("id1\tid2\nq4\tq5\nq6\tq6\n", ":3: id1 is 'q6' and id2 is 'q6': both are the same question"),
        ("id1\tid2\nq4\t\n", ":2: id1 is 'q4' and id2 is '': a question is missing"),
        ("id1\tid2\nq4\tq5\nq6\tq99\n", ":3: id2 is 'q99', which is no question of forum"),
        ("id1\tid2\nq0\tq1\n", ": the texts of every pair are equal: there is nothing to ask"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path, text, message):
    (tmp_path / "bad.tsv").write_text(text)
    with pytest.raises(DataError) as raised:
        opened(read_flagged(tmp_path / "bad.tsv"), tmp_path)
    assert str(tmp_path / "bad.tsv") in str(raised.value)
    assert message in str(raised.value)


def test_texts_in_the_file_tell_copies(tmp_path):
    rows = ["a\tb\tsame\tsame", "c\td\tone\tother", "b\ta\tsame\tsame"]
    (tmp_path / "flagged.tsv").write_text("id1\tid2\tquestion1\tquestion2\n" + "\n".join(rows) + "\n")
    assert read_flagged(tmp_path / "flagged.tsv").copies == [0]


def test_ids_may_be_numbers(tmp_path):
    (tmp_path / "flagged.jsonl").write_text('{"id1": 4, "id2": 7}\n{"id1": 7, "id2": 4}\n')
    found = read_flagged(tmp_path / "flagged.jsonl")
    assert (found.pairs, found.repeated) == ([("4", "7")], 1)


WORLDS = {
    "falls as a power": lambda r: 0.5 / (1 + (r / 60) ** 1.5),
    "a step": lambda r: np.where(r < 250, 0.5, 0.001),
    "rare everywhere": lambda r: np.full(len(r), 0.01),
    "the best are not": lambda r: 0.4 * np.exp(-(((np.log1p(r) - 6) / 0.5) ** 2)) + 0.001,
    "none": lambda r: np.zeros(len(r)),
}


def recalls(world: str, runs: int, labels: int) -> list[tuple[float, tuple[float, float, float]]]:
    """Return the true recall, and what the answers say of it, in made collections."""
    found = []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        flagged = rng.random(rng.integers(60, 800)) < rng.choice([0.6, 0.8, 0.95])
        missed = rng.random(size := int(rng.integers(1500, 15000))) < WORLDS[world](np.arange(size))
        truth = np.concatenate([missed, flagged])
        plan = AuditPlan(np.arange(len(flagged)), Aim(labels=labels, seed=seed), len(missed))
        while not plan.done:
            draw = plan.draw()
            plan.answer(draw.number, bool(truth[draw.rank]))
        found.append((flagged.sum() / truth.sum(), plan.recall_interval()))
    return found


def covered(found) -> float:
    return float(np.mean([low <= true <= high for true, (_, low, high) in found]))


@pytest.mark.slow
def test_the_interval_of_recall_holds_the_truth():
    """300 collections of five kinds, 100 answers each: 95 % intervals hold in 93 %, and in 88 % of each kind."""
    found = {world: recalls(world, 60, 100) for world in WORLDS}
    assert np.mean([covered(runs) for runs in found.values()]) >= 0.93
    for world, runs in found.items():
        assert covered(runs) >= 0.88, world  # chance alone explains five points
        assert abs(np.mean([share - true for true, (share, _, _) in runs])) < 0.1, world


def test_recall_is_wide_after_few_answers_and_narrow_after_many():
    few, many = (recalls("falls as a power", 5, labels) for labels in (12, 200))
    widths = [np.median([high - low for _, (_, low, high) in found]) for found in (few, many)]
    assert widths[0] > 0.6 > 0.5 > widths[1]
    assert covered(few) + covered(many) >= 1.6


def test_recall_is_exact_once_all_is_judged():
    truth = np.array([True, False, False, True, True, True, False])  # three missed candidates, four flagged
    plan = AuditPlan(np.arange(4), Aim(labels=50), 3)
    assert plan.recall_interval() is None
    while (draw := plan.draw()) is not None:
        assert draw.stage == ("recall" if draw.rank < 3 else "prove")
        plan.answer(draw.number, bool(truth[draw.rank]))
    assert plan.done
    assert plan.recall_interval() == (0.75, 0.75, 0.75)
