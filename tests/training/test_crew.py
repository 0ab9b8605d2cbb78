from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from textsiam import Twin, train
from textsiam.training.batches.collation import TrainingPairs
from textsiam.training.batches.crew import OwnDropout, _fair_shares, shareable
from textsiam.training.batches.sampling import make_sampler
from textsiam.training.losses.objective import Objective
from textsiam.training.losses.pairwise import ContrastiveLoss
from textsiam.training.run import Run
from textsiam.training.settings import Settings


def objective():
    return Objective({"contrastive": ContrastiveLoss()})


def trained(tower, pairs, folder, threads, monkeypatch, **knobs):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    twin = Twin(copy.deepcopy(tower))
    torch.manual_seed(0)
    settings = Settings(batch_size=32, tracker="none", log_every=1, **{"max_steps": 6} | knobs)
    result = train(twin, pairs, objective(), output=folder, settings=settings, quiet=True)
    return twin, [record["loss"] for record in result.history if "loss" in record]


def without_dropout(tower):
    tower = copy.deepcopy(tower)
    for module in tower.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return tower


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_threads_learn_what_one_learns(tower, pairs, tmp_path, monkeypatch, precision):
    plain = without_dropout(tower)
    one, losses = trained(plain, pairs, tmp_path / "1", 1, monkeypatch, precision=precision)
    three, others = trained(plain, pairs, tmp_path / "3", 3, monkeypatch, precision=precision)
    assert others == pytest.approx(losses, rel=1e-5 if precision == "fp32" else 2e-2)
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(three.state_dict()[name], weight, atol=2e-6 if precision == "fp32" else 1e-3, rtol=0)


def test_accumulated_gradients_are_those_of_one_thread(tower, pairs, tmp_path, monkeypatch):
    plain, knobs = without_dropout(tower), {"gradient_accumulation_steps": 4, "precision": "fp32"}
    one, _ = trained(plain, pairs, tmp_path / "1", 1, monkeypatch, **knobs)
    two, _ = trained(plain, pairs, tmp_path / "2", 2, monkeypatch, **knobs)
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], weight, atol=2e-6, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_the_same_weights(tower, pairs, tmp_path, monkeypatch, precision):
    runs = [trained(tower, pairs, tmp_path / str(k), 2, monkeypatch, precision=precision) for k in range(3)]
    for twin, losses in runs[1:]:
        assert losses == runs[0][1]
        for name, weight in runs[0][0].state_dict().items():
            assert torch.equal(twin.state_dict()[name], weight), name


def test_other_random_numbers_give_other_dropout(tower, pairs, tmp_path, monkeypatch):
    losses = [trained(tower, pairs, tmp_path / str(k), 2, monkeypatch, seed=k, max_steps=1)[1] for k in range(2)]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(("precision", "close"), [("fp32", 2e-6), ("bf16", 1e-3)])
def test_the_gradient_cache_learns_the_same_with_the_same_dropout(
    tower, pairs, tmp_path, monkeypatch, precision, close
):
    encoded = []

    def forward(self, left, right=None, *, own=Twin.forward):
        encoded.append((torch.is_grad_enabled(), len(left)))
        return own(self, left, right)

    monkeypatch.setattr(Twin, "forward", forward)
    knobs = {"precision": precision, "token_budget": 64}
    whole, losses = trained(tower, pairs, tmp_path / "whole", 2, monkeypatch, **knobs)
    assert {kept for kept, _ in encoded} == {True}
    assert max(count for _, count in encoded[1:]) > 1
    encoded.clear()
    cached, others = trained(tower, pairs, tmp_path / "cached", 2, monkeypatch, gradient_cache=True, **knobs)
    _, *steps = encoded  # the first call looks which weights are used
    assert {count for _, count in steps} == {1}  # only one chunk of a thread keeps its activations at a time
    assert [kept for kept, _ in steps].count(False) == len(steps) / 2
    assert others == pytest.approx(losses, rel=1e-5 if precision == "fp32" else 2e-2)
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(cached.state_dict()[name], weight, atol=close, rtol=0)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_towers_that_draw_something_else_are_not_shared(tower, pairs, tmp_path, monkeypatch):
    assert shareable(tower)

    class Noise(torch.nn.Module):
        def forward(self, features):
            return features

    noisy = copy.deepcopy(tower)
    noisy.append(Noise())
    assert not shareable(noisy)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def threads(twin, **knobs):
        return Run(twin, pairs, objective(), tmp_path / "run", Settings(tracker="none", **knobs), None).threads

    assert threads(Twin(copy.deepcopy(tower))) == 2
    assert threads(Twin(noisy)) == 0
    assert threads(Twin(copy.deepcopy(tower)), gradient_cache=True) == 2
    assert threads(Twin(copy.deepcopy(tower)), gradient_checkpointing=True) == 0
    assert threads(Twin(copy.deepcopy(tower), right=copy.deepcopy(tower))) == 0


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("budget", [40, 200, 10_000])
def test_each_thread_gets_about_as_much(tower, pairs, threads, budget):
    settings = Settings(batch_size=96)
    sampler = make_sampler(pairs, settings, objective(), world=1)
    data = TrainingPairs(pairs, Twin(tower), sampler, token_budget=budget, threads=threads)
    chunks = [chunk["input_ids"].numel() for chunk in next(data.epoch(0)).left]
    loads = [sum(chunks[i] for i in share) for share in _fair_shares(chunks, threads)]
    assert sum(len(chunk["input_ids"]) for chunk in next(data.epoch(0)).left) == len(pairs.texts)
    assert len(loads) == threads
    assert max(loads) <= 1.35 * min(loads)
    if threads > 1:
        assert len(chunks) % threads == 0
        assert max(chunks) <= max(1.3 * budget, 16)


