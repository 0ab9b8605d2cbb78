"""`textsiam gallery`: the whole way with images and with texts, errors, and a kill at any moment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from textsiam import Twin, scratch_image_encoder
from textsiam.search.gallery import Gallery

PEOPLE, ENROLLED = 16, 12


def draw(folder: Path, people: range, takes: range) -> Path:
    """Write a folder for each person: a square of their own shade, with noise."""
    for person in people:
        where = folder / f"p {person:02}"
        where.mkdir(parents=True, exist_ok=True)
        for take in takes:
            rng = np.random.default_rng([person, take])
            pixels = np.random.default_rng(person).integers(0, 255, (16, 16)) + rng.integers(-12, 12, (16, 16))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(where / f"{take}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Return a folder with a model, pictures to enroll (one to five a person) and probes of strangers, too."""
    base = tmp_path_factory.mktemp("gallery")
    torch.manual_seed(0)
    tower = scratch_image_encoder(size=16, channels=1, dim=16, widths=[8, 16], depths=[1, 1], device="cpu")
    Twin(tower).save_pretrained(base / "model")
    for person in range(ENROLLED):
        draw(base / "enrolled", range(person, person + 1), range(1 + person % 6))
    draw(base / "probes", range(PEOPLE), range(20, 28))
    return base


@pytest.fixture
def calibrated(place, tmp_path, textsiam) -> Path:
    """Return a gallery of its own that is enrolled and calibrated."""
    assert textsiam("gallery", "enroll", place / "model", tmp_path / "g", place / "enrolled").status == 0
    assert (
        textsiam("gallery", "calibrate", place / "model", tmp_path / "g", place / "probes", "--far", 0.05).status == 0
    )
    return tmp_path / "g"


def test_the_whole_way(place, tmp_path, textsiam):
    model, gallery = place / "model", tmp_path / "g"
    said = textsiam("gallery", "enroll", model, gallery, place / "enrolled", "--json")
    assert {key: said.json[key] for key in ("new", "replaced", "identities")} == {
        "new": ENROLLED, "replaced": 0, "identities": ENROLLED
    }  # fmt: skip
    said = textsiam("gallery", "calibrate", model, gallery, place / "probes", "--far", 0.05, "--json")
    # how much is needed is said before the work, and with the numbers of the closed forms
    first, second = said.err.splitlines()[:2]
    assert first == "12 enrolled identities, 4 impostors (p 12, p 13, p 14, …), 128 probes"
    assert "takes 118 enrolled identities with a probe each; these can promise 39.3%" in second
    thresholds = said.json["thresholds"]
    few = ("1 reference", "2 to 4", "5 references and more")
    assert list(thresholds) == ["verification", "identification", *(f"verification, {each}" for each in few)]
    assert 0.05 < thresholds["verification"]["bound"] < thresholds["verification"]["worst_case"] < 1
    probe = place / "probes" / "p 03" / "20.png"
    accepted = textsiam("gallery", "verify", model, gallery, "p 03", probe, "--json")
    assert (accepted.status, accepted.json["accepted"], accepted.json["references"]) == (0, True, 4)
    assert accepted.json["threshold"] == thresholds["verification, 2 to 4"]["threshold"]
    least = textsiam("gallery", "identify", model, gallery, probe, "--top-k", 12, "--json").json["identified"][0][
        "candidates"
    ][-1]
    rejected = textsiam("gallery", "verify", model, gallery, least["name"], probe)
    assert rejected.status == 1
    assert rejected.out.startswith("rejected  probability ")
    assert "at most" in rejected.out
    found = textsiam("gallery", "identify", model, gallery, probe, place / "probes" / "p 15" / "20.png", "--json").json
    assert found["domain_shift"] is None
    found = found["identified"]
    assert found[0]["name"] == found[0]["candidates"][0]["name"] == "p 03"
    assert found[1]["name"] is None
    assert len(found[1]["candidates"]) == 3
    assert "unknown" in textsiam("gallery", "identify", model, gallery, place / "probes" / "p 15" / "20.png").out


