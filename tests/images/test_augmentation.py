"""Augmented images: the same for the same seed, and what each knob does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from textsiam.images.augmentation import Augment, augmented, changed
from textsiam.modality import described

SEEDS = [(0, i) for i in range(20)]


@pytest.fixture
def picture():
    """A dark square, off the centre, on a light ground."""
    pixels = np.full((40, 60, 3), (250, 240, 230), dtype=np.uint8)
    pixels[5:15, 10:20] = (10, 20, 30)
    return Image.fromarray(pixels)


def array(image):
    return np.asarray(image).astype(int)


def test_no_knob_is_the_identity(picture):
    assert Augment()(picture, [3]) is picture


@given(
    st.builds(
        Augment,
        rotate=st.floats(0, 180),
        shift=st.floats(0, 0.9),
        scale=st.floats(0, 2),
        shear=st.floats(0, 60),
        flip=st.booleans(),
        elastic=st.floats(0, 0.25),
        brightness=st.floats(0, 1),
        contrast=st.floats(0, 1),
    ),
    st.lists(st.integers(0, 2**40), min_size=1, max_size=3),
    st.sampled_from([("L", (1, 1)), ("L", (7, 3)), ("RGB", (2, 9))]),
)
@settings(deadline=None)
def test_the_same_seed_gives_the_same_image(augment, seed, shape):
    mode, size = shape
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    before = image.tobytes()
    first, again = augment(image, seed), augment(image, tuple(seed))
    assert (first.mode, first.size) == (mode, size)
    assert first.tobytes() == again.tobytes()
    assert image.tobytes() == before


def test_seeds_differ(picture):
    augment = Augment(rotate=20, shift=0.1)
    assert len({augment(picture, seed).tobytes() for seed in SEEDS}) == len(SEEDS)


def test_flip_mirrors_exactly_or_not_at_all(picture):
    mirrored = array(picture)[:, ::-1]
    found = [array(Augment(flip=True)(picture, seed)) for seed in SEEDS]
    flips = [np.array_equal(each, mirrored) for each in found]
    assert 4 < sum(flips) < 16
    assert all(flip or np.array_equal(each, array(picture)) for flip, each in zip(flips, found, strict=True))


def test_shift_stays_within_its_share_and_fills_with_the_border(picture):
    for seed in SEEDS:
        moved = array(Augment(shift=0.1)(picture, seed))
        assert (moved[[0, -1]] == (250, 240, 230)).all()
        rows, columns = np.nonzero(moved[..., 0] < 130)
        assert abs(rows.mean() - 9.5) <= 4.5
        assert abs(columns.mean() - 14.5) <= 6.5


def test_rotation_is_about_the_centre():
    pixels = np.zeros((41, 41), dtype=np.uint8)
    pixels[20, 20] = 255
    for seed in SEEDS:
        assert array(Augment(rotate=180)(Image.fromarray(pixels), seed))[20, 20] > 250


def test_scale_and_shear_change_the_area_as_they_should(picture):
    area = (array(picture)[..., 0] < 130).sum()
    scaled = [(array(Augment(scale=0.5)(picture, seed))[..., 0] < 130).sum() / area for seed in SEEDS]
    assert min(scaled) >= 1 / 1.5**2 - 0.1
    assert max(scaled) <= 1.5**2 + 0.1
    assert max(scaled) > 1.2 > 0.8 > min(scaled)
    for seed in SEEDS:
        assert (array(Augment(shear=20)(picture, seed))[..., 0] < 130).sum() == pytest.approx(area, rel=0.15)


def test_elastic_bends_a_line_and_keeps_its_ink():
    pixels = np.zeros((60, 60), dtype=np.uint8)
    pixels[28:32, 10:50] = 255
    bent = [array(Augment(elastic=0.05)(Image.fromarray(pixels), seed)) for seed in SEEDS]
    for each in bent:
        assert each.sum() == pytest.approx(pixels.sum(), rel=0.6)
        assert each[5:55].sum() == each.sum()
    middles = [(each * np.arange(60)[:, None]).sum(0)[12:48] / each.sum(0)[12:48] for each in bent]
    assert np.median([np.ptp(middle) for middle in middles]) > 1.5  # it is no straight line any more
    assert np.median([abs(np.diff(middle)).max() for middle in middles]) < 1  # nor is it torn


def test_changes_add_up_to_one_after_the_other(picture):
    first, second = Augment(rotate=40, shift=0.1, flip=True, brightness=0.3), Augment(shear=20, scale=0.2)
    for seed in SEEDS:
        at_once = array(changed(picture, [first.drawn(seed), second.drawn(seed)]))
        in_turn = array(second(first(picture, seed), seed))
        assert abs(at_once - in_turn).mean() < 4
    assert changed(picture, []) is picture


def test_brightness_and_contrast():
    grey = Image.fromarray(np.tile(np.array([60, 100], np.uint8), (8, 4)))
    means = [array(Augment(brightness=0.5)(grey, seed)).mean() for seed in SEEDS]
    assert 40 <= min(means) < 70 < 90 < max(means) <= 120
    for seed in SEEDS:
        spread = array(Augment(contrast=0.5)(grey, seed))
        assert spread.mean() == pytest.approx(80, abs=1)
        assert 20 - 2 <= np.ptp(spread) <= 60 + 2


@pytest.mark.parametrize(
    ("knobs", "problem"),
    [
        ({"rotate": -1}, "rotate must be from 0 to 180, got -1"),
        ({"rotate": float("nan")}, "rotate must be from 0 to 180, got nan"),
        ({"shift": 1}, "shift must be from 0 to below 1, got 1"),
        ({"scale": float("inf")}, "scale must be from 0 to 10, got inf"),
        ({"shear": 90}, "shear must be from 0 to below 90, got 90"),
        ({"elastic": 0.3}, "elastic must be from 0 to 0.25, got 0.3"),
        ({"rotate": "much"}, "rotate must be from 0 to 180, got much"),
        ({"flip": "no"}, "flip must be true or false, got 'no'"),
        ({"contrast": 1.5}, "contrast must be from 0 to 1, got 1.5"),
    ],
)
def test_knobs_are_checked(knobs, problem):
    with pytest.raises(ValueError, match=f"^{problem}$"):
        Augment(**knobs)


def test_modes_are_checked():
    with pytest.raises(ValueError, match="must be of mode 'L' or 'RGB', got 'RGBA'"):
        Augment(rotate=5)(Image.new("RGBA", (2, 2)), [0])


@dataclass(frozen=True)
class Darker:
    """An augmentation of the user's own, of whole clusters where it says so."""

    clusters: bool = False

    def __call__(self, image, seed):
        share = np.random.default_rng(seed).random()
        return image.point(lambda value: share * value)


