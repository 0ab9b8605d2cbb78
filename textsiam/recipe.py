"""The main job, start to end: read, split, measure, train, calibrate, measure again, report, save."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from textsiam.config.preflight import begun, claimed, faults, prepare_folder
from textsiam.config.run import (
    Config,
    build_augment,
    build_objective,
    build_pairs,
    build_set,
    build_sets,
    build_twin,
)
from textsiam.data.splits import Splits
from textsiam.evaluation.pairs import PairEvaluation, evaluate_pairs
from textsiam.evaluation.raw_pixels import RAW_PIXELS, RawPixels
from textsiam.manifest import Manifest
from textsiam.models.twin import Twin
from textsiam.outcome import Outcome, write_inputs, write_results
from textsiam.search.duplicates import fit_collection_decision
from textsiam.terminal import escaped, progress_bars, results_table
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
        ConfigError: The output folder holds a run already, or another one is at work there; a split is empty, or a
            reranker is to be trained by many.
        DataError: Pairs cannot be read.
        ModelError: The model cannot be found or built.
        SaveError: The output folder cannot be written.
        Interrupted: A signal asked the run to stop.
    """
    with claimed(Path(config.output)) if process_state().is_main_process else nullcontext():
        return _run(config, console)


def _run(config: Config, console: Console | None) -> Outcome | None:
    """Do the job in a folder that no other run works in."""
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
        write_inputs(config, splits, more)
    state.wait_for_everyone()
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
    write_results(outcome, config, more)
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
    """Train the twin; a run that is refused before its first step leaves all as it was."""
    output = Path(config.output)
    validation = splits.validation if len(splits.validation) else None
    try:
        with warnings.catch_warnings(record=quiet):
            warnings.simplefilter("always", CollapseWarning)
            result = train(
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
    except BaseException:
        if process_state().is_main_process and not begun(output, config):
            Manifest(output).put_back()
        raise
    finally:
        if process_state().is_main_process:
            Manifest(output).drop_aside()
    return result


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
    with nullcontext([None]) if say.quiet else progress_bars(("training the reranker", "pairs")) as (advance,):
        reranker = train_reranker(
            splits.train,
            config.reranker,
            tower=twin.left,
            symmetric=twin.right is None,
            seed=config.training.seed,
            device=str(twin.device),
            progress=advance,
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
