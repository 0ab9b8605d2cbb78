from __future__ import annotations

import pytest
import torch
from torch import nn

from textsiam.training.weights.averaging import WeightAverage


def model(value: float) -> nn.Module:
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(value)
        layer.bias.fill_(7.0)
    layer.bias.requires_grad_(False)
    return layer


def set_weight(layer: nn.Module, value: float) -> None:
    with torch.no_grad():
        layer.weight.fill_(value)


def mean_of(layer: nn.Module, average: WeightAverage) -> float:
    with average.applied():
        return layer.weight.item()


def test_by_hand() -> None:
    layer = model(0.0)
    average = WeightAverage(layer, 0.15)
    assert mean_of(layer, average) == 0
    set_weight(layer, 1.0)
    average.update()  # keeps min(0.15, 1/10) of the old mean
    assert mean_of(layer, average) == pytest.approx(0.9)
    set_weight(layer, 2.0)
    average.update()  # min(0.15, 2/11)
    assert mean_of(layer, average) == pytest.approx(0.15 * 0.9 + 0.85 * 2)


def test_decay_warms_up() -> None:
    layer = model(0.0)
    average = WeightAverage(layer, 0.999)
    expected = 0.0
    for step in range(30):
        set_weight(layer, step + 1.0)
        average.update()
        decay = (1 + step) / (10 + step)
        expected = decay * expected + (1 - decay) * (step + 1.0)
    assert mean_of(layer, average) == pytest.approx(expected, rel=1e-5)


def test_constant_weights_stay() -> None:
    layer = model(3.0)
    average = WeightAverage(layer, 0.9)
    for _ in range(20):
        average.update()
    assert mean_of(layer, average) == 3.0


def test_own_weights_come_back_even_after_an_error() -> None:
    layer = model(0.0)
    average = WeightAverage(layer, 0.5)
    set_weight(layer, 1.0)

    def fail() -> None:
        with average.applied():
            assert layer.weight.item() == 0.0
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert layer.weight.item() == 1.0
    assert layer.weight.requires_grad


def test_frozen_parameters_are_not_touched() -> None:
    layer = model(0.0)
    average = WeightAverage(layer, 0.5)
    with torch.no_grad():
        layer.bias.fill_(9.0)
    average.update()
    with average.applied():
        assert layer.bias.item() == 9.0
    assert set(average.state_dict()) == {"n_averaged", "module.0"}


def test_state_round_trip() -> None:
    layer, other = model(0.0), model(5.0)
    average, restored = WeightAverage(layer, 0.9), WeightAverage(other, 0.9)
    for value in (1.0, 4.0, -2.0):
        set_weight(layer, value)
        average.update()
    restored.load_state_dict(average.state_dict())
    for each in (layer, other):
        set_weight(each, 8.0)
    average.update()
    restored.update()
    assert mean_of(other, restored) == mean_of(layer, average)
    assert restored.state_dict()["n_averaged"] == 5  # the first weights, and four updates


def test_the_numbers_are_those_of_lerp_bit_for_bit() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    average = WeightAverage(network, 0.8)
    expected = [p.detach().clone() for p in network.parameters()]
    for step in range(60):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update()
        for mean, live in zip(expected, network.parameters(), strict=True):
            mean.lerp_(live.detach(), 1 - min(0.8, (1 + step) / (10 + step)))
    with average.applied():
        assert all(torch.equal(p, mean) for p, mean in zip(network.parameters(), expected, strict=True))
