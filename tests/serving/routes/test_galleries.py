"""`/gallery/{name}`, `/verify` and `/identify`: what they say is what the gallery in the folder says."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest
from starlette.testclient import TestClient

from textsiam.models.twin import Twin
from textsiam.search.galleries.drift import Levels
from textsiam.search.gallery import Gallery
from textsiam.serving.app import create_app
from textsiam.serving.limits import ServerSettings


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "gallery"


@pytest.fixture
def started(decided, folder):
    """Return what makes a client of a server with a gallery."""
    clients = []

    def made(gallery=folder, **settings) -> TestClient:
        app = create_app(decided, gallery=gallery, settings=ServerSettings(**settings), name="tiny")
        clients.append(TestClient(app, raise_server_exceptions=False))
        return clients[-1].__enter__()

    yield made
    for client in clients:
        client.__exit__(None, None, None)


def calibrated(folder, twin: Twin, question_clusters, usual: Levels | None = None) -> Gallery:
    with Gallery.changing(folder, twin, new=True) as gallery:
        for texts in question_clusters:
            gallery.enroll(texts[0], texts[:2])
        gallery.calibrate([t[2] for t in question_clusters], [t[0] for t in question_clusters], far=0.1)
        gallery.usual = usual or gallery.usual
    return gallery


def test_enroll_replace_add_forget(started, folder, decided, question_clusters):
    client, (first, second, third) = started(), question_clusters[0]
    said = client.put("/gallery/a b/c", json={"inputs": [first, second]})
    assert (said.status_code, said.json()) == (201, {"name": "a b/c", "references": 2, "identities": 1})
    assert Gallery.load(folder, decided).shots == {"a b/c": 2}  # on the disk when it is said
    said = client.put("/gallery/a b/c", json={"inputs": third})
    assert (said.status_code, said.json()["references"]) == (200, 1)
    assert client.put("/gallery/a b/c", json={"inputs": first, "add": True}).json()["references"] == 2
    alone = Gallery(decided)
    alone.enroll("a b/c", [third, first])
    assert Gallery.load(folder, decided).vectors() == pytest.approx(alone.vectors(), abs=1e-6)
    said = client.delete("/gallery/a b/c")
    assert (said.status_code, said.json()) == (200, {"name": "a b/c", "references": 0, "identities": 0})
    assert client.delete("/gallery/a b/c").status_code == 404
    assert Gallery.load(folder, decided).names == []


def test_answers_are_those_of_the_gallery(started, folder, decided, question_clusters):
    gallery, client = calibrated(folder, decided, question_clusters), started()
    name, probe = question_clusters[3][0], question_clusters[3][2]
    said = client.post("/verify", json={"name": name, "input": probe}).json()
    verdict, point = gallery.verify(name, probe), gallery.promise(name)
    assert said["accepted"] is verdict.duplicate
    assert said["similarity"] == pytest.approx(verdict.similarity, abs=1e-5)
    assert said["probability"] == pytest.approx(verdict.probability, abs=1e-3)
    assert (said["bound"], said["worst_case"]) == (point.false_accepts.high, point.worst_case)
    probes = [texts[2] for texts in question_clusters[:4]]
    rows = client.post("/identify", json={"inputs": probes, "top_k": 2}).json()
    for row, one in zip(rows, gallery.identify(probes), strict=True):
        assert row["name"] == one.name
        assert row["similarity"] == pytest.approx(one.similarity, abs=1e-5)
        assert one.runner_up is not None
        assert [c["name"] for c in row["candidates"]][1] == one.runner_up.name


def test_what_others_change_is_seen(started, folder, decided, question_clusters):
    gallery, client = calibrated(folder, decided, question_clusters), started()
    claim = {"name": question_clusters[0][0], "input": question_clusters[0][2]}
    assert client.post("/verify", json=claim).status_code == 200
    gallery.remove(claim["name"])
    gallery.save(folder)
    assert client.post("/verify", json=claim).status_code == 404


def test_writers_at_once_lose_nothing(started, folder, decided):
    client = started()
    answers = []

    def put(k: int) -> None:
        answers.append(client.put(f"/gallery/n{k}", json={"inputs": f"question number {k}"}).status_code)

    threads = [threading.Thread(target=put, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [201] * 8
    assert set(Gallery.load(folder, decided).names) == {f"n{k}" for k in range(8)}


def test_what_is_refused(started, folder, decided, question_clusters):
    bare = started(gallery=None)
    for call in (
        bare.put("/gallery/a", json={"inputs": "x"}), bare.delete("/gallery/a"),
        bare.post("/verify", json={"name": "a", "input": "x"}), bare.post("/identify", json={"inputs": "x"}),
    ):  # fmt: skip
        assert (call.status_code, call.json()["error_type"]) == (409, "Conflict")
    client = started(max_batch=2)
    assert client.post("/verify", json={"name": "a", "input": "x"}).status_code == 404  # there is no folder yet
    client.put("/gallery/a", json={"inputs": "x"})
    for body, status in (
        ({"inputs": []}, 422), ({"inputs": ["x"] * 3}, 413), ({"inputs": "x", "more": 1}, 422), ({}, 422),
    ):  # fmt: skip
        assert client.put("/gallery/b", json=body).status_code == status
    assert client.put("/gallery/%20", json={"inputs": "x"}).status_code == 422
    assert Gallery.load(folder, decided).names == ["a"]
    assert client.post("/verify", json={"name": "a", "input": "x"}).status_code == 409  # not calibrated
    assert client.post("/identify", json={"inputs": "x"}).status_code == 409
    assert client.post("/verify", json={"name": "nobody", "input": "x"}).status_code == 404
    calibrated(folder, decided, question_clusters)
    assert client.post("/identify", json={"inputs": "x", "top_k": 0}).status_code == 422


def test_a_name_with_control_characters_is_refused(started, folder, decided):
    client = started()
    for name in ("Bo%0AEve", "%1B[2J", "a%00"):
        said = client.put(f"/gallery/{name}", json={"inputs": "x"})
        assert said.status_code == 422
        assert "has control characters" in said.json()["error"]
    assert not folder.exists()


def test_the_guard_stands_before_these_routes_too(started, folder):
    client = started(token="a secret of enough letters")
    assert client.put("/gallery/a", json={"inputs": "x"}).status_code == 401
    headers = {"authorization": "Bearer a secret of enough letters"}
    assert client.put("/gallery/a", json={"inputs": "x"}, headers=headers).status_code == 201
    assert client.delete("/gallery/a", headers=headers | {"origin": "https://evil.example"}).status_code == 403
    assert client.delete("/gallery/a", headers=headers | {"host": "evil.example"}).status_code == 421
    assert client.delete("/gallery/a", headers=headers).status_code == 200


def test_a_gallery_that_cannot_be_written_is_as_it_was(started, folder, decided, monkeypatch):
    client = started()
    client.put("/gallery/a", json={"inputs": "x"})

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("textsiam.search.gallery_folder.save_file", full)
        said = client.put("/gallery/b", json={"inputs": "y"})
    assert (said.status_code, said.headers["retry-after"]) == (503, "6")
    assert Gallery.load(folder, decided).names == ["a"]
    assert client.put("/gallery/b", json={"inputs": "y"}).status_code == 201


def test_inputs_unlike_those_of_the_calibration_are_said_of(started, folder, decided, question_clusters, caplog):
    calibrated(folder, decided, question_clusters, Levels(np.full(60, -1.0, np.float32), 60, 40))
    client, texts = started(max_batch=32), [text for texts in question_clusters for text in texts]
    assert client.get("/info").json()["gallery_drift"] is None
    asked = [texts[k % len(texts)] for k in range(256)]
    for start in range(0, 224, 32):
        assert client.post("/identify", json={"inputs": asked[start : start + 32]}).status_code == 200
    name = question_clusters[0][0]
    for text in asked[224:255]:
        assert client.post("/verify", json={"name": name, "input": text}).status_code == 200
    assert client.get("/info").json()["gallery_drift"] is None
    with caplog.at_level(logging.WARNING, "textsiam.serving"):
        assert client.post("/verify", json={"name": name, "input": asked[255]}).status_code == 200
    assert "calibrate with inputs like these" in client.get("/info").json()["gallery_drift"]
    assert [each.message for each in caplog.records].count("unlike what the gallery was calibrated on") == 1
