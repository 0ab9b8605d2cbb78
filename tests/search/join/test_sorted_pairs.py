from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textsiam.search.join.exact import FoundPairs
from textsiam.search.join.sorted_pairs import COLUMNS, Blocks, Room, slices, sorted_blocks


@settings(max_examples=150, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(6, 9), st.sampled_from([0.5, 0.75, -0.5])), max_size=40),
    room=st.integers(1, 50),
    block=st.integers(1, 9),
    grouped=st.booleans(),
)
def test_an_external_sort_is_a_sort(tmp_path_factory, pairs, room, block, grouped) -> None:
    group = np.array([3, 0, 3, 1, 0, 1] + [9] * 4) if grouped else None
    blocks = [
        FoundPairs(*(np.array(column, kind) for column, kind in zip(zip(*part, strict=True), COLUMNS, strict=True)))
        for part in (pairs[start : start + block] for start in range(0, len(pairs), block))
    ]
    folder = tmp_path_factory.mktemp("runs")
    found = FoundPairs.joined(sorted_blocks(blocks, Room(room, folder), group=group))
    expected = sorted(pairs, key=lambda p: (0 if group is None else group[p[0]], -p[2], p[0], p[1]))
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected
    assert [column.dtype for column in found] == list(COLUMNS)
    assert not list(folder.iterdir())
    stored = Room(room, folder).columns("all", blocks, COLUMNS)
    held = Room().columns("all", blocks, COLUMNS)
    for a, b in zip(stored, held, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert [column.tolist() for part in slices(*stored) for column in part] == [c.tolist() for c in held if pairs]


def test_a_room_without_space_is_refused_and_blocks_begin_again() -> None:
    with pytest.raises(ValueError, match="at least 1 pair must fit into memory, got 0"):
        Room(0)
    blocks = Blocks(lambda: iter([1, 2]))
    assert [*blocks, *blocks] == [1, 2, 1, 2]


PEAK = """
import sys
from pathlib import Path
import numpy as np
from textsiam.search.duplicate_clusters import clusters_of_texts
from textsiam.search.exact_duplicates import ExactDuplicates
from textsiam.search.join.exact import FoundPairs
from textsiam.search.join.sorted_pairs import COLUMNS, Blocks, Room, sorted_blocks

folder, per_text, giant = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "giant"
n, room = 60_000, Room(100_000, folder)

def blocks():
    # each text with those after it: in one component, or in groups of which one pair is missing
    for start in range(0, n, 1000):
        rng = np.random.default_rng(start)
        left = np.repeat(np.arange(start, start + 1000), per_text)
        right = left + np.tile(np.arange(1, per_text + 1), 1000)
        kept = right < n if giant else (left // 100 == right // 100) & (left % 100 + right % 100 > 1)
        yield FoundPairs(left[kept], right[kept], rng.random(kept.sum()).astype(np.float32))

def peak():  # `ru_maxrss` starts at what the parent had
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

before = peak()
copies = ExactDuplicates(*(np.arange(n), np.ones(n, int)) * 2)
class Zeros:
    def __len__(self): return n
    def __getitem__(self, rows): return np.zeros((len(rows), 4), np.float32)
found = Blocks(blocks)
clusters = clusters_of_texts(Zeros(), found, copies, np.zeros(0, int), room)
left, *_ = room.columns("pairs", sorted_blocks(copies.pairs(found, np.zeros(0, int), np.zeros(0)), room), COLUMNS)
print(len(left), len(clusters), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak")
@pytest.mark.parametrize(("shape", "bytes_a_pair"), [("giant", 45), ("groups", 10)])
def test_memory_hardly_grows_with_the_pairs(tmp_path: Path, shape: str, bytes_a_pair: int) -> None:
    """In memory, 200 bytes a pair; of one component, the common neighbours of begun clusters stay there."""

    def measured(per_text: int) -> list[float]:
        command = [sys.executable, "-c", PEAK, str(tmp_path), str(per_text), shape]
        return [*map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())]

    few, many = measured(5), measured(50)
    assert many[0] > 7 * few[0] > 1e6
    assert min(few[1], many[1]) > 500
    assert few[2] > 10  # MiB: what is measured is there
    assert (many[2] - few[2]) * 2**20 < bytes_a_pair * (many[0] - few[0])
