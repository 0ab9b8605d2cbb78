"""The commands on images: train on a folder of classes, judge, score, flag."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from textsiam.cli import main
from textsiam.config.run import ConfigError, build_pairs, read_config
from textsiam.data.tables.errors import DataError
from textsiam.evaluation.pairs import evaluate_pairs
from textsiam.evaluation.raw_pixels import RawPixels
from textsiam.evaluation.report import write_report
from textsiam.images import pair_images
from textsiam.recipe import Outcome


def draw(folder: Path, *, classes: int = 6, each: int = 30, alphabet: str = "bars") -> Path:
    """Write class folders of small pictures: a bar whose place says the class."""
    rng = np.random.default_rng(0)
    for c in range(classes):
        where = folder / alphabet / f"c{c}"
        where.mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 60, (20, 20), dtype=np.uint8)
            at = 3 * c + 1
            pixels[at : at + 2, 2:18] = 220
            Image.fromarray(pixels).save(where / f"{i}.png")
    return folder


CONFIG = """
model:
  scratch_image: {size: 20, widths: [8, 16], depths: [1, 1]}
  dim: 16
loss:
  online_contrastive: {margin: 0.5}
training:
  epochs: 3
  batch_size: 32
  learning_rate: 5e-3
  tracker: none
  augment: {shift: 0.05, brightness: 0.1}
data:
  pairs: 300
  validation_share: 0.2
  calibration_share: 0.2
  test_share: 0.2
