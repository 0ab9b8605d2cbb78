"""What the end of a run says against its own twin."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from textsiam.outcome import Outcome


def said(
    before: float, after: float, *, steps: int = 10, apart: bool = True, pixels: float | None = None
) -> str | None:
    """Return the warning of a run whose twin had one average precision before and another one after."""
    named = {"zero-shot": before, "trained": after} | ({} if pixels is None else {"raw pixels": pixels})
    evaluations = [
        SimpleNamespace(
            name=name, tells_pairs_apart=apart, report=SimpleNamespace(average_precision=SimpleNamespace(value=value))
        )
        for name, value in named.items()
    ]
    outcome = SimpleNamespace(evaluations=evaluations, result=SimpleNamespace(steps=steps))
    return Outcome.warning.fget(outcome)  # pyright: ignore[reportOptionalCall]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"before": 0.8, "after": 0.9}, None),
        ({"before": 0.8, "after": 0.8, "steps": 0}, None),
        (
            {"before": 0.94, "after": 0.933},
            "training has made the twin worse: its AP fell from 94.0 % to 93.3 %",
        ),
        ({"before": 0.94, "after": 0.933, "steps": 0}, "as no step was trained, try it without whitening"),
        ({"before": 0.8, "after": 0.9, "apart": False}, "the twin gives every pair the same probability"),
        ({"before": 0.8, "after": 0.9, "pixels": 0.95}, "raw pixels are better than the trained twin"),
        ({"before": 0.8, "after": 0.9, "pixels": 0.85}, None),
    ],
)
def test_a_run_says_what_speaks_against_its_twin(given, expected):
    warning = said(**given)
    assert warning is None if expected is None else expected in (warning or "")