def test_one_reference_has_the_threshold_of_one(place, calibrated):
    gallery = Gallery.load(calibrated, Twin.from_pretrained(place / "model", device="cpu"))
    alone = Gallery(gallery.twin)  # everybody enrolled by the first picture only, calibrated by itself
    for person in range(ENROLLED):
        alone.enroll(f"p {person:02}", str(place / "enrolled" / f"p {person:02}" / "0.png"))
    probes = sorted((place / "probes").rglob("*.png"))
    alone.calibrate([*map(str, probes)], [p.parent.name for p in probes], far=0.05, open_set=True)
    assert gallery.shots["p 00"] == 1
    known, expected = gallery.promise("p 00"), alone.verification
    assert expected is not None
    assert known.decision.threshold == pytest.approx(expected.decision.threshold, abs=1e-6)
    assert known.false_accepts.high == pytest.approx(expected.false_accepts.high, rel=1e-5)
    assert gallery.promise("p 03").decision.threshold != known.decision.threshold


def test_replace_add_remove_list(place, tmp_path, textsiam):
    model, gallery = place / "model", tmp_path / "g"
    textsiam("gallery", "enroll", model, gallery, place / "enrolled")
    again = draw(tmp_path / "again", range(3, 4), range(40, 42))
    assert "0 new, 1 replaced; 12 identities" in textsiam("gallery", "enroll", model, gallery, again).err
    assert textsiam("gallery", "list", model, gallery, "--json").json["identities"]["p 03"] == 2
    more = draw(tmp_path / "more", range(3, 4), range(50, 51))
    assert "0 new, 1 added to" in textsiam("gallery", "enroll", model, gallery, more, "--add").err
    assert textsiam("gallery", "list", model, gallery, "--json").json["identities"]["p 03"] == 3
    # replaced once more, it is as if enrolled by this alone
    textsiam("gallery", "enroll", model, gallery, again)
    textsiam("gallery", "enroll", model, tmp_path / "fresh", again)
    twin = Twin.from_pretrained(model, device="cpu")
    kept, fresh = (Gallery.load(each, twin) for each in (gallery, tmp_path / "fresh"))
    np.testing.assert_array_equal(kept.sums["p 03"], fresh.sums["p 03"])
    assert textsiam("gallery", "remove", model, gallery, "p 03", "p 04", "--json").json == {
        "removed": 2, "identities": 10
    }  # fmt: skip
    gone = textsiam("gallery", "remove", model, gallery, "p 05", "p 03")
    assert (gone.status, gone.err) == (1, f"error: {gallery}: 'p 03' is not enrolled\n")
    assert "p 05" in textsiam("gallery", "list", model, gallery).out


def test_a_table_of_names_and_paths(place, tmp_path, textsiam):
    lines = [f"p {p:02}\t{place / 'enrolled' / f'p {p:02}' / '0.png'}" for p in range(ENROLLED)]
    for name, text in (("header", ["name\tpath", *lines]), ("none", lines)):
        (tmp_path / f"{name}.tsv").write_text("\n".join(text) + "\n", encoding="utf-8")
        said = textsiam("gallery", "enroll", place / "model", tmp_path / name, tmp_path / f"{name}.tsv")
        assert f"{ENROLLED} new" in said.err, said.err
    assert "the first line is a row, too" in said.err
    (tmp_path / "bad.tsv").write_text("name\tpath\nA\tnowhere.png\n", encoding="utf-8")
    said = textsiam("gallery", "enroll", place / "model", tmp_path / "bad", tmp_path / "bad.tsv")
    assert said.status == 1
    assert said.err.startswith(f"error: {tmp_path / 'bad.tsv'}:2: ")
    assert not (tmp_path / "bad").exists()
    (tmp_path / "two.tsv").write_text("name\tpath\n" + lines[0] + "\n" + lines[0].replace("p 00\t", "B\t") + "\n")
    said = textsiam("gallery", "enroll", place / "model", tmp_path / "bad", tmp_path / "two.tsv")
    assert "two.tsv:3: " in said.err
    assert "is of 'B' here, and of 'p 00' before" in said.err


def test_a_name_with_control_characters_is_refused_and_an_old_one_is_shown_escaped(
    place, calibrated, tmp_path, textsiam
):
    model, picture = place / "model", place / "enrolled" / "p 00" / "0.png"
    table = tmp_path / "names.csv"
    table.write_text(f'name,path\n"Bo\nEve  3",{picture}\n', encoding="utf-8")
    said = textsiam("gallery", "enroll", model, tmp_path / "new", table)
    assert (said.status, said.err) == (1, f"error: {table}:2: the name 'Bo\\nEve  3' has control characters\n")
    folder = tmp_path / "folder" / "Bo\nEve"
    folder.mkdir(parents=True)
    (folder / "0.png").write_bytes(picture.read_bytes())
    said = textsiam("gallery", "enroll", model, tmp_path / "new", tmp_path / "folder")
    assert said.status == 1
    assert "the name 'Bo\\nEve' has control characters" in said.err
    saved = calibrated / "gallery.json"
    saved.write_text(saved.read_text(encoding="utf-8").replace('"p 00"', '"p 00\\nEve"'), encoding="utf-8")
    listed = textsiam("gallery", "list", model, calibrated).out.splitlines()
    assert len(listed) == ENROLLED
    assert listed[0].startswith("p 00\\nEve  ")
    assert textsiam("gallery", "identify", model, calibrated, picture).out.count("\n") == 1


