"""What the tests of products share, whatever the vectors are cast to."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def found_in():
    """Return what puts together what blocks find among n vectors: `(n, n)` bool; every block must be in order."""

    def found(block, count, parts):
        table = np.zeros((count, count), bool)
        for top, bottom, first, last in parts:
            row, column = block(top, bottom, first, last)
            assert (np.diff(row * 1000 + column) > 0).all()
            table[row + top, column + first] = True
        return table

    return found
