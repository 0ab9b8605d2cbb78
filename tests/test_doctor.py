from __future__ import annotations

import pytest

from textsiam.commands import doctor
from textsiam.inference.fast import cores


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(doctor, "_SECONDS", 0.01)


def test_it_says_what_is_there(textsiam):
    said = textsiam("doctor", "--json").json
    assert said["machine"]["available_cores"] == cores.available_cores()
    assert said["torch"]["gflop_per_second"] > 0
    assert said["torch"]["number_format"] in ("float32", "bfloat16")
    assert said["extras"]["serve"] == []
    shown = textsiam("doctor")
    assert shown.status == 0
    assert "allocator: " in shown.out
    assert "waiting: " in shown.out


def test_an_extra_names_what_it_lacks(textsiam, monkeypatch):
    monkeypatch.setattr(doctor, "_is_installed", lambda name: name != "uvicorn")
    assert textsiam("doctor", "--json").json["extras"]["serve"] == ["uvicorn"]
    assert "serve: lacks uvicorn (pip install 'textsiam[serve]')" in textsiam("doctor").out


def test_it_advises_against_threads_that_spin(textsiam, monkeypatch):
    monkeypatch.setattr(cores, "waiting", lambda: "active")
    assert any("OMP_WAIT_POLICY" in line for line in textsiam("doctor", "--json").json["advice"])


def test_it_advises_against_more_threads_than_cores(textsiam, monkeypatch):
    monkeypatch.setattr(cores, "available_cores", lambda: 0)
    assert any("OMP_NUM_THREADS=0" in line for line in textsiam("doctor", "--json").json["advice"])


@pytest.mark.parametrize("name", ["tcmalloc", "jemalloc", "mimalloc"])
def test_it_names_an_allocator_that_was_preloaded(monkeypatch, tmp_path, name):
    maps = tmp_path / "maps"
    maps.write_text(f"7f00-7f01 r-xp 00000000 08:01 1 /usr/lib/lib{name}.so.4\n")
    monkeypatch.setattr(doctor, "_MAPS", maps)
    assert doctor._allocator() == name


def test_it_knows_the_caches(textsiam, monkeypatch, tmp_path):
    from huggingface_hub import constants

    (tmp_path / "models--anna--forum").mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    caches = textsiam("doctor", "--json").json["caches"]
    assert caches["hub"] == str(tmp_path)
    assert (caches["models"], caches["data_sets"], caches["offline"]) == (1, 0, True)


def test_it_says_where_bf16_is_missing():
    machine = {"available_cores": 2, "load": 0.0}
    torch = {"waiting": "passive", "threads": 2, "device": "cpu", "number_format": "float32"}
    (line,) = doctor._advice({"machine": machine, "torch": torch, "extras": {}})
    assert line.startswith("this processor multiplies no bf16")
    assert doctor._advice({"machine": machine, "torch": torch | {"number_format": "bfloat16"}, "extras": {}}) == []
