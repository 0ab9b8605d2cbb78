from __future__ import annotations

import copy
import json
import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from textsiam.decision.decision import fit_decision
from textsiam.inference.batching import encode
from textsiam.inference.cache import weights_digest
from textsiam.inference.encoders import ModelError
from textsiam.inference.fast.export_graph import write_graph
from textsiam.inference.fast.runtimes import RuntimeTower
from textsiam.inference.scratch import scratch_text_encoder
from textsiam.models import export
from textsiam.models.export import ExportError, ExportReport, compare_export, export_twin
from textsiam.models.learned import PairHead
from textsiam.models.twin import Twin

FORMATS = ["onnx", "openvino"]
PACKAGES = {"onnx": ["onnx", "onnxscript", "onnxruntime"], "openvino": ["onnx", "onnxscript", "openvino", "nncf"]}


def needs(extra: str) -> None:
    # Not importorskip: openvino reports that it was imported.
    if missing := [package for package in PACKAGES[extra] if find_spec(package) is None]:
        pytest.skip(f"the extra {extra!r} is not installed ({', '.join(missing)})")


@pytest.fixture(scope="session", params=FORMATS)
def graph_format(request):
    needs(request.param)
    return request.param


@pytest.fixture(scope="session")
def decision():
    labels = np.repeat(np.array([1, 0], np.int8), 100)
    scores = np.concatenate([np.linspace(0.7, 1.0, 100), np.linspace(0.0, 0.8, 100)])
    return fit_decision(scores.astype(np.float32), labels)


@pytest.fixture(scope="session")
def exported(graph_format, tower, decision, pairs, tmp_path_factory) -> tuple[Path, ExportReport]:
    folder = tmp_path_factory.mktemp("export") / "twin"
    return folder, export_twin(Twin(tower, decision=decision), folder, pairs, graph_format=graph_format)


@pytest.fixture(scope="session")
def quantised(graph_format, tower, pairs, tmp_path_factory) -> tuple[Path, ExportReport]:
    folder = tmp_path_factory.mktemp("int8") / "twin"
    # The random tower's AP on 96 pairs says nothing about int8, so it may lose what it likes.
    knobs = {"graph_format": graph_format, "int8": True, "max_points_lost": 100.0}
    return folder, export_twin(Twin(tower), folder, pairs, **knobs)


def opened(folder: Path) -> Twin:
    return Twin.from_pretrained(folder, device="cpu")


