"""Classes that imitate others: read from the table of a folder, split with what they imitate, and judged beside it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from textsiam.config.data import DataConfig, build_pairs
from textsiam.data.pairs import Pairs
from textsiam.data.tables.errors import DataError, ReadReport
from textsiam.images import LabelledImages, read_images
from textsiam.media.imitations import draw_judged, families, with_families
from textsiam.media.pairs import draw_pairs


def signatures(writers: int = 4, genuine: int = 5, forged: int = 3) -> LabelledImages:
    """Return images of writers, without files; the last writer was never forged."""
    names, classes, class_names = [], [], []
    for writer in range(writers):
        for kind, count in (("genuine", genuine), ("forgery", forged if writer < writers - 1 else 0)):
            class_names.append(f"w{writer}/{kind}")
            names += [f"{writer}/{kind[0]}{i}.png" for i in range(count)]
            classes += [len(class_names) - 1] * count
    return LabelledImages(names, np.array(classes), class_names, "made", ReadReport("made", len(names), len(names)))


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a table that lists eight writers, of three genuine and two forged signatures each."""
    rows = ["path\twriter\tkind\tsplit"]
    for writer in range(8):
        for kind, count in (("genuine", 3), ("forgery", 2)):
            for i in range(count):
                inside = f"all/{writer}_{kind}_{i}.png"
                (tmp_path / "all").mkdir(exist_ok=True)
                Image.new("L", (8, 8), 10 * writer + i).save(tmp_path / inside)
                rows.append(f"{inside}\t{writer:03d}\t{kind}\ttrain")
    (tmp_path / "index.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_a_family_is_a_folder_of_classes():
    family, imitates = families(signatures(), "forgery")
    assert family.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert imitates.tolist() == [False, True] * 4
    with pytest.raises(DataError, match="made: has no class FOLDER/copy, which would imitate"):
        families(signatures(), "copy")


def test_judged_pairs_are_half_of_one_writer_and_a_quarter_forged():
    images = signatures()
    pairs = draw_judged(images, "forgery", 40, seed=1)
    kinds = Counter()
    for left, right, label in zip(pairs.left_texts, pairs.right_texts, pairs.labels.tolist(), strict=True):
        alike, forged = left.split("/")[0] == right.split("/")[0], sum("/f" in each for each in (left, right))
        kinds[alike, forged, label] += 1
    # 30 of writers themselves, two thirds of them of one; beside them half as many forgeries of the same writer
    assert kinds == {(True, 0, 1): 20, (False, 0, 0): 10, (True, 1, 0): 10}
    assert len({frozenset(pair) for pair in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)}) == 40
    again = draw_judged(images, "forgery", 40, seed=1)
    assert (again.fingerprint, draw_judged(images, "forgery", 40, seed=2).fingerprint != pairs.fingerprint) == (
        pairs.fingerprint,
        True,
    )
    of_three = Counter(each[0] for each, label in zip(pairs.left_texts, pairs.labels, strict=True) if label == 0)
    assert len(of_three) >= 3


def test_one_writer_is_too_few_to_judge_by():
    with pytest.raises(DataError, match="made: to judge takes two classes of two images or more"):
        draw_judged(signatures(writers=3).of_classes(["w0/genuine", "w0/forgery"]), "forgery", 40)


def test_families_survive_selection_and_concatenation():
    images = signatures()
    pairs = with_families(draw_pairs(images, 30, seed=0), images, "forgery")
    assert with_families(pairs, images, None) is pairs
    some = Pairs.concat([pairs.select(np.arange(9)), pairs.select(np.arange(12, 30))])
    writer = [each.split("/")[0] for each in some.texts]
    assert some.families is not None
    together = {(a == b, u == v) for a, u in zip(some.families, writer, strict=True)
                for b, v in zip(some.families, writer, strict=True)}  # fmt: skip
    assert together <= {(True, True), (False, False), (False, True)}  # concat knows no names: a family may fall apart
    assert pairs.fingerprint != draw_pairs(images, 30, seed=0).fingerprint
    with pytest.raises(ValueError, match="made: 3 families for"):
        Pairs(pairs.texts, pairs.left, pairs.right, pairs.labels, "made", pairs.report, families=np.zeros(3))


def test_a_folder_names_its_classes_by_the_table_at_its_root(folder):
    images = read_images(folder, columns={"class": "writer/kind"})
    assert images.class_names[:3] == ["000/forgery", "000/genuine", "001/forgery"]
    assert np.bincount(images.classes).tolist() == [2, 3] * 8
    assert read_images(folder).class_names == ["all"]
    assert read_images(folder, columns={"image": "path", "class": "kind"}).class_names == ["forgery", "genuine"]


@pytest.mark.parametrize(
    ("columns", "change", "error", "message"),
    [
        ({"class": "writer/sort"}, None, DataError, r"index.tsv: has no column 'sort', its columns are 'path', "),
        ({"class": "writer", "left": "a"}, None, ValueError, "unknown role 'left', expected 'image' or 'class'"),
        ({"class": "writer"}, ("all/0_genuine_0.png", "all/none.png"), DataError, r"index.tsv:2: .*all/none.png"),
        ({"class": "writer"}, ("\t000\tgenuine", "\t\tgenuine"), DataError, r"index.tsv:2: 'writer' is ''"),
        (
            {"class": "writer"},
            ("", ""),
            DataError,
            "a table at its root, index.tsv or metadata.csv or alike, but it has",
        ),
    ],
)
def test_what_is_wrong_with_the_table_is_named(folder, columns, change, error, message):
    table = folder / "index.tsv"
    if change is not None:
        table.write_text(table.read_text().replace(*change, 1)) if change[0] else table.unlink()
    with pytest.raises(error, match=message):
        read_images(folder, columns=columns)


def test_splits_keep_forgeries_with_their_writers(folder):
    config = DataConfig(
        str(folder), columns={"class": "writer/kind"}, imitations="forgery", disjoint=True, unseen=["003", "005"],
        validation_share=0.0, calibration_share=0.34,
    )  # fmt: skip
    splits = build_pairs(config)
    writers = {
        name: {text.rpartition("/")[2].split("_")[0] for text in getattr(splits, name).texts}
        for name in ("train", "calibration", "test")
    }
    assert writers["test"] == {"3", "5"}
    assert len(writers["calibration"]) == 2
    assert len(writers["train"]) == 4
    assert splits.train.families is not None
    assert len(set(splits.train.families.tolist())) == 4
    assert not any("forgery" in a and "forgery" in b
                   for a, b in zip(splits.test.left_texts, splits.test.right_texts, strict=True))  # fmt: skip
