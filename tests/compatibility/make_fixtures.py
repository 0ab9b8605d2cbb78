"""Save one of everything that version 0.1 can save, at toy size, with what it says about fixed inputs.

Run it with the code of 0.1, of which commit 87c0a51 was the last, and with the libraries of `constraints.txt`:

    git worktree add ../old 87c0a51
    PYTHONPATH=../old OMP_NUM_THREADS=1 python tests/compatibility/make_fixtures.py [NAME ...]

It writes `v0_1/NAME/saved` and `v0_1/NAME/expected.json`; with names, only these. It also lists the public names and
the config keys of 0.1. OpenVINO is left out: its toolkit writes absolute paths and sizes by its own version into the
graph, and what reads it is the same code that reads ONNX.
"""

from __future__ import annotations

import ast
import copy
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from test_saved_by_0_1 import ASKED, HERE, SAVED, Questions, drawings, without_bf16
from textsiam.loss_config import InfoNCEConfig, LossConfig
from textsiam.models.cohort import Cohort
from textsiam.models.halves import sides
from textsiam.search.feeding import add_questions, index_model
from textsiam.serving.reviews import Reviews, Suspect
from textsiam.training.verifier import train_verifier

import textsiam
from textsiam import (
    Ensemble,
    Gallery,
    Pairs,
    Twin,
    create_index,
    recipe,
    scratch_image_encoder,
    scratch_text_encoder,
    train,
)
from textsiam.config import Config, build_objective, read_config
from textsiam.models.ensemble import Regions
from textsiam.models.export import export_twin
from textsiam.models.learned import Head, build_head
from textsiam.search.duplicates import fit_collection_decision
from textsiam.search.index import Question
from textsiam.training.ensembles import find_regions
from textsiam.training.settings import Settings, VerifierSettings

LEARNED, OF_TOWERS = Questions.learned(), Questions.learned(towers=True)


def tower(seed: int = 0, **knobs: Any) -> SentenceTransformer:
    """Return a small tower that was trained a little: it knows duplicates, though not all of them."""
    return copy.deepcopy(_trained(seed, **knobs))


