"""Cells that are averaged one by one, channels that vary: the naive loops, what is saved, and what is refused."""

import numpy as np
import pytest
import torch

from textsiam import Twin
from textsiam.images.pooling import GridPooling, StatisticsPooling
from textsiam.inference.encoders import ModelError
from textsiam.inference.scratch import scratch_image_encoder


@pytest.mark.parametrize(("side", "rows", "columns"), [(6, 2, 3), (5, 2, 3), (4, 1, 1), (3, 4, 5)])
def test_cells_are_the_means_of_their_rectangles(side, rows, columns):
    found = np.random.default_rng(0).normal(size=(2, side * side, 7))
    expected = []
    for image in found.reshape(2, side, side, 7):
        cells = [
            image[
                row * side // rows : -(-(row + 1) * side // rows),
                col * side // columns : -(-(col + 1) * side // columns),
            ]
            for row in range(rows)
            for col in range(columns)
        ]
        expected.append(np.concatenate([cell.mean(axis=(0, 1)) for cell in cells]))
    pooling = GridPooling(7, rows, columns)
    got = pooling({"token_embeddings": torch.from_numpy(found)})["sentence_embedding"]
    assert pooling.get_embedding_dimension() == got.shape[1]
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)


def test_layout_counts_in_a_grid_and_not_in_a_mean():
    tower = {
        grid: Twin(scratch_image_encoder(size=32, channels=1, widths=[16], depths=[1], grid=grid))
        for grid in (None, (2, 2))
    }
    ink = np.full((32, 32), 255, np.uint8)
    corners = [ink.copy() for _ in range(2)]
    corners[0][2:14, 2:14], corners[1][18:30, 18:30] = 0, 0
    same = {grid: float(np.prod(twin.encode(corners), axis=0).sum()) for grid, twin in tower.items()}
    assert same[2, 2] < same[None] - 0.02


def test_a_tower_with_a_grid_is_saved_and_opened(tmp_path):
    twin = Twin(scratch_image_encoder(size=32, channels=1, widths=[8, 16], depths=[1, 1], grid=[2, 3]))
    assert twin.dim == 6 * 16
    pictures = np.random.default_rng(0).integers(0, 255, (5, 32, 32), np.uint8)
    twin.save_pretrained(tmp_path)
    np.testing.assert_array_equal(Twin.from_pretrained(tmp_path).encode(list(pictures)), twin.encode(list(pictures)))
    assert "SentenceTransformer" not in (tmp_path / "README.md").read_text(encoding="utf-8")  # it needs our code
    assert Twin(scratch_image_encoder(size=32, widths=[8], depths=[1], grid=[2, 2], dim=12)).dim == 12


def test_what_fits_no_grid_is_refused():
    with pytest.raises(ValueError, match="square feature map, got 5 positions"):
        GridPooling(3, 2, 2)({"token_embeddings": torch.zeros(1, 5, 3)})
    for grid in ([2], [0, 3], [1, 2, 3]):
        with pytest.raises(ModelError, match="grid must be two numbers >= 1"):
            scratch_image_encoder(grid=grid)


def test_statistics_are_standard_deviations_layer_by_layer():
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(2, 3, 5, 4)), rng.normal(3, 7, size=(2, 6, 2, 3))]
    expected = []
    for image in range(2):
        parts = [np.array([channel.std() for channel in layer[image]]) for layer in maps]
        expected.append(np.concatenate([part / np.linalg.norm(part) for part in parts]))
    pooling = StatisticsPooling([3, 6])
    got = pooling({"all_layer_embeddings": tuple(map(torch.from_numpy, maps))})["sentence_embedding"]
    assert got.shape[1] == pooling.get_embedding_dimension() == 9
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


def test_texture_counts_in_statistics_and_layout_does_not():
    rng = np.random.default_rng(0)
    fine, coarse = (np.kron(rng.integers(0, 2, (32 // s, 32 // s)), np.ones((s, s))) for s in (1, 8))
    layers = [torch.from_numpy(np.stack([x, np.abs(np.diff(x, axis=1, prepend=0))])[None]) for x in (fine, coarse)]
    moved = torch.roll(layers[0], (5, 9), (2, 3))
    vector = lambda layer: StatisticsPooling([2])({"all_layer_embeddings": (layer,)})["sentence_embedding"]  # noqa: E731
    assert float((vector(layers[0]) * vector(moved)).sum()) > 0.999
    assert float((vector(layers[0]) * vector(layers[1])).sum()) < 0.99


def test_an_even_layer_has_a_gradient_and_no_direction():
    even = torch.ones(1, 2, 4, 4, requires_grad=True)
    found = StatisticsPooling([2])({"all_layer_embeddings": (even,)})["sentence_embedding"]
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(even.grad).all()


@pytest.mark.parametrize("shapes", [[(1, 3, 2, 2)], [(1, 4, 2, 2), (1, 6, 2, 2)], [(1, 3, 2), (1, 6, 2, 2)], []])
def test_layers_of_other_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match=r"expected feature maps of \[3, 6\] channels, got the shapes"):
        StatisticsPooling([3, 6])({"all_layer_embeddings": tuple(torch.zeros(shape) for shape in shapes)})
