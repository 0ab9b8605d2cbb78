"""What commands say of a decision: where it does not hold, what it was not learned for, and how another is learned."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from textsiam.data.pairs import Pairs, read_pairs
from textsiam.data.tables.writers import write_table
from textsiam.models.domain import domain_of_pairs, pairs_shift
from textsiam.models.twin import Twin

FILLED = {
    "made": ("How do I {} the {}?", "What is the best way to {} the {}?"),
    "strange": ("pls help {} {} thx !!!", "{} {} wont work, any idea guys ???"),
}
VERBS = re.findall(
    r"\w+", "clean mend paint move lift sell buy wash open close fill hide find cut dry heat cool carry fold shake"
)
NOUNS = re.findall(r"\w+", "oven bread tyre cactus guitar knife carpet fridge window table lamp chair boat tent clock")


def made(kind: str, seed: int, n: int = 300) -> Pairs:
    """Pairs in one of two ways of writing; half of them ask for the same thing."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(n):
        a, b = ((str(rng.choice(VERBS)), f"{rng.choice(NOUNS)} {rng.integers(1000)}") for _ in range(2))
        first, second = FILLED[kind]
        rows.append((first.format(*a), second.format(*(a if k % 2 else b)), k % 2))
    left, right, labels = zip(*rows, strict=True)
    return Pairs.from_texts(left, right, labels, source=kind)


def written(pairs: Pairs, path: Path) -> Path:
    rows = [
        {"question1": a, "question2": b, "is_duplicate": y}
        for a, b, y in zip(pairs.left_texts, pairs.right_texts, pairs.labels.tolist(), strict=True)
    ]
    write_table(path, list(rows[0]), rows)
    return path


