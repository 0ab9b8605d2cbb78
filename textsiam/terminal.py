"""What commands show: results on stdout, messages and progress on stderr, nothing from other libraries."""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from textsiam.evaluation.pairs import PairEvaluation


_UNBOUNDED = 10_000  # columns of a table that nobody looks at in a window


def quieten_libraries() -> None:
    """Keep other libraries' progress bars and chatter out of our output."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # Both are read when transformers is imported, which scoring may not need at all.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "transformers" in sys.modules:
        from transformers.utils import logging as chatter

        chatter.disable_progress_bar()
        chatter.set_verbosity_error()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)


@contextmanager
def loading() -> Iterator[None]:
    """Load libraries and models without collecting garbage: a sixth of a cold start would go into looking for some.

    What is loaded stays to the end, so later collections leave it out.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def fail(message: str, status: int) -> NoReturn:
    """Print a message on stderr and end with this status."""
    print(message, file=sys.stderr)
    sys.exit(status)


def print_verdict(row: dict[str, Any], *, with_texts: bool) -> None:
    """Print one scored pair on a line."""
    parts = [f"similarity {row['similarity']:.4f}"]
    if row["probability"] is not None:
        parts.append(f"probability {row['probability']:.3f}")
    if row["duplicate"] is not None:
        parts.append(("duplicate" if row["duplicate"] else "not a duplicate") + f" (threshold {row['threshold']:.4f})")
    if with_texts:
        parts.append(f"{row['question1']} | {row['question2']}")
    print("  ".join(parts))


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress with rate and remaining time on stderr; nothing for work that ends at once."""
    with progress_bars((what, "texts")) as (advance,):
        yield advance


@contextmanager
def progress_bars(*stages: tuple[str, str]) -> Iterator[list[Callable[[int, int], None]]]:
    """Show the progress of several stages, each from its first step on.

    Args:
        stages: What each is called, and what it counts.
    """
    if not (sys.stderr.isatty() or os.environ.get("FORCE_COLOR") or os.environ.get("TTY_COMPATIBLE")):
        yield [lambda done, total: None for _ in stages]  # nobody watches, and rich need not be loaded
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def begun(what: str, unit: str) -> Callable[[int, int], None]:
            task = bars.add_task(what, total=1, rate="", visible=False, start=False)

            def advance(done: int, total: int) -> None:
                shown = bars.tasks[task]
                if not shown.started:
                    bars.start_task(task)
                speed = shown.finished_speed or shown.speed
                rate = f"{speed:,.0f} {unit}/s" if speed else ""
                bars.update(task, completed=done, total=total, rate=rate, visible=True)

            return advance

        yield [begun(what, unit) for what, unit in stages]


def make_console(*, stderr: bool = False) -> Console:
    """Return a rich console for tables; in a file or a pipe, lines are as long as they are."""
    from rich.console import Console

    console = Console(stderr=stderr, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNBOUNDED
    return console


def escaped(text: str) -> str:
    """Return a text so that rich takes no part of it as markup."""
    from rich.markup import escape

    return escape(text)


def results_table(evaluations: list[PairEvaluation]) -> Table:
    """Return the measures of several evaluations as a table for the terminal, in percent."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from textsiam.evaluation.pairs import comparison_table

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


def bold(text: str) -> str:
    """Return a text as it stands out at a terminal; elsewhere as it is."""
    return _styled(text, "1")


def dim(text: str) -> str:
    """Return a text as it stands back at a terminal; elsewhere as it is."""
    return _styled(text, "2")


def _styled(text: str, code: str) -> str:
    plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


def warn(warnings: tuple[str, ...]) -> None:
    """Print warnings on stderr, a line each."""
    for warning in warnings:
        say(f"warning: {warning}")


def say(message: str, *, stream: TextIO | None = None) -> None:
    """Print a message, on stderr unless told otherwise."""
    print(message, file=stream or sys.stderr)


class LazyList(list[Any]):
    """A list that `print_json` works out while it prints it, once.

    Args:
        values: What it holds.
        count: How many these are.
    """

    def __init__(self, values: Iterable[Any], count: int) -> None:
        super().__init__()
        self._values, self._count = values, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)


def print_json(value: object) -> None:
    """Print a value as JSON on stdout, piece by piece."""
    for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(value):
        sys.stdout.write(piece)
    sys.stdout.write("\n")


def answer(facts: object, line: str, *, as_json: bool) -> None:
    """Say what was done: on stdout the facts as JSON, or a line on stderr."""
    print_json(facts) if as_json else say(line)


def rounded(value: float) -> float:
    """Return a score with the six digits that mean something."""
    return round(value, 6)
