"""A .npy file that is written block after block."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from textsiam.data.tables.arrays import save_vectors
from textsiam.models.twin import Twin
from textsiam.saving import SaveError


def test_is_read_as_one_array(tmp_path: Path) -> None:
    blocks = [np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32) for n in (4, 0, 7)]
    path = tmp_path / "vectors.npy"
    assert save_vectors(path, iter(blocks), dim=3) == 11
    mapped = np.load(path, mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, np.concatenate(blocks))
    assert save_vectors(path, [], dim=3) == 0
    assert np.load(path).shape == (0, 3)


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npy"
    save_vectors(path, [np.ones((2, 3), np.float32)], dim=3)

    def broken() -> Iterator[np.ndarray]:
        yield np.zeros((5, 3), np.float32)
        raise OSError(28, "No space left on device")

    with pytest.raises(SaveError, match=r"cannot write .*vectors\.npy: No space left on device"):
        save_vectors(path, broken(), dim=3)
    np.testing.assert_array_equal(np.load(path), np.ones((2, 3)))
    assert [p.name for p in tmp_path.iterdir()] == ["vectors.npy"]
    with pytest.raises(SaveError, match="cannot write"):
        save_vectors(tmp_path / "nowhere" / "vectors.npy", [], dim=3)


def test_a_stream_of_texts_becomes_a_file(twin: Twin, sentences: list[str], tmp_path: Path) -> None:
    path = tmp_path / "vectors.npy"
    stream = twin.encode_stream((t for t in sentences), block=10, precision="fp32")
    assert save_vectors(path, stream, dim=twin.dim) == 48
    np.testing.assert_allclose(np.load(path), twin.encode(sentences, precision="fp32"), atol=1e-5)