@pytest.fixture(scope="module")
def files(tower, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("decisions")
    Twin(tower).calibrate(made("made", 0)).save_pretrained(folder / "twin")
    Twin(tower).save_pretrained(folder / "undecided")
    for kind in FILLED:
        pairs = made(kind, 1)
        written(pairs, folder / f"{kind}.tsv")
        write_table(folder / f"{kind}_questions.tsv", ["question"], [{"question": text} for text in pairs.texts])
    return folder


ALARM = "these texts are unlike those that the decision was learned on"


@pytest.mark.parametrize("command", ["score", "evaluate", "flag", "check"])
def test_the_alarm_is_one_line_and_in_json(textsiam, files, tmp_path, command):
    def said(kind: str) -> tuple[str, str]:
        arguments: dict[str, list[object]] = {
            "score": ["--pairs", files / f"{kind}.tsv"],
            "evaluate": [files / f"{kind}.tsv"],
            "flag": [files / f"{kind}_questions.tsv"],
            "check": [tmp_path / kind, "Is it new?"],
        }
        if command == "check":
            textsiam("index", "create", files / "twin", tmp_path / kind)
            textsiam("index", "add", files / "twin", tmp_path / kind, files / f"{kind}_questions.tsv")
        status, out, err = textsiam(command, files / "twin", *arguments[command], "--json")
        assert status == 0, err
        found = json.loads(out)
        shift = (found[0] if isinstance(found, list) else found)["domain_shift"]
        return err, "" if shift is None else shift if isinstance(shift, str) else shift["message"]

    err, message = said("strange")
    assert message.startswith(ALARM)
    assert [line for line in err.splitlines() if ALARM in line] == [f"warning: {message}"]
    assert "textsiam recalibrate" in message
    err, message = said("made")
    assert (message, ALARM in err) == ("", False)


def test_two_texts_raise_no_alarm(textsiam, files):
    _, out, err = textsiam("score", files / "twin", "ärger", "пример", "--json")
    assert json.loads(out)["domain_shift"] is None
    assert ALARM not in err


def test_serve_says_it_of_the_index(textsiam, files, tmp_path, monkeypatch):
    textsiam("index", "create", files / "twin", tmp_path / "index")
    textsiam("index", "add", files / "twin", tmp_path / "index", files / "strange_questions.tsv")
    monkeypatch.setattr("textsiam.serving.runner.run_server", lambda app, ready, **rest: ready("http://here"))
    status, out, err = textsiam("serve", files / "twin", "--index", tmp_path / "index", "--json")
    assert status == 0, err
    assert json.loads(out)["domain_shift"]["message"].startswith(ALARM)
    assert ALARM in err


def test_feedback_from_there_ends_the_alarm(textsiam, files, tmp_path):
    feedback = written(made("strange", 2), tmp_path / "feedback.tsv")
    assert textsiam("recalibrate", files / "twin", "--feedback", feedback, "--output", tmp_path / "new")[0] == 0
    _, out, err = textsiam("evaluate", tmp_path / "new", files / "strange.tsv", "--json")
    assert json.loads(out)["domain_shift"] is None
    assert ALARM not in err


def test_calibrate_learns_both_decisions(textsiam, files, tmp_path):
    status, out, err = textsiam(
        "calibrate", files / "undecided", files / "made.tsv", "--output", tmp_path / "out", "--rule", "accuracy",
        "--prior", "0.3", "--json",
    )  # fmt: skip
    assert status == 0, err
    said = json.loads(out)
    assert (said["pairs"], said["duplicates"], said["prior"], said["rule"]) == (300, 150, 0.3, "accuracy")
    twin = Twin.from_pretrained(tmp_path / "out")
    assert twin.require_decision().threshold == said["threshold"]
    assert twin.collection is not None
    assert twin.require_decision().domain is not None
    expected = Twin.from_pretrained(files / "undecided").calibrate(made("made", 1), rule="accuracy", prior=0.3)
    assert twin.require_decision().threshold == expected.require_decision().threshold


def test_calibrate_with_a_precision(textsiam, files, tmp_path):
    arguments = ("calibrate", files / "undecided", files / "made.tsv", "--output", tmp_path / "out", "--json")
    assert json.loads(textsiam(*arguments, "--precision", "0.5")[1])["rule"] == "precision"
    status, _, err = textsiam("calibrate", files / "undecided", files / "made.tsv", "--output", tmp_path / "no",
                              "--precision", "0.9999")  # fmt: skip
    assert status == 1
    assert "no threshold shows a precision of 0.9999" in err
    assert not (tmp_path / "no").exists()


def test_calibrate_refuses_a_folder_of_something_else(textsiam, files, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    status, _, err = textsiam("calibrate", files / "twin", files / "made.tsv", "--output", tmp_path / "mine")
    assert status == 2
    assert "is there already, and is no saved twin" in err


def test_calibrate_names_the_bad_row(textsiam, files, tmp_path):
    (tmp_path / "bad.tsv").write_text("question1\tquestion2\tis_duplicate\na b\tc d\tmaybe\n")
    status, _, err = textsiam("calibrate", files / "twin", tmp_path / "bad.tsv", "--output", tmp_path / "out")
    assert status == 1
    assert "bad.tsv:2" in err
    assert "maybe" in err


def test_flag_says_that_picked_pairs_are_not_all_pairs(textsiam, files):
    arguments = ("flag", files / "twin", files / "made_questions.tsv")
    _, out, err = textsiam(*arguments)
    assert len([line for line in err.splitlines() if "learned on pairs that were picked" in line]) == 1
    assert "are right, by an estimate without labels" in out
    _, out, _ = textsiam(*arguments, "--prior", "0.001", "--json")
    found = json.loads(out)
    assert found["estimated_prior"] == 0.001
    assert "not every pair of a collection is such a pair" in found["picked_pairs"]
    _, out, _ = textsiam(*arguments, "--json")
    assert json.loads(out)["threshold"] == found["threshold"]
    assert textsiam(*arguments, "--threshold", "0.9", "--json").json["picked_pairs"] is None


def test_the_prior_of_a_collection_restates_what_was_learned_on_all_pairs(textsiam, files, tmp_path):
    textsiam("calibrate", files / "undecided", files / "made.tsv", "--output", tmp_path / "out")
    twin = Twin.from_pretrained(tmp_path / "out")
    assert twin.collection is not None
    _, out, err = textsiam("flag", tmp_path / "out", files / "made_questions.tsv", "--prior", "0.001", "--json")
    assert json.loads(out)["threshold"] == twin.collection.decision.with_prior(0.001).threshold
    assert "picked" not in err


@pytest.mark.slow
@pytest.mark.skipif("TEXTSIAM_DATA" not in os.environ, reason="TEXTSIAM_DATA names no folder of real pairs")
def test_the_packaged_decision_knows_its_own_domain(minilm):
    data = Path(os.environ["TEXTSIAM_DATA"])
    twin = Twin.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")

    def alarms(pairs: Pairs, samples: int) -> int:
        found = 0
        for seed in range(samples):
            part = pairs.select(np.random.default_rng(seed).permutation(len(pairs))[:500])
            scores = twin.pair_similarity(part.texts, part.left, part.right)
            found += pairs_shift(twin, twin.decision, part, scores) is not None
        return found

    assert domain_of_pairs(twin, made("made", 0)) is not None
    assert alarms(read_pairs(data / "qqp/dev.tsv.gz"), 20) == 0
    for name in ("askubuntu/titles.tsv.gz", "yahoo_zhang/Zhang_dataset.csv"):
        assert alarms(read_pairs(data / name), 2) == 2, name
    assert alarms(read_pairs("sample:forum"), 2) == 2
