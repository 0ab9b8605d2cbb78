"""The batcher: bounded, fair, in order, and never stuck."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textsiam.models.twin import Twin
from textsiam.serving.batcher import Batcher, Closed, Overloaded

WAIT = 20


class Model:
    """Encodes a number as itself, remembers its batches, and waits while the gate is shut."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()

    def __call__(self, inputs: list[int]) -> np.ndarray:
        self.begun.set()
        assert self.gate.wait(WAIT)
        self.batches.append(list(inputs))
        if -1 in inputs:
            raise RuntimeError("input -1 breaks the model")
        return np.array(inputs, np.float32)[:, None]

    def shut(self) -> None:
        """Let the next batch wait."""
        self.gate.clear()
        self.begun.clear()


def test_every_request_gets_its_own_vectors_in_order():
    model = Model()
    with Batcher(max_tokens=8, max_queue=10_000) as batcher:
        futures = [batcher.encode(model, list(range(k, k + 25)), [1] * 25) for k in range(0, 100, 25)]
        found = [future.result(WAIT)[:, 0].tolist() for future in futures]
    assert found == [list(range(k, k + 25)) for k in range(0, 100, 25)]
    assert max(map(len, model.batches)) <= 8


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=12), min_size=1, max_size=8),
    st.integers(1, 12),
)
def test_any_mix_of_requests_is_answered_within_the_budget(requests, budget):
    model = Model()
    sizes: dict[int, int] = {}
    with Batcher(max_tokens=budget, max_queue=10_000) as batcher:
        futures = []
        for tokens in requests:
            inputs = list(range(len(sizes), len(sizes) + len(tokens)))
            sizes |= dict(zip(inputs, tokens, strict=True))
            futures.append((inputs, batcher.encode(model, inputs, tokens)))
        for inputs, future in futures:
            assert future.result(WAIT)[:, 0].tolist() == inputs
        assert batcher.load.tokens == 0
        assert batcher.load.requests == 0
    for batch in model.batches:
        used = sum(sizes[value] for value in batch)
        assert used <= budget or used - sizes[batch[0]] <= budget  # the first one runs even above the budget


def test_a_large_request_delays_a_single_one_by_a_step_at_most():
    model = Model()
    model.shut()
    with Batcher(max_tokens=10, max_queue=100_000) as batcher:
        large = batcher.encode(model, list(range(10_000)), [1] * 10_000)
        assert model.begun.wait(WAIT)
        single = batcher.encode(model, [77], [1])
        model.gate.set()
        assert single.result(WAIT).tolist() == [[77]]
        assert sum(77 in batch for batch in model.batches[:3]) >= 1
        large.cancel()