def test_a_twin_of_texts_takes_texts(tmp_path, textsiam, tower, question_clusters):
    Twin(tower).save_pretrained(tmp_path / "model")
    for name, takes in (("enrolled", slice(0, 2)), ("probes", slice(2, 3))):
        rows = [f"q{i}\t{text}" for i, texts in enumerate(question_clusters) for text in texts[takes]]
        (tmp_path / f"{name}.tsv").write_text("name\ttext\n" + "\n".join(rows) + "\n", encoding="utf-8")
    model, gallery = tmp_path / "model", tmp_path / "g"
    assert textsiam("gallery", "enroll", model, gallery, tmp_path / "enrolled.tsv").status == 0
    said = textsiam("gallery", "calibrate", model, gallery, tmp_path / "probes.tsv", "--far", 0.1)
    assert said.status == 0, said.err
    assert textsiam("gallery", "verify", model, gallery, "q3", question_clusters[3][0]).status == 0
    draw(tmp_path / "pictures", range(2), range(1))
    said = textsiam("gallery", "enroll", model, gallery, tmp_path / "pictures")
    assert said.err == (
        f"error: {tmp_path / 'pictures'}: holds images, and the model reads texts: give a table of names and texts\n"
    )


def test_broken_images(place, tmp_path, textsiam):
    people = draw(tmp_path / "people", range(3), range(2))
    (people / "p 01" / "0.png").write_bytes((people / "p 01" / "0.png").read_bytes()[:60])
    said = textsiam("gallery", "enroll", place / "model", tmp_path / "g", people)
    assert (said.status, (tmp_path / "g").exists()) == (1, False)
    assert "0.png" in said.err
    said = textsiam("gallery", "enroll", place / "model", tmp_path / "g", people, "--on-bad-row", "skip", "--json")
    assert said.json["read"]["skipped"] == {"unreadable image": 1}
    assert textsiam("gallery", "list", place / "model", tmp_path / "g", "--json").json["identities"] == {
        "p 00": 2, "p 01": 1, "p 02": 2
    }  # fmt: skip


def test_identify_leaves_broken_images_out(place, calibrated, tmp_path, textsiam):
    (tmp_path / "broken.png").write_bytes(b"no image")
    files = [place / "probes" / "p 03" / "20.png", tmp_path / "broken.png"]
    assert textsiam("gallery", "identify", place / "model", calibrated, *files).status == 1
    said = textsiam("gallery", "identify", place / "model", calibrated, *files, "--on-bad-row", "skip", "--json")
    assert [row["input"] for row in said.json["identified"]] == [str(files[0])]
    assert "skipped" in said.err
    said = textsiam("gallery", "identify", place / "model", calibrated, files[1], "--on-bad-row", "skip")
    assert said.err.endswith("error: none of the 1 images can be opened\n")


@pytest.mark.parametrize("wrong", ["name", "file", "model", "gallery", "uncalibrated", "damage", "crash"])
def test_any_error_of_verify_is_2(place, calibrated, tmp_path, textsiam, monkeypatch, wrong):
    given = {"model": place / "model", "gallery": calibrated, "name": "p 03",
             "file": place / "probes" / "p 03" / "20.png"}  # fmt: skip
    if wrong == "uncalibrated":
        textsiam("gallery", "enroll", place / "model", tmp_path / "new", place / "enrolled")
        given["gallery"] = tmp_path / "new"
    elif wrong == "damage":
        (calibrated / "gallery.safetensors").write_bytes(b"x")
    elif wrong == "crash":
        monkeypatch.setattr(Gallery, "judged", lambda *_: 1 / 0)
    else:
        given[wrong] = tmp_path / "nowhere"
    said = textsiam("gallery", "verify", *given.values())
    assert (said.status, said.out) == (2, "")
    assert len(said.err.splitlines()) == 1
    assert textsiam("gallery", "verify", place / "model", calibrated).status == 2


