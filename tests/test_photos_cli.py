"""`flag` on folders of images: in partitions, gone on with where it was stopped, broken files counted and named."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from textsiam import Twin
from textsiam.images import names
from textsiam.images.medium import IMAGES
from textsiam.inference.cache import EmbeddingCache
from textsiam.inference.scratch import scratch_image_encoder
from textsiam.models.ensemble import Ensemble
from textsiam.search.join import ray


def draw(folder, *, count=12):
    """Write so many pictures of noise, and copies of the first two, which are their only duplicates."""
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (4, 4), dtype=np.uint8)
        Image.fromarray(pixels).resize((24, 24)).save(folder / f"{i:02d}.png")
    for i in range(2):
        (folder / f"copy{i}.png").write_bytes((folder / f"{i:02d}.png").read_bytes())
    return folder


def spoil(folder):
    """Add a file that is cut off, and one that is no image."""
    (folder / "05a.png").write_bytes((folder / "05.png").read_bytes()[:60])
    (folder / "zz.jpg").write_bytes(b"no image")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Twin(scratch_image_encoder(size=16, widths=(8,), depths=(1,), seed=1)).save_pretrained(
        tmp_path_factory.mktemp("model") / "model"
    )


@pytest.fixture(autouse=True)
def small_partitions(monkeypatch):
    monkeypatch.setattr(ray, "FILES_OF_PARTITION", 4)
    monkeypatch.setattr(type(IMAGES), "kept", 2)


@pytest.fixture
def opened(monkeypatch):
    """Return the names of the images that are opened, one for each time."""
    seen, really = [], names.open_picture
    for module in ("textsiam.images.pixels", "textsiam.images.names"):
        monkeypatch.setattr(f"{module}.open_picture", lambda name, **how: (seen.append(name), really(name, **how))[1])
    return seen


def pairs_of(answer):
    return [(pair["id1"], pair["id2"]) for pair in answer.json["pairs"]]


def test_images_are_flagged_in_partitions_which_leave_nothing_behind(textsiam, model, tmp_path):
    photos, output = draw(tmp_path / "photos"), tmp_path / "near.tsv"
    found = textsiam("flag", model, photos, "--threshold", 0.99999, "--output", output, "--json")
    alone = textsiam("flag", model, photos, "--threshold", 0.99999, "--json")  # in memory
    assert pairs_of(found) == pairs_of(alone) == [("00.png", "copy0.png"), ("01.png", "copy1.png")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["near.tsv", "photos"]


def test_broken_images_are_counted_and_named_and_no_image_is_opened_twice(textsiam, model, tmp_path, opened):
    photos, output = draw(tmp_path / "photos"), tmp_path / "near.tsv"
    clean = textsiam("flag", model, photos, "--threshold", 0.9, "--output", output, "--json")
    opened.clear()
    spoil(photos)
    found = textsiam("flag", model, photos, "--threshold", 0.9, "--on-bad-row", "skip", "--output", output, "--json")
    assert pairs_of(found) == pairs_of(clean)
    assert found.json["unreadable"] == ["05a.png", "zz.jpg"]
    assert (found.json["questions"], found.json["read"]["rows"]) == (14, 16)
    assert found.json["read"]["skipped"] == {"unreadable image": 2}
    assert f"skipped {photos}:05a.png: is a truncated or damaged PNG" in found.err
    assert sorted(opened) == sorted(map(str, photos.iterdir()))


def test_a_broken_image_is_an_error_that_names_it(textsiam, model, tmp_path):
    photos, output = draw(tmp_path / "photos"), tmp_path / "near.tsv"
    spoil(photos)
    refused = textsiam("flag", model, photos, "--threshold", 0.9, "--output", output)
    assert refused.status == 1
    assert f"{photos}/05a.png: is a truncated or damaged PNG" in refused.err
    assert not output.exists()
    skipped = textsiam("flag", model, photos, "--threshold", 0.9, "--output", output, "--on-bad-row", "skip",
                       "--work", tmp_path / "work")  # fmt: skip
    assert skipped.status == 0
    refused = textsiam("flag", model, photos, "--threshold", 0.9, "--output", output, "--work", tmp_path / "work")
    assert refused.status == 1
    assert "05a.png" in refused.err


def test_a_stopped_run_goes_on_with_what_it_has_encoded(textsiam, model, tmp_path, monkeypatch, opened):
    photos, output = draw(tmp_path / "photos"), tmp_path / "near.tsv"
    arguments = ("flag", model, photos, "--threshold", 0.9, "--output", output, "--json")
    whole = textsiam(*arguments)
    really, calls = Twin.encode, []

    def stopped(self, inputs, **how):
        calls.append(len(inputs))
        if len(calls) == 4:  # in the middle of the second partition
            raise KeyboardInterrupt
        return really(self, inputs, **how)

    monkeypatch.setattr(Twin, "encode", stopped)
    interrupted = textsiam(*arguments)
    assert interrupted.status == 130
    assert f"kept in {output}.partitions: the same command goes on there" in interrupted.err
    monkeypatch.setattr(Twin, "encode", really)
    opened.clear()
    again = textsiam(*arguments)
    assert pairs_of(again) == pairs_of(whole)
    assert len(opened) == 14 - 3 * 2
    assert calls == [2] * 4


def test_an_image_that_has_changed_meanwhile_is_not_taken_for_what_it_was(textsiam, model, tmp_path):
    photos, work = draw(tmp_path / "photos"), tmp_path / "work"
    arguments = ("flag", model, photos, "--threshold", 0.9, "--work", work)
    assert textsiam(*arguments).status == 0
    Image.new("L", (9, 9)).save(photos / "03.png")
    refused = textsiam(*arguments)
    assert refused.status == 1
    assert f"{work} holds a job with another list of inputs: remove it" in refused.err


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_vectors_of_broken_images_are_nan_and_the_others_are_their_own(tmp_path, precision):
    twin = Twin(scratch_image_encoder(size=16, widths=(8,), depths=(1,)))
    photos = draw(tmp_path / "photos")
    spoil(photos)
    inputs = sorted(map(str, photos.iterdir()))
    good = [name for name in inputs if "05a" not in name and "zz" not in name]
    broken = {}
    vectors = twin.encode([*inputs, inputs[6]], precision=precision, broken=broken)
    assert sorted(broken) == [str(photos / "05a.png"), str(photos / "zz.jpg")]
    kept = [row for row, name in enumerate(inputs) if name in good]
    assert np.isnan(np.delete(vectors, [*kept, len(inputs)], axis=0)).all()
    assert vectors[kept] == pytest.approx(
        twin.encode(good, precision=precision), abs=1e-5 if precision == "fp32" else 0.02
    )


def test_a_broken_image_is_not_kept_in_a_cache(tmp_path):
    twin, photos = Twin(scratch_image_encoder(size=16, widths=(8,), depths=(1,))), draw(tmp_path / "photos", count=3)
    (photos / "05a.png").write_bytes(b"GIF89a")
    (photos / "zz.jpg").write_bytes(b"no image")
    inputs, cache = sorted(map(str, photos.iterdir())), EmbeddingCache(tmp_path / "vectors.sqlite")
    for _ in range(2):  # the second time, the others come from the cache
        broken = {}
        vectors = twin.encode(inputs, cache=cache, broken=broken)
        assert sorted(broken) == [name for name in inputs if name.endswith(("zz.jpg", "05a.png"))]
        assert np.isnan(vectors).any(axis=1).sum() == len(broken)
    assert len(cache) == len(inputs) - len(broken)


def test_an_ensemble_passes_over_broken_images_as_its_members_do(tmp_path):
    twins = [Twin(scratch_image_encoder(size=16, widths=(8,), depths=(1,), seed=seed)) for seed in range(2)]
    photos = draw(tmp_path / "photos", count=4)
    (photos / "broken.png").write_bytes(b"no image")
    inputs, broken = sorted(map(str, photos.iterdir())), {}
    vectors = Ensemble(twins).encode(inputs, broken=broken)
    assert [*broken] == [str(photos / "broken.png")]
    assert np.isnan(vectors).all(axis=1).tolist() == [name in broken for name in inputs]
