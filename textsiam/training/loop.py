"""The training loop: one visible pass over the batches, through Accelerate."""

from __future__ import annotations

import time
from pathlib import Path

from textsiam.data.pairs import Pairs
from textsiam.models.twin import Twin
from textsiam.training.objective import Objective
from textsiam.training.run import Run, TrainResult
from textsiam.training.settings import Settings
from textsiam.training.stopping import graceful_stop


def train(
    twin: Twin,
    pairs: Pairs,
    objective: Objective,
    *,
    output: str | Path,
    settings: Settings | None = None,
    validation: Pairs | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> TrainResult:
    """Train a twin on labelled pairs; the twin ends with the weights of the best validation.

    Without validation pairs, the last weights are kept.

    Args:
        twin: Trained in place.
        pairs: Labelled pairs to learn from.
        objective: What is minimised.
        output: Folder for checkpoints, tokens, history.jsonl and tracker logs.
        settings: The knobs; None takes the defaults.
        validation: Labelled pairs that share no question with `pairs`; choose the best weights and stop early.
        resume: Go on from the newest checkpoint in `output`, if there is one: the result is the same as if the
            run had never stopped (bit for bit on a CPU).
        quiet: Show no progress bar.

    Returns:
        What happened, with the history of losses and validations.

    Raises:
        ResumeError: The checkpoint in `output` belongs to another run.
        SaveError: The disk is full or the folder cannot be written; the last checkpoint is intact.
    """
    run = Run(twin, pairs, objective, Path(output), settings or Settings(), validation)
    if resume:
        run.resume()
    started = time.perf_counter()
    run.mine()
    with run.progress(quiet) as advance, graceful_stop() as stop_requested:
        for batch in run.remaining_batches():
            run.step(batch)
            if not run.finished_step:
                continue
            advance()
            run.log()
            run.validate()
            run.mine()
            run.checkpoint()
            if run.stopping(stop_requested()):
                break
    return run.finish(time.perf_counter() - started)
