"""What a training run did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from textsiam.data.pairs import Pairs


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Pairs that one of several runs left out each.

    Attributes:
        pairs: The pairs of all runs.
        similarity: That of the twin which did not learn from the pair, `(n,)`.
    """

    pairs: Pairs
    similarity: np.ndarray


@dataclass(frozen=True)
class TrainResult:
    """What a run did.

    Attributes:
        steps: Optimizer steps done in all, those before a resume included.
        best_step: Step of the weights that were kept.
        best_average_precision: Their validation average precision; None without validation pairs.
        history: One record for each log line and each validation.
        stopped_early: Whether patience ran out.
        interrupted: Whether a signal stopped the run; resume goes on from its last checkpoint.
        seconds: Wall-clock seconds of this call.
        left_out: What several runs left out, on the main process; None where they did not.
    """

    steps: int
    best_step: int
    best_average_precision: float | None
    history: list[dict[str, float]]
    stopped_early: bool
    interrupted: bool
    seconds: float
    left_out: LeftOut | None = None
