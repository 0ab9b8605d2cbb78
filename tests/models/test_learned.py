"""Learned metrics: symmetric and positive semi-definite whatever their weights, and where they start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from torch.nn.functional import cosine_similarity, normalize

from textsiam.data.pairs import Pairs
from textsiam.inference.encoders import ModelError
from textsiam.models.learned import Head, Mahalanobis, PairHead, build_head
from textsiam.models.twin import Twin

HEADS = {
    "mlp": lambda dim=6: PairHead(dim, hidden=5),
    "mahalanobis": lambda dim=6: Mahalanobis(dim),
    "low rank": lambda dim=6: Mahalanobis(dim, rank=2),
    "diagonal": lambda dim=6: Mahalanobis(dim, diagonal=True),
}
EVERY_HEAD = pytest.mark.parametrize("name", HEADS)
METRICS = pytest.mark.parametrize("name", [name for name in HEADS if name != "mlp"])


def shaken(head: Head, seed: int = 0) -> Head:
    """The head with random weights, far from where it starts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return head.double().eval()


def points(n: int, seed: int = 1, dim: int = 6) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@EVERY_HEAD
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_symmetric_whatever_the_weights(name: str, seed: int) -> None:
    head, u, v = shaken(HEADS[name](), seed), points(4, seed + 1), points(4, seed + 2)
    torch.testing.assert_close(head(u, v), head(v, u), rtol=1e-12, atol=1e-12)


@METRICS
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_a_pseudo_metric_whatever_the_weights(name: str, seed: int) -> None:
    head = shaken(HEADS[name](), seed)
    assert isinstance(head, Mahalanobis)
    assert torch.linalg.eigvalsh(head.matrix).min() >= -1e-9
    d, (u, v, w) = head.distance(), points(15, seed + 3).split(5)
    assert (d(u, v) >= 0).all()
    assert (d(u, u) <= 1e-5).all()
    assert (d(u, w) <= d(u, v) + d(v, w) + 1e-9).all()
    torch.testing.assert_close(d.all_pairs(u, v).diagonal(), d(u, v), rtol=1e-5, atol=1e-5)


@METRICS
def test_mahalanobis_against_the_formula(name: str) -> None:
    head = shaken(HEADS[name]())
    assert isinstance(head, Mahalanobis)
    u, v = points(3, 1), points(3, 2)
    expected = [((a - b) @ head.matrix @ (a - b)).item() for a, b in zip(u, v, strict=True)]
    assert head.distance()(u, v).square().tolist() == pytest.approx(expected)
    assert head(u, v).tolist() == pytest.approx([head.bias.item() - e for e in expected])


def test_pair_head_by_hand() -> None:
    head = PairHead(2, hidden=1).eval()
    first, last = head.mlp[0], head.mlp[-1]
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.5]]))  # √2·|u₀ − v₀| and half of 2·u₁v₁
        first.bias.fill_(0.25)
        last.weight.fill_(2.0)
        last.bias.fill_(-1.0)
        head.scale.fill_(3.0)
        head.bias.fill_(0.5)
    u, v = torch.tensor([[0.6, 0.8]]), torch.tensor([[1.0, 0.0]])
    inner = 2**0.5 * 0.4 + 0.5 * 2 * 0.0 + 0.25
    gelu = inner * 0.5 * (1 + torch.erf(torch.tensor(inner / 2**0.5)).item())
    assert head(u, v).item() == pytest.approx(3 * 0.6 + 0.5 + 2 * gelu - 1)


@pytest.mark.parametrize("name", ["mlp", "mahalanobis", "diagonal"])
def test_an_untrained_head_ranks_as_the_cosine_does(name: str) -> None:
    head = HEADS[name]().double().eval()
    u, v = normalize(points(50, 1), dim=-1), normalize(points(50, 2), dim=-1)
    torch.testing.assert_close(head(u, v), 10 * cosine_similarity(u, v) - 7)


@EVERY_HEAD
def test_gradcheck(name: str) -> None:
    head = shaken(HEADS[name]())
    u, v = points(3, 1).requires_grad_(), points(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: head(*x), (u, v))


