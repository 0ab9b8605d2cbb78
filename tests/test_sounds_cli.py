"""The commands on sounds: train on a folder of classes, judge, score, flag, match, index, enroll."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from textsiam.cli import main
from textsiam.data.tables.errors import DataError
from textsiam.modality import medium_of
from textsiam.sounds import read_sounds
from textsiam.sounds.decoding import wav_bytes
from textsiam.sources import read_pairs, read_texts

pytest.importorskip("soundfile", reason="needs textsiam[audio]")
pytest.importorskip("soxr", reason="needs textsiam[audio]")

RATE = 8000
CONFIG = """
model:
  scratch_sound: {rate: 8000, bands: 20, widths: [8, 16], depths: [1, 1]}
  dim: 16
loss:
  online_contrastive: {margin: 0.5}
training:
  epochs: 3
  batch_size: 32
  learning_rate: 5e-3
  tracker: none
  augment: {shift: 0.05, speed: 0.05, noise: 0.1, time_masks: 1, band_masks: 1}
data:
  pairs: 200
  validation_share: 0.2
  calibration_share: 0.2
  test_share: 0.2
"""


def sing(folder: Path, *, classes: int = 5, each: int = 20, seed: int = 0) -> Path:
    """Write class folders of short sounds: two tones one after the other, whose pitches say the class."""
    rng = np.random.default_rng(seed)
    for c in range(classes):
        where = folder / f"word {c}"
        where.mkdir(parents=True)
        for i in range(each):
            time = np.arange(int(RATE * rng.uniform(0.2, 0.3))) / RATE
            pitch = np.where(time < 0.12, 400 + 300 * c, 2000 - 300 * c) * rng.uniform(0.97, 1.03)
            sound = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE) + rng.normal(0, 0.02, len(time))
            (where / f"{i}.wav").write_bytes(wav_bytes(sound.astype(np.float32), RATE))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """Return a folder of sounds and the run that `textsiam train` makes of it."""
    base = tmp_path_factory.mktemp("sounds")
    sounds = sing(base / "sounds")
    (base / "c.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        told = ["textsiam", "train", base / "c.yaml", "--data.train", sounds, "--output", base / "run"]
        patch.setattr(sys, "argv", [*map(str, told)])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    return sounds, base / "run"


def test_a_run_learns_words_and_the_report_plays_and_shows_them(trained):
    summary = json.loads((trained[1] / "summary.json").read_text())
    assert summary["evaluations"][-1]["report"]["average_precision"]["value"] > 0.9
    report = (trained[1] / "report.html").read_text()
    assert report.count("<audio controls") == report.count('src="data:audio/wav;base64,')
    assert "data:image/png;base64," in report
    assert "media-src data:" in report  # or no browser would play them


def test_score_evaluate_and_match(trained, textsiam):
    sounds, run = trained
    model, (a, b, c) = run / "model", (sounds / "word 0/0.wav", sounds / "word 0/1.wav", sounds / "word 4/0.wav")
    same, other = (textsiam("score", model, a, each, "--json").json["similarity"] for each in (b, c))
    assert same > other
    measured = textsiam("evaluate", model, sounds, "--json").json
    assert measured["report"]["average_precision"]["value"] > 0.9
    episodes = textsiam("evaluate", model, sounds, "--way", 5, "--episodes", 50, "--json").json
    assert episodes["accuracy"]["value"] > 0.8
    assert "pixels" not in episodes
    found = textsiam("match", model, "--queries", sounds / "word 1", "--documents", sounds, "--top-k", 1, "--json")
    assert found.status == 0
    assert "word 1" in found.out


def test_flag_writes_a_file_and_skips_what_cannot_be_heard(trained, tmp_path, textsiam):
    sounds = sing(tmp_path / "sounds", classes=2, each=3)
    (sounds / "word 0/silent.wav").write_bytes(wav_bytes(np.zeros(800, np.float32), RATE))
    (sounds / "word 0/cut.wav").write_bytes((sounds / "word 0/0.wav").read_bytes()[:-400])
    (sounds / "word 0/notes.txt").write_text("no sound")
    told = textsiam("flag", trained[1] / "model", sounds, "--output", tmp_path / "flagged.tsv")
    assert (told.status, told.err.count("Traceback")) == (1, 0)
    assert "truncated" in told.err or "silent" in told.err
    told = textsiam("flag", trained[1] / "model", sounds, "--output", tmp_path / "f.tsv", "--on-bad-row", "skip")
    assert told.status == 0
    assert "2 unreadable sound" in told.err
    assert (tmp_path / "f.tsv").exists()


def test_index_and_gallery(trained, tmp_path, textsiam):
    sounds, run = trained
    model = run / "model"
    assert textsiam("index", "create", model, tmp_path / "index").status == 0
    assert textsiam("index", "add", model, tmp_path / "index", sounds).status == 0
    near = textsiam("check", model, tmp_path / "index", sounds / "word 2/0.wav", "--json")
    assert near.status == 0
    assert "word 2" in near.out
    assert textsiam("gallery", "enroll", model, tmp_path / "g", sounds).status == 0
    probes = sing(tmp_path / "probes", classes=8, each=10, seed=1)
    assert textsiam("gallery", "calibrate", model, tmp_path / "g", probes, "--far", 0.1).status == 0
    named = textsiam("gallery", "identify", model, tmp_path / "g", sounds / "word 3/1.wav", "--json").json
    assert named["identified"][0]["candidates"][0]["name"] == "word 3"


def test_encode_in_both_ways_gives_the_same(trained, tmp_path, textsiam):
    from textsiam import Twin

    sounds, run = trained
    assert textsiam("encode", run / "model", sounds, "--output", tmp_path / "v.npy").status == 0
    vectors = np.load(tmp_path / "v.npy")
    names = read_texts(str(sounds)).texts
    assert np.abs(Twin.from_pretrained(run / "model").encode(names) - vectors).max() < 1e-6


def test_a_zip_and_a_table_are_read_like_the_folder(trained, tmp_path):
    sounds, _ = trained
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for file in sorted(sounds.rglob("*.wav")):
            archive.write(file, file.relative_to(sounds.parent))
    inside = read_sounds(tmp_path / "s.zip")
    assert inside.class_names == read_sounds(sounds).class_names
    assert medium_of(tmp_path / "s.zip").modality == "audio"
    (sounds.parent / "pairs.tsv").write_text("audio1\taudio2\tlabel\nsounds/word 0/0.wav\tsounds/word 0/1.wav\t1\n")
    pairs = read_pairs(str(sounds.parent / "pairs.tsv"))
    assert (pairs.modality, pairs.columns) == ("audio", ("audio1", "audio2"))
    (sounds.parent / "gone.tsv").write_text("audio1\taudio2\tlabel\ngone.wav\tsounds/word 0/1.wav\t1\n")
    with pytest.raises(DataError, match=r"gone\.tsv:2: .*no such sound file"):
        read_pairs(str(sounds.parent / "gone.tsv"))


def test_a_dataset_of_sounds_is_read(trained):
    from datasets import Audio, ClassLabel, Dataset

    names, (sounds, _) = ClassLabel(names=["a", "b"]), trained
    files = sorted(sounds.rglob("*.wav"))[::9]
    rows = {
        "audio": [{"bytes": f.read_bytes(), "path": None} for f in files],
        "label": [i % 2 for i in range(len(files))],
    }
    dataset = Dataset.from_dict(rows).cast_column("audio", Audio(decode=False)).cast_column("label", names)
    found = read_sounds(dataset)
    assert (len(found), found.class_names, found.modality) == (len(files), ["a", "b"], "audio")


@pytest.mark.parametrize(("arguments", "problem"), [
    (["--model.scratch_image", "{}", "--model.scratch_sound", "null"], "model.scratch_image: reads images"),
    (["--model.scratch_sound", "null"], "data.train holds sounds: give model.scratch_sound"),
    (["--training.augment.rotate", "5"], "rotate"),
])  # fmt: skip
def test_what_does_not_go_with_sounds_is_refused_before_anything_is_read(
    trained, tmp_path, textsiam, arguments, problem
):
    config = trained[1].parent / "c.yaml"
    told = textsiam("train", config, "--data.train", trained[0], "--output", tmp_path / "run", *arguments)
    assert told.status in (1, 2)
    assert problem in told.err


def test_a_text_model_is_not_given_sounds(trained, tmp_path, textsiam):
    told = textsiam("gallery", "enroll", "all-MiniLM-L6-v2", tmp_path / "g", trained[0])
    assert told.status == 1
    assert "holds sounds, and the model reads texts" in told.err
