"""`--on-bad-row skip` from end to end: the rest is worked on, and what is left out is counted and named."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from textsiam.inference.scratch import scratch_image_encoder
from textsiam.models.twin import Twin


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A saved twin of images."""
    tower = scratch_image_encoder(size=16, widths=[4], depths=[1], device="cpu")
    return Twin(tower).save_pretrained(tmp_path_factory.mktemp("skip") / "images")


@pytest.fixture(scope="session")
def texts(tower, tmp_path_factory):
    return Twin(tower).save_pretrained(tmp_path_factory.mktemp("skip") / "texts")


@pytest.fixture
def album(tmp_path):
    """A folder of four good images, a truncated one, an animation, and a file that is none."""
    folder = tmp_path / "album"
    folder.mkdir()
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)) for _ in range(5)]
    for i, image in enumerate(noise[:4]):
        image.save(folder / f"{i}.jpg")
    whole = io.BytesIO()
    noise[4].save(whole, "JPEG")
    (folder / "cut.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    noise[0].save(folder / "moving.gif", save_all=True, append_images=noise[1:3])
    (folder / "text.png").write_text("no image")
    return folder


def assert_told(said, source):
    assert said.status == 0, said.err
    for name, why in (("cut.jpg", "truncated"), ("moving.gif", "frames"), ("text.png", "no image that can be read")):
        (line,) = [line for line in said.err.splitlines() if name in line]
        assert line.startswith(f"warning: skipped {source}")
        assert why in line
    assert ": 3 of 7 left out: 3 unreadable image" in said.err


def test_a_folder_or_zip_with_broken_images(textsiam, pictures, album, tmp_path):
    packed = tmp_path / "album.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for path in album.iterdir():
            file.write(path, path.name)
    for source in (album, packed):
        said = textsiam("flag", pictures, source, "--threshold", "-1", "--on-bad-row", "skip", "--json")
        assert_told(said, source)
        assert (said.json["questions"], said.json["read"]["skipped"]) == (4, {"unreadable image": 3})
        vectors = tmp_path / "vectors.npy"
        assert_told(textsiam("encode", pictures, source, "--output", vectors, "--on-bad-row", "skip"), source)
        assert np.load(vectors).shape[0] == 4
        said = textsiam("match", pictures, "--queries", album / "0.jpg", "--documents", source, "--on-bad-row", "skip")
        assert said.status != 0  # one image is no list of queries
        said = textsiam("match", pictures, "--queries", source, "--documents", source, "--on-bad-row", "skip")
        assert said.err.count("cut.jpg") == 2
        assert said.status == 0


def test_an_index_of_images(textsiam, pictures, album, tmp_path):
    index = tmp_path / "index"
    assert textsiam("index", "create", pictures, index).status == 0
    said = textsiam("index", "add", pictures, index, album, "--on-bad-row", "skip", "--json")
    assert_told(said, album)
    assert said.json["questions"] == 4
    stopped = textsiam("index", "add", pictures, index, album)
    assert (stopped.status, stopped.err.count("\n")) == (1, 1)
    assert any(name in stopped.err for name in ("cut.jpg", "moving.gif", "text.png"))


def test_a_table_of_images(textsiam, pictures, album):
    names = sorted(path.name for path in album.iterdir())
    table = album / "pairs.tsv"
    table.write_text("image1\timage2\n" + "".join(f"0.jpg\t{name}\n" for name in names))
    said = textsiam("score", pictures, "--pairs", table, "--on-bad-row", "skip", "--json")
    assert said.status == 0, said.err
    assert [row["question2"][-5:] for row in said.json] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert f"skipped {table}:6: 'image2'" in said.err
    assert "3 of 7 left out: 3 unreadable image" in said.err


def test_texts_that_cannot_be_read(textsiam, texts, tmp_path):
    """Empty, repeated, half a character, NUL: each is named with its line, and counted."""
    rows = [
        '{"id": "1", "text": "Why do cats purr?"}',
        '{"id": "2", "text": ""}',
        '{"id": "1", "text": "Is tap water safe?"}',
        '{"id": "4", "text": "half \\ud800"}',
        '{"id": "5", "text": "nul \\u0000"}',
        '{"id": "6", "text": "Is tap water safe?"}',
        '{"id": "7", "text": ["no text"]}',
        "{",
    ]
    file, index = tmp_path / "q.jsonl", tmp_path / "index"
    file.write_text("\n".join(rows) + "\n")
    assert textsiam("index", "create", texts, index).status == 0
    for command in (
        ("index", "add", texts, index, file),
        ("match", texts, "--queries", file, "--documents", file),
        ("encode", texts, file, "--output", tmp_path / "v.npy"),
        ("flag", texts, file, "--threshold", "0.5"),
    ):
        said = textsiam(*command, "--on-bad-row", "skip")
        assert said.status == 0, said.err
        for line in (2, 3, 4, 5, 7, 8):
            assert f"skipped {file}:{line}: " in said.err
        assert f"note: {file}: 6 of 8 left out: " in said.err
        assert textsiam(*command).status == 1
