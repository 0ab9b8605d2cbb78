from __future__ import annotations

import json
from pathlib import Path

import pytest

from textsiam.manifest import Manifest
from textsiam.saving import SaveError


def test_only_what_is_listed_is_removed(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    manifest.add("model", "test.tsv", "best", "later")
    for name in ("model", "best", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "test.tsv").write_text("a\tb")
    assert manifest.found == ["model", "test.tsv", "best"]
    assert manifest.foreign(["model", "mine", "nothing"]) == ["mine"]
    manifest.remove(["best", "mine"])
    again = Manifest(tmp_path)
    assert again.found == ["model", "test.tsv"]
    again.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine" / "file").read_text() == "mine"


def test_nothing_is_listed_that_is_there_already(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with pytest.raises(SaveError, match="logs: it was made by no run, and stays as it is"):
        Manifest(tmp_path).add("model", "logs")
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    manifest = Manifest(tmp_path / "run")
    (tmp_path / "run").mkdir()
    manifest.add("model")
    (tmp_path / "run" / "model").symlink_to(tmp_path / "elsewhere")
    manifest.clear()
    assert not list((tmp_path / "run").iterdir())
    assert (tmp_path / "elsewhere").is_dir()


def test_what_is_set_aside_comes_back_or_goes(tmp_path: Path) -> None:
    def made(text: str) -> Manifest:
        manifest = Manifest(tmp_path)
        manifest.add("model", "later")
        (tmp_path / "model").write_text(text)
        return manifest

    (tmp_path / "mine").write_text("mine")
    for moved in (["model", "manifest.json"], ["model"]):  # wholly, or as far as a killed process came
        made("old")
        (tmp_path / ".overwritten").mkdir()
        for name in moved:
            (tmp_path / name).rename(tmp_path / ".overwritten" / name)
        Manifest(tmp_path).put_back()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "mine", "model"]
        assert (tmp_path / "model").read_text() == "old"
    Manifest(tmp_path).set_aside()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".overwritten", "mine"]
    made("new").put_back()
    assert ((tmp_path / "model").read_text(), Manifest(tmp_path).aside) == ("old", False)
    Manifest(tmp_path).set_aside()
    made("new").drop_aside()
    assert ((tmp_path / "model").read_text(), Manifest(tmp_path).aside) == ("new", False)


@pytest.mark.parametrize(
    "text", ["{}", "[1]", "mine", *(json.dumps({"made_by_textsiam": [n]}) for n in ("../a", "..", "/a", "", 3))]
)
def test_a_manifest_that_no_run_wrote_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json was written by no run"):
        Manifest(tmp_path)
