from __future__ import annotations

import inspect
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn.functional import normalize

from textsiam.config.loss import MatryoshkaConfig, MemoryConfig, build_objective, loss_sections
from textsiam.config.run import Config, ConfigError, read_config
from textsiam.models.distances import DISTANCES
from textsiam.models.learned import PairHead
from textsiam.training import losses
from textsiam.training.losses import (
    LOSSES,
    BatchTripletLoss,
    HeadLoss,
    InfoNCELoss,
    NPairLoss,
    SoftmaxLoss,
    TripletLoss,
)
from textsiam.training.losses.terms import Embedded, Term

# The head is a loss too, but its weights are the twin's: it has tests of its own.
OURS = [name for name in LOSSES if name != "head"]
# Every knob away from its default.
KNOBS: dict[str, Any] = {
    "margin": 0.9, "distance": "angular", "soft": True, "form": "squared_margin", "temperature": 0.4,
    "symmetric": False, "hard_negatives": True, "l2": 0.3, "degrees": 30.0, "mining": "all", "balance": 0.2,
    "cutoff": 0.8, "far": 1.2, "teacher": "another/model",
}  # fmt: skip
SEEN_ELSEWHERE = {"teacher"}  # in the batch, which has its vectors
ONLY_WHERE = {"cutoff": {"mining": "distance_weighted"}, "far": {"mining": "distance_weighted"}}


def batch() -> Embedded:
    generator = torch.Generator().manual_seed(0)
    u, v, n = normalize(torch.randn(3, 12, 8, generator=generator), dim=-1)
    clusters = torch.arange(12) // 2
    labels = (torch.arange(12) % 3 != 0).long()
    right = torch.where(labels == 1, clusters, clusters + 10)
    more = {"negative_clusters": clusters + 20, "again": (u + n) / 2, "taught": (v, n)}
    return Embedded(u, (u + v) / 2, n, labels, clusters, right, **more)


def value(name: str, **knobs: Any) -> float:
    objective = build_objective({name: LOSSES[name](**knobs)})
    objective.allocate(8)
    return objective(batch()).item()


@pytest.mark.parametrize("name", OURS)
def test_every_loss_builds_and_every_knob_reaches_it(name: str) -> None:
    assert value(name) > 0
    assert value(name, weight=3.0) == pytest.approx(3 * value(name))
    for knob in fields(LOSSES[name]):
        if knob.name not in {"weight", *SEEN_ELSEWHERE}:
            where = ONLY_WHERE.get(knob.name, {})
            changed = value(name, **{knob.name: KNOBS[knob.name]}, **where)
            assert changed != pytest.approx(value(name, **where)), knob.name


@pytest.mark.parametrize("name", OURS)
def test_every_loss_is_read_by_its_name(name: str, tmp_path: Path) -> None:
    knobs = {f.name: KNOBS[f.name] for f in fields(LOSSES[name]) if f.name not in ("weight", *ONLY_WHERE)}
    term = LOSSES[name](**knobs | ({"mining": "semi_hard"} if "mining" in knobs else {}))
    config = Config(loss={name: term})
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"loss": {name: asdict(term)}}))
    assert read_config([str(file)]) == config
    file.write_text(yaml.safe_dump(config.to_dict()))
    assert read_config([str(file)]) == config


@pytest.mark.parametrize("distance", DISTANCES)
def test_every_distance_is_read_by_its_name(distance: str) -> None:
    found = read_config(["--loss.batch_triplet.distance", distance, "--model.distance", distance])
    assert (found.loss, found.model.distance) == ({"batch_triplet": BatchTripletLoss(distance=distance)}, distance)


@pytest.mark.parametrize("name", sorted({*OURS} - {"softmax", "batch_triplet", "simcse", "distillation"}))
def test_defaults_are_those_of_the_functions(name: str) -> None:
    knobs = inspect.signature(getattr(losses, name)).parameters
    for field in fields(LOSSES[name]):
        if field.name == "distance":
            assert field.default == knobs["distance"].default.name
        elif field.name not in ("weight", "symmetric", "hard_negatives"):
            assert field.default == knobs[field.name].default


def test_what_the_losses_need_is_what_the_batches_bring() -> None:
    def needs(**sections: Any) -> tuple[bool, bool]:
        made = build_objective(sections)
        return made.needs_negatives, made.positives_only

    assert needs(triplet=TripletLoss()) == (True, True)
    assert needs(n_pair=NPairLoss()) == (False, True)
    assert needs(n_pair=NPairLoss(), triplet=TripletLoss()) == (True, True)
    assert needs(n_pair=NPairLoss(), batch_triplet=BatchTripletLoss()) == (False, False)
    assert needs(info_nce=InfoNCELoss()) == (False, False)
    assert needs(info_nce=InfoNCELoss(hard_negatives=True)) == (True, False)
    assert needs(softmax=SoftmaxLoss()) == (False, False)


def test_the_head_of_the_twin_is_trained() -> None:
    head = PairHead(8)
    made = build_objective({"head": HeadLoss(weight=0.5, frozen=True), "softmax": SoftmaxLoss()}, head)
    assert made.head is head
    assert {id(p) for p in head.parameters()} <= {id(p) for p in made.parameters()}
    made.allocate(8)
    made(batch()).backward()
    assert head.scale.grad is not None


def test_a_head_without_its_loss_and_a_loss_without_its_head() -> None:
    with pytest.raises(ConfigError, match=r"model\.head is set, but loss\.head is not"):
        build_objective({"softmax": SoftmaxLoss()}, PairHead(8))
    with pytest.raises(ConfigError, match=r"loss\.head is set, but model\.head is not"):
        build_objective({"head": HeadLoss()})


