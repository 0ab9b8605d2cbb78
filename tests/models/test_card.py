from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from textsiam.decision.certificate import Certificate
from textsiam.decision.decision import fit_decision
from textsiam.models.card import card_data, model_card

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


def test_metadata_go_round_through_the_hubs_own_classes() -> None:
    facts = {
        "measured": [
            {"twin": "zero-shot", "AP": 0.75},
            {"twin": "trained", "AP": 0.875, "calibration error": None, "F1": 1},
        ],
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "config": {"data": {"train": "nyu-mll/glue:qqp"}},
    }
    data = ModelCard(model_card(facts, None, "anna/forum")).data
    assert data.to_dict() == card_data(facts, "anna/forum").to_dict()
    assert ModelCardData(**yaml.safe_load(data.to_yaml())).to_dict() == data.to_dict()
    assert (data.library_name, data.pipeline_tag) == ("sentence-transformers", "sentence-similarity")
    assert (data.datasets, data.base_model) == (["nyu-mll/glue"], "sentence-transformers/all-MiniLM-L6-v2")
    assert data.widget[0].keys() == {"source_sentence", "sentences"}
    assert data.model_name == "anna/forum"
    results = {result.metric_type: result for result in data.eval_results}
    assert {k: r.metric_value for k, r in results.items()} == {"average_precision": 0.875, "f1": 1.0}
    assert results["f1"].dataset_type == "nyu-mll/glue"
    assert all(result.task_type == "sentence-similarity" for result in data.eval_results)


@pytest.mark.parametrize("train", ["a.tsv", "data/a.tsv", "data/a.tsv.gz", "/data/a", "sample:forum", None])
def test_files_are_no_datasets_of_the_hub(train: str | None) -> None:
    data = card_data({"config": {"data": {"train": train}}, "model": "from scratch"}, "anna/forum").to_dict()
    assert "datasets" not in data
    assert "base_model" not in data


def test_what_is_promised_stands_in_the_card() -> None:
    decision = fit_decision(np.linspace(0, 1, 40), [0] * 20 + [1] * 20)
    proven = Certificate(0.95, 0.95, 0.0, 120, 114, decision.threshold, 80, None, None, 0.5, (0, 0), "m" * 16, "c" * 16)
    card = model_card({}, replace(decision, certificate=proven), "my-twin")
    assert all(f"\n* {sentence}" in card for sentence in proven.sentences())


def test_a_result_says_what_it_was_measured_on_and_how_sure_it_is() -> None:
    row = {"twin": "trained", "AP": 0.875, "F1": 1.0, "intervals": {"AP": [0.85, 0.9]}}
    args = {"pairs": 120, "duplicates": 40, "share": 0.2, "seed": 3}
    facts = {
        "measured": [row],
        "tested on": {"name": "glue:qqp", "args": args},
        "config": {"data": {"train": "nyu-mll/glue@main:qqp", "test": None}},
    }
    card = model_card(facts, None, "anna/forum")
    assert "| trained | 0.8750 (0.8500–0.9000) | 1.0000 |" in card
    assert "Measured on glue:qqp (pairs 120, duplicates 40, share 0.2, seed 3)." in card
    data = ModelCard(card).data
    assert ModelCardData(**yaml.safe_load(data.to_yaml())).to_dict() == data.to_dict()
    found = {result.metric_type: result for result in data.eval_results}
    first = found["average_precision"]
    place = (first.dataset_type, first.dataset_revision, first.dataset_config, first.dataset_split)
    assert place == ("nyu-mll/glue", "main", "qqp", "test")
    assert (first.dataset_name, first.dataset_args) == ("glue:qqp", args)
    assert data.datasets == ["nyu-mll/glue"]
    assert first.metric_args == {"confidence": 0.95, "interval": [0.85, 0.9]}
    assert found["f1"].metric_args is None
    older = ModelCard(model_card({"measured": [{"AP": 0.5}], "tested on": "my pairs"}, None, "a/b")).data
    assert (older.eval_results[0].dataset_type, older.eval_results[0].dataset_name) == ("custom", "my pairs")


def test_images_and_ensembles_say_what_they_are() -> None:
    for modality, task, tag, example in (
        ("image", "image-feature-extraction", "image-similarity", 'twin.compare("a.png", "b.png")'),
        ("audio", "feature-extraction", "audio-similarity", 'twin.compare("a.wav", "b.wav")'),
    ):
        card = model_card({}, None, "my-twin", modality=modality)
        data = ModelCard(card).data
        assert data.pipeline_tag == task
        assert {"textsiam", modality, tag} <= set(data.tags)
        assert "widget" not in data.to_dict()  # the Hub's would send it sentences
        assert example in card
    card = model_card({}, None, "both", ensemble=True)
    assert 'Ensemble.from_pretrained("both")' in card
    assert "SentenceTransformer(" not in card