def inverted(image, seed):
    return ImageOps.invert(image)


def test_own_augmentations_stand_in_line_with_ours(picture):
    moved = Augment(rotate=30)(picture, [5, 0, 7])
    found = augmented(picture, [Augment(rotate=30), inverted], [5], row=7)
    assert found.tobytes() == ImageOps.invert(moved).tobytes()


def test_images_of_a_cluster_get_one_seed_from_what_changes_clusters(picture):
    for shared in (Darker(clusters=True), Augment(rotate=90, clusters=True)):
        first, again = (augmented(picture, [shared], [1], row=row, cluster=3) for row in (0, 1))
        other = augmented(picture, [shared], [1], row=0, cluster=4)
        assert first.tobytes() == again.tobytes() != other.tobytes()
        assert augmented(picture, [shared], [1], row=0).tobytes() == picture.tobytes()  # it has no cluster
    alone = [augmented(picture, [Darker()], [1], row=row, cluster=3).tobytes() for row in (0, 1)]
    assert alone[0] != alone[1]


def test_two_of_a_kind_do_not_draw_alike(picture):
    twice = augmented(picture, [Augment(shift=0.2), inverted, Augment(shift=0.2)], [1], row=0)
    alike = Augment(shift=0.2)(inverted(Augment(shift=0.2)(picture, [1, 0, 0]), ()), [1, 0, 0])
    assert twice.tobytes() != alike.tobytes()


def test_what_a_config_would_name():
    assert described(None) is None
    assert described(Augment(rotate=5))["rotate"] == 5
    path = f"{__name__}.Darker"
    assert described([Darker(True), "a.b"]) == [{path: {"clusters": True}}, "a.b"]
