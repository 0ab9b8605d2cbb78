from __future__ import annotations

import pytest
from PIL import Image

import textsiam
from textsiam.data.pairs import read_pairs as read_table_of_pairs
from textsiam.data.tables.errors import DataError
from textsiam.data.texts import read_texts as read_table_of_texts
from textsiam.sources import read_pairs, read_texts


@pytest.fixture
def table(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("L", (3, 3)).save(tmp_path / name)
    path = tmp_path / "pairs.tsv"
    path.write_text("image1\timage2\tlabel\na.png\tb.png\t1\n", encoding="utf-8")
    return path


def test_it_is_the_public_reader():
    assert textsiam.read_pairs is read_pairs


def test_images_are_read_here_only(table):
    for read, read_a_table in ((read_pairs, read_table_of_pairs), (read_texts, read_table_of_texts)):
        assert read(table).images
        assert read(table).texts == [str(table.with_name(name)) for name in ("a.png", "b.png")]
        with pytest.raises(
            DataError, match=r"pairs\.tsv: holds images, and only texts are read here; see textsiam.sour"
        ):
            read_a_table(table)


def test_texts_are_read_alike_here_and_there(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("question1\tquestion2\tlabel\na\tb\t1\nc\td\t0\n", encoding="utf-8")
    assert read_pairs(path).fingerprint == read_table_of_pairs(path).fingerprint
    assert read_texts(path) == read_table_of_texts(path)


def test_a_folder_of_images_is_no_table(table):
    assert read_texts(table.parent).ids == ["a.png", "b.png"]
    with pytest.raises(DataError, match="is a directory, expected a file"):
        read_table_of_texts(table.parent)
