from __future__ import annotations

import numpy as np
import yaml

from textsiam.decision.decision import fit_decision
from textsiam.models.card import model_card

MEASURED = [
    {"model": "zero-shot", "AP": 0.75, "F1": "0.700 [0.6, 0.8]"},
    {"model": "a|b\nc", "AP": 0.876543, "F1": 1},
]


def test_measured_table() -> None:
    card = model_card({"measured": MEASURED}, None, "my-twin")
    table = card.split("## Measured\n\n")[1].split("\n\n")[0].strip().split("\n")
    assert table == [
        "| model | AP | F1 |",
        "| --- | --- | --- |",
        "| zero-shot | 0.7500 | 0.700 [0.6, 0.8] |",
        "| a\\|b c | 0.8765 | 1 |",
    ]
    assert "## Decision" not in card
    assert "## Training" not in card


def test_decision_and_facts() -> None:
    decision = fit_decision(np.linspace(0, 1, 40), [0] * 20 + [1] * 20, rule="accuracy", prior=0.125)
    facts = {"data_fingerprint": "abc", "learning_rate": 0.00005, "config": {"a": 1}}
    card = model_card(facts, decision, "my-twin")
    assert f"at least {decision.threshold:.4f} (rule: accuracy),\nlearned from 40 labelled pairs.\n" in card
    assert "share of duplicates of 0.125" in card
    assert "* data fingerprint: abc\n" in card
    assert "* learning rate: 5e-05\n" in card
    assert "config" not in card
    assert "## Measured" not in card


def test_head_is_valid_and_names_the_model() -> None:
    card = model_card({}, None, "my-twin")
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "sentence-transformers"
    assert body.strip().startswith("# my-twin")
    assert 'Twin.from_pretrained("my-twin")' in card
    assert 'SentenceTransformer("my-twin")' in card
