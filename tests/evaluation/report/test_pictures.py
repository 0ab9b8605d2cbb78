from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from textsiam.evaluation.binary import binary_report
from textsiam.evaluation.pairs import PairEvaluation, WrongPair
from textsiam.evaluation.report import write_report
from textsiam.evaluation.report.pictures import (
    EmbeddingMap,
    embedding_figure,
    picture_pairs,
    project,
)
from textsiam.images.names import picture_thumbnail


def png(value: int, *, size: tuple[int, int] = (9, 9), mode: str = "L") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 0, 255 - value)).save(file, "PNG")
    return file.getvalue()


def painted(name: str) -> bytes | None:
    """A picture for names that are numbers, none for words."""
    return png(int(name) % 256) if name.isdigit() else None


def evaluation(n: int = 40) -> PairEvaluation:
    labels = (np.arange(n) % 2).astype(np.int8)
    scores = np.linspace(0.0, 1.0, n)
    return PairEvaluation(
        name="trained",
        left=[str(i) for i in range(n)],
        right=[str(100 + i) for i in range(n)],
        labels=labels,
        similarities=scores,
        probabilities=scores,
        threshold=0.5,
        report=binary_report(scores, labels, threshold=0.5, probabilities=scores, bootstrap=0),
        slices=(),
    )


