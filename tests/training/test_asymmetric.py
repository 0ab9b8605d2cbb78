"""Asymmetric twins are trained like any other twin: shared weights once, each side with its own prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from textsiam.data.pairs import Pairs
from textsiam.inference.tokens import tokenise
from textsiam.models.asymmetric import shared_layers, sides
from textsiam.models.twin import Twin
from textsiam.search.nearest import best_matches
from textsiam.training.batches.collation import TrainingPairs
from textsiam.training.batches.sampling import Uniform
from textsiam.training.loop import train
from textsiam.training.settings import Settings

KNOBS = {"precision": "fp32", "tracker": "none", "batch_size": 12}


def query_documents(driver) -> tuple[list[str], list[str]]:
    """A query names a topic; its document never does, but speaks of two things of its own."""
    topics, notes = driver.TOPICS, driver.NOISE
    queries = [f"{note} {topic}" for topic in topics for note in notes[:4]]
    documents = [f"{notes[i]} {notes[(i + 5) % 12]}" for i in range(12)]
    return queries, documents


def recall(twin: Twin, queries: list[str], documents: list[str]) -> float:
    vectors = (twin.encode(t, side=s, precision="fp32") for t, s in ((queries, "left"), (documents, "right")))
    found, _ = best_matches(twin, *vectors, 1)
    return float(np.mean(found[:, 0] == np.arange(len(queries)) // 4))


@pytest.mark.parametrize("layers", [0, "all"])
def test_an_asymmetric_twin_learns_to_match_queries_to_documents(driver, tmp_path, layers):
    queries, documents = query_documents(driver)
    pairs = Pairs.from_texts(queries, [documents[i // 4] for i in range(48)], [1] * 48)
    twin = Twin(*sides(driver.small_twin(dropout=0).left, right_prompt="best ", shared_layers=layers))
    before = recall(twin, queries, documents)
    settings = Settings(epochs=40, learning_rate=1e-2, **KNOBS)
    train(twin, pairs, driver.build_objective(["info_nce"]), output=tmp_path, settings=settings, quiet=True)
    assert shared_layers(twin.left, twin.right) == layers
    assert before < 0.5
    assert recall(twin, queries, documents) > 0.9


def test_training_reads_the_prompt_of_each_side(driver):
    twin, pairs = driver.small_twin(share=1), driver.keyword_pairs(8)
    data = TrainingPairs(pairs, twin, Uniform(np.arange(8), 8))
    np.testing.assert_array_equal(data.left_inputs.ids, tokenise(twin.left, pairs.texts).ids)
    spelled = tokenise(twin.left, [f"best {text}" for text in pairs.texts])
    np.testing.assert_array_equal(data.right_inputs.ids, spelled.ids)


@pytest.mark.parametrize("layers", [0, 1, "all"])
def test_shared_weights_are_stepped_once_and_kept_through_validation(driver, tmp_path, layers):
    twin, pairs = driver.small_twin(share=layers), driver.keyword_pairs()
    settings = Settings(epochs=2, learning_rate=1e-3, ema_decay=0.5, **KNOBS)
    objective = driver.build_objective(["online_contrastive"])
    train(twin, pairs, objective, output=tmp_path, settings=settings, validation=driver.keyword_pairs(24, seed=9),
          quiet=True)  # fmt: skip
    assert shared_layers(twin.left, twin.right) == layers
    best = Twin.from_pretrained(tmp_path / "best", device="cpu")
    assert shared_layers(best.left, best.right) == layers
    assert all(torch.equal(value, best.state_dict()[name]) for name, value in twin.state_dict().items())


@pytest.mark.parametrize("layers", [0, "all"])
def test_a_resumed_asymmetric_twin_equals_an_uninterrupted_one(driver, tmp_path, monkeypatch, layers):
    def run(folder, **more):
        twin = driver.small_twin(share=layers)
        settings = Settings(epochs=2, checkpoint_every=2, learning_rate=1e-3, **KNOBS)
        train(twin, driver.keyword_pairs(), driver.build_objective(["contrastive"]), output=tmp_path / folder,
              settings=settings, quiet=True, **more)  # fmt: skip
        return twin.state_dict()

    whole = run("whole")
    step = torch.optim.AdamW.step
    calls = []

    def failing(self, *arguments, **named):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return step(self, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", failing)
        with pytest.raises(KeyboardInterrupt):
            run("cut")
    resumed = run("cut", resume=True)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(launch, tmp_path):
    knobs = {"batch_size": 8, "max_steps": 3, "max_gradient_norm": None, "learning_rate": 1e-3}
    jobs = [
        {"output": str(tmp_path / f"{share}-{n}"), "save": str(tmp_path / f"{share}-{n}.pt"), "losses": ["info_nce"],
         "world": n, "dropout": 0.0, "gradients": True, "validate": False, "share": share, "settings": knobs}
        for share in (0, "all") for n in (1, 2)
    ]  # fmt: skip
    launch(*jobs)
    for share in (0, "all"):
        alone = torch.load(tmp_path / f"{share}-1.pt.0")
        for rank in range(2):
            together = torch.load(tmp_path / f"{share}-2.pt.{rank}")
            for ours, theirs in zip(together["gradients"], alone["gradients"], strict=True):
                largest = max(float(g.abs().max()) for g in theirs)
                for a, b in zip(ours, theirs, strict=True):
                    torch.testing.assert_close(a, b, rtol=0, atol=5e-6 * largest)


@pytest.mark.slow
def test_shared_layers_over_shards_are_refused(launch, tmp_path):
    job = {"output": str(tmp_path / "run"), "losses": ["contrastive"], "world": 2, "fsdp": True, "share": 0,
           "settings": {"batch_size": 8}}  # fmt: skip
    statuses, said = launch(job, clean=False)
    assert statuses == [[1, 1]]
    assert "share layers, which FSDP cannot shard: use DDP" in said