def cosines(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (u * v).sum(1)


# --- the same vectors -----------------------------------------------------------------------------


def test_graph_in_fp32_gives_the_vectors_of_torch(exported, graph_format, sentences):
    twin = opened(exported[0])
    fast = RuntimeTower(twin.left, twin.backend.towers[0].file, graph_format, dtype=torch.float32)
    for rows, longest in [(1, 1), (1, 32), (7, 3), (64, 16)]:
        ids = torch.arange(rows * longest).view(rows, longest) % 190 + 1
        mask = torch.ones_like(ids)
        mask[0, max(1, longest // 2) :] = 0
        features = {"input_ids": ids, "attention_mask": mask}
        with torch.inference_mode():
            expected = twin.left.eval()(dict(features))["sentence_embedding"].numpy()
            found = fast(features).numpy()
        assert found.shape == (rows, 32)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_encode_goes_through_the_graph(exported, tower, sentences):
    twin = opened(exported[0])
    calls = []
    run = twin.backend.towers[0]._run
    twin.backend.towers[0]._run = lambda ids, mask: calls.append(ids.shape) or run(ids, mask)
    texts = [*sentences, "", "Ünïcode ☃", "word " * 50, sentences[3]]
    found = twin.encode(texts)
    assert sum(rows for rows, _ in calls) == len(texts) - 1  # each distinct text once
    assert cosines(found, Twin(tower).encode(texts, precision="fp32")).min() >= 0.999  # bf16 where there is bf16
    np.testing.assert_array_equal(found[3], found[-1])
    assert twin.encode([]).shape == (0, 32)
    calls.clear()
    np.testing.assert_allclose(twin.encode(texts, precision="fp32"), Twin(tower).encode(texts, precision="fp32"))
    assert not calls  # a number format that is asked for is torch's


def test_batches_are_split_among_threads(exported, graph_format, sentences, monkeypatch):
    twin = opened(exported[0])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    fast = RuntimeTower(twin.left, twin.backend.towers[0].file, graph_format, dtype=torch.float32)
    for texts in (sentences, sentences[:4], sentences[:1]):
        np.testing.assert_allclose(encode(fast, texts), twin.encode(texts, precision="fp32"), atol=1e-5)
    with ThreadPoolExecutor(4) as callers:  # a server encodes from several threads
        together = list(callers.map(lambda text: encode(fast, [text])[0], sentences))
    np.testing.assert_allclose(together, twin.encode(sentences, precision="fp32"), atol=1e-5)


def test_the_decision_survives(exported, tower, decision, sentences):
    twin = opened(exported[0])
    a, b = sentences[:2]
    expected = Twin(tower, decision=decision).compare(a, b)
    assert twin.compare(a, b).similarity == pytest.approx(expected.similarity, abs=5e-3)
    assert twin.compare(a, b).threshold == expected.threshold


def test_the_head_survives(twin, pairs, tmp_path):
    twin.head = PairHead(twin.dim, hidden=4).eval()
    torch.nn.init.normal_(twin.head.mlp[-1].weight)
    export_twin(twin, tmp_path / "fast", pairs, graph_format="onnx")
    found = Twin.from_pretrained(tmp_path / "fast").pair_similarity(pairs.texts, pairs.left, pairs.right)
    expected = twin.pair_similarity(pairs.texts, pairs.left, pairs.right, precision="fp32")
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_int8_is_close(quantised, sentences):
    folder, report = quantised
    assert report.int8
    assert 0.9 < report.cosine_min <= report.cosine_mean
    twin = opened(folder)
    sign = {"onnx": b"MatMulInteger", "openvino": b"FakeQuantize"}[report.graph_format]
    assert sign in twin.backend.towers[0].file.read_bytes()  # it is another format indeed
    found = cosines(twin.encode(sentences), twin.encode(sentences, precision="fp32"))
    assert found.min() == pytest.approx(report.cosine_min, abs=1e-2)
    assert json.loads((folder / "textsiam.json").read_text())["backend"]["int8"] is True


def test_asymmetric_twin(tower, pairs, sentences, tmp_path):
    needs("onnx")
    right = scratch_text_encoder(sentences, vocabulary=300, hidden=16, dim=32, max_tokens=24, seed=3, device="cpu")
    twin = Twin(tower, right.eval())
    report = export_twin(twin, tmp_path / "half", pairs, graph_format="onnx", max_points_lost=100)
    found = opened(tmp_path / "half")
    assert report.cosine_min > 0.999
    for side in ("left", "right"):
        expected = twin.encode(sentences, side=side, precision="fp32")
        assert cosines(found.encode(sentences, side=side), expected).min() > 0.999
    assert (tmp_path / "half" / "right" / "graph").is_dir()


# --- the folder -----------------------------------------------------------------------------------


def test_plain_sentence_transformers_opens_it(exported, tower, sentences):
    plain = SentenceTransformer(str(exported[0]), device="cpu")
    np.testing.assert_allclose(plain.encode(sentences), tower.encode(sentences), atol=1e-5)


def test_saved_again_it_is_the_same(exported, sentences, tmp_path):
    folder, report = exported
    twin = opened(folder)
    expected = twin.encode(sentences)
    twin.save_pretrained(tmp_path / "again")
    again = opened(tmp_path / "again")
    assert again.backend is not None
    np.testing.assert_array_equal(again.encode(sentences), expected)
    twin.save_pretrained(tmp_path / "again")  # over itself
    np.testing.assert_array_equal(opened(tmp_path / "again").encode(sentences), expected)
    facts = json.loads((folder / "textsiam.json").read_text())["backend"]
    assert facts["format"] == report.graph_format
    assert (folder / facts["file"]).is_file()
    assert again.decision is not None


def test_other_libraries_keep_quiet_and_leave_nothing(twin, pairs, tmp_path, capfd):
    needs("openvino")
    before = logging.root.manager.disable
    export_twin(twin, tmp_path / "out", pairs, graph_format="openvino", int8=True, max_points_lost=100)
    said = capfd.readouterr()
    assert said.out == ""
    assert "torchvision" not in said.err
    assert "pre-processing" not in said.err
    assert logging.root.manager.disable == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert twin.backend is None


# --- changed weights ------------------------------------------------------------------------------


def test_changed_weights_leave_the_graph(exported, sentences, tmp_path):
    twin = opened(exported[0])
    before = twin.encode(sentences)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1 - 3 * (parameter.ndim > 1))
    after = twin.encode(sentences)
    assert np.abs(after - before).max() > 0.01
    assert cosines(after, twin.encode(sentences, precision="fp32")).min() >= 0.999
    saved = opened(twin.save_pretrained(tmp_path / "trained"))
    assert saved.backend is None
    assert not (tmp_path / "trained" / "graph").exists()


def test_a_copy_goes_on_in_torch(exported, sentences):
    twin = opened(exported[0])
    again = copy.deepcopy(twin)  # what training does
    assert again.backend is None
    np.testing.assert_array_equal(again.encode(sentences, precision="fp32"), twin.encode(sentences, precision="fp32"))


def test_weights_changed_on_disk_are_an_error(exported, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(exported[0], folder)
    tower = SentenceTransformer(str(folder), device="cpu")
    with torch.no_grad():
        next(tower.parameters()).add_(0.1)
    tower.save_pretrained(str(folder), create_model_card=False)
    with pytest.raises(ModelError, match=r"the weights have changed since the \w+ graph was exported: export the twin"):
        opened(folder)


@pytest.mark.parametrize("backend", [{}, {"format": "tflite", "int8": False, "weights_sha256": []}])
def test_damaged_entry_is_an_error(exported, tmp_path, backend):
    folder = tmp_path / "damaged"
    shutil.copytree(exported[0], folder)
    facts = json.loads((folder / "textsiam.json").read_text())
    (folder / "textsiam.json").write_text(json.dumps({**facts, "backend": backend}))
    with pytest.raises(ModelError, match=r"'backend' in textsiam\.json is damaged"):
        opened(folder)


def test_damaged_graph_is_an_error(exported, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(exported[0], folder)
    (folder / json.loads((folder / "textsiam.json").read_text())["backend"]["file"]).write_text("nonsense")
    with pytest.raises(ModelError, match=r"cannot open the graph .*: export the twin again"):
        opened(folder)


def test_number_format_tells_graphs_apart(exported, quantised):
    plain, small = (opened(folder).backend.towers[0].number_format for folder, _ in (exported, quantised))
    assert plain != small
    assert plain == opened(exported[0]).backend.towers[0].number_format
    assert plain.startswith(exported[1].graph_format)


def test_fingerprint_sees_every_weight(fresh_tower):
    before = weights_digest(fresh_tower[0])
    assert before == weights_digest(copy.deepcopy(fresh_tower)[0])
    with torch.no_grad():
        list(fresh_tower[0].parameters())[-1].view(-1)[-1].add_(1e-3)
    assert weights_digest(fresh_tower[0]) != before


# --- refused --------------------------------------------------------------------------------------


def test_a_worse_export_is_refused(twin, pairs, tmp_path, monkeypatch):
    needs("onnx")

    def spoilt(tower, *arguments, **knobs):
        bad = copy.deepcopy(tower)
        with torch.no_grad():
            for parameter in bad[0].parameters():
                parameter.zero_()
        return write_graph(bad, *arguments, **knobs)

    monkeypatch.setattr(export, "write_graph", spoilt)
    with pytest.raises(ExportError, match=r"loses \d+\.\d+ points of AP on 96 pairs, more than 0.3: nothing was"):
        export_twin(twin, tmp_path / "out", pairs, graph_format="onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_may_be_lost_is_a_bound(tmp_path, twin, pairs, monkeypatch):
    measured = ExportReport("out", "onnx", True, 96, 48, 0.9, 0.95, 0.8, 0.7969, 100.0, 200.0)
    assert measured.points_lost == pytest.approx(0.31)
    assert measured.to_dict()["points_lost"] == pytest.approx(0.31)
    monkeypatch.setattr(export, "_with_graphs", lambda twin, *_, **__: twin)
    monkeypatch.setattr(export, "check_exportable", lambda *_, **__: None)
    monkeypatch.setattr(export, "compare_export", lambda *_, **__: measured)
    with pytest.raises(ExportError, match=r"loses 0\.310 points"):
        export_twin(twin, tmp_path / "out", pairs, graph_format="onnx", int8=True)
    assert not (tmp_path / "out").exists()
    for fine in (measured, replace(measured, exported_average_precision=0.7971)):
        monkeypatch.setattr(export, "compare_export", lambda *_, fine=fine, **__: fine)
        assert export_twin(twin, tmp_path / "out", pairs, graph_format="onnx", max_points_lost=0.32) is fine
    monkeypatch.setattr(
        export,
        "compare_export",
        lambda *_, **__: replace(measured, cosine_min=float("nan"), exported_average_precision=float("nan")),
    )
    with pytest.raises(ExportError):
        export_twin(twin, tmp_path / "nan", pairs, graph_format="onnx")


@pytest.mark.parametrize("graph_format", FORMATS)
def test_missing_package_names_the_extra(twin, pairs, tmp_path, monkeypatch, graph_format):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModelError, match=rf"^onnxscript is not installed: pip install 'textsiam\[{graph_format}\]'$"):
        export_twin(twin, tmp_path / "out", pairs, graph_format=graph_format)


def test_missing_runtime_names_the_extra(exported, monkeypatch):
    folder, report = exported
    runtime = "onnxruntime" if report.graph_format == "onnx" else "openvino"
    monkeypatch.setitem(sys.modules, runtime, None)
    with pytest.raises(ModelError, match=rf"^{runtime} is not installed: pip install 'textsiam\[{report.graph_format}"):
        opened(folder)


def test_nothing_is_reported_to_a_server(tmp_path):
    needs("openvino")
    code = "\n".join(
        [
            "import os; from textsiam.inference.fast.runtimes import require; before = dict(os.environ)",
            "require('openvino', 'openvino'); require('nncf', 'openvino')",
            "assert dict(os.environ) == before",
        ]
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("CI", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "intel").exists()  # where openvino-telemetry keeps the number that it gives its user


def test_other_formats_are_refused(twin, pairs, tmp_path):
    with pytest.raises(ModelError, match="format must be 'onnx', 'openvino' or 'torch', got 'tflite'"):
        export_twin(twin, tmp_path / "out", pairs, graph_format="tflite")


def test_pairs_of_one_class_are_refused(exported, twin, pairs, tmp_path):
    alike = replace(pairs, labels=np.ones(len(pairs.labels), np.int8))
    with pytest.raises(ModelError, match="some of them duplicates and some not"):
        export_twin(twin, tmp_path / "out", alike, graph_format=exported[1].graph_format)


def test_a_twin_without_graphs_cannot_be_compared(twin):
    with pytest.raises(ModelError, match="no exported graphs"):
        compare_export(twin, twin, ["a"], ["b"], np.array([1]))


SIGNALLED = """
import os, signal, sys
import torch
from pathlib import Path
from textsiam.inference.encoders import open_tower
from textsiam.inference.fast.runtimes import RuntimeTower

seen = []
signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
tower = open_tower(sys.argv[1], device="cpu")
graphs = [RuntimeTower(tower, Path(sys.argv[2]), "openvino") for _ in range(2)]
while graphs:
    del graphs[0]  # the first that was opened is the first to go
    os.kill(os.getpid(), signal.SIGTERM)
print(len(seen))
"""


def test_a_signal_after_a_graph_is_closed_ends_no_process(fresh_tower, tmp_path, sentences):
    fresh_tower.save(str(tmp_path / "tower"))
    file = write_graph(fresh_tower, tmp_path / "graph", "openvino", int8=False, texts=sentences)
    command = [sys.executable, "-c", SIGNALLED, str(tmp_path / "tower"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
