"""Several moderators at one queue: who decides what, on which state, and whose undo takes it back."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

from textsiam.data.pairs import read_pairs
from textsiam.serving.admission.moderators import read_moderators
from textsiam.serving.limits import ServerSettings
from textsiam.serving.page.pairs import AlreadyDecided
from textsiam.serving.page.reviews import Reviews, Suspect

ANNA, BERT, SERVER = "anna-has-this-token", "bert-has-another-one", "a-token-of-the-server"
MODERATORS = {"Anna": ANNA, "Bert": BERT}


def suspect(a, b, probability=0.5, **rest):
    return Suspect(text1=a, text2=b, probability=probability, **rest)


@pytest.fixture
def two(serve, reviews):
    """Ask in the name of a moderator."""
    reviews.add([suspect("a?", "b?", 0.9), suspect("b?", "c?", 0.8), suspect("x?", "y?", 0.7)])
    client = serve(moderators=MODERATORS)

    def ask(method, path, token, **more):
        return client.request(method, f"/ui/api/{path}", headers={"authorization": f"Bearer {token}"}, **more)

    return ask


def decide(two, token, number, choice, was="waiting", **more):
    return two("POST", "decisions", token, json={"number": number, "choice": choice, "was": was, **more})


def test_a_token_tells_who_decides(two, reviews, caplog):
    caplog.set_level("INFO", "textsiam.serving")
    assert two("GET", "queue", ANNA).json()["moderator"] == "Anna"
    decided = decide(two, ANNA, 1, "accepted", note="as said in the chat").json()["pair"]
    assert (decided["moderator"], decided["note"], decided["choice"]) == ("Anna", "as said in the chat", "accepted")
    assert decided["decided"] > 1e9
    row = json.loads(two("GET", "export", BERT, params={"format": "jsonl"}).text)
    assert (row["moderator"], row["decision"], row["note"]) == ("Anna", "accepted", "as said in the chat")
    assert row["decided"].startswith("20")
    assert row["decided"].endswith("Z")
    facts = [record.facts for record in caplog.records if record.message == "decision"]
    assert facts == [{"pair": 1, "choice": "accepted", "moderator": "Anna"}]
    written = [record.facts for record in caplog.records if record.message == "write"]
    assert [one["moderator"] for one in written] == ["Anna"]
    assert ANNA not in caplog.text


def test_without_a_moderators_token_nobody_decides(serve, reviews):
    reviews.add([suspect("a?", "b?")])
    client = serve(moderators=MODERATORS, token=SERVER)

    def status(method, path, token, **more):
        return client.request(method, path, headers={"authorization": f"Bearer {token}"}, **more).status_code

    body = {"number": 1, "duplicate": True}
    for token in ("", "wrong-but-long-enough", SERVER, ANNA + "x"):
        assert status("POST", "/ui/api/decisions", token, json=body) == 401
        assert status("POST", "/ui/api/undo", token) == 401
    assert status("GET", "/ui/api/export", SERVER) == 200  # programs read
    assert status("GET", "/info", ANNA) == 401  # the page is all that a moderator's token opens
    assert status("POST", "/feedback", BERT, json={"question1": "a", "question2": "b", "duplicate": True}) == 401
    assert status("POST", "/ui/api/decisions", BERT, json=body) == 200
    assert reviews.get([1])[0].moderator == "Bert"


def test_a_conflict_says_who_was_first_and_overwrites_nothing(two, reviews):
    assert decide(two, ANNA, 1, "accepted").status_code == 200
    for choice in ("rejected", "accepted", "related", "unsure"):
        refused = decide(two, BERT, 1, choice)
        assert refused.status_code == 409
        assert refused.json()["error"].startswith("pair 1 is already accepted by Anna, ")
        assert (refused.json()["pair"]["moderator"], refused.json()["pair"]["state"]) == ("Anna", "accepted")
    assert reviews.get([1])[0].choice == "accepted"
    assert decide(two, BERT, 1, "rejected", was="accepted").status_code == 200  # who saw it may decide otherwise
    assert decide(two, ANNA, 1, "accepted", was="waiting").status_code == 409
    assert decide(two, BERT, 1, "rejected").status_code == 200  # sent again: the answer was lost
    assert two("POST", "undo", BERT).json()["pair"]["moderator"] == "Anna"


def test_undo_takes_back_ones_own_only(two, reviews):
    decide(two, ANNA, 1, "accepted")
    decide(two, BERT, 2, "rejected")
    assert two("POST", "undo", ANNA).json()["pair"]["number"] == 1
    assert two("POST", "undo", ANNA).json()["pair"] is None
    assert reviews.count() == {"waiting": 2, "accepted": 0, "rejected": 1}
    decide(two, ANNA, 1, "accepted")
    decide(two, BERT, 1, "rejected", was="accepted")
    assert two("POST", "undo", ANNA).json()["pair"] is None  # Bert's decision holds, and Anna's is under it
    assert reviews.get([1])[0].moderator == "Bert"
    assert two("POST", "undo", BERT).json()["pair"]["state"] == "accepted"
    assert two("POST", "undo", ANNA).json()["pair"]["state"] == "waiting"


def test_a_pair_of_a_deleted_question_is_not_queued_by_an_undo(serve, reviews):
    client = serve()
    for name, text in (("1", "How do I mend a tyre?"), ("2", "How do I mend my tyre?")):
        client.put(f"/questions/{name}", json={"text": text})
    reviews.add([suspect("How do I mend a tyre?", "How do I mend my tyre?", id1="1", id2="2")])
    number = reviews.queue()[0].number
    client.post("/ui/api/decisions", json={"number": number, "duplicate": True})
    client.delete("/questions/2")
    assert reviews.count()["accepted"] == 1  # what was decided stays
    undone = client.post("/ui/api/undo").json()
    assert (undone["pair"]["gone"], undone["counts"]["waiting"], reviews.queue()) == (True, 0, [])
    assert client.post("/ui/api/decisions", json={"number": number, "duplicate": True}).status_code == 404
    client.put("/questions/2", json={"text": "How do I mend my tyre?"})
    reviews.add([suspect("How do I mend a tyre?", "How do I mend my tyre?", id1="1", id2="2")])
    assert [pair.number for pair in reviews.queue()] == [number]


def test_what_others_decided_is_told_by_number(two):
    decide(two, BERT, 2, "related")
    found = two("GET", "pairs", ANNA, params={"number": [1, 2, 99]}).json()
    assert [(pair["number"], pair["state"], pair["choice"]) for pair in found] == [
        (1, "waiting", None),
        (2, "rejected", "related"),
    ]


def test_not_sure_puts_a_pair_at_the_end_and_related_is_no_duplicate(two, reviews, tmp_path):
    assert decide(two, ANNA, 1, "unsure", note="ask a biologist").json()["pair"]["state"] == "waiting"
    assert decide(two, ANNA, 1, "unsure").status_code == 200
    assert [pair.number for pair in reviews.queue()] == [2, 3, 1]
    assert (reviews.get([1])[0].skips, reviews.get([1])[0].note) == (1, "ask a biologist")
    decide(two, BERT, 1, "unsure")
    assert reviews.get([1])[0].skips == 2
    two("POST", "undo", BERT)
    two("POST", "undo", ANNA)
    assert [pair.number for pair in reviews.queue()] == [1, 2, 3]
    decide(two, ANNA, 2, "related")
    (tmp_path / "feedback.tsv").write_text(two("GET", "export", ANNA).text)
    assert list(read_pairs(tmp_path / "feedback.tsv").labels) == [0]


def test_a_cluster_is_accepted_at_once_and_taken_back_at_once(two, reviews):
    body = {"numbers": [1, 2], "canonical": "b?"}
    assert two("POST", "clusters/1", ANNA, json={"numbers": [1, 3]}).status_code == 404  # 3 is of another cluster
    decide(two, ANNA, 3, "rejected")
    decide(two, BERT, 2, "rejected")
    assert two("POST", "clusters/2", ANNA, json=body).status_code == 409  # all or none
    assert reviews.get([1])[0].state == "waiting"
    two("POST", "undo", BERT)
    found = two("POST", "clusters/1", ANNA, json=body).json()
    assert (found["pairs"], found["counts"]) == (2, {"waiting": 0, "accepted": 2, "rejected": 1})
    assert [pair.canonical for pair in reviews.get([1, 2])] == [{"text": "b?"}] * 2
    assert two("POST", "undo", ANNA).json()["pairs"] == 2
    assert reviews.count() == {"waiting": 2, "accepted": 0, "rejected": 1}
    assert two("POST", "clusters/1", ANNA, json={"numbers": [1], "canonical": "what?"}).status_code == 404


def test_filters_by_tag_and_date(two, reviews):
    facts = {"tags": "bread, Baking 101", "created": "2024-05-06T07:08:09Z"}
    reviews.add([suspect("d?", "e?", 0.6, facts2=facts), suspect("f?", "g?", 0.5, facts1={"created": "2020-01-01"})])

    def listed(**wanted):
        found = two("GET", "queue", ANNA, params=wanted).json()
        assert found["counts"]["waiting"] == len(found["pairs"])
        return [pair["text1"] for pair in found["pairs"]]

    assert listed(tag="bread") == listed(tag="BAKING 101") == listed(since="2024-05-06", until="2024-05-06") == ["d?"]
    assert (
        listed(tag="bak")
        == listed(tag="%")
        == listed(since="2025-01-01")
        == listed(tag="bread", until="2023-01-01")
        == []
    )
    assert listed(until="2023-01-01") == ["f?"]
    assert len(listed()) == 5
    for day in ("yesterday", "2024-99-99", "2023-02-29", "0000-01-01"):
        for side in ("since", "until"):
            assert two("GET", "queue", ANNA, params={side: day}).status_code == 422


def test_equal_probabilities_are_broken_by_similarity_in_a_cluster_too(reviews):
    reviews.add([suspect("a", "b", 0.5, similarity=0.1), suspect("b", "c", 0.5, similarity=0.9)])
    assert [pair.number for pair in reviews.cluster(1)] == [2, 1] == [pair.number for pair in reviews.queue()]


def test_deciders_at_once_overwrite_nothing(reviews):
    reviews.add(suspect(f"left {k}", f"right {k}") for k in range(60))
    numbers, lost = [pair.number for pair in reviews.queue(limit=60)], []

    def work(who, choice):
        for number in numbers:
            try:
                reviews.choose({number: "waiting"}, choice, moderator=who)
            except AlreadyDecided:
                lost.append((who, number))

    threads = [threading.Thread(target=work, args=one) for one in (("Anna", "accepted"), ("Bert", "rejected"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = {pair.number: pair for pair in reviews.decided()}
    assert len(lost) == len(held) == 60
    assert {(pair.moderator, number) for number, pair in held.items()}.isdisjoint(lost)


def test_decisions_of_an_earlier_version_keep_and_can_be_taken_back(tmp_path):
    place = tmp_path / "reviews.sqlite"
    with closing(sqlite3.connect(place)) as old, old:
        old.executescript("""
            CREATE TABLE textsiam_pairs (number INTEGER PRIMARY KEY AUTOINCREMENT, key VARCHAR(64) NOT NULL UNIQUE,
              id1 TEXT, id2 TEXT, text1 TEXT NOT NULL, text2 TEXT NOT NULL, similarity FLOAT, probability FLOAT,
              state VARCHAR(8) NOT NULL, added FLOAT NOT NULL);
            CREATE TABLE textsiam_decisions (number INTEGER PRIMARY KEY AUTOINCREMENT, pair INTEGER NOT NULL,
              state VARCHAR(8) NOT NULL, before VARCHAR(8) NOT NULL, undone BOOLEAN NOT NULL, decided FLOAT NOT NULL,
              source VARCHAR(16) NOT NULL);
            INSERT INTO textsiam_pairs VALUES (1, 'k', NULL, NULL, 'a?', 'b?', 0.5, 0.5, 'accepted', 1.0);
            INSERT INTO textsiam_decisions VALUES (1, 1, 'accepted', 'waiting', 0, 1.7e9, 'page');
        """)
    with closing(Reviews(place)) as reviews:
        (pair,) = reviews.decided()
        assert (pair.choice, pair.moderator, pair.decided) == ("accepted", None, 1.7e9)
        assert reviews.take_back("Anna") == []  # nobody's own
        assert reviews.undo().state == "waiting"
        reviews.choose({1: "waiting"}, "related", moderator="Anna", note="n")
    with closing(Reviews(place)) as again:
        assert next(again.decided()).moderator == "Anna"


def test_moderators_are_read_from_a_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "moderators.txt"
    file.write_text(f"# who decides\nAnna Lena  {ANNA}\n\nBert\t{BERT}\n", encoding="utf-8-sig")
    assert read_moderators(file) == {"Anna Lena": ANNA, "Bert": BERT}
    monkeypatch.setenv("TEXTSIAM_MODERATORS", f"Anna {ANNA}; Bert {BERT}")
    assert read_moderators(None) == MODERATORS
    monkeypatch.delenv("TEXTSIAM_MODERATORS")
    assert read_moderators(None) == {}


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("Anna short-one", r":1: the token of 'Anna' must have at least 16 characters, it has 9"),
        (f"Anna {ANNA}\nAnna {BERT}", ":2: 'Anna' stands there twice"),
        (f"Anna {ANNA}\nBert {ANNA}", ":2: 'Bert' has the token of 'Anna'"),
        (f"\n{ANNA}", ":2: the name is ''"),
        ("# nobody", "names no moderator"),
        (b"\xff", "is no UTF-8 at byte 0"),
    ],
)
def test_a_bad_line_is_named_without_its_token(tmp_path, lines, why):
    file = tmp_path / "moderators.txt"
    file.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    with pytest.raises(ValueError, match=why) as refused:
        read_moderators(file)
    assert "moderators.txt" in str(refused.value)
    assert ANNA not in str(refused.value)


def test_a_moderator_has_not_the_token_of_the_server():
    with pytest.raises(ValueError, match="'Anna' has the token of the server"):
        ServerSettings(token=ANNA, moderators=MODERATORS)
    assert ANNA not in repr(ServerSettings(moderators=MODERATORS))