def test_another_model_is_refused_in_one_line(place, calibrated, tmp_path, textsiam):
    other = Twin.from_pretrained(place / "model", device="cpu")
    with torch.no_grad():
        next(other.tower().parameters()).add_(0.01)
    other.save_pretrained(tmp_path / "other")
    for arguments in (("enroll", place / "enrolled"), ("calibrate", place / "probes"), ("remove", "p 03"), ("list",)):
        command, *rest = arguments
        said = textsiam("gallery", command, tmp_path / "other", calibrated, *rest)
        assert said.status == 1
        last = said.err.splitlines()[-1]
        assert last.startswith(f"error: {calibrated / 'gallery.json'}: another model made these vectors")


def test_people_of_the_training_are_named(place, tmp_path, textsiam):
    twin = Twin.from_pretrained(place / "model", device="cpu")
    twin.provenance = {"identities": ["p 03", "p 04", "somebody"]}
    twin.save_pretrained(tmp_path / "model")
    textsiam("gallery", "enroll", tmp_path / "model", tmp_path / "g", place / "enrolled")
    said = textsiam("gallery", "calibrate", tmp_path / "model", tmp_path / "g", place / "probes", "--far", 0.05)
    assert "2 of 16 identities have the names of those that the model was trained on (p 03, p 04)" in said.err


def test_probes_of_strangers_alone_are_refused(place, calibrated, tmp_path, textsiam):
    strangers = draw(tmp_path / "strangers", range(40, 50), range(4))
    said = textsiam("gallery", "calibrate", place / "model", calibrated, strangers, "--far", 0.05)
    assert said.status == 1
    assert said.err.endswith(
        "none of the calibration inputs is of an enrolled identity, so that nothing can be accepted\n"
    )
    assert textsiam("gallery", "verify", place / "model", calibrated, "p 03", strangers / "p 40" / "0.png").status < 2


def test_wrong_rates_are_arguments(place, calibrated, textsiam):
    for far in (0, 1, -0.5):
        said = textsiam("gallery", "calibrate", place / "model", calibrated, place / "probes", "--far", far)
        assert (said.status, f"--far must be between 0 and 1, got {far:g}" in said.err) == (2, True)


CHANGE = """
import json, os, random, signal, sys, time
import numpy as np
from textsiam import Twin
from textsiam.search.gallery import Gallery
model, folder = sys.argv[1:]
twin = Twin.from_pretrained(model, device="cpu")
Gallery.load(folder, twin)
chance = random.Random(0)
for _ in range(20):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        for step in range(1, 10_000):
            with Gallery.changing(folder, twin) as gallery:
                gallery.add(np.eye(2, 16, k=step % 15, dtype=np.float32), [f"a {step}", f"b {step}"], replace=True)
                gallery.shots = {name: step for name in gallery.shots}  # of all alike, or it is between two states
            os.write(write, b"%d " % step)
    os.close(write)
    time.sleep(chance.uniform(0.01, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    said = os.read(read, 1 << 20).split()
    os.close(read)
    there = Gallery.load(folder, twin).shots
    told = int(said[-1]) if said else 0
    print(json.dumps([told, sorted(set(there.values())), not told or f"a {told}" in there]))
"""


def test_a_kill_at_any_moment_leaves_before_or_after(place, tmp_path, textsiam):
    folder = tmp_path / "g"
    textsiam("gallery", "enroll", place / "model", folder, place / "enrolled")
    script = [sys.executable, "-c", CHANGE, str(place / "model"), str(folder)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 20
    assert max(told for told, *_ in rows) > 1
    for told, steps, kept in rows:
        assert kept  # what was said to be there is
        if told:
            assert steps in ([told], [told + 1])  # one state, and the last that was told or the next one


def test_identify_says_that_pictures_are_unlike_those_of_the_calibration(place, calibrated, tmp_path, textsiam):
    alike = sorted(draw(tmp_path / "others", range(PEOPLE), range(40, 48)).rglob("*.png"))
    dim = []
    for file in alike:  # as another scanner sees them
        dim.append(file.with_name(f"dim {file.name}"))
        Image.fromarray((np.asarray(Image.open(file)) // 8).astype(np.uint8)).save(dim[-1])
    said = textsiam("gallery", "identify", place / "model", calibrated, *alike)
    assert (said.status, "unlike" in said.err) == (0, False)
    said = textsiam("gallery", "identify", place / "model", calibrated, *dim)
    assert said.status == 0
    assert "warning: these inputs are unlike those that the gallery was calibrated on" in said.err
    assert said.out.count("\n") == len(alike)
