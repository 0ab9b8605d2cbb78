from __future__ import annotations

import inspect
import re
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
import yaml
from torch.nn.functional import normalize

from textsiam.config import Config, ConfigError, read_config
from textsiam.loss_config import (
    HeadTermConfig,
    InfoNCEConfig,
    LossConfig,
    MatryoshkaConfig,
    MemoryConfig,
    NPairConfig,
    SoftmaxConfig,
    TripletConfig,
    build_objective,
)
from textsiam.models.distances import DISTANCES
from textsiam.models.learned import PairHead
from textsiam.training import batch_losses, losses, terms
from textsiam.training.heads import HeadTerm
from textsiam.training.objective import Embedded

SECTIONS: dict[str, Any] = {n: get_args(hint)[0] for n, hint in get_type_hints(LossConfig).items()}
# The head is a loss too, but its weights are the twin's: it has tests of its own.
LOSSES = [n for n, section in SECTIONS.items() if n != "head" and "weight" in {f.name for f in fields(section)}]
# Every knob away from its default.
KNOBS: dict[str, Any] = {
    "margin": 0.9, "distance": "angular", "soft": True, "form": "squared_margin", "temperature": 0.4,
    "symmetric": False, "hard_negatives": True, "l2": 0.3, "degrees": 30.0, "cutoff": 0.8, "far": 1.2,
    "select": "semi_hard", "balance": 0.2,
}  # fmt: skip


def batch() -> Embedded:
    generator = torch.Generator().manual_seed(0)
    u, v, n = normalize(torch.randn(3, 12, 8, generator=generator), dim=-1)
    clusters = torch.arange(12) // 2
    labels = (torch.arange(12) % 3 != 0).long()
    right = torch.where(labels == 1, clusters, clusters + 10)
    return Embedded(u, (u + v) / 2, n, labels, clusters, right, negative_clusters=clusters + 20)


def test_there_are_losses() -> None:
    assert len(LOSSES) == 15
    assert set(SECTIONS) - set(LOSSES) == {"head", "matryoshka", "memory"}


def value(name: str, **knobs: Any) -> float:
    objective = build_objective(LossConfig(**{name: SECTIONS[name](**knobs)}))
    objective.allocate(8)
    return objective(batch()).item()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_builds_and_every_knob_reaches_it(name: str) -> None:
    plain = value(name)
    assert plain > 0 or name == "batch_easy"
    assert value(name, weight=3.0) == pytest.approx(3 * plain)
    for knob in fields(SECTIONS[name]):
        if knob.name != "weight":
            changed = {knob.name: KNOBS[knob.name]}
            if knob.name == "margin" and name == "batch_easy":
                changed["margin"] = 3.0
            assert value(name, **changed) != pytest.approx(plain), knob.name


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_read_by_its_name(name: str, tmp_path: Path) -> None:
    section = SECTIONS[name](**{f.name: KNOBS[f.name] for f in fields(SECTIONS[name]) if f.name != "weight"})
    config = Config(loss=LossConfig(**{name: section}))
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"loss": {name: asdict(section)}}))
    assert read_config([str(file)]) == config
    file.write_text(yaml.safe_dump(config.to_dict()))
    assert read_config([str(file)]) == config


@pytest.mark.parametrize("distance", DISTANCES)
def test_every_distance_is_read_by_its_name(distance: str) -> None:
    found = read_config(["--loss.batch_hard.distance", distance, "--model.distance", distance])
    assert (found.loss.batch_hard, found.model.distance) == (TripletConfig(distance=distance), distance)


@pytest.mark.parametrize("name", LOSSES)
def test_defaults_are_those_of_the_functions(name: str) -> None:
    function = getattr(losses, name, getattr(batch_losses, name, None))
    function = {"batch_easy": batch_losses.batch_triplet, "batch_random": batch_losses.batch_triplet}.get(
        name, function
    )
    function = {"softmax": losses.pair_softmax, "info_nce": terms.info_nce_term}.get(name, function)
    knobs = inspect.signature(function).parameters
    for field in fields(SECTIONS[name]):
        if field.name == "distance":
            assert field.default == knobs["distance"].default.name
        elif field.name != "weight":
            assert field.default == knobs[field.name].default


def test_what_the_losses_need_is_what_the_batches_bring() -> None:
    def needs(**sections: Any) -> tuple[bool, bool]:
        made = build_objective(LossConfig(**sections))
        return made.needs_negatives, made.positives_only

    assert needs(triplet=TripletConfig()) == (True, True)
    assert needs(n_pair=NPairConfig()) == (False, True)
    assert needs(n_pair=NPairConfig(), triplet=TripletConfig()) == (True, True)
    assert needs(n_pair=NPairConfig(), batch_hard=TripletConfig()) == (False, False)
    assert needs(info_nce=InfoNCEConfig()) == (False, False)
    assert needs(info_nce=InfoNCEConfig(hard_negatives=True)) == (True, False)
    assert needs(softmax=SoftmaxConfig()) == (False, False)


