"""What a run says as it goes: history.jsonl, the tracker, and a progress bar."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from textsiam.saving import SaveError
from textsiam.training.checkpoints import RunState
from textsiam.training.losses.objective import Embedded
from textsiam.training.reporting.collapse import shuffled_cosine, warn_if_collapsed


def not_finite(what: str, step: int) -> ValueError:
    """Return the error of a run that has diverged; `what` is the loss, or the weights, with its verb."""
    return ValueError(
        f"the {what} no finite number at step {step} or shortly before: lower the learning rate, or use precision bf16 "
        "or fp32; earlier checkpoints are intact"
    )


class RunLog:
    """The log of a run.

    Args:
        accelerator: Knows the tracker, and which process writes.
        state: Where the run stands; its history grows.
        output: Folder of history.jsonl.
    """

    def __init__(self, accelerator: Accelerator, state: RunState, output: Path) -> None:
        self._accelerator, self._state, self._file = accelerator, state, output / "history.jsonl"
        self._losses: list[Tensor] = []
        self._cosines: list[Tensor] = []
        self._clock, self._step = time.perf_counter(), 0

    def note(self, loss: Tensor, embedded: Embedded) -> None:
        """Note the loss of a batch, and how alike its vectors are."""
        self._losses.append(loss.detach())
        self._cosines.append(shuffled_cosine(embedded))

    def check_losses(self) -> None:
        """Stop before weights that are no numbers are validated or replace a good checkpoint.

        Raises:
            ValueError: A loss since the last line is no finite number.
        """
        if self._losses and not torch.stack(self._losses).isfinite().all():
            raise not_finite("loss is", self._state.step)

    def write_line(self, learning_rate: Any, batch_size: int) -> None:
        """Record the mean loss and the pace since the last line; warn where the twin collapses."""
        self.check_losses()
        step, now = self._state.step, time.perf_counter()
        record = {
            "step": step,
            "loss": torch.stack(self._losses).mean().item(),
            "learning_rate": learning_rate,
            "random_pair_cosine": torch.stack(self._cosines).mean().item(),
            "pairs_per_second": (step - self._step) * batch_size / (now - self._clock),
        }
        self._losses, self._cosines, self._clock, self._step = [], [], now, step
        self.record(record)
        if self._accelerator.is_main_process:
            warn_if_collapsed(record)

    def record(self, record: dict[str, float]) -> None:
        """Write a record, which names its step, to the history and the tracker.

        Raises:
            SaveError: history.jsonl cannot be written.
        """
        self._state.history.append(record)
        if self._accelerator.is_main_process:
            self._accelerator.log({k: v for k, v in record.items() if k != "step"}, step=int(record["step"]))
            try:
                self._file.write_text("".join(json.dumps(r) + "\n" for r in self._state.history))
            except OSError as error:
                raise SaveError(f"cannot write {self._file}: {error.strerror}") from error

    @contextmanager
    def untimed(self) -> Iterator[None]:
        """Do not count what the block takes as time of training."""
        started = time.perf_counter()
        yield
        self._clock += time.perf_counter() - started

    def store_window(self) -> None:
        """Put the losses since the last line into the state, so that the next line does not depend on a resume."""
        self._state.window = [torch.stack(w).tolist() if w else [] for w in (self._losses, self._cosines)]

    def restore_window(self) -> None:
        """Go on from what `store_window` put into the state."""
        window = (torch.tensor(w, device=self._accelerator.device) for w in self._state.window)
        self._losses, self._cosines = map(list, window)
        self._step = self._state.step


@contextmanager
def progress(state: RunState, total: int, batch_size: int, *, show: bool) -> Iterator[Callable[[], None]]:
    """Show a bar of `total` steps with pace and time to go; what is yielded moves it to where the run stands."""
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
               TimeRemainingColumn())  # fmt: skip
    console = Console(stderr=True)
    # What a notebook shows flushes its streams: were these sent through the bar, each would call the other for ever.
    streams = dict.fromkeys(("redirect_stdout", "redirect_stderr"), not console.is_jupyter)
    with Progress(*columns, disable=not show, console=console, **streams) as bars:
        task = bars.add_task("", total=total, completed=state.step, note="")
        started, first = time.perf_counter(), state.step

        def advance() -> None:
            rate = (state.step - first) * batch_size / (time.perf_counter() - started)
            best = "" if state.best is None else f", best AP {state.best:.4f}"
            bars.update(task, completed=state.step, note=f"{rate:.0f} pairs/s{best}")

        yield advance