def test_shares_hold_each_chunk_once():
    shares = _fair_shares([5, 9, 1, 7], 3)
    assert sorted(i for share in shares for i in share) == [0, 1, 2, 3]
    assert shares == [[1], [3], [0, 2]]
    assert _fair_shares([3], 4) == [[0]]


def test_dropout_keeps_its_mean_and_its_share():
    x = torch.ones(1000, 1000)
    for dtype, p in ((torch.float32, 0.1), (torch.bfloat16, 0.1), (torch.float32, 0.5)):
        with OwnDropout(0):
            y = F.dropout(x.to(dtype), p)
        assert y.float().mean().item() == pytest.approx(1.0, abs=3e-3)
        assert (y == 0).float().mean().item() == pytest.approx(p, abs=4e-3)
        assert len(y.unique()) == 2
    with OwnDropout(0):
        assert torch.equal(F.dropout(x, 0.3, training=False), x)


def test_a_table_learns_by_the_rows_that_were_looked_up():
    ids, given = torch.tensor([[3, 0, 3], [1, 2, 0]]), torch.arange(24.0).view(2, 3, 4)
    for padding in (None, 0):
        table = torch.nn.Embedding(5, 4, padding_idx=padding)
        table(ids).backward(given)
        expected, table.weight.grad = table.weight.grad, None
        with OwnDropout(0) as mode:
            found = table(ids)
        found.backward(given)
        assert table.weight.grad is None
        ((weight, looked_up, rows),) = mode.looked_up
        assert weight is table.weight
        torch.testing.assert_close(torch.zeros(5, 4).index_add_(0, looked_up, rows), expected)


@pytest.mark.parametrize("unusual", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"sparse": True}])
def test_unusual_tables_are_left_to_torch(unusual):
    table = torch.nn.Embedding(5, 4, **unusual)
    with OwnDropout(0) as mode:
        table(torch.tensor([1, 1, 2])).sum().backward()
    assert table.weight.grad is not None
    assert not mode.looked_up


@pytest.mark.parametrize("mask", ["none", "fits", "added"])
def test_attention_is_that_of_torch_where_nothing_is_dropped(mask):
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, 3, 7, 8) for _ in range(3))
    fits = (torch.arange(7) < torch.tensor([[4], [7]]))[:, None, None]
    given = {"none": None, "fits": fits, "added": torch.zeros(fits.shape).masked_fill(~fits, -1e9)}

    def attend(**knobs):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=given[mask], scale=0.2, **knobs)

    expected = attend()
    with OwnDropout(0):
        found = attend(dropout_p=1e-12)
        many = torch.stack([attend(dropout_p=0.2) for _ in range(3000)])
        with pytest.raises(ValueError, match="is_causal"):
            F.scaled_dot_product_attention(q, k, v, dropout_p=0.2, is_causal=True)
    torch.testing.assert_close(found, expected)
    assert (many.mean(0) - expected).abs().max() < 0.08
    assert many.std(0).max() > 0.1