def test_widths_and_memory() -> None:
    one = {"batch_triplet": BatchTripletLoss()}
    made = build_objective({**one, "matryoshka": MatryoshkaConfig([8, 4], [1.0, 0.5]), "memory": MemoryConfig(5)})
    assert made.widths == {8: 1.0, 4: 0.5}
    assert made.memory is not None
    assert made.memory.pairs == 5
    assert build_objective({**one, "matryoshka": MatryoshkaConfig([8, 4])}).widths == {8: 1.0, 4: 1.0}
    with pytest.raises(ConfigError, match=r"^--loss.matryoshka.widths: loss\.matryoshka: 2 widths, but 1 weights$"):
        read_config(["--loss.matryoshka.widths", "[8, 4]", "--loss.matryoshka.weights", "[1]"])


def test_widths_and_memory_are_read(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "loss:\n  info_nce: {}\n  matryoshka: {widths: [384, 64], weights: [1, 0.5]}\n  memory: {pairs: 64}\n"
    )
    expected = {
        "info_nce": InfoNCELoss(),
        "matryoshka": MatryoshkaConfig([384, 64], [1.0, 0.5]),
        "memory": MemoryConfig(64),
    }
    assert read_config([str(file)]).loss == expected
    file.write_text(yaml.safe_dump(Config(loss=expected).to_dict()))
    assert read_config([str(file)]).loss == expected
    found = read_config(["--loss.matryoshka.widths", "[32, 16]", "--loss.memory.pairs", "9"]).loss
    assert (found["matryoshka"], found["memory"]) == (MatryoshkaConfig([32, 16]), MemoryConfig(9))


def message(arguments: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("batch_triplt: {}", "unknown key 'loss.batch_triplt': did you mean 'batch_triplet'?"),
        ("triplt: null", "unknown key 'loss.triplt': did you mean 'triplet'?"),
        ("angular: {degree: 3}", "unknown key 'loss.angular.degree': did you mean 'degrees'?"),
        ("angular: {degrees: 90}", "loss.angular.degrees must be between 0 and 90, got 90"),
        ("angular: {weight: 0}", "loss.angular.weight must be > 0, got 0"),
        ("triplet: {margin: 0}", "loss.triplet.margin must be > 0, got 0"),
        ("triplet: {distance: cosin}", "loss.triplet: unknown distance 'cosin', expected one of cosine, "),
        ("triplet: 3", "'loss.triplet' is a section, got the value 3"),
        ("triplet: {margin: {a: 1}}", "'loss.triplet.margin' is a value, nothing lies below it"),
        ("matryoshka: {widths: wide}", "'loss.matryoshka.widths' is 'wide', expected"),
        ("memory: {pairs: many}", "'loss.memory.pairs' is 'many', expected int"),
        ("batch_triplet: {mining: hardest}", "'loss.batch_triplet.mining' is 'hardest', expected one of ['all', "),
        ("batch_triplet: {far: 1.2}", "loss.batch_triplet.far is for mining distance_weighted, got 1.2 with hard"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_their_line(tmp_path: Path, line: str, expected: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"loss:\n  cosent: {{}}\n  {line}\n")
    assert message([str(file)]).startswith(f"{file}:3: {expected}")


def test_every_knob_is_counted() -> None:
    """A loss is no way to hide keys: all of them, the losses' included, are so many."""

    def count(section: type) -> int:
        from textsiam.training.settings import Settings  # noqa: F401 (so that its hints resolve)

        below = {f.name: sections(section, f.name) for f in fields(section)}
        return sum(sum(map(count, found)) if found else 1 for found in below.values())

    def sections(section: type, name: str) -> list[type]:
        from dataclasses import is_dataclass
        from typing import get_type_hints

        if (section, name) == (Config, "loss"):
            return [*loss_sections().values()]
        return [t for t in within(get_type_hints(section)[name]) if isinstance(t, type) and is_dataclass(t)]

    def within(hint: object) -> list[object]:
        from typing import get_args

        return [hint, *(each for part in get_args(hint) for each in within(part))]

    assert sum(len(fields(section)) for section in loss_sections().values()) == 41
    assert (
        count(Config) <= 140 + 2 + 4 + 2 + 3 + 4 + 8 + 1 + 3
    )  # SimCSE, adapters, sets, distillation, kept share, sounds, imitations, whitening, grid, backwards


DOCS = (Path(__file__).resolve().parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", loss_sections())
def test_every_loss_is_documented(name: str) -> None:
    if issubclass(loss_sections()[name], Term):
        assert re.search(rf"^\| .*`{name}`.*\|.*\|.*\|.*\|$", DOCS, re.M)
    else:
        assert f"  {name}: {{" in DOCS


def test_every_mining_is_documented() -> None:
    for mining in ("all", "hard", "semi_hard", "easy", "random", "distance_weighted"):
        assert re.search(rf"^\| .*`mining: .*\b{mining}`.*\|.*\|.*\|.*\|$", DOCS, re.M), mining


def test_examples_in_the_docs_are_read(tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", DOCS, re.S)
    assert len(examples) == 4
    for example in examples:
        (tmp_path / "run.yaml").write_text(example)
        assert build_objective(read_config([str(tmp_path / "run.yaml")]).loss).terms


def test_the_axioms_of_every_distance_are_documented() -> None:
    """Which of them break the triangle inequality is tested beside the distances."""
    rows = {name: re.search(rf"^\| `{name}` \|(.*)\|$", DOCS, re.M) for name in DISTANCES}
    broken = {name for name, row in rows.items() if row is not None and row[1].strip().endswith("**no**")}
    assert all(rows.values())
    assert broken == {"cosine", "squared_euclidean"}