@cache
def _trained(seed: int, **knobs: Any) -> SentenceTransformer:
    size = {"vocabulary": 90, "hidden": 16, "layers": 1, "heads": 2, "max_tokens": 48}
    twin = Twin(scratch_text_encoder(OF_TOWERS.texts, **{**size, **knobs}, seed=seed, device="cpu"))
    settings = Settings(max_steps=12, epochs=9, batch_size=32, learning_rate=3e-3, tracker="none", seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        objective = build_objective(LossConfig(info_nce=InfoNCEConfig(temperature=0.1)))
        train(twin, OF_TOWERS, objective, output=folder, settings=settings, quiet=True)
    return twin.left.eval()


def decided(scorer: Any, *, precision: float | None = None) -> Any:
    scorer.calibrate(LEARNED)
    if scorer.right is None:
        scorer.collection = fit_collection_decision(scorer, LEARNED, precision=precision, limit=40)
    if precision is not None:
        scorer.decision = scorer.decision.at_precision(precision)
    return scorer


def head(kind: Any, **knobs: Any) -> Head:
    """Return a head whose weights are not those that it starts with."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = build_head(kind, dim=16, **knobs)
        for weight in made.parameters():
            weight.data += 0.05 * torch.randn(weight.shape)
    return made


def cohort(scorer: Any) -> Cohort:
    return Cohort.of(scorer.encode(LEARNED.texts[:12]), nearest=3)


def with_verifier(*, symmetric: bool = True, fitted: bool = True, right: Any = None, **knobs: Any) -> Twin:
    twin = Twin(tower(), right)
    settings = VerifierSettings(model=None, max_tokens=48, learning_rate=2e-3, batch_size=16, **knobs)
    twin.verifier = train_verifier(OF_TOWERS, settings, tower=tower(3), symmetric=symmetric, device="cpu")
    if fitted:
        similarity = Twin(tower(), right).pair_similarity(LEARNED.texts, LEARNED.left, LEARNED.right)
        twin.verifier.fit(LEARNED, similarity, band=(0.02, 0.98), wording=settings.wording)
        decided(twin)
    return twin


def of_images(**knobs: Any) -> Twin:
    tower_of_images = scratch_image_encoder(size=28, widths=(4, 8), depths=(1, 1), dim=8, device="cpu", **knobs).eval()
    twin = Twin(tower_of_images)
    images = drawings(40, seed=1)
    left, right = [], []
    for k in range(0, 38, 2):  # of one kind, and of two
        left += [images[k], images[k]]
        right += [images[k + 2], images[k + 1]]
    return twin.calibrate(Pairs.from_images(left, right, [1, 0] * 19))


def exported(folder: Path, graph_format: Any, *, int8: bool) -> None:
    export_twin(decided(Twin(tower())), folder, LEARNED, graph_format=graph_format, int8=int8, max_points_lost=100)
    if graph_format == "onnx":
        import onnx

        model = onnx.load(folder / "graph" / "model.onnx")
        for part in (model, model.graph, *model.graph.node):  # where torch found each node, by paths of this machine
            del part.metadata_props[:]
        onnx.save(model, folder / "graph" / "model.onnx")


def ensemble(*, regions: bool = False, of_cohort: bool = False, calibrated: bool = True) -> Ensemble:
    twins = [Twin(tower(1)), Twin(tower(2))]
    found: Regions | None = find_regions(Twin(tower()), LEARNED, 2) if regions else None
    made = Ensemble(twins, regions=found, provenance={"made": "of two"})
    if of_cohort:
        made = Ensemble(twins, regions=found, head=cohort(made))
    return decided(made) if calibrated else made


def gallery(folder: Path) -> None:
    made = Gallery(Twin.from_pretrained(SAVED / "twin" / "saved", device="cpu"))
    clusters = Questions.about(slice(10, None))
    for place, cluster in enumerate(clusters):
        made.enroll(f"identity {place}", cluster[2] if place % 3 else cluster[1:])
    inputs = [(cluster[0], f"identity {place}") for place, cluster in enumerate(clusters)]
    made.calibrate(*map(list, zip(*inputs, strict=True)), far=0.1)
    made.save(folder)


def index(folder: Path, *, merged: bool) -> None:
    twin = Twin.from_pretrained(SAVED / "twin" / "saved", device="cpu")
    made = create_index(folder, index_model(twin, name="a toy"))
    questions = [
        Question(f"q{k}", texts[2], {"verb": texts[2].split()[3], "number": k, "even": k % 2 == 0, "share": k / 8})
        for k, texts in enumerate(Questions.about(slice(8, None)))
    ]
    add_questions(twin, made, questions)
    if merged:
        made.compact()
    made.upsert([Question("q1", questions[1].text, {"verb": "clean"})], twin.encode([questions[1].text]),
                model=index_model(twin))  # fmt: skip
    made.delete(["q2"])
    if merged:
        made.compact()
    made.close()


def reviews(folder: Path) -> None:
    folder.mkdir()
    made = Reviews(folder / "reviews.sqlite")
    texts = Questions.texts()
    made.add(
        Suspect(text1=texts[k], text2=texts[k + 1], id1=f"q{k}", id2=f"q{k + 1}", similarity=0.75, probability=k / 16)
        for k in range(0, 9)
    )
    made.add([Suspect(text1="Why is it red?", text2="Why so röd, 為什麼?")])
    for number, duplicate in ((1, True), (2, False), (3, True)):
        made.decide(number, duplicate=duplicate)
    made.undo()
    made.record(Suspect(text1="Is it old?", text2="How old is it?"), duplicate=True)
    made.close()


def config(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.yaml").write_text(
        """\
# As people wrote it for version 0.1.
output: runs/mine
data: {train: "sample:forum", calibration_share: 0.1, columns: {left: first, right: second}}
model:
  scratch: {vocabulary: 300, hidden: 16, layers: 1}
  max_tokens: 32
  distance: euclidean
  head: {kind: mlp, hidden: 8}
loss:
  online_contrastive: {weight: 1.0, margin: 0.4}
  batch_semi_hard: {weight: 0.5, margin: 0.25}
  head: {weight: 0.1}
training:
  epochs: 2
  batch_size: 64
  accumulation: 2
  average: 0.99
  runs: 4
  leave_out: 0.25
  mine: {category: hard, negatives: 2, every: 3}
verifier:
  epochs: 0
  band: [0.05, 0.95]
  wording: true
decision: {rule: accuracy, precision: 0.9, prior: 0.3}
""",
        encoding="utf-8",
    )


def run(folder: Path) -> None:
    """Train by the command line, and keep what can be opened again."""
    rows = zip(LEARNED.left_texts, LEARNED.right_texts, LEARNED.labels.tolist(), strict=True)
    Path("questions.tsv").write_text(
        "question1\tquestion2\tis_duplicate\n" + "".join(f"{a}\t{b}\t{label}\n" for a, b, label in rows)
    )
    given = {
        "output": "run", "data.train": "questions.tsv", "data.test_share": 0.2, "data.calibration_share": 0.3,
        "model.scratch.vocabulary": 90, "model.scratch.hidden": 16, "model.scratch.layers": 1, "model.max_tokens": 32,
        "training.epochs": 12, "training.batch_size": 32, "training.average": 0.5, "training.log_every": 8,
        "training.tracker": "none", "training.learning_rate": 3e-3, "decision.precision": 0.6,
    }  # fmt: skip
    recipe.run(read_config([part for key, value in given.items() for part in (f"--{key}", str(value))]))
    folder.mkdir()
    for name in ("model", "config.yaml", "history.jsonl", "splits.json", "summary.json", "test.tsv"):
        (shutil.copytree if Path("run", name).is_dir() else shutil.copy)(Path("run", name), folder / name)


def saved(make: Callable[[], Any]) -> Callable[[Path], Any]:
    return lambda folder: make().save_pretrained(folder)


def tied() -> Twin:
    return decided(Twin(*sides(tower(layers=2), tower(4, layers=2), shared_layers=1)))


MADE: dict[str, Callable[[Path], Any]] = {
    "twin": saved(lambda: decided(Twin(tower(), provenance={"data fingerprint": "none", "seed": 0}))),
    "twin_precision": saved(lambda: decided(Twin(tower()), precision=0.45)),
    "twin_angular": saved(lambda: decided(Twin(tower(), distance="angular"))),
    "twin_projected": saved(lambda: Twin(tower(dim=8))),
    "asymmetric": saved(lambda: decided(Twin(tower(), perturbed(tower())))),
    "asymmetric_tied": saved(tied),
    "asymmetric_prompts": saved(lambda: decided(Twin(*sides(tower(), left_prompt="buy: ", right_prompt="sell: ")))),
    "head_mlp": saved(lambda: Twin(tower(), head=head("mlp", hidden=8)).calibrate(LEARNED)),
    "head_mahalanobis": saved(lambda: Twin(tower(), head=head("mahalanobis")).calibrate(LEARNED)),
    "head_mahalanobis_rank": saved(lambda: Twin(tower(), head=head("mahalanobis", rank=5)).calibrate(LEARNED)),
    "head_mahalanobis_diagonal": saved(
        lambda: Twin(tower(), head=head("mahalanobis", diagonal=True)).calibrate(LEARNED)
    ),
    "head_cohort": saved(lambda: Twin(tower(), head=cohort(Twin(tower()))).calibrate(LEARNED)),
    "ensemble": saved(ensemble),
    "ensemble_uncalibrated": saved(lambda: ensemble(calibrated=False)),
    "ensemble_regions": saved(lambda: ensemble(regions=True)),
    "ensemble_regions_uncalibrated": saved(lambda: ensemble(regions=True, calibrated=False)),
    "ensemble_cohort": saved(lambda: ensemble(of_cohort=True)),
    "verifier": saved(lambda: with_verifier(epochs=8)),
    "verifier_wording": saved(lambda: with_verifier(epochs=8, wording=True)),
    "verifier_wording_alone": saved(lambda: with_verifier(epochs=0, wording=True)),
    "verifier_one_order": saved(lambda: with_verifier(epochs=8, symmetric=False, right=perturbed(tower()))),
    "verifier_unfitted": saved(lambda: with_verifier(epochs=1, fitted=False)),
    "cnn": saved(of_images),
    "drawings": saved(lambda: of_images(drawings=True)),
    "drawings_enclosures": saved(lambda: of_images(drawings=True, enclosures=True)),
    "export_torch": lambda folder: exported(folder, "torch", int8=True),
    "export_onnx": lambda folder: exported(folder, "onnx", int8=False),
    "gallery": gallery,
    "index_merged": lambda folder: index(folder, merged=True),
    "index_unmerged": lambda folder: index(folder, merged=False),
    "reviews": reviews,
    "config": config,
    "run": run,
}


def perturbed(of: SentenceTransformer) -> SentenceTransformer:
    """Return a tower that is a little different, so that both still agree about duplicates."""
    other = copy.deepcopy(of)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(9)
        for weight in other.parameters():
            weight += 0.1 * weight.std(unbiased=False) * torch.randn(weight.shape)
    return other


def check_margins(name: str, expected: Any) -> None:
    """Refuse answers that another processor could turn over: scores of float32 that lie on their threshold."""
    *verdicts, [threshold] = expected.get("verdicts", [[0.0]])
    for similarity, _, _ in verdicts:
        assert abs(similarity - threshold) > 5e-6, (name, similarity, threshold)
    for *_, similarity, _ in expected.get("duplicates", ()):
        assert similarity - expected["threshold"] > 5e-6, (name, similarity, expected["threshold"])


def shortened(values: Any) -> Any:
    """Return plain values with nine digits of each number, which is all that float32 holds."""
    if isinstance(values, float):
        return float(f"{values:.9g}")
    if isinstance(values, list):
        return [shortened(value) for value in values]
    return {key: shortened(value) for key, value in values.items()} if isinstance(values, dict) else values


def public_names() -> dict[str, list[str]]:
    """Return the public names that each module of the package defines or hands on."""
    package = Path(textsiam.__file__).parent
    found = {"textsiam": sorted(textsiam.__all__)}
    for file in sorted(package.rglob("*.py")):
        module = ".".join(file.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        if module == "textsiam":
            continue
        names: set[str] = set()
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                names.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
            elif isinstance(node, ast.Assign):
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
                if any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
                    names |= set(ast.literal_eval(node.value))
            elif isinstance(node, ast.ImportFrom):
                names |= {alias.name for alias in node.names if alias.asname == alias.name}
        found[module] = sorted(name for name in names if not name.startswith("_"))
    return found


def config_keys(owner: Any = Config, prefix: str = "") -> dict[str, Any]:
    """Return every key of the config with a value that it takes: its default, where it has one."""
    found: dict[str, Any] = {}
    hints = get_type_hints(owner)
    for field in fields(owner):
        below = next((t for t in (hints[field.name], *get_args(hints[field.name])) if is_dataclass(t)), None)
        if below is not None:
            found |= config_keys(below, f"{prefix}{field.name}.")
            continue
        default = field.default if not callable(getattr(field, "default_factory", None)) else field.default_factory()
        plain = default is None or isinstance(default, (bool, int, float, str, list, tuple))
        found[prefix + field.name] = default if plain else [8]
    return json.loads(json.dumps(found))


def main(names: list[str]) -> None:
    without_bf16(setattr)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    assert list(MADE) == list(ASKED)
    here = os.getcwd()
    for name in names or MADE:
        shutil.rmtree(SAVED / name, ignore_errors=True)
        (SAVED / name).mkdir(parents=True)
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            torch.manual_seed(0)
            np.random.seed(0)  # noqa: NPY002
            MADE[name](SAVED / name / "saved")
            shutil.copytree(SAVED / name / "saved", Path(folder) / "copy")  # asking may write
            expected = shortened(json.loads(json.dumps(ASKED[name](Path(folder) / "copy"))))
            os.chdir(here)
        check_margins(name, expected)
        (SAVED / name / "expected.json").write_text(json.dumps(expected, ensure_ascii=False) + "\n", encoding="utf-8")
        size = sum(path.stat().st_size for path in (SAVED / name).rglob("*") if path.is_file())
        print(f"{name:32}{size / 1024:8.1f} KiB")
    for name, listed in {"public_names_0_1": public_names(), "config_keys_0_1": config_keys()}.items():
        (HERE / f"{name}.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    assert textsiam.__version__ == "0.1.0", f"this is {textsiam.__version__}: run it with the code of 0.1"
    main(sys.argv[1:])