def test_requests_that_came_first_are_served_first():
    model = Model()
    model.shut()
    with Batcher(max_tokens=4, max_queue=100_000) as batcher:
        first = batcher.encode(model, [0], [1])
        assert model.begun.wait(WAIT)
        others = [batcher.encode(model, [k], [1]) for k in range(1, 13)]
        model.gate.set()
        for future in (first, *others):
            future.result(WAIT)
    order = [value for batch in model.batches for value in batch]
    position = {value: k // 4 for k, value in enumerate(order[1:])}
    assert [position[k] for k in range(1, 13)] == sorted(position[k] for k in range(1, 13))


def test_what_does_not_fit_into_the_queue_is_refused_and_says_when_to_come_back():
    model = Model()
    model.shut()
    with Batcher(max_tokens=4, max_queue=10) as batcher:
        held = batcher.encode(model, [1] * 8, [1] * 8)
        with pytest.raises(Overloaded) as refused:
            batcher.encode(model, [1] * 3, [1] * 3)
        assert refused.value.retry_after >= 1
        fits = batcher.encode(model, [2, 2], [1, 1])
        model.gate.set()
        assert held.result(WAIT).shape == (8, 1)
        assert fits.result(WAIT).shape == (2, 1)
        assert batcher.encode(model, [3] * 50, [1] * 50).result(WAIT).shape == (50, 1)  # alone, it is taken


def test_a_cancelled_request_is_not_encoded_any_further():
    model = Model()
    model.shut()
    with Batcher(max_tokens=2, max_queue=1000) as batcher:
        large = batcher.encode(model, [5] * 100, [1] * 100)
        assert model.begun.wait(WAIT)
        assert large.cancel()
        model.gate.set()
        assert batcher.encode(model, [6], [1]).result(WAIT).tolist() == [[6]]
        assert batcher.load.tokens == 0
    assert sum(batch.count(5) for batch in model.batches) == 2


def test_an_input_that_breaks_the_model_fails_its_own_request_only():
    model = Model()
    model.shut()
    with Batcher(max_tokens=100, max_queue=1000) as batcher:
        first = batcher.encode(model, [1], [1])
        assert model.begun.wait(WAIT)
        good, bad = batcher.encode(model, [2, 3], [1, 1]), batcher.encode(model, [-1], [1])
        model.gate.set()
        assert first.result(WAIT).tolist() == [[1]]
        assert good.result(WAIT).tolist() == [[2], [3]]
        with pytest.raises(RuntimeError, match="input -1"):
            bad.result(WAIT)
        assert batcher.load.failures == 1
        assert batcher.encode(model, [4], [1]).result(WAIT).tolist() == [[4]]


def test_a_model_that_loses_inputs_is_an_error_and_not_a_wrong_answer():
    with Batcher(max_tokens=100, max_queue=1000) as batcher:
        lost = batcher.encode(lambda inputs: np.zeros((1, 2)), ["a", "b"], [1, 1])
        with pytest.raises(RuntimeError, match="2 inputs were given to the model, 1 vectors"):
            lost.result(WAIT)


def test_other_work_takes_turns_with_encoding():
    model = Model()
    model.shut()
    with Batcher(max_tokens=2, max_queue=1000) as batcher:
        large = batcher.encode(model, [5] * 100, [1] * 100)
        assert model.begun.wait(WAIT)
        call = batcher.call(lambda: len(model.batches), 3)
        model.gate.set()
        assert call.result(WAIT) <= 2
        assert large.result(WAIT).shape == (100, 1)
        with pytest.raises(ZeroDivisionError):
            batcher.call(lambda: 1 // 0, 1).result(WAIT)


def test_closing_finishes_what_waits_and_takes_no_more():
    model = Model()
    model.shut()
    batcher = Batcher(max_tokens=2, max_queue=1000)
    waiting = batcher.encode(model, [5] * 9, [1] * 9)
    assert not batcher.close(timeout=0.01)
    with pytest.raises(Closed):
        batcher.encode(model, [1], [1])
    assert not batcher.alive
    model.gate.set()
    assert batcher.close(WAIT)
    assert waiting.result(0).shape == (9, 1)


def test_requests_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="max_tokens and max_queue must be >= 1"):
        Batcher(max_tokens=0)
    with Batcher() as batcher, pytest.raises(ValueError, match="at least one"):
        batcher.encode(lambda inputs: np.zeros((0, 1)), [], [])


def test_a_small_step_takes_one_thread_and_a_large_one_a_worker_for_each_core(serve, tower, monkeypatch):
    seen = {}
    plain = Twin.encode

    def encode(self, inputs, **options):
        seen[len(inputs)] = torch.get_num_threads()
        return plain(self, inputs, **options)

    cores = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        client = serve(twin=Twin(tower), index=None)
        monkeypatch.setattr(Twin, "encode", encode)
        for count in (1, 30, 300):
            texts = [f"why is number {k} odd?" for k in range(count)]
            assert client.post("/embed", json={"inputs": texts}).status_code == 200
    finally:
        torch.set_num_threads(cores)
    assert seen == {1: 1, 30: 1, 300: 2}
