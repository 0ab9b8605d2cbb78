"""What is wrong with data, and what is said about it: one error, or counted warnings with file and line."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

OnBadRow = Literal["error", "skip"]
EXAMPLES = 5  # messages kept of each kind; the counts are exact


class DataError(ValueError):
    """The data cannot be used; the message names the file, the line and the value."""


class BadRows:
    """What becomes of a bad row: an error at once, or a count under its reason."""

    def __init__(self, name: str, *, on_bad_row: OnBadRow = "error") -> None:
        """Set what becomes of bad rows.

        Args:
            name: what the messages call the source.
            on_bad_row: "error" raises `DataError` at the first bad row, "skip" counts it and returns.

        Raises:
            ValueError: `on_bad_row` is neither "error" nor "skip".
        """
        if on_bad_row not in ("error", "skip"):
            raise ValueError(f"on_bad_row must be 'error' or 'skip', got {on_bad_row!r}")
        self.name = name
        self.on_bad_row: OnBadRow = on_bad_row
        self.skipped: Counter[str] = Counter()
        self.examples: list[str] = []
        self.decided: list[str] = []

    def within(self, name: str) -> BadRows:
        """Return the same for one of several files, with one count for all."""
        part = copy.copy(self)
        part.name = name
        return part

    def forget(self) -> None:
        """Forget the rows that were rejected so far: they are read again."""
        self.skipped.clear()
        self.examples.clear()

    def note(self, *decisions: str) -> None:
        """Remember how the source was understood where its header alone did not tell; empty ones say nothing."""
        told = (f"{self.name}: {decision}" for decision in decisions if decision)
        self.decided += [each for each in told if each not in self.decided]

    def report(self, good: int, kept: int, **more: Any) -> ReadReport:
        """Report that `good` rows were found beside the bad ones, and `kept` made of them; `more` are other fields."""
        facts = {
            "skipped": dict(self.skipped),
            "warnings": tuple(self.examples),
            "decided": tuple(self.decided),
            **more,
        }
        return ReadReport(self.name, good + sum(facts["skipped"].values()), kept, **facts)

    def nothing_usable(self, otherwise: str) -> DataError:
        """Make the error for a source of which nothing is left: the first bad row says why, if there is one."""
        return DataError(f"{self.name}: " + (f"no usable row: {self.examples[0]}" if self.examples else otherwise))

    def __call__(self, where: object, reason: str, problem: str) -> None:
        """Reject the row at `where` (a line, or "row 7"): `reason` is counted, `problem` is shown."""
        message = f"{self.name}:{where}: {problem}"
        if self.on_bad_row == "error":
            raise DataError(message)
        self.skipped[reason] += 1
        if self.skipped[reason] <= EXAMPLES:
            self.examples.append(f"skipped {message}")


@dataclass(frozen=True)
class ReadReport:
    """What reading a source kept and what it left out.

    `rows` were found and `kept` pairs (or texts) made of them; `skipped` counts bad rows by reason,
    `duplicate_rows` repeats of an unordered pair with the same label, `contradictory` rows whose unordered
    pair occurs with both labels (or two equal texts labelled "not duplicate"). `warnings` gives the first
    examples of each with file and line. `decided` says how the source was understood where more than its header told.
    """

    source: str
    rows: int
    kept: int
    skipped: dict[str, int] = field(default_factory=dict)
    duplicate_rows: int = 0
    contradictory: int = 0
    warnings: tuple[str, ...] = ()
    decided: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as plain JSON values."""
        return {**asdict(self), "warnings": list(self.warnings), "decided": list(self.decided)}

    def __str__(self) -> str:
        """Give the counts in one line, and each decision and example in another."""
        counts = {**self.skipped, "repeated": self.duplicate_rows, "contradictory": self.contradictory}
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
        head = f"{self.source}: {self.rows:,} rows, {self.kept:,} kept" + (f" ({left_out})" if left_out else "")
        return "\n".join([head, *(f"  {told}" for told in (*self.decided, *self.warnings))])
