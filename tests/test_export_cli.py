from __future__ import annotations

import json
import sys
from importlib.util import find_spec

import pytest

from textsiam.models import export
from textsiam.models.twin import Twin


@pytest.fixture
def model(tower, tmp_path):
    return Twin(tower).save_pretrained(tmp_path / "twin")


@pytest.fixture
def pair_file(pairs, tmp_path):
    file = tmp_path / "pairs.tsv"
    rows = zip(pairs.left_texts, pairs.right_texts, pairs.labels, strict=True)
    file.write_text("question1\tquestion2\tis_duplicate\n" + "".join(f"{a}\t{b}\t{y}\n" for a, b, y in rows))
    return file


@pytest.fixture(autouse=True)
def _runtime():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            pytest.skip(f"the extra 'onnx' is not installed ({package})")


def test_export_then_score(textsiam, model, pair_file, tmp_path):
    output = tmp_path / "fast"
    status, out, err = textsiam("export", model, "--format", "onnx", "--output", output, "--pairs", pair_file, "--json")
    assert status == 0, err
    said = json.loads(out)
    assert said["cosine_min"] >= 0.9999
    assert abs(said["points_lost"]) < 0.3
    assert said["pairs"] == 96
    assert said["exported_texts_per_second"] > 0
    assert said["pairs_from"] == str(pair_file)
    similarities = []
    for folder in (model, output):
        status, out, _ = textsiam("score", folder, "Why is the sky blue?", "What makes the sky blue?", "--json")
        assert status == 0
        similarities.append(json.loads(out)["similarity"])
    assert similarities[0] == pytest.approx(similarities[1], abs=5e-3)
    status, out, err = textsiam("export", model, "--format", "onnx", "--output", output, "--pairs", pair_file)
    assert status == 0  # a saved twin may be replaced
    assert "cosine to fp32" in out
    assert "96 pairs, 48 texts" in out
    assert str(output) in err


def test_export_to_torch_is_for_int8(textsiam, model, pair_file, tmp_path):
    status, _, err = textsiam("export", model, "--format", "torch", "--output", tmp_path / "fast", "--pairs", pair_file)
    assert status == 1
    assert err.splitlines()[-1].startswith("error: format 'torch' is for int8 only")
    assert not (tmp_path / "fast").exists()


def test_a_refused_export_is_one_line(textsiam, model, pair_file, tmp_path, monkeypatch):
    bad = export.ExportReport("out", "onnx", True, 96, 48, 0.1, 0.2, 0.8, 0.7, 100.0, 200.0)
    monkeypatch.setattr(export, "compare_export", lambda *_, **__: bad)
    output = tmp_path / "fast"
    status, out, err = textsiam("export", model, "--format", "onnx", "--int8", "--output", output, "--pairs", pair_file)
    assert status == 1
    assert out == ""
    assert err.splitlines()[-1].startswith("error: the export loses 10.000 points of AP on 96 pairs, more than 0.3")
    assert not output.exists()


def test_other_peoples_folders_stay(textsiam, model, tmp_path):
    output = tmp_path / "mine"
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    status, _, err = textsiam("export", model, "--format", "onnx", "--output", output)
    assert status == 2
    assert "is there already, and is no saved twin" in " ".join(err.replace("│", " ").split())
    assert (output / "thesis.tex").read_text() == "years of work"


def test_a_missing_package_is_one_line(textsiam, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    status, _, err = textsiam("export", model, "--format", "onnx", "--output", tmp_path / "fast")
    assert status == 1
    assert err.splitlines()[-1] == "error: onnxscript is not installed: pip install 'textsiam[onnx]'"


def test_format_and_output_are_asked_for(textsiam, model, tmp_path):
    assert textsiam("export", model, "--output", tmp_path / "fast")[0] == 2
    assert textsiam("export", model, "--format", "onnx")[0] == 2
    assert textsiam("export", model, "--format", "tflite", "--output", tmp_path / "fast")[0] == 2
