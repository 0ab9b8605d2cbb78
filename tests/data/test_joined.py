from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textsiam.data.image_sets import LabelledImages
from textsiam.data.images import read_images, split_labelled
from textsiam.data.joined import join_pictures, joined_name, joined_parts, with_joined_classes
from textsiam.data.pictures import is_picture_name, open_picture, picture_version
from textsiam.data.problems import DataError, ReadReport


def labelled(sizes: list[int]) -> LabelledImages:
    names = [f"{c}/{i}.png" for c, size in enumerate(sizes) for i in range(size)]
    classes = np.repeat(np.arange(len(sizes)), sizes)
    return LabelledImages(names, classes, [str(c) for c in range(len(sizes))], "here", ReadReport("here", 0, 0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return three classes of ten images each."""
    rng = np.random.default_rng(0)
    for c in "abc":
        (tmp_path / c).mkdir()
        for i in range(10):
            Image.fromarray(rng.integers(0, 256, (20, 20), dtype=np.uint8)).save(tmp_path / c / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("first", ["a.png", "x.zip#b/c (1), 100%.png", "data:image/png;base64,iVBORw0KGgo="])
def test_a_name_gives_its_parts_back(first):
    name = joined_name(first, "b,c.png", "beside")
    assert joined_parts(name) == (first, "b,c.png", "beside")
    assert is_picture_name(name)


@pytest.mark.parametrize("name", ["a.png", "above(a.png)", "above(a,b,c)", "left(a.png,b.png)", "above(a.png,b.png) "])
def test_other_names_are_of_no_made_up_image(name):
    assert joined_parts(name) is None


def test_a_question_with_brackets_is_no_image():
    assert not is_picture_name("above(the sky,the sea)")


def test_each_half_shows_its_image_and_the_overlap_shows_what_stands_out():
    ink, blank = Image.new("L", (20, 20), 0), Image.new("L", (20, 20), 0)
    ink.paste(200, (5, 2, 15, 18))
    above, below = (np.asarray(join_pictures(*pair, "above")) for pair in ((ink, blank), (blank, ink)))
    assert above[:12].max() == below[8:].max() == 200
    assert above[12:].max() == below[:8].max() == 0
    np.testing.assert_array_equal(
        np.asarray(join_pictures(ink.transpose(Image.Transpose.TRANSPOSE), blank, "beside")), above.T
    )


def test_dark_ink_on_light_paper_is_joined_alike():
    ink, blank = Image.new("L", (20, 20), 0), Image.new("L", (20, 20), 0)
    ink.paste(200, (5, 2, 15, 18))
    light, paper = (Image.fromarray(255 - np.asarray(image)) for image in (ink, blank))
    np.testing.assert_array_equal(
        255 - np.asarray(join_pictures(light, paper, "above")), np.asarray(join_pictures(ink, blank, "above"))
    )


def test_the_result_has_the_size_of_the_first_and_colour_where_one_has_it():
    joined = join_pictures(Image.new("L", (30, 20), 9), Image.new("RGB", (7, 50), (200, 9, 9)), "beside")
    assert (joined.size, joined.mode) == ((30, 20), "RGB")
    assert joined.getpixel((0, 0)) == (9, 9, 9)
    assert joined.getpixel((29, 19)) == (200, 9, 9)


def test_a_made_up_image_opens_by_name_and_a_missing_half_is_named(folder):
    first, second = (str(folder / c / "0.png") for c in "ab")
    name = joined_name(first, second, "above")
    expected = join_pictures(open_picture(first), open_picture(second), "above")
    np.testing.assert_array_equal(np.asarray(open_picture(name)), np.asarray(expected))
    before = picture_version(name)
    Image.new("L", (9, 9)).save(second)
    assert picture_version(name) != before
    with pytest.raises(DataError, match=r"nowhere\.png"):
        open_picture(joined_name(first, "nowhere.png", "above"))


def test_made_up_classes_join_every_image_of_one_class_with_one_of_another():
    images = labelled([4, 6, 5])
    more = with_joined_classes(images, 12, seed=3)
    assert more.names[:15] == images.names
    assert len(set(more.class_names)) == 15
    for c in range(3, 15):
        first, second, place = joined_parts(more.class_names[c])
        names = [more.names[i] for i in np.flatnonzero(more.classes == c)]
        assert first != second
        assert len(names) == min(int((images.classes == int(k)).sum()) for k in (first, second))
        for name in names:
            left, right, how = joined_parts(name)
            assert (left[0], right[0], how) == (first, second, place)


def test_as_many_classes_as_there_are_and_the_same_for_the_same_seed():
    images = labelled([3, 3, 3])
    assert with_joined_classes(images, 0) is not None
    assert with_joined_classes(images, 5, seed=1).names == with_joined_classes(images, 5, seed=1).names
    assert with_joined_classes(images, 5, seed=1).names != with_joined_classes(images, 5, seed=2).names
    with pytest.raises(DataError, match="here: 13 joined classes are wanted, 3 classes make 12"):
        with_joined_classes(images, 13)
    with pytest.raises(ValueError, match=">= 0, got -1"):
        with_joined_classes(images, -1)


def test_only_train_gets_made_up_classes(folder):
    cut = split_labelled(read_images(folder), joined=6, validation=0.2, calibration=0.2, test=0.2)
    made_up = {name: [joined_parts(t) is not None for t in getattr(cut, name).texts] for name in ("train", "test")}
    assert any(made_up["train"])
    assert not any(made_up["test"])
    assert len(np.unique(cut.train.groups)) == 9
