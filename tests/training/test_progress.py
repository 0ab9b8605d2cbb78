"""The bar of a training run."""

from __future__ import annotations

import sys

import pytest
from rich.console import Console

from textsiam.training.checkpoints import RunState
from textsiam.training.reporting import log


@pytest.mark.filterwarnings("ignore:install .ipywidgets.:UserWarning")
def test_in_a_notebook_the_streams_and_the_bar_do_not_call_each_other_for_ever(monkeypatch):
    """What a notebook shows flushes the streams: were these the bar's own, showing would begin again."""
    shown = []

    def display(segments, text):
        sys.stderr.flush()
        shown.append(text)

    monkeypatch.setattr("rich.jupyter.display", display)
    monkeypatch.setattr(log, "Console", lambda **options: Console(force_jupyter=True, **options))
    state = RunState()
    with log.progress(state, 2, 8, show=True) as advance:
        print("written by another library", end="", file=sys.stderr)
        state.step = 1
        advance()
        sys.stderr.flush()
    assert len(shown) < 50