def test_the_head_of_the_twin_is_trained() -> None:
    head = PairHead(8)
    made = build_objective(LossConfig(head=HeadTermConfig(weight=0.5, frozen=True), softmax=SoftmaxConfig()), head)
    weight, term = made.terms["head"]
    assert weight == 0.5
    assert isinstance(term, HeadTerm)
    assert term.head is head
    assert term.frozen
    assert {id(p) for p in head.parameters()} <= {id(p) for p in made.parameters()}
    made.allocate(8)
    assert made(batch()).item() > 0


def test_a_head_without_its_loss_and_a_loss_without_its_head() -> None:
    with pytest.raises(ConfigError, match=r"model\.head is set, but loss\.head is not"):
        build_objective(LossConfig(softmax=SoftmaxConfig()), PairHead(8))
    with pytest.raises(ConfigError, match=r"loss\.head is set, but model\.head is not"):
        build_objective(LossConfig(head=HeadTermConfig()))


def test_widths_and_memory() -> None:
    one = LossConfig(batch_hard=TripletConfig())
    made = build_objective(replace(one, matryoshka=MatryoshkaConfig([8, 4], [1.0, 0.5]), memory=MemoryConfig(5)))
    assert made.widths == {8: 1.0, 4: 0.5}
    assert made.memory is not None
    assert made.memory.pairs == 5
    assert build_objective(replace(one, matryoshka=MatryoshkaConfig([8, 4]))).widths == {8: 1.0, 4: 1.0}
    with pytest.raises(ConfigError, match=r"loss\.matryoshka: 2 widths, but 1 weights"):
        build_objective(replace(one, matryoshka=MatryoshkaConfig([8, 4], [1.0])))


def test_widths_and_memory_are_read(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "loss:\n  info_nce: {}\n  matryoshka: {widths: [384, 64], weights: [1, 0.5]}\n  memory: {pairs: 64}\n"
    )
    expected = LossConfig(
        info_nce=InfoNCEConfig(), matryoshka=MatryoshkaConfig([384, 64], [1.0, 0.5]), memory=MemoryConfig(64)
    )
    assert read_config([str(file)]).loss == expected
    file.write_text(yaml.safe_dump(Config(loss=expected).to_dict()))
    assert read_config([str(file)]).loss == expected
    found = read_config(["--loss.matryoshka.widths", "[32, 16]", "--loss.memory.pairs", "9"]).loss
    assert (found.matryoshka, found.memory) == (MatryoshkaConfig([32, 16]), MemoryConfig(9))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("batch_hrad: {}", "unknown key 'loss.batch_hrad': did you mean 'batch_hard'?"),
        ("angular: {degree: 3}", "unknown key 'loss.angular.degree': did you mean 'degrees'?"),
        ("matryoshka: {widths: wide}", "'loss.matryoshka.widths' is 'wide', expected"),
        ("memory: {pairs: many}", "'loss.memory.pairs' is 'many', expected int"),
        ("debiased_triplet: {select: all}", "'loss.debiased_triplet.select' is 'all', expected one of ['hard', "),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_line(tmp_path: Path, line: str, expected: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"loss:\n  cosent: {{}}\n  {line}\n")
    with pytest.raises(ConfigError) as caught:
        read_config([str(file)])
    assert str(caught.value).startswith(f"{file}:3: {expected}")
    with pytest.raises(ConfigError, match="widths"):
        read_config(["--loss.matryoshka.weights", "[1]"])


DOCS = (Path(__file__).resolve().parents[1] / "docs" / "losses.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SECTIONS)
def test_every_loss_is_documented(name: str) -> None:
    if name not in ("matryoshka", "memory"):
        assert re.search(rf"^\| .*`{name}`.*\|.*\|.*\|.*\|$", DOCS, re.M)
    else:
        assert f"  {name}: {{" in DOCS


def test_examples_in_the_docs_are_read(tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", DOCS, re.S)
    assert len(examples) == 3
    for example in examples:
        (tmp_path / "run.yaml").write_text(example)
        assert build_objective(read_config([str(tmp_path / "run.yaml")]).loss).terms


def test_the_axioms_of_every_distance_are_documented() -> None:
    """Which of them break the triangle inequality is tested beside the distances."""
    rows = {name: re.search(rf"^\| `{name}` \|(.*)\|$", DOCS, re.M) for name in DISTANCES}
    broken = {name for name, row in rows.items() if row is not None and row[1].strip().endswith("**no**")}
    assert all(rows.values())
    assert broken == {"cosine", "squared_euclidean"}