"""


def run(*arguments: str) -> int:
    """Run a command in this process; returns its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["textsiam", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """Return a folder of images and the twin that `textsiam train` makes of it."""
    base = tmp_path_factory.mktemp("images")
    images = draw(base / "images")
    (base / "c.yaml").write_text(CONFIG)
    assert run("train", str(base / "c.yaml"), "--data.train", str(images), "--output", str(base / "run")) == 0
    return images, base / "run"


def called(capsys, *arguments: str) -> str:
    assert run(*arguments) == 0
    return capsys.readouterr().out


def test_the_model_remembers_who_it_was_trained_on(trained):
    from textsiam import Twin

    known = Twin.from_pretrained(trained[1] / "model", device="cpu").provenance["identities"]
    assert known == [f"c{c}" for c in range(6)]
    assert not re.search(r"\bc3\b", (trained[1] / "model" / "README.md").read_text())  # digests may hold the letters


def test_the_report_shows_pictures_and_a_map(trained):
    page = (trained[1] / "report.html").read_text()
    assert "data:image/png;base64" in page
    assert "Map of the vectors" in page
    assert "from scratch" in page
    assert (trained[1] / "test.tsv").read_text().startswith("image1\timage2\tis_duplicate\n")


def test_evaluate_reads_the_test_pairs_again(trained, capsys):
    found = json.loads(
        called(capsys, "evaluate", str(trained[1] / "model"), str(trained[1] / "test.tsv"), "--verification", "--json")
    )
    assert found["report"]["average_precision"]["value"] > 0.9
    assert found["verification"]["eer"]["value"] < 0.2
    assert found["slices"] == []  # which are by words


def test_evaluate_plays_episodes(trained, capsys):
    model, images = str(trained[1] / "model"), str(trained[0])
    found = json.loads(called(capsys, "evaluate", model, images, "--way", "5", "--episodes", "100", "--json"))
    assert found["accuracy"]["value"] > 0.8
    assert 0.1 < found["pixels"]["value"] <= 1
    text = called(capsys, "evaluate", model, images, "--way", "5", "--episodes", "50")
    assert "5-way 1-shot, 50 episodes over 6 classes" in text


def test_score_and_flag(trained, capsys):
    images, model = trained[0], str(trained[1] / "model")
    one, two = str(images / "bars/c0/0.png"), str(images / "bars/c0/1.png")
    verdict = json.loads(called(capsys, "score", model, one, two, "--json"))
    assert verdict["duplicate"] is True
    found = json.loads(called(capsys, "flag", model, str(images / "bars/c1"), "--json"))
    assert found["questions"] == 30
    assert {"id1", "id2"} <= found["pairs"][0].keys()


def test_a_picture_that_cannot_be_opened_is_named(trained, capsys, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert run("score", str(trained[1] / "model"), str(tmp_path / "bad.png"), str(tmp_path / "bad.png")) == 1
    assert "bad.png" in capsys.readouterr().err


def test_unseen_classes_are_in_the_test_only(tmp_path):
    images = draw(tmp_path / "images")
    draw(tmp_path / "images", alphabet="lines", classes=3)
    (tmp_path / "c.yaml").write_text(CONFIG)
    config = read_config([str(tmp_path / "c.yaml"), "--data.train", str(images), "--data.unseen", '["lines"]'])
    splits = build_pairs(config.data)
    assert all("/lines/" in name for name in splits.test.texts)
    assert not any("/lines/" in name for part in (splits.train, splits.calibration) for name in part.texts)
    assert len(splits.train) == 300
    assert splits.train.positives == 150
    own = read_config([str(tmp_path / "c.yaml"), "--data.train", str(images), "--data.disjoint", "true"])
    parts = build_pairs(own.data).named()
    classes = [{Path(name).parent.name + Path(name).parts[-3] for name in part.texts} for part in parts.values()]
    assert sum(map(len, classes)) == len(set().union(*classes))


def test_splits_with_a_source_of_their_own_keep_to_the_unseen_classes(tmp_path):
    letters, digits = draw(tmp_path / "letters"), draw(tmp_path / "digits", alphabet="digits", classes=4)
    sources = {"train": letters, "calibration": digits, "test": digits}
    given = [x for name, source in sources.items() for x in (f"--data.{name}", str(source))]
    splits = build_pairs(read_config([*given, "--data.unseen", '["digits/c2", "digits/c3"]']).data)
    classes = {name: {Path(text).parent.name for text in pairs.texts} for name, pairs in splits.named().items()}
    assert classes["calibration"] == {"c0", "c1"}
    assert classes["test"] == {"c2", "c3"}
    assert all("/letters/" in name for name in splits.train.texts)
    with pytest.raises(DataError, match="digits: has no class 'Greek', nor a folder of classes of this name"):
        build_pairs(read_config([*given, "--data.unseen", '["digits/c2", "Greek"]']).data)
    with pytest.raises(ConfigError, match=r"data.calibration: .* gives no pairs without the classes of data.unseen"):
        build_pairs(read_config([*given, "--data.unseen", '["digits"]']).data)


def test_knobs_of_labelled_images_are_refused_for_pairs():
    with pytest.raises(ConfigError, match=r"data.pairs, .unseen, .disjoint and .imitations are for labelled images"):
        build_pairs(read_config(["--data.pairs", "100"]).data)


def test_a_class_that_is_not_there(tmp_path):
    images = draw(tmp_path / "images", classes=2)
    (tmp_path / "test.csv").write_text("image1,image2,label\n")  # pairs have no classes
    for more in ([], ["--data.test", str(tmp_path / "test.csv")]):
        with pytest.raises(DataError, match="has no class 'Greek', nor a folder of classes of this name"):
            build_pairs(read_config(["--data.train", str(images), "--data.unseen", '["Greek"]', *more]).data)


def test_augmented_texts_are_refused(tmp_path, capsys):
    knobs = ["--training.augment.rotate", "5", "--training.max_steps", "1"]
    assert run("train", *knobs, "--output", str(tmp_path / "run")) == 1
    assert "augment changes images and sounds: these inputs are texts" in capsys.readouterr().err


def test_a_reranker_is_refused_before_anything_is_trained(tmp_path, capsys):
    images = draw(tmp_path / "images", classes=3)
    (tmp_path / "c.yaml").write_text(CONFIG.replace("pairs: 300", "pairs: 60"))
    knobs = ["--data.train", str(images), "--output", str(tmp_path / "run"), "--reranker.epochs", "1"]
    assert run("train", str(tmp_path / "c.yaml"), *knobs) == 1
    assert "a reranker reads both texts of a pair at once, these are images" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_image_twin_is_not_exported(trained, capsys, tmp_path):
    arguments = ["--format", "onnx", "--pairs", str(trained[1] / "test.tsv"), "--output", str(tmp_path / "fast")]
    assert run("export", str(trained[1] / "model"), *arguments) == 1
    assert "only a transformer with pooling can be exported" in capsys.readouterr().err


def test_raw_pixels_stand_beside_the_twin(trained):
    folder = trained[1]
    found = json.loads((folder / "summary.json").read_text())["evaluations"]
    assert [each["name"] for each in found] == ["zero-shot", "raw pixels", "trained"]
    assert '<th scope="col">raw pixels</th>' in (folder / "report.html").read_text()


def test_evaluate_ranks_the_raw_pixels_too(trained, tmp_path, capsys):
    model, test = str(trained[1] / "model"), str(trained[1] / "test.tsv")
    found = json.loads(called(capsys, "evaluate", model, test, "--report", str(tmp_path / "r.html"), "--json"))
    assert found["raw_pixels"]["threshold"] is None
    assert found["raw_pixels"]["report"]["average_precision"]["value"] > 0.5
    assert '<th scope="col">raw pixels</th>' in (tmp_path / "r.html").read_text()
    assert "raw pixels" in called(capsys, "evaluate", model, test)


class Scores(RawPixels):
    """Gives every pair the score that was written down for it."""

    written: tuple[float, ...] = ()

    def pair_similarity(self, texts, left, right):
        return np.resize(self.written, len(left))


def test_raw_pixels_that_are_better_are_said_to_be(tmp_path):
    drawn = [Image.new("L", (4, 4), i) for i in range(16)]
    pairs = pair_images(drawn, [Image.new("L", (4, 4), 99)] * 16, [1, 0] * 8)
    found = []
    for name, close in (("zero-shot", 5), ("raw pixels", 8), ("trained", 7)):
        scores = Scores()
        scores.written = (*(0.9, 0.1) * close, *(0.1, 0.9) * (8 - close))
        found.append(evaluate_pairs(scores.calibrate(pairs), pairs, name=name, bootstrap=0))
    outcome = Outcome(tmp_path, cast("Any", None), found, cast("Any", None), cast("Any", None))
    assert outcome.warning is not None
    assert re.fullmatch(
        r"raw pixels are better than the trained twin: an AP of 100.0 % against 8\d.\d %", outcome.warning
    )
    without = evaluate_pairs(RawPixels(), pairs, name="undecided", bootstrap=0)  # where pixels say the contrary
    write_report(tmp_path / "report.html", [found[0], without, *found[1:]])
    assert "<b>raw pixels: better than trained.</b>" in (tmp_path / "report.html").read_text()
