from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from textsiam import cli
from textsiam.inference.scratch import scratch_text_encoder
from textsiam.models.ensemble import Ensemble, average_twins, open_scorer
from textsiam.models.twin import Twin


@pytest.fixture(scope="module")
def saved(sentences, tmp_path_factory) -> list[str]:
    """The folders of two twins of one architecture."""
    folder = tmp_path_factory.mktemp("members")
    towers = [
        scratch_text_encoder(sentences, vocabulary=400, hidden=16, max_tokens=32, seed=seed, device="cpu")
        for seed in range(2)
    ]
    return [str(Twin(tower).save_pretrained(folder / str(k))) for k, tower in enumerate(towers)]


@pytest.fixture
def textsiam(capsys, monkeypatch):
    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["textsiam", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, " ".join(said.err.replace("│", " ").split())  # errors come boxed

    return run


def test_an_ensemble_serves_every_command_but_export(textsiam, saved, sentences, tmp_path):
    both, file = tmp_path / "both", tmp_path / "questions.txt"
    file.write_text("\n".join(sentences) + "\n")
    status, out, err = textsiam("ensemble", *saved, "--output", both, "--calibrate", "sample:forum", "--json")
    assert status == 0, err
    assert json.loads(out) == {"output": str(both), "average": "scores", "members": saved, "calibrated": True}
    ensemble = open_scorer(both, device="cpu")
    assert isinstance(ensemble, Ensemble)

    status, out, err = textsiam("score", both, sentences[0], sentences[1], "--json")
    assert status == 0, err
    assert json.loads(out)["duplicate"] == ensemble.compare(sentences[0], sentences[1]).duplicate
    status, out, err = textsiam("flag", both, file, "--threshold", "0.5", "--json")
    assert status == 0, err
    assert json.loads(out)["questions"] == 48
    status, out, err = textsiam("encode", both, file, "--output", tmp_path / "vectors.npy")
    assert status == 0, err
    assert np.load(tmp_path / "vectors.npy").shape == (48, 32)
    status, out, err = textsiam("match", both, "--queries", file, "--documents", file, "--top-k", "1", "--json")
    assert status == 0, err
    assert [row["query_id"] for row in json.loads(out)] == [row["document_id"] for row in json.loads(out)]
    status, out, err = textsiam("export", both, "--output", tmp_path / "fast", "--format", "onnx")
    assert status != 0
    assert "is an ensemble" in err


def test_averaged_weights_are_one_twin(textsiam, saved, sentences, tmp_path):
    status, _, err = textsiam("ensemble", *saved, "--output", tmp_path / "soup", "--average", "weights")
    assert status == 0, err
    soup = open_scorer(tmp_path / "soup", device="cpu")
    assert isinstance(soup, Twin)
    expected = average_twins([Twin.from_pretrained(one, device="cpu") for one in saved])
    np.testing.assert_allclose(soup.encode(sentences), expected.encode(sentences), atol=1e-5)


def test_what_cannot_be_averaged_is_one_line(textsiam, saved, tmp_path):
    status, _, err = textsiam("ensemble", *saved, "--output", tmp_path)
    assert status != 0
    assert "is there already" in err
    assert textsiam("ensemble", *saved, "--output", tmp_path / "both")[0] == 0
    status, _, err = textsiam("ensemble", tmp_path / "both", saved[0], "--output", tmp_path / "more")
    assert status != 0
    assert "not another ensemble" in err
