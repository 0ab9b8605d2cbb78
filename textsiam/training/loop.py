"""The training loop: one visible pass over the batches, through Accelerate."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

from textsiam.data.pairs import Pairs
from textsiam.data.splits import question_disjoint_parts
from textsiam.models.ensemble import average_twins, check_averageable
from textsiam.models.twin import Twin
from textsiam.training.batches.gradient_cache import encoded
from textsiam.training.batches.sets import TrainingSet
from textsiam.training.distributed import gather_batch, process_state
from textsiam.training.losses.objective import Objective
from textsiam.training.members import Member, train_members
from textsiam.training.reporting.log import progress
from textsiam.training.reporting.result import LeftOut, TrainResult
from textsiam.training.run import Run
from textsiam.training.settings import Settings
from textsiam.training.signals import graceful_stop
from textsiam.training.weights.whitening import check_whitenable, whiten


def train(
    twin: Twin,
    pairs: Pairs,
    objective: Objective,
    *,
    output: str | Path,
    settings: Settings | None = None,
    validation: Pairs | None = None,
    more: Sequence[TrainingSet] = (),
    resume: bool = False,
    quiet: bool = False,
) -> TrainResult:
    """Train a twin on labelled pairs; the twin ends with the weights of the best validation.

    Without validation pairs, the last weights are kept. With `settings.seeds` above 1, copies of the twin are trained
    one after the other, each with a seed of its own, and the twin ends with the mean of what they kept. With
    `settings.cross_fit` each leaves out another part of the pairs and judges it afterwards (cross-fitting): that is the
    `left_out` of the result.

    Args:
        twin: Trained in place.
        pairs: Labelled pairs to learn from.
        objective: What is minimised.
        output: Folder for checkpoints, tokens, history.jsonl and tracker logs.
        settings: The knobs; None takes the defaults.
        validation: Labelled pairs that share no question with `pairs`; choose the best weights and stop early.
        more: Further sets, whose batches come among those of `pairs`, which have weight 1. They must share no question
            with `validation`.
        resume: Go on from the newest checkpoint in `output`, if there is one: the result is the same as if the
            run had never stopped (bit for bit on a CPU).
        quiet: Show no progress bar.

    Returns:
        What happened, with the history of losses and validations.

    Raises:
        ValueError: Weights are to be averaged, of a twin with batch norms, whose statistics fit no mean.
        ModelError: Vectors are to be whitened, of a twin or by pairs with which that is not possible.
        ResumeError: The checkpoint in `output` belongs to another run.
        SaveError: The disk is full or the folder cannot be written; the last checkpoint is intact.
    """
    settings, output = settings or Settings(), Path(output)
    if settings.seeds > 1 or settings.trained_share is not None:
        check_averageable(twin)
    if settings.whitening is not None:
        check_whitenable(twin, pairs)
    if settings.seeds > 1:
        return _train_several(twin, pairs, objective, output, settings, validation, more, resume=resume, quiet=quiet)
    run = Run(twin, pairs, objective, output, settings, validation, more)
    if resume:
        run.resume()
    started = time.perf_counter()
    _learn(run, quiet)
    result = run.finish(time.perf_counter() - started)
    if settings.whitening is not None and not result.interrupted:
        whiten(twin, pairs, settings.whitening)
    return result


def _learn(run: Run, quiet: bool) -> None:
    """Take the remaining steps. What it holds of the distributed model ends with it, before `Run.finish` frees that."""
    accelerator, settings = run.accelerator, run.settings
    model, objective, optimizer = run.model, run.objective, run.optimizer
    show = accelerator.is_main_process and not quiet
    if run.stopping(False):  # a checkpoint of a run whose patience had run out already
        return
    run.mine()
    with progress(run.state, run.total_steps, settings.batch_size, show=show) as advance, graceful_stop() as requested:
        for batch in run.remaining_batches():
            model.train()
            objective.train()
            with accelerator.accumulate(model, objective):
                with encoded(accelerator, model, batch, cached=settings.gradient_cache, threads=run.threads) as sides:
                    embedded = gather_batch(accelerator, batch, *sides)
                    loss = objective(embedded)
                    accelerator.backward(loss)
                if accelerator.sync_gradients and settings.max_gradient_norm is not None:
                    trained = [*model.parameters(), *objective.parameters()]
                    accelerator.clip_grad_norm_(trained, settings.max_gradient_norm)
                optimizer.step()
                optimizer.zero_grad()
            run.count(loss, embedded)
            if not accelerator.sync_gradients:  # further batches make this step
                continue
            advance()
            run.log()
            run.validate()
            run.mine()
            run.checkpoint()
            if run.stopping(requested()):
                break


def _train_several(
    twin: Twin, pairs: Pairs, objective: Objective, output: Path, settings: Settings, validation: Pairs | None,
    more: Sequence[TrainingSet], *, resume: bool, quiet: bool,
) -> TrainResult:  # fmt: skip
    """Train copies of a twin with several seeds, and give it the mean of their weights (Wortsman et al. 2022)."""
    started = time.perf_counter()
    kept, apart = _parts(pairs, settings)
    members = [
        Member(
            output / f"run-{k}",
            part,
            validation,
            replace(settings, seeds=1, cross_fit=None, whitening=None, seed=settings.seed + k),
            tuple(each.apart_from(apart[k : k + 1]) for each in more),
        )
        for k, part in enumerate(kept)
    ]
    twins, results = train_members(train, twin, objective, members, resume=resume, quiet=quiet)
    if results[-1].interrupted:
        return _together(results, None, time.perf_counter() - started)
    left_out = None
    if apart and process_state().is_main_process:
        scores = [member.pair_similarity(p.texts, p.left, p.right) for member, p in zip(twins, apart, strict=True)]
        left_out = LeftOut(Pairs.concat(apart), np.concatenate(scores))
    twin.load_state_dict(average_twins(twins).state_dict())
    if settings.whitening is not None:
        whiten(twin, pairs, settings.whitening)
    score = None
    if validation is not None:
        similarity = twin.pair_similarity(validation.texts, validation.left, validation.right)
        score = float(average_precision_score(validation.labels, similarity))
    whole = replace(_together(results, score, time.perf_counter() - started), left_out=left_out)
    if process_state().is_main_process:
        (output / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in whole.history))
    return whole


def _parts(pairs: Pairs, settings: Settings) -> tuple[list[Pairs], list[Pairs]]:
    """Return what each run is trained on, and what it leaves out, if it does."""
    if settings.cross_fit is None:
        return [pairs] * settings.seeds, []
    places = question_disjoint_parts(pairs, settings.cross_fit, settings.seeds, seed=settings.seed)
    left, right = places[pairs.left], places[pairs.right]
    kept = [pairs.select((left != k) & (right != k)) for k in range(settings.seeds)]
    return kept, [pairs.select((left == k) & (right == k)) for k in range(settings.seeds)]


def _together(results: list[TrainResult], score: float | None, seconds: float) -> TrainResult:
    """Return what several runs did as one run, their steps counted on; the last record is that of the mean."""
    history, steps = [], 0
    for result in results:
        history += [{**record, "step": record["step"] + steps} for record in result.history]
        steps += result.steps
    if score is not None:
        history.append({"step": steps, "validation_ap": score})
    stopped, interrupted = (any(vars(r)[name] for r in results) for name in ("stopped_early", "interrupted"))
    return TrainResult(steps, steps, score, history, stopped, interrupted, seconds)
