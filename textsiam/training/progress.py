"""The progress bar of a training run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from textsiam.training.checkpoints import RunState


@contextmanager
def progress(state: RunState, total: int, batch_size: int, *, show: bool) -> Iterator[Callable[[], None]]:
    """Show a bar of `total` steps with pace and time to go; what is yielded moves it to where the run stands."""
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, disable=not show, console=Console(stderr=True)) as bars:
        task = bars.add_task("", total=total, completed=state.step, note="")
        started, first = time.perf_counter(), state.step

        def advance() -> None:
            rate = (state.step - first) * batch_size / (time.perf_counter() - started)
            best = "" if state.best is None else f", best AP {state.best:.4f}"
            bars.update(task, completed=state.step, note=f"{rate:.0f} pairs/s{best}")

        yield advance
