"""People who answer: going on, taking back, second opinions, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from textsiam.data.tables.errors import DataError
from textsiam.inference.encoders import ModelError
from textsiam.labelling import session as module
from textsiam.labelling.aim import Aim
from textsiam.labelling.progress import Progress
from textsiam.labelling.session import Session

AIM = Aim(0.85, 0.9, 40)


def opened(collection, path, aim: Aim | None = AIM, **options) -> Session:
    candidates, ids, texts, _ = collection
    return Session(candidates, ids, texts, path, aim, **options)


def go_on(session: Session, collection, count: int, who: str = "anna") -> None:
    truth = {
        (int(a), int(b)): t for a, b, t in zip(collection[0].left, collection[0].right, collection[3], strict=True)
    }
    for _ in range(count):
        question = session.ask(who)
        if question is None:
            break
        session.answer(question, "y" if truth[question.left, question.right] else "n", who)


def state(session: Session) -> tuple:
    sets = session.plan.sets
    return (
        session.plan.draws,
        session.plan.answers,
        [(each.history, each.known, each.shares.tolist(), each.lower_bounds().tolist()) for each in sets],
        session.plan.curve.weights.round(12).tolist(),
        session.certificate(),
    )


def test_a_promise_is_proven_and_is_true(collection, tmp_path):
    session = opened(collection, tmp_path / "labels.tsv")
    assert session.certificate().sentences() == ["nothing is certified yet at a precision of 0.85 (0 answers)"]
    go_on(session, collection, 90)
    certificate = session.certificate()
    truth = collection[3]
    assert certificate.pairs > 40
    assert truth[: certificate.pairs].mean() >= 0.85
    assert certificate.right <= truth[: certificate.pairs].sum()
    assert certificate.threshold == collection[0].scores[certificate.pairs - 1]
    assert (certificate.answers, certificate.noise) == (90, 0.0)
    first, second = certificate.sentences()
    assert first.startswith(
        f"{certificate.pairs} pairs at or above {certificate.threshold:.4f}: at least 85% are right"
    )
    assert second.endswith("below it nobody looked")
    decision = session.decision()
    assert decision.threshold == certificate.threshold
    assert (decision.target, decision.confidence) == (0.85, 0.9)
    assert (np.diff(decision.probability(np.linspace(-1, 1, 50))) >= 0).all()
    other = session.certificate(0.5)  # another precision, from the same answers
    assert other.pairs >= certificate.pairs


STOPS = [1, 7, 16, 30, 59]


def stopped_and_not(collection, folder, stop: int) -> list[tuple]:
    """Return the state after 60 answers: in one go, with a stop, and of the file when all was over."""
    whole = opened(collection, folder / "whole.tsv")
    go_on(whole, collection, 60)
    go_on(opened(collection, folder / "parts.tsv"), collection, stop)
    parts = opened(collection, folder / "parts.tsv")
    go_on(parts, collection, 60 - stop)
    return [state(session) for session in (whole, parts, opened(collection, folder / "whole.tsv"))]


@pytest.mark.parametrize("stop", STOPS)
def test_going_on_is_never_having_stopped_where_looking_ends_at_a_fixed_number(collection, tmp_path, stop, monkeypatch):
    monkeypatch.setattr("textsiam.labelling.plan.Plan._seen_enough", lambda plan, _: len(plan.answers) >= 16)
    whole, parts, later = stopped_and_not(collection, tmp_path, stop)
    assert parts == whole
    assert later == whole


@pytest.mark.parametrize("stop", STOPS)
def test_going_on_is_never_having_stopped(collection, tmp_path, stop):
    whole, parts, later = stopped_and_not(collection, tmp_path, stop)
    assert parts == whole
    assert later == whole


def test_undo_opens_the_draw_again_and_the_last_answer_counts(collection, tmp_path):
    session = opened(collection, tmp_path / "labels.tsv")
    go_on(session, collection, 5)
    before = dict(session.plan.answers)
    wrong = session.undo("anna")
    assert wrong.draw == 4
    assert 4 not in session.plan.answers
    again = session.ask("anna")
    assert again == wrong
    session.answer(again, "n" if before[4] else "y", "anna")
    assert session.plan.answers == {**before, 4: not before[4]}
    assert session.plan.curve.asked.sum() == 5
    assert opened(collection, tmp_path / "labels.tsv").plan.answers == session.plan.answers
    assert [session.undo("anna").draw for _ in range(5)] == [4, 3, 2, 1, 0]
    assert session.undo("anna") is None
    assert session.plan.curve.asked.sum() == 0
    assert session.ask("anna").draw == 0


def test_nobody_takes_back_what_another_said(collection, tmp_path):
    session = opened(collection, tmp_path / "labels.tsv")
    go_on(session, collection, 2, "anna")
    assert session.undo("bert") is None


@pytest.mark.parametrize("answer", ["yes", "", "again"])
def test_an_unknown_answer_is_refused_and_not_written(collection, tmp_path, answer):
    session = opened(collection, tmp_path / "labels.tsv")
    question = session.ask("anna")
    size = (tmp_path / "labels.tsv").stat().st_size
    with pytest.raises(ValueError, match="expected y, n, skip or undo"):
        session.answer(question, answer, "anna")
    assert (tmp_path / "labels.tsv").stat().st_size == size


def test_a_second_opinion_is_counted_apart(collection, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_AGAIN", 1)  # always
    session = opened(collection, tmp_path / "labels.tsv")
    for _ in range(3):
        session.answer(session.ask("anna"), "y", "anna")
    answers, weights = dict(session.plan.answers), session.plan.curve.weights
    for answer in ("y", "n", "n"):
        question = session.ask("bert")
        assert question.again
        session.answer(question, answer, "bert")
    assert session.plan.answers == answers
    assert (session.plan.curve.weights == weights).all()
    assert session.certificate().disagreements == (2, 3)
    assert opened(collection, tmp_path / "labels.tsv").certificate().disagreements == (2, 3)
    assert not session.ask("bert").again


def test_an_open_draw_is_given_to_another_after_ten_minutes(collection, tmp_path, monkeypatch):
    session = opened(collection, tmp_path / "labels.tsv")
    first = session.ask("anna")
    assert session.ask("bert").draw == 1
    assert session.ask("anna").draw == first.draw
    late = datetime.now(UTC) + timedelta(minutes=11)

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return late

    monkeypatch.setattr(module, "datetime", Later)
    assert session.ask("cleo").draw == first.draw
    assert session.ask("dora").draw == 1  # bert's: the first one is cleo's now, and nobody else's
    assert session.ask("anna").draw == 2
    session.answer(first, "y", "cleo")
    session.answer(first, "n", "anna")  # late, and not lost
    assert session.plan.answers == {0: True}
    for one in (session, opened(collection, tmp_path / "labels.tsv")):
        assert one.disagreements == (1, 1)


def test_an_answer_that_comes_twice_is_one(collection, tmp_path):
    session = opened(collection, tmp_path / "labels.tsv")
    question = session.ask("anna")
    for _ in range(2):
        session.answer(question, "y", "anna")
    assert [line.answer for line in session.lines] == ["", "y"]
    session.undo("anna")
    session.answer(question, "y", "anna")
    assert [line.answer for line in session.lines] == ["", "y", "undo", "y"]


def test_a_second_opinion_is_taken_back_and_a_skipped_one_is_no_disagreement(collection, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_AGAIN", 1)  # always
    session = opened(collection, tmp_path / "labels.tsv")
    session.answer(session.ask("anna"), "y", "anna")
    question = session.ask("bert")
    session.answer(question, "n", "bert")
    assert session.disagreements == (1, 1)
    assert session.undo("bert") == question
    assert session.disagreements == (0, 0)
    assert session.undo("bert") is None
    session.answer(question, "skip", "bert")
    for one in (session, opened(collection, tmp_path / "labels.tsv")):
        assert one.disagreements == (0, 1)
        assert one.plan.answers == {0: True}


def test_one_person_at_a_time_is_asked_for_a_second_opinion(collection, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_AGAIN", 1)  # always
    session = opened(collection, tmp_path / "labels.tsv")
    session.answer(session.ask("anna"), "y", "anna")
    question = session.ask("bert")
    other = opened(collection, tmp_path / "labels.tsv")
    assert question.again
    assert session.ask("bert") == question
    assert not other.ask("cleo").again
    monkeypatch.setattr(module, "_STALE", -module._STALE)  # at once
    assert session.ask("dora") == question


def test_what_could_not_be_written_never_was(collection, tmp_path, monkeypatch):
    """After a full disk, the next draw and answer are those that a new session would give."""
    path = tmp_path / "labels.tsv"
    session = opened(collection, path)
    go_on(session, collection, 3)
    question = session.ask("anna")
    size = path.stat().st_size

    def full(self, file, label):
        file.write(b"half a li")
        file.flush()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("textsiam.labelling.labels.LabelFile.append", full)
        with pytest.raises(OSError, match="No space left"):
            session.answer(question, "y", "anna")
        with pytest.raises(OSError, match="No space left"):
            session.ask("bert")
    assert session.ask("anna") == question
    assert path.stat().st_size == size
    session.answer(question, "y", "anna")
    other = session.ask("bert")
    assert other.draw == 4
    assert state(opened(collection, path)) == state(session)


def test_a_file_that_was_taken_away_is_noticed_and_another_one_is_begun(collection, tmp_path):
    path = tmp_path / "labels.tsv"
    session = opened(collection, path)
    go_on(session, collection, 3)
    question = session.ask("anna")
    path.unlink()
    with pytest.raises(DataError, match=r"labels.tsv: lines that were there are gone: it is another file by now"):
        session.answer(question, "y", "anna")
    with pytest.raises(LookupError):
        session.answer(question, "y", "anna")
    assert session.ask("anna").draw == 0
    assert state(opened(collection, path)) == state(session)


def test_two_who_answer_the_same_draw_count_once(collection, tmp_path):
    """The first one counts, for both of them, and for whoever opens the file later; the other is a second opinion."""
    path = tmp_path / "labels.tsv"
    anna, bert = opened(collection, path), opened(collection, path)
    question = anna.ask("anna")
    anna.answer(question, "y", "anna")
    bert.ask("bert")
    bert.answer(question, "n", "bert")
    anna.ask("anna")
    for session in (anna, bert, opened(collection, path)):
        assert session.plan.answers[question.draw] is True
        assert session.plan.curve.asked.sum() == 1
        assert session.disagreements == (1, 1)


def test_what_another_takes_back_is_open_here_too(collection, tmp_path):
    path = tmp_path / "labels.tsv"
    anna, bert = opened(collection, path), opened(collection, path, replace(AIM, labels=77))
    go_on(anna, collection, 2, "anna")
    bert.ask("bert")
    assert set(bert.plan.answers) == {0, 1}
    anna.undo("anna")
    bert.ask("bert")
    assert set(bert.plan.answers) == {0}
    assert bert.plan.aim.labels == 77  # what another wishes is not what bert wishes


@pytest.mark.parametrize(("field", "what"), [("model", "model"), ("collection", "collection")])
def test_answers_about_something_else_are_refused(collection, tmp_path, field, what):
    go_on(opened(collection, tmp_path / "labels.tsv"), collection, 2)
    other = (replace(collection[0], **{field: "ef" * 32}), *collection[1:])
    with pytest.raises(DataError, match=f"labels.tsv: the answers are about another {what}: they certify nothing here"):
        opened(other, tmp_path / "labels.tsv")


def test_other_scores_of_the_same_model_are_refused(collection, tmp_path):
    go_on(opened(collection, tmp_path / "labels.tsv"), collection, 2)
    candidates, *rest = collection
    other = (replace(candidates, left=candidates.left[::-1], right=candidates.right[::-1]), *rest)
    with pytest.raises(DataError, match="is not the one at place"):
        opened(other, tmp_path / "labels.tsv")


def test_missing_lines_are_noticed(collection, tmp_path):
    path = tmp_path / "labels.tsv"
    go_on(opened(collection, path), collection, 3)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[3:]), encoding="utf-8")
    with pytest.raises(DataError, match="draw 1 comes before draw 0: lines are missing"):
        opened(collection, path)


def test_a_rank_beyond_the_candidates_is_refused(collection, tmp_path):
    path = tmp_path / "labels.tsv"
    session = opened(collection, path)
    rank = session.plan.draws[session.ask("anna").draw].rank
    path.write_text(path.read_text().replace(f"\t{rank}\t", "\t9999\t", 1))
    with pytest.raises(DataError, match="is not the one at place 9999"):
        opened(collection, path)


def test_the_aim_of_the_file_is_gone_on_with(collection, tmp_path):
    go_on(opened(collection, tmp_path / "labels.tsv", replace(AIM, noise=0.05, seed=9)), collection, 2)
    assert opened(collection, tmp_path / "labels.tsv", None).aim == replace(AIM, noise=0.05, seed=9)
    assert opened(collection, tmp_path / "labels.tsv", replace(AIM, seed=3)).aim.seed == 9


def test_nothing_certified_is_one_clear_error(collection, tmp_path):
    session = opened(collection, tmp_path / "labels.tsv")
    go_on(session, collection, 3)
    with pytest.raises(ModelError, match=r"labels.tsv: nothing is certified yet at a precision of 0.99 \(3 answers\)"):
        session.decision(0.99)
    go_on(session, collection, 60)
    certificate = session.certificate(0.995)
    share, pairs = certificate.within_reach
    assert pairs == session.certificate(share).pairs > 0 == certificate.pairs
    assert not any(session.plan.proven(step / 20) for step in range(round(share * 20) + 1, 20))
    offer = f"at {share:g} the same answers certify {pairs:,} pairs: textsiam flag --precision {share:g}"
    assert certificate.sentences()[1] == offer
    with pytest.raises(ModelError, match=r"go on with textsiam label; at 0\.\d+ the same answers certify"):
        session.decision(0.995)


def changed(path, change) -> None:
    """Write the lines of a file of answers, as lists of cells without the header, after a change of them."""
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    lines = change([line.split("\t") for line in lines])
    path.write_text("\n".join([header, *("\t".join(cells) for cells in lines)]) + "\n", encoding="utf-8")


PLAIN = [f"question {i}" for i in range(24)]  # without tabs and quotes, which a file has its own way to write


@pytest.fixture
def answered(collection, tmp_path):
    """A collection, and a file of 40 answers about it; the last is a pair that was drawn for a proof."""
    plain = collection[0], collection[1], PLAIN, collection[3]
    session = opened(plain, tmp_path / "labels.tsv", replace(AIM, labels=80))
    go_on(session, plain, 40)
    assert session.plan.draws[-1].stage == "prove"
    return plain, tmp_path / "labels.tsv"


@pytest.mark.parametrize("answer", ["", "y"])
def test_a_pair_that_stands_twice_is_refused(answered, answer):
    plain, path = answered
    draw = opened(plain, path).plan.draws[-1]
    a, b = (plain[1][int(side[draw.rank])] for side in (plain[0].left, plain[0].right))
    changed(path, lambda lines: [*lines, ["40", *lines[-1][1:11], answer, *lines[-1][12:]]])
    message = rf"labels.tsv:82: draw 40 is the pair {a} and {b}, as draw 39 was: a pair is drawn once"
    with pytest.raises(DataError, match=message):
        opened(plain, path)


def test_an_answer_that_names_another_pair_than_its_draw_is_refused(answered):
    plain, path = answered

    def exchanged(lines):
        answers = lines[5], lines[7]  # to draws 2 and 3
        (answers[0][0], answers[1][0]), drawn = ("3", "2"), lines.pop(6)
        return [*lines[:5], drawn, *lines[5:]]

    changed(path, exchanged)
    with pytest.raises(DataError, match=r"labels.tsv:8: draw 3 is the pair q\d+ and q\d+ at .*, this line says q"):
        opened(plain, path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [(1, "recall", "is of stage prove among"), (3, "1", "this line says prove among 1"), (5, "0", "at place 0")],
)
def test_an_answer_that_repeats_its_draw_otherwise_is_refused(answered, column, value, message):
    plain, path = answered

    def other(lines):
        lines[-1][column] = value
        return lines

    changed(path, other)
    with pytest.raises(DataError, match=r"labels.tsv:81: draw 39 is ") as raised:
        opened(plain, path)
    assert message in str(raised.value)


def test_a_second_opinion_about_a_pair_that_was_not_drawn_is_refused(answered):
    plain, path = answered
    changed(path, lambda lines: [*lines[:-2], [lines[-1][0], "again", *lines[-1][2:]]])
    with pytest.raises(DataError, match=r"labels.tsv:80: a second opinion about draw 39, which was not drawn"):
        opened(plain, path)


def test_a_set_of_more_pairs_than_there_are_is_refused(answered):
    plain, path = answered

    def large(lines):
        lines[-2][3] = "999999"
        return lines

    changed(path, large)
    with pytest.raises(DataError, match=r"labels.tsv:80: among is 999999, but there are 276 candidates"):
        opened(plain, path)


def test_all_answers_are_proof_where_candidates_are_few(collection, tmp_path):
    candidates, ids, texts, _ = collection
    few = replace(candidates, **{name: getattr(candidates, name)[:3] for name in ("left", "right", "scores")})
    session = Session(few, ids, texts, tmp_path / "labels.tsv", Aim())
    for right in (True, True, True):
        session.answer(session.ask("anna"), "y" if right else "n", "anna")
    assert session.ask("anna") is None
    assert (session.certificate().pairs, session.certificate().right) == (3, 3)
    assert session.decision().threshold == few.scores[2]


def test_nobody_is_told_to_go_on_where_all_is_judged(collection, tmp_path):
    candidates, ids, texts, _ = collection
    few = replace(candidates, **{name: getattr(candidates, name)[:3] for name in ("left", "right", "scores")})
    session = Session(few, ids, texts, tmp_path / "labels.tsv", Aim())
    while (question := session.ask("anna")) is not None:
        session.answer(question, "n" if question.score == few.scores[0] else "y", "anna")
    assert session.certificate().answers_left == 0
    assert session.certificate(0.99).sentences()[0].endswith("no threshold is certified to be 99% right")
    assert session.certificate().within_reach == (0.65, 3)
    assert str(Progress.of(session)) == "no set of pairs is proven to be at least 95% right"
    message = r"labels.tsv: all candidates are judged, and no threshold is certified to be 95% right; at 0.65 the same"
    with pytest.raises(ModelError, match=message):
        session.decision()


def test_answers_that_are_left_are_told_for_the_precision_of_the_file_alone(collection, tmp_path):
    session = opened(collection, tmp_path / "labels.tsv")
    go_on(session, collection, 60)
    assert session.certificate().answers_left == 0
    assert session.certificate(0.995).answers_left is None
    assert "more answers are needed" not in session.certificate(0.995).sentences()[0]