@EVERY_HEAD
def test_knobs_build_the_same_head_again(name: str) -> None:
    head = shaken(HEADS[name]())
    again = build_head(**head.knobs()).double().eval()
    again.load_state_dict(head.state_dict())
    u, v = points(4, 1), points(4, 2)
    assert torch.equal(again(u, v), head(u, v))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"kind": "mlq", "dim": 4}, "head is 'mlq', expected one of mlp, mahalanobis"),
        ({"kind": "mahalanobis", "dim": 4, "rank": 5}, "rank must be between 1 and 4, got 5"),
        ({"kind": "mahalanobis", "dim": 4, "rank": 0}, "rank must be between 1 and 4, got 0"),
        ({"kind": "mahalanobis", "dim": 4, "rank": 2, "diagonal": True}, "has no rank, got rank 2"),
    ],
)
def test_a_head_that_cannot_be(knobs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_head(**knobs)


# --- a twin with a head ---------------------------------------------------------------------------

TEXTS = ["a b c", "a b d", "x y z", "c b a", "z z z", "q r s"]


@pytest.fixture
def twin(fresh_tower: SentenceTransformer) -> Twin:
    return Twin(fresh_tower, head=shaken(PairHead(fresh_tower.get_embedding_dimension() or 0, hidden=5)).float())


def test_the_head_scores_the_pairs(twin: Twin) -> None:
    u, v = (torch.from_numpy(twin.encode(texts)) for texts in (TEXTS[:3], TEXTS[3:]))
    assert twin.head is not None
    with torch.no_grad():
        expected = twin.head(u, v).numpy()
    np.testing.assert_array_equal(twin.similarity(TEXTS[:3], TEXTS[3:]), expected)


def test_no_unit_is_dropped_when_pairs_are_scored(twin: Twin) -> None:
    before = twin.similarity(TEXTS[:3], TEXTS[3:])
    twin.train()
    np.testing.assert_array_equal(twin.similarity(TEXTS[:3], TEXTS[3:]), before)


def calibration(twin: Twin, n: int = 60) -> Pairs:
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(list("abcxyzqrs"), 3)) for _ in range(2 * n)]
    scores = twin.similarity(words[:n], words[n:])
    labels = (scores + rng.normal(size=n) * scores.std() > np.median(scores)).astype(int)
    return Pairs.from_texts(words[:n], words[n:], labels.tolist(), source="test")


@EVERY_HEAD
def test_saved_and_opened_again(twin: Twin, name: str, tmp_path: Path) -> None:
    twin.head = shaken(HEADS[name](twin.dim)).float()
    twin.calibrate(calibration(twin))
    twin.save_pretrained(tmp_path / "twin")
    again = Twin.from_pretrained(tmp_path / "twin")
    assert again.head is not None
    assert again.head.knobs() == twin.head.knobs()
    assert again.head.candidate_threshold == twin.head.candidate_threshold
    np.testing.assert_array_equal(again.similarity(TEXTS[:3], TEXTS[3:]), twin.similarity(TEXTS[:3], TEXTS[3:]))
    assert again.compare("a b c", "c b a") == twin.compare("a b c", "c b a")


def test_a_damaged_head_is_an_error(twin: Twin, tmp_path: Path) -> None:
    folder = twin.save_pretrained(tmp_path / "twin")
    description = (folder / "textsiam.json").read_text()
    (folder / "textsiam.json").write_text(description.replace('"hidden": 5', '"hidden": 6'))
    with pytest.raises(ModelError, match=r"twin: [^\n]*size mismatch"):
        Twin.from_pretrained(folder)


def test_calibration_sets_the_floor(twin: Twin) -> None:
    pairs = calibration(twin)
    twin.calibrate(pairs)
    assert twin.head is not None
    plain = Twin(twin.left).pair_similarity(pairs.texts, pairs.left, pairs.right)
    assert twin.head.candidate_threshold.item() == pytest.approx(np.quantile(plain[pairs.labels == 1], 0.01), abs=1e-6)
