"""How much is tried: a seeded tenth, or with TEXTSIAM_HOSTILE=all everything, whose result is kept for the report."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "hostile.json"
EVERYTHING = os.environ.get("TEXTSIAM_HOSTILE") == "all"


@pytest.fixture(scope="session")
def tries():
    """Return how many of n tries are made."""
    return lambda count: count if EVERYTHING else max(1, count // 10)


@pytest.fixture(scope="session")
def soon():
    """Return the seconds in which others are answered: half a second alone, two beside the rest of a suite."""
    return 0.5 if EVERYTHING else 2.0


@pytest.fixture
def result(request):
    """Keep the facts of a test that tried everything."""
    started = time.monotonic()

    def keep(**facts):
        if not EVERYTHING:
            return
        found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        facts |= {"seconds": round(time.monotonic() - started, 1), "python": platform.python_version()}
        found[request.node.name] = facts
        RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")

    return keep
