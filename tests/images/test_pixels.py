from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

from textsiam.data.tables.errors import DataError
from textsiam.images.augmentation import Augment
from textsiam.images.medium import IMAGES, pair_images
from textsiam.images.names import picture_name
from textsiam.images.pixels import Pixels, dummy_pixels, ready_picture
from textsiam.inference.encoders import inputs_of
from textsiam.inference.inputs import TEXTS
from textsiam.inference.scratch import scratch_image_encoder
from textsiam.inference.tokens import tokenise
from textsiam.models.twin import Twin
from textsiam.training.batches.collation import TrainingPairs
from textsiam.training.batches.sampling import Uniform

TURNED = Augment(rotate=90)


@pytest.fixture(scope="module")
def images() -> SentenceTransformer:
    return scratch_image_encoder(size=32, widths=(8,), depths=(1,), device="cpu")


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    """Return six images; the first and the last show the same."""
    found = []
    for i in range(6):
        pixels = np.random.default_rng(i % 5).integers(0, 256, (30, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        found.append(str(tmp_path / f"{i}.png"))
    return found


def values(pixels: Pixels, rows: list[int], **how) -> torch.Tensor:
    return pixels.collate(rows, **how)["pixel_values"]


def test_features_are_those_of_the_processor(images, names):
    features = Pixels(names, images).collate([2, 0])
    assert features["modality"] == "image"
    expected = images.preprocess([Image.open(names[2]), Image.open(names[0])])["pixel_values"]
    assert torch.equal(features["pixel_values"], expected)
    assert features["pixel_values"].is_contiguous(memory_format=torch.channels_last)


def test_a_square_of_16_pixels_is_a_token(images, names):
    pixels = Pixels(names, images)
    assert pixels.lengths.tolist() == [4] * 6
    assert pixels.lengths_of([1, 2]).tolist() == [4, 4]
    assert dummy_pixels(images, 40)["pixel_values"].shape == (10, 1, 32, 32)
    assert dummy_pixels(images, 1)["pixel_values"].shape == (1, 1, 32, 32)


def test_the_same_seed_changes_images_alike_and_none_leaves_them(images, names):
    plain = Pixels(names, images)
    changed = plain.augmented([TURNED])
    assert torch.equal(values(changed, [0, 1]), values(plain, [0, 1]))
    first, again, other = (values(changed, [0, 1], seed=seed) for seed in ([3, 0], [3, 0], [3, 1]))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, values(plain, [0, 1]))


def test_an_image_is_changed_alike_whatever_stands_beside_it(images, names):
    changed = Pixels(names, images).augmented([Augment(shear=30, clusters=True), TURNED])
    clusters = np.array([7, 8, 9])
    together = values(changed, [0, 1, 2], seed=[1], clusters=clusters)
    alone = torch.cat([values(changed, [i], seed=[1], clusters=clusters[i : i + 1]) for i in range(3)])
    assert torch.equal(together, alone)


def test_large_images_are_shrunk_before_they_are_changed_and_opened_once(images, tmp_path):
    pixels = np.zeros((300, 400), dtype=np.uint8)
    pixels[100:200, 150:250] = 255
    Image.fromarray(pixels).save(tmp_path / "large.png")
    changed = Pixels([str(tmp_path / "large.png")], images).augmented([Augment(rotate=0.001)])
    plain = Pixels([str(tmp_path / "large.png")], images)
    first = values(changed, [0], seed=[0])
    assert (first - values(plain, [0])).abs().max() < 0.1
    (tmp_path / "large.png").unlink()
    assert torch.equal(values(changed, [0], seed=[0]), first)


def test_images_of_a_cluster_are_changed_alike_and_those_of_others_otherwise(images, names):
    changed = Pixels(names, images).augmented([Augment(rotate=90, clusters=True)])
    same = values(changed, [0, 5], seed=[1], clusters=np.array([4, 4]))  # two files of one picture
    assert torch.equal(same[0], same[1])
    apart = values(changed, [0, 5], seed=[1], clusters=np.array([4, 3]))
    assert torch.equal(apart[0], same[0])
    assert not torch.equal(apart[0], apart[1])


def test_batches_are_augmented_and_the_same_on_every_call(images, names):
    pairs = pair_images([names[0], names[2], names[4]], [names[1], names[3], names[5]], [1, 1, 1])

    def prepare(tower: SentenceTransformer, texts: list[str]) -> Pixels:
        return Pixels(texts, tower).augmented([Augment(rotate=90, clusters=True), TURNED])

    data = TrainingPairs(pairs, Twin(images), Uniform(np.arange(3), 3), seed=5, prepare=prepare)
    first, again, later = (next(data.epoch(epoch)).left[0]["pixel_values"] for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert first.shape == later.shape
    assert not torch.equal(first, later)


@pytest.mark.parametrize(
    ("families", "alike"), [(None, False), ([0] * 6, True), ([0, 1, 2, 3, 4, 5], False), ([-1] * 6, False)]
)
def test_clusters_of_a_family_are_changed_alike(images, names, families, alike):
    """The first and the last image show the same, and are of two clusters."""
    pairs = replace(pair_images([names[0], names[5]], [names[1], names[2]], [1, 1]), groups=np.array([0, 0, 1, 1]))
    pairs = replace(pairs, families=None if families is None else np.array(families[:4]))

    def prepare(tower: SentenceTransformer, texts: list[str]) -> Pixels:
        return Pixels(texts, tower).augmented([Augment(rotate=90, clusters=True)])

    batch = TrainingPairs(pairs, Twin(images), Uniform(np.arange(2), 2), prepare=prepare).collate(
        np.arange(2), seed=[0, 1]
    )
    first, last = batch.left[0]["pixel_values"][batch.left_rows]
    assert torch.equal(first, last) == alike


def test_kinds(images, tower):
    assert inputs_of(images) is IMAGES
    assert inputs_of(tower) is TEXTS
    with pytest.raises(ValueError, match="augment changes images and sounds: these inputs are texts"):
        tokenise(tower, ["why"]).augmented([TURNED])


def test_a_cache_notices_another_file_of_the_same_name(names):
    before = IMAGES.content(names[0])
    assert before == IMAGES.content(names[0]) != IMAGES.content(names[1])
    Image.new("L", (9, 9)).save(names[0])
    assert IMAGES.content(names[0]) != before
    assert TEXTS.content("why") == "why"
    with pytest.raises(DataError, match="no such image file"):
        IMAGES.content("nowhere.png")


def test_a_damaged_image_is_named_while_encoding(images, tmp_path, names):
    (tmp_path / "cut.png").write_bytes(Path(names[0]).read_bytes()[:60])
    with pytest.raises(DataError, match=r"cut\.png"):
        Twin(images).encode([*names, str(tmp_path / "cut.png")])


def test_images_that_are_large_are_made_ready_in_groups_and_are_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    tower = scratch_image_encoder(size=28, channels=3, widths=(8, 16), depths=(1, 1), dim=16, device="cpu")
    names = [picture_name(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)) for _ in range(5)]
    together = Pixels(names, tower).collate(range(5))
    monkeypatch.setattr("textsiam.images.pixels._OPEN_PIXELS", 2000)
    apart = Pixels([ready_picture(names[0], tower), *names[1:]], tower).collate(range(5))
    assert set(apart) == set(together)
    assert torch.equal(apart["pixel_values"], together["pixel_values"])
