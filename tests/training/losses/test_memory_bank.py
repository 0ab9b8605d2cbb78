from __future__ import annotations

import shutil
from types import ModuleType

import pytest
import torch
from torch import Tensor

from textsiam.training.losses import BatchTripletLoss, InfoNCELoss
from textsiam.training.losses.memory_bank import Memory
from textsiam.training.losses.objective import Objective
from textsiam.training.losses.terms import Embedded, Term, Texts


def numbered(first: int, count: int) -> tuple[Texts, Texts]:
    """Pairs `first`, `first + 1`, …: their number is their left embedding, its negative their right one."""
    number = torch.arange(first, first + count)
    e = number[:, None].expand(count, 2).float()
    return Texts(e, number), Texts(-e, number + 1000)


@pytest.mark.parametrize("size", [1, 4, 7, 100])
@pytest.mark.parametrize("counts", [[3, 3, 3, 3], [5, 1, 4], [12], [0, 2]])
def test_the_last_pairs_are_remembered(size: int, counts: list[int]) -> None:
    memory = Memory(size)
    memory.allocate(2)
    pushed = 0
    for count in counts:
        memory.push(*numbered(pushed, count))
        pushed += count
        left, right = memory.recall()
        assert sorted(left.clusters.tolist()) == list(range(max(0, pushed - size), pushed))
        assert torch.equal(left.embeddings, left.clusters[:, None].expand(-1, 2).float())
        assert torch.equal(right.embeddings, -left.embeddings)  # a pair stays together
        assert torch.equal(right.clusters, left.clusters + 1000)


def test_it_holds_no_graph_and_does_not_change_what_it_gave() -> None:
    memory = Memory(2)
    memory.allocate(2)
    left, right = numbered(1, 2)
    e = left.embeddings.clone().requires_grad_()
    memory.push(left._replace(embeddings=e * 1), right)
    given, _ = memory.recall()
    assert not given.embeddings.requires_grad
    (e.sum() * given.embeddings.sum()).backward()
    memory.push(*numbered(5, 2))
    assert given.embeddings[:, 0].tolist() == [1, 2]
    assert given.clusters.tolist() == [1, 2]


def test_a_memory_holds_something() -> None:
    with pytest.raises(ValueError, match="a memory holds at least 1 pair, got 0"):
        Memory(0)


def batch(seed: int, n: int = 6) -> Embedded:
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.randn(2, n, 4, generator=generator)
    clusters = torch.randint(0, 5, (n,), generator=generator)
    return Embedded(u, v, None, torch.ones(n, dtype=torch.long), clusters, clusters)


def objective(pairs: int | None) -> Objective:
    terms: dict[str, Term] = {
        "hard": BatchTripletLoss(margin=1.5),
        "info_nce": InfoNCELoss(weight=0.5),
    }
    made = Objective(terms, memory=None if pairs is None else Memory(pairs))
    made.allocate(4)
    return made


def test_the_objective_shows_its_terms_the_batches_before() -> None:
    remembering, plain = objective(10), objective(None)
    first, second, third = (batch(seed) for seed in range(3))
    assert remembering(first) == plain(first)
    seen = Embedded(**{**vars(second), "left_memory": first.left, "right_memory": first.right})
    assert remembering(second).item() == pytest.approx(plain(seen).item())
    assert remembering(second) != plain(second)
    # 10 of the 18 pairs are left: the last 4 of the batch before, and this one twice.
    again = objective(10)
    for b in (first, second, second, third):
        found = again(b)
    texts = [
        Texts(torch.cat([x.embeddings[2:], x.embeddings]), torch.cat([x.clusters[2:], x.clusters]))
        for x in (second.left, second.right)
    ]
    seen = Embedded(**{**vars(third), "left_memory": texts[0], "right_memory": texts[1]})
    assert found.item() == pytest.approx(plain(seen).item())


def test_gradients_flow_into_the_batch_only() -> None:
    remembering = objective(10)
    leaves = [batch(seed).u.requires_grad_() for seed in range(3)]
    for seed, u in enumerate(leaves):
        remembering(Embedded(**{**vars(batch(seed)), "u": u})).backward()
        assert u.grad.abs().sum() > 0
    alone = objective(10)
    u = batch(0).u.requires_grad_()
    alone(Embedded(**{**vars(batch(0)), "u": u})).backward()
    assert torch.equal(leaves[0].grad, u.grad)  # later batches left it as it was


def test_it_is_saved_with_the_objective() -> None:
    remembering, other = objective(10), objective(10)
    for seed in range(3):
        remembering(batch(seed))
    assert sorted(remembering.state_dict()) == [f"memory.{n}" for n in ("clusters", "left", "pushed", "right")]
    assert other(batch(3)) != remembering(batch(3))
    other = objective(10)
    for seed in range(3):
        remembering(batch(seed))
    other.load_state_dict(remembering.state_dict())
    assert other(batch(3)) == remembering(batch(3))


@pytest.mark.parametrize(
    "losses", [["batch_hard", "info_nce", "memory"], ["batch_hard", "softmax", "memory"]], ids="+".join
)
def test_a_resumed_run_remembers(driver: ModuleType, tmp_path, losses) -> None:
    """With and without weights in the loss: they decide how it is checkpointed."""
    from textsiam.training.loop import train
    from textsiam.training.settings import Settings

    knobs = Settings(batch_size=8, max_steps=8, checkpoint_every=5, precision="fp32", tracker="none", ema_decay=0.5)

    def run(*, resume: bool) -> list[dict[str, Tensor]]:
        twin, made = driver.small_twin(dropout=0.1), driver.build_objective(losses)
        train(twin, driver.keyword_pairs(), made, output=tmp_path, settings=knobs, resume=resume, quiet=True)
        return [{k: v.clone() for k, v in module.state_dict().items()} for module in (twin, made)]

    whole = run(resume=False)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000005", "step-00000008"]
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000008")
    again = run(resume=True)
    for expected, found in zip(whole, again, strict=True):
        assert not [name for name, value in expected.items() if not torch.equal(value, found[name])]
    assert whole[1]["memory.pushed"] == 64
    assert ("owners.softmax.16.weight" in whole[1]) is ("softmax" in losses)