class Page(HTMLParser):
    """Collects tags, ids and what images are loaded from; every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


def shade(uri: str) -> int:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        return picture.getpixel((0, 0))  # pyright: ignore


def test_the_grid_shows_the_hardest_pairs(tmp_path) -> None:
    done = evaluation()
    path = write_report(tmp_path / "r.html", [done], thumbnail=painted)
    page = Page(path.read_text(encoding="utf-8"))
    expected = [*done.worst_false_positives(12), *done.worst_false_negatives(12)]
    assert len(expected) == 20
    shown = [shade(image["src"]) for image in page.all("img")]
    assert shown == [int(name) for pair in expected for name in (pair.left, pair.right)]
    assert [image["alt"] for image in page.all("img")][:2] == [expected[0].left, expected[0].right]
    assert "the most similar first" in page.text
    assert "the least similar first" in page.text
    assert not page.all("mark")


def test_the_page_asks_for_nothing(tmp_path) -> None:
    points = EmbeddingMap(["1", "2", "word"], np.eye(3))
    html = write_report(tmp_path / "r.html", [evaluation()], thumbnail=painted, embedding=points).read_text()
    page = Page(html)
    assert "default-src 'none'" in html
    assert "img-src data:" in html
    links = [a.get("src") or a.get("href") for _, a in page.tags if a.get("src") or a.get("href")]
    assert all(link.startswith(("#", "data:image/png;base64,", "data:text/csv;base64,")) for link in links)
    assert not re.search(r"https?:|url\(|@import|<script |<link|<iframe|xlink", html)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert ids.index("map") > ids.index("mistakes")


def test_without_thumbnails_words_are_compared(tmp_path) -> None:
    html = write_report(tmp_path / "r.html", [evaluation()]).read_text()
    assert 'class="mistakes"' in html
    assert "<img" not in html
    assert 'id="map"' not in html


def test_equal_input_gives_equal_bytes(tmp_path) -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 8))
    points = EmbeddingMap([str(i) for i in range(30)], vectors, [str(i % 3) for i in range(30)])
    pages = [
        write_report(tmp_path / name, [evaluation()], thumbnail=painted, embedding=points).read_bytes() for name in "ab"
    ]
    assert pages[0] == pages[1]


def test_names_are_escaped_and_cut() -> None:
    evil = "</p><script>x</script>" + "a" * 500
    pair = WrongPair(evil, "7", 0.5, 0.5)
    html = picture_pairs("<b>", [pair], total=1, order="first", thumbnail=lambda name: png(7) if name == "7" else None)
    page = Page(html)
    assert not page.all("script")
    assert len(page.all("img")) == 1
    assert "a" * 99 not in html
    assert picture_pairs("t", [], total=0, order="first", thumbnail=painted).endswith("<p>None.</p>")
    assert "1 of 9, first." in picture_pairs("t", [pair], total=9, order="first", thumbnail=lambda _: None)


def test_a_thumbnail_that_is_no_png() -> None:
    with pytest.raises(ValueError, match="thumbnail of 7 is no PNG: it begins with b'GIF89a'"):
        picture_pairs("t", [WrongPair("7", "8", 0, 0)], total=1, order="", thumbnail=lambda _: b"GIF89a")


def test_the_map_holds_pictures_and_dots_by_class() -> None:
    names = ["1", "2", "word", "3"]
    points = EmbeddingMap(names, np.random.default_rng(0).normal(size=(4, 5)), ["x", "y", "x", "<y>"])
    page = Page(embedding_figure(points, painted))
    assert [shade(image["href"]) for image in page.all("image")] == [1, 2, 3]
    assert len(page.all("circle")) == 1 + 3  # a dot, and three in the legend
    styles = [g["style"] for g in page.all("g")]
    assert styles[0] == styles[2]
    assert len(set(styles)) == 3
    for text in ("x: 1", "y: 2", "x: word", "<y>: 3", "4 of 4 inputs"):
        assert text in page.text
    plain = Page(embedding_figure(EmbeddingMap(names, points.vectors)))
    assert not plain.all("image")
    assert len(plain.all("circle")) == 4
    assert not plain.all("li")


def test_the_map_is_thinned_and_names_few_classes() -> None:
    n = 1001
    vectors = np.random.default_rng(0).normal(size=(n, 6))
    page = Page(embedding_figure(EmbeddingMap([str(i) for i in range(n)], vectors, [str(i % 40) for i in range(n)])))
    assert len(page.all("circle")) == 300
    assert not page.all("li")
    assert "300 of 1,001 inputs" in page.text
    assert "40 classes" in page.text


@pytest.mark.parametrize("vectors", [np.random.default_rng(0).normal(size=(50, 8)) * np.arange(1, 9), np.ones((5, 3))])
def test_every_mark_is_on_the_map(vectors: np.ndarray) -> None:
    names = [str(i) for i in range(len(vectors))]
    page = Page(embedding_figure(EmbeddingMap(names, vectors), painted))
    for image in page.all("image"):
        x, y, size = (float(image[key]) for key in ("x", "y", "width"))
        assert 0 <= x <= 1000 - size
        assert 0 <= y <= 640 - size


@pytest.mark.parametrize("seed", range(5))
def test_the_projection_is_that_of_a_pca(seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(60, 8)) * np.arange(8, 0, -1)
    coordinates, shares = project(vectors)
    oracle = PCA(2, svd_solver="full").fit(vectors)
    np.testing.assert_allclose(np.abs(coordinates), np.abs(oracle.transform(vectors)), atol=1e-9)
    np.testing.assert_allclose(shares, oracle.explained_variance_ratio_)
    loadings = (vectors - vectors.mean(0)).T @ coordinates  # the components, each times a positive number
    assert (loadings[np.abs(loadings).argmax(0), [0, 1]] > 0).all()
    order = np.random.default_rng(1).permutation(60)
    np.testing.assert_allclose(project(vectors[order])[0], coordinates[order], atol=1e-9)


def test_projections_of_few_dimensions() -> None:
    for vectors in (np.ones((4, 3)), np.arange(4.0)[:, None], np.zeros((2, 1))):
        coordinates, shares = project(vectors)
        assert coordinates.shape == (len(vectors), 2)
        assert np.isfinite(coordinates).all()
        assert shares.sum() in (pytest.approx(0.0), pytest.approx(1.0))


@pytest.mark.parametrize(
    ("inputs", "vectors", "classes", "message"),
    [
        (["a"], np.ones((1, 2)), None, "two or more inputs"),
        (["a", "b"], np.ones((3, 2)), None, r"got 2 inputs and shape \(3, 2\)"),
        (["a", "b"], np.ones(2), None, "vectors"),
        (["a", "b"], np.ones((2, 2)), ["x"], "a class for each of 2 inputs, got 1"),
        (["a", "b"], np.array([[1.0], [np.nan]]), None, "not finite"),
    ],
)
def test_what_is_no_map(inputs, vectors, classes, message) -> None:
    with pytest.raises(ValueError, match=message):
        EmbeddingMap(inputs, vectors, classes)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_thumbnail_of_a_picture(tmp_path, mode: str) -> None:
    (tmp_path / "wide.png").write_bytes(png(50, size=(300, 100), mode=mode))
    with Image.open(io.BytesIO(picture_thumbnail(str(tmp_path / "wide.png")))) as small:
        assert (small.format, small.size, small.mode) == ("PNG", (72, 24), mode)
    with Image.open(io.BytesIO(picture_thumbnail(str(tmp_path / "wide.png"), side=30))) as small:
        assert small.size == (30, 10)
