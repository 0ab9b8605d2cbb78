"""The main job, start to end: read, split, measure, train, calibrate, measure again, report, save."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from textsiam.config.data import DataConfig
from textsiam.config.run import (
    Config,
    build_augment,
    build_objective,
    build_pairs,
    build_set,
    build_sets,
    build_twin,
)
from textsiam.data.pairs import Pairs
from textsiam.data.splits import Splits
from textsiam.data.tables.writers import write_table
from textsiam.evaluation.pairs import ComparisonRow, PairEvaluation, comparison_table, evaluate_pairs
from textsiam.evaluation.raw_pixels import RAW_PIXELS, RawPixels
from textsiam.evaluation.report import write_report
from textsiam.evaluation.report.pictures import EmbeddingMap
from textsiam.manifest import Manifest
from textsiam.media.files import class_folders
from textsiam.modality import shown_by
from textsiam.models.twin import Twin
from textsiam.preflight import RESULTS, begun, faults, input_names, prepare_folder, scratch_names
from textsiam.saving import SaveError
from textsiam.search.duplicates import fit_collection_decision
from textsiam.terminal import escaped
from textsiam.training.batches.sets import TrainingSet
from textsiam.training.distributed import launch_notes, process_state
from textsiam.training.loop import train
from textsiam.training.losses.objective import Objective
from textsiam.training.mining.positives_only import with_trained_negatives
from textsiam.training.reporting.collapse import CollapseWarning
from textsiam.training.reporting.result import LeftOut, TrainResult
from textsiam.training.settings import LEXICAL, Settings
from textsiam.training.train_reranker import check_readable, check_trainable, train_reranker
from textsiam.yamlfile import together

if TYPE_CHECKING:
    from textsiam.config.run import DecisionConfig
    from textsiam.config.sets import ReadSet
    from textsiam.rerank.base import BaseReranker

_ON_MAP = 300  # inputs on the map of the report


@dataclass(frozen=True)
class Outcome:
    """What a run made.

    Attributes:
        output: The folder.
        twin: The trained twin, with its decision.
        evaluations: Zero-shot (of images raw pixels too) and trained, on the test pairs.
        result: What the training loop did.
        splits: The pairs that were used.
        reranker_seconds: How long the reranker was trained; None where there is none.
    """

    output: Path
    twin: Twin
    evaluations: list[PairEvaluation]
    result: TrainResult
    splits: Splits
    reranker_seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        return {
            "output": str(self.output),
            "model": str(self.output / "model"),
            "report": str(self.output / "report.html"),
            "evaluations": [e.to_dict() for e in self.evaluations],
            "steps": self.result.steps,
            "best_step": self.result.best_step,
            "stopped_early": self.result.stopped_early,
            "training_seconds": self.result.seconds,
            "reranker_seconds": self.reranker_seconds,
            "warning": self.warning,
        }

    @property
    def warning(self) -> str | None:
        """What speaks against the trained twin: one score for all pairs, or what did without training is better."""
        named = {e.name: e for e in self.evaluations}
        before, after = named["zero-shot"], named["trained"]
        aps = [100 * e.report.average_precision.value for e in (before, after)]
        cure = "the learning rate is too high: lower training.learning_rate"
        if not after.tells_pairs_apart:
            return f"training has diverged: the twin gives every pair the same probability; {cure}"
        if aps[1] < aps[0]:
            return (
                f"training has made the twin worse: its AP fell from {aps[0]:.1f} % to {aps[1]:.1f} %; perhaps {cure}"
            )
        pixels = named.get(RAW_PIXELS)
        if pixels is not None and (best := 100 * pixels.report.average_precision.value) > aps[1]:
            return f"raw pixels are better than the trained twin: an AP of {best:.1f} % against {aps[1]:.1f} %"
        return None


class Interrupted(Exception):
    """The run was asked to stop; it can go on from its last checkpoint."""


def run(config: Config, *, console: Console | None = None) -> Outcome | None:
    """Do the whole job that a config describes.

    Args:
        config: What to do.
        console: Where tables and progress go; None is quiet.

    Returns:
        The outcome; None on processes other than the first of a distributed run.

    Raises:
        ConfigError: The output folder holds a run already, a split is empty, or a reranker is to be trained by many.
        DataError: Pairs cannot be read.
        ModelError: The model cannot be found or built.
        SaveError: The output folder cannot be written.
        Interrupted: A signal asked the run to stop.
    """
    state = process_state()
    if found := faults(config):
        raise together(found)
    quiet = console is None or not state.is_main_process
    say = Console(quiet=True) if console is None or quiet else console
    output = Path(config.output)
    if state.is_main_process:
        prepare_folder(output, config)
    state.wait_for_everyone()

    settings = replace(config.training, augment=build_augment(config.training.augment))
    splits = build_pairs(config.data)
    parts = (splits.train, splits.validation, splits.calibration, splits.test)
    mined = config.data.labels == "positives" and settings.mine is None
    more = build_sets(config.data, splits)
    _announce(say, splits, more, config)
    twin = build_twin(config.model, splits.train, device=str(state.device), seed=config.training.seed)

    if mined:
        with say.status("mining negatives"):
            known = [part for part in (*parts[1:], *(each.pairs for each in more)) if len(part)]
            splits = splits.replacing(train=with_trained_negatives(twin, splits.train, known))
    objective = build_objective(config.loss, twin.head)
    further = [build_set(each, config.loss, twin.head) for each in more]
    if config.reranker is not None:
        check_trainable(splits.train, config.reranker)
        check_readable(config.reranker, twin.left)

    evaluations = []
    if state.is_main_process:
        _decide(twin, splits, config.decision)
        with say.status("measuring the untrained twin"):
            evaluations += _without_training(twin, splits, more, config.decision)
        _write_inputs(output, config, splits, more)
    twin.decision = None
    result = _train(twin, splits, objective, further, config, settings, quiet=quiet)
    if result.interrupted:
        raise Interrupted(f"stopped at step {result.steps}; go on with the same command and --resume true")
    reranker, reranker_seconds = _reranker(twin, splits, config, say)
    if not state.is_main_process:
        return None
    _decide_trained(twin, splits, config.decision)
    with say.status("measuring the trained twin"):
        evaluations.append(_evaluate(twin, splits, more, "trained"))
    if reranker is not None and _verify(twin, splits, reranker, config, result.left_out):
        with say.status("measuring the trained twin with its reranker"):
            evaluations.append(_evaluate(twin, splits, more, "reranked"))
    outcome = Outcome(output, twin, evaluations, result, splits, reranker_seconds)
    _save(outcome, config, [each.pairs for each in more])
    say.print(results_table(evaluations))
    if outcome.warning is not None:
        say.print(f"[yellow]warning[/] {escaped(outcome.warning)}", highlight=False, soft_wrap=True)
    return outcome


def _announce(say: Console, splits: Splits, more: Sequence[ReadSet], config: Config) -> None:
    """Say what is learned from, how, and what of that is not as one may think."""
    settings = config.training
    parts = [splits.train, splits.validation, splits.calibration, splits.test, *(each.pairs for each in more)]
    for decided in dict.fromkeys(d for part in parts for d in part.report.decided):
        say.print(f"note: {decided}", highlight=False, markup=False, soft_wrap=True)
    for warning in dict.fromkeys([*launch_notes(), *(w for part in parts for w in part.report.warnings)]):
        say.print(f"[yellow]warning[/] {escaped(warning)}", highlight=False)
    say.print(str(splits.report), highlight=False, markup=False, soft_wrap=True)
    knobs = f"{settings.epochs} epochs, batches of {settings.batch_size}, learning rate {settings.learning_rate:g}"
    say.print(f"losses: {', '.join(config.loss)}; {knobs}", highlight=False, markup=False, soft_wrap=True)
    for each in more:
        say.print(each.told(config.loss), highlight=False, markup=False, soft_wrap=True)


def _train(
    twin: Twin,
    splits: Splits,
    objective: Objective,
    more: Sequence[TrainingSet],
    config: Config,
    settings: Settings,
    *,
    quiet: bool,
) -> TrainResult:
    """Train the twin; a run that is refused before its first step leaves nothing behind."""
    output = Path(config.output)
    validation = splits.validation if len(splits.validation) else None
    try:
        with warnings.catch_warnings(record=quiet):
            warnings.simplefilter("always", CollapseWarning)
            return train(
                twin,
                splits.train,
                objective,
                output=output,
                settings=settings,
                validation=validation,
                more=more,
                resume=config.resume,
                quiet=quiet,
            )
    except Exception:
        if process_state().is_main_process and not begun(output, config):
            Manifest(output).clear()
        raise


def results_table(evaluations: list[PairEvaluation]) -> Table:
    """Return the measures of several evaluations as a table for the terminal, in percent."""
    rows = comparison_table(evaluations)
    first = evaluations[0].report
    title = f"{first.n:,} test pairs, {first.positives:,} duplicates; 95 % intervals"
    table = Table(title=title, box=SIMPLE_HEAD, show_edge=False, padding=0)  # 80 columns are enough for it
    table.add_column("", overflow="fold", min_width=len("zero-shot"))
    for name in ("AP %", "accuracy %", "F1 %", "calibration\nerror %"):
        table.add_column(name, justify="right", no_wrap=True)
    notes: dict[str, None] = {}
    for row in rows:
        estimates = (row.average_precision, row.accuracy, row.f1, row.calibration_error)
        table.add_row(escaped(row.name), *("–" if e is None else replace(e, note="").percent() for e in estimates))
        notes |= dict.fromkeys(e.note for e in estimates if e is not None and e.note)
    if notes:
        table.caption = "; ".join(notes)
    return table


def _write_inputs(output: Path, config: Config, splits: Splits, more: Sequence[ReadSet]) -> None:
    """Write what the run is made of: only now that it can start, so that a mistake leaves nothing behind."""
    settled = replace(config, resume=False, overwrite=False)
    Manifest(output).add(*input_names(config), *scratch_names(config))
    try:
        text = yaml.safe_dump(settled.to_dict(), sort_keys=False, allow_unicode=True)
        (output / "config.yaml").write_text(text, encoding="utf-8")
        sets = {"more": [each.facts(config.loss) for each in more]} if more else {}
        _write_json(output / "splits.json", {**splits.report.to_dict(), **sets})
        _write_pairs(output / "test.tsv", splits.test)
    except OSError as error:
        raise SaveError(f"cannot write into {output}: {error.strerror or error}") from error


def _decide(twin: Twin, splits: Splits, config: DecisionConfig) -> None:
    twin.calibrate(splits.calibration, rule=config.rule, prior=config.prior)


def _decide_trained(twin: Twin, splits: Splits, config: DecisionConfig) -> None:
    """Learn the decisions that are saved. A precision out of reach must not cost the training that came before."""
    _decide(twin, splits, config)
    if twin.right is None:
        twin.collection = fit_collection_decision(twin, splits.calibration)
    if config.precision is None:
        return
    try:
        twin.decision = twin.require_decision().at_precision(config.precision)
        if twin.collection is not None:
            precise = twin.collection.decision.at_precision(config.precision)
            twin.collection = replace(twin.collection, decision=precise)
    except ValueError as error:
        warnings.warn(f"decision.precision: {error}. The threshold follows the rule instead.", stacklevel=2)


def _reranker(
    twin: Twin, splits: Splits, config: Config, say: Console
) -> tuple[BaseReranker, float] | tuple[None, None]:
    """Return the reranker that a config asks for, and the seconds that its training took."""
    if config.reranker is None:
        return None, None
    started = time.perf_counter()
    with say.status("training the reranker"):
        reranker = train_reranker(
            splits.train,
            config.reranker,
            tower=twin.left,
            symmetric=twin.right is None,
            seed=config.training.seed,
            device=str(twin.device),
        )
    return reranker, time.perf_counter() - started


def _verify(twin: Twin, splits: Splits, reranker: BaseReranker, config: Config, left_out: LeftOut | None) -> bool:
    """Combine the reranker with the trained twin and decide again; a twin that cannot use it goes without.

    The combination is learned from pairs that are new to twin and reranker: what the runs left out, where there is no
    cross-encoder, which learned from those too; else the validation pairs. The decision is learned from other pairs.
    """
    assert config.reranker is not None
    settings = config.reranker
    if settings.model == LEXICAL and left_out is not None:
        pairs, similarity = left_out.pairs, left_out.similarity
    else:
        pairs = splits.validation if splits.validation.both_labels else splits.calibration
        similarity = twin.pair_similarity(pairs.texts, pairs.left, pairs.right)
    try:
        twin.reranker = reranker.fit(pairs, similarity, band=settings.band, lexical_features=settings.lexical_features)
    except ValueError as error:
        warnings.warn(f"reranker: {error}. The twin goes without it.", stacklevel=2)
        return False
    _decide_trained(twin, splits, config.decision)
    return True


def _without_training(
    twin: Twin, splits: Splits, more: Sequence[ReadSet], config: DecisionConfig
) -> list[PairEvaluation]:
    """Return what the test shows before training: of the twin, and of the raw pixels of images."""
    found = [_evaluate(twin, splits, more, "zero-shot")]
    if splits.test.images:
        pixels = RawPixels()
        with suppress(ValueError):  # they may say the contrary of the labels: then there is no threshold to learn
            pixels.calibrate(splits.calibration, rule=config.rule, prior=config.prior)
        found.append(evaluate_pairs(pixels, splits.test, name=RAW_PIXELS))
    return found


def _evaluate(twin: Twin, splits: Splits, more: Sequence[ReadSet], name: str) -> PairEvaluation:
    seen = set(splits.train.texts).union(*(each.pairs.texts for each in more))
    return evaluate_pairs(twin, splits.test, name=name, seen=seen)


def _save(outcome: Outcome, config: Config, more: Sequence[Pairs]) -> None:
    twin, splits, output, model = outcome.twin, outcome.splits, outcome.output, config.model
    used = {**splits.named(), **{f"more.{place}": pairs for place, pairs in enumerate(more)}}
    facts: Mapping[str, str] = {
        "model": str(model.builder or ("from scratch" if model.from_scratch else model.left)),
        "losses": ", ".join(n for n, v in config.to_dict()["loss"].items() if v is not None),
        "training pairs": ", ".join(f"{len(each):,} from {each.source}" for each in (splits.train, *more)),
        "training time": f"{outcome.result.seconds:.0f} s for {outcome.result.steps} steps"
        + (f", {outcome.reranker_seconds:.0f} s for the reranker" if outcome.reranker_seconds is not None else ""),
        "versions": ", ".join(
            f"{n} {version(n)}" for n in ("textsiam", "sentence-transformers", "transformers", "torch")
        ),
        "data fingerprint": splits.train.fingerprint[:16],
    }
    twin.provenance = {
        "measured": [_measured(row) for row in comparison_table(outcome.evaluations)],
        "tested on": _tested_on(config.data, splits.test),
        "fingerprints": {name: pairs.fingerprint for name, pairs in used.items()},
        "seed": config.training.seed,
        "identities": class_folders(n for part in (splits.train, *more) if part.modality != "text" for n in part.texts),
        **facts,
        "config": config.to_dict(),
    }  # fmt: skip
    manifest = Manifest(output)
    manifest.add(*RESULTS)
    twin.save_pretrained(output / "model")
    write_report(
        output / "report.html",
        outcome.evaluations,
        history=outcome.result.history,
        facts={**facts, "decision": twin.require_decision().learned_from},
        **shown_by(splits.test.modality),
        embedding=_map(twin, splits.test),
    )
    _write_json(output / "summary.json", outcome.to_dict())
    manifest.remove(scratch_names(config))


def _measured(row: ComparisonRow) -> dict[str, Any]:
    """Return a row of the model card: values, and the intervals of those that have one."""
    found = {
        "AP": row.average_precision,
        "accuracy": row.accuracy,
        "F1": row.f1,
        "calibration error": row.calibration_error,
    }
    known = {name: each for name, each in found.items() if each is not None}
    bounds = {name: [each.low, each.high] for name, each in known.items() if np.isfinite([each.low, each.high]).all()}
    return {"twin": row.name, **{name: each and each.value for name, each in found.items()}, "intervals": bounds}


def _tested_on(config: DataConfig, test: Pairs) -> dict[str, Any]:
    """Return what the model card says of the test: its source without folders, how it was cut, and how large it is."""
    source = config.train if config.test is None else config.test
    names = [Path(each).name for each in ([source] if isinstance(source, str) else source)]
    cut = {"share": config.test_share, "cut": config.split, "seed": config.seed} if config.test is None else {}
    size = {"pairs": len(test), "duplicates": int(test.labels.sum()), "fingerprint": test.fingerprint[:16]}
    return {"name": ", ".join(names), "args": {**size, **cut}}


def _map(twin: Twin, pairs: Pairs) -> EmbeddingMap | None:
    """Return a map of some of the inputs, by their groups; None where no picture would show what a point is."""
    if pairs.modality == "text":
        return None
    some = np.sort(np.random.default_rng(0).permutation(len(pairs.texts))[:_ON_MAP])
    inputs = [pairs.texts[i] for i in some]
    classes = None if pairs.groups is None else [str(group) for group in pairs.groups[some].tolist()]
    return EmbeddingMap(inputs, twin.encode(inputs), classes)


def _write_pairs(path: Path, pairs: Pairs) -> None:
    rows = zip(pairs.left_texts, pairs.right_texts, pairs.labels.tolist(), strict=True)
    names = (*pairs.columns, "is_duplicate")
    write_table(path, names, [dict(zip(names, row, strict=True)) for row in rows])


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
