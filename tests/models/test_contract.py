"""What a twin promises, whatever it compares: the same tests for texts and for images."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

from textsiam.config.run import build_objective
from textsiam.data.pairs import Pairs
from textsiam.images.medium import pair_images
from textsiam.inference.cache import EmbeddingCache, weights_fingerprint
from textsiam.inference.scratch import scratch_image_encoder, scratch_text_encoder
from textsiam.models.ensemble import Ensemble
from textsiam.models.twin import Twin
from textsiam.search.duplicates import find_duplicates
from textsiam.search.gallery import Gallery
from textsiam.search.nearest import best_matches
from textsiam.training.loop import train
from textsiam.training.losses import ContrastiveLoss, InfoNCELoss
from textsiam.training.mining.offline import mine
from textsiam.training.settings import Mining, Settings

CLASSES, EACH = 8, 6


def drawing(kind: int, style: int) -> Image.Image:
    """Return a small grey picture: a bar whose place says the class, with the noise of a hand."""
    pixels = np.random.default_rng([kind, style]).integers(0, 60, (20, 20), dtype=np.uint8)
    at = 2 * kind + 2
    if kind % 2:
        pixels[at : at + 3, 3:17] = 230
    else:
        pixels[3:17, at : at + 3] = 230
    return Image.fromarray(pixels)


@pytest.fixture(params=["texts", "images"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def inputs(kind: str, tmp_path: Path) -> list[str]:
    """Return eight classes of six inputs each, class after class."""
    if kind == "texts":
        words = ["bread", "sky", "dog", "wine", "car", "tax", "music", "garden"]
        return [f"what about {words[c]} number {i} today" for c in range(CLASSES) for i in range(EACH)]
    names = []
    for c in range(CLASSES):
        for i in range(EACH):
            drawing(c, i).save(tmp_path / f"{c}-{i}.png")
            names.append(str(tmp_path / f"{c}-{i}.png"))
    return names


@pytest.fixture
def tower(kind: str, inputs: list[str]) -> SentenceTransformer:
    if kind == "texts":
        return scratch_text_encoder(inputs, hidden=32, layers=1, heads=2, dim=16, device="cpu")
    return scratch_image_encoder(size=20, widths=(8, 16), depths=(1, 1), dim=16, device="cpu")


@pytest.fixture
def twin(tower: SentenceTransformer) -> Twin:
    return Twin(tower)


@pytest.fixture
def pairs(kind: str, inputs: list[str]) -> Pairs:
    """Return every pair of a class, and as many of two classes."""
    rows = [(c * EACH + i, c * EACH + j) for c in range(CLASSES) for i in range(EACH) for j in range(i + 1, EACH)]
    rng = np.random.default_rng(0)
    others: set[tuple[int, int]] = set()
    while len(others) < len(rows):
        a, b = sorted(rng.choice(len(inputs), 2, replace=False).tolist())
        if a // EACH != b // EACH:
            others.add((a, b))
    left, right = ([inputs[row[side]] for row in [*rows, *sorted(others)]] for side in (0, 1))
    labels = [1] * len(rows) + [0] * len(others)
    make = {"texts": Pairs.from_texts, "images": pair_images}[kind]
    return make(left, right, labels)


def objective(**losses: Any) -> Any:
    return build_objective(losses)


def test_vectors_are_of_length_one_and_equal_inputs_get_equal_vectors(twin, inputs):
    vectors = twin.encode([*inputs, inputs[3]])
    assert vectors.shape == (len(inputs) + 1, 16)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors[3], vectors[-1])


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_vector_does_not_depend_on_what_stands_beside_it(twin, inputs, precision):
    together = twin.encode(inputs, precision=precision)
    alone = np.concatenate([twin.encode([each], precision=precision) for each in inputs])
    assert (together * alone).sum(1).min() >= 0.9999


def test_auto_is_close_to_full_precision(twin, inputs):
    assert (twin.encode(inputs) * twin.encode(inputs, precision="fp32")).sum(1).min() >= 0.9999


def test_streaming_gives_what_encoding_gives(twin, inputs):
    blocks = list(twin.encode_stream(iter(inputs), block=7, precision="fp32"))
    np.testing.assert_allclose(np.concatenate(blocks), twin.encode(inputs, precision="fp32"), atol=1e-5)


def test_no_input_at_all(twin):
    assert twin.encode([]).shape == (0, 16)
    assert twin.similarity([], []).shape == (0,)


def test_similarity_is_symmetric_and_greatest_for_the_same(twin, inputs):
    one, other = twin.similarity(inputs[:5], inputs[5:10]), twin.similarity(inputs[5:10], inputs[:5])
    np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_allclose(twin.similarity(inputs, inputs), 1, atol=1e-5)


def test_what_is_saved_opens_again_here_and_in_sentence_transformers(twin, inputs, pairs, tmp_path):
    twin.calibrate(pairs)
    twin.save_pretrained(tmp_path / "saved")
    again = Twin.from_pretrained(tmp_path / "saved", device="cpu")
    np.testing.assert_allclose(again.encode(inputs), twin.encode(inputs), atol=1e-6)
    assert again.compare(inputs[0], inputs[1]) == twin.compare(inputs[0], inputs[1])
    plain = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    read = [Image.open(name) for name in inputs] if inputs[0].endswith(".png") else inputs
    cosine = (plain.encode(read) * twin.encode(inputs, precision="fp32")).sum(1)
    assert cosine.min() >= 0.99999


def test_verdicts_come_after_calibration_one_by_one_and_in_lists(twin, inputs, pairs):
    twin.calibrate(pairs)
    verdict = twin.compare(inputs[0], inputs[1])
    assert 0 <= verdict.probability <= 1
    assert twin.compare([inputs[0]], [inputs[1]]) == [verdict]
    with pytest.raises(TypeError, match="two inputs or two lists"):
        twin.compare(inputs[0], [inputs[1]])


def test_a_cache_remembers_vectors(twin, inputs, tmp_path):
    cache = EmbeddingCache(tmp_path / "vectors.sqlite")
    first = twin.encode(inputs, cache=cache)
    assert len(cache) == len(inputs)
    np.testing.assert_array_equal(twin.encode(inputs, cache=cache), first)
    assert weights_fingerprint(twin.left, "fp32") == weights_fingerprint(twin.left, "fp32")


@pytest.mark.parametrize(
    "losses",
    [
        {"contrastive": ContrastiveLoss(margin=0.5)},
        {"info_nce": InfoNCELoss(temperature=0.1)},
    ],
    ids=lambda losses: next(iter(losses)),
)
def test_training_tells_the_classes_apart(twin, inputs, pairs, tmp_path, losses):
    def average_precision() -> float:
        from sklearn.metrics import average_precision_score

        return float(average_precision_score(pairs.labels, twin.pair_similarity(pairs.texts, pairs.left, pairs.right)))

    settings = Settings(epochs=6, batch_size=24, learning_rate=5e-3, tracker="none", seed=3)
    train(twin, pairs, objective(**losses), output=tmp_path / "run", settings=settings, quiet=True)
    assert average_precision() > 0.9


@pytest.mark.filterwarnings("ignore:step 3. random pairs have a mean cosine")  # as random towers have
def test_batches_of_p_clusters_and_k_inputs(twin, pairs, tmp_path):
    settings = Settings(max_steps=3, batch_size=8, per_cluster=4, tracker="none")
    losses = objective(info_nce=InfoNCELoss(temperature=0.1))
    result = train(twin, pairs, losses, output=tmp_path / "run", settings=settings, quiet=True)
    assert result.steps == 3


def test_a_resumed_run_ends_where_the_whole_one_does(kind, inputs, pairs, tmp_path):
    losses = objective(contrastive=ContrastiveLoss(margin=0.5))

    def run(folder: Path, *, resume: bool = False) -> Twin:
        torch.manual_seed(0)
        fresh = (
            scratch_text_encoder(inputs, hidden=32, layers=1, heads=2, dim=16, device="cpu")
            if kind == "texts"
            else scratch_image_encoder(size=20, widths=(8, 16), depths=(1, 1), dim=16, device="cpu")
        )
        twin = Twin(fresh)
        settings = Settings(max_steps=6, batch_size=24, checkpoint_every=2, tracker="none")
        train(twin, pairs, losses, output=folder, settings=settings, resume=resume, quiet=True)
        return twin

    whole = run(tmp_path / "whole")
    stopped = tmp_path / "stopped"
    run(stopped)
    first, *later = sorted((stopped / "checkpoints").iterdir())
    for checkpoint in later:  # as if it had been killed after the first
        shutil.rmtree(checkpoint)
    assert later
    assert first.name == "step-00000004"
    again = run(stopped, resume=True)
    for (name, a), (_, b) in zip(whole.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_duplicates_matches_mining_ensembles_and_galleries(twin, inputs, pairs):
    found = find_duplicates(twin, inputs, threshold=0.999)
    assert found.threshold == 0.999
    where, similarity = best_matches(twin, twin.encode(inputs[:3]), twin.encode(inputs, side="right"), 2)
    np.testing.assert_array_equal(where[:, 0], [0, 1, 2])
    np.testing.assert_allclose(similarity[:, 0], 1, atol=1e-5)
    mined = mine(twin, pairs, Mining(category="random"))
    assert len(mined) > 0
    ensemble = Ensemble([twin, twin])
    np.testing.assert_allclose(
        ensemble.similarity(inputs[:4], inputs[4:8]), twin.similarity(inputs[:4], inputs[4:8]), atol=1e-5
    )
    gallery = Gallery(twin)
    gallery.enroll("first", inputs[:2])
    gallery.enroll("second", inputs[EACH : EACH + 2])
    assert gallery.similarities(inputs[:3]).shape == (3, 2)


def test_an_input_of_another_kind_is_named(twin):
    with pytest.raises(TypeError, match=r"(input|image) 1"):
        twin.encode(["x.png", 7])
    with pytest.raises(TypeError, match=r"write twin.encode\(\[text\]\)"):
        twin.encode("x.png")


def test_images_come_in_many_forms():
    twin = Twin(scratch_image_encoder(size=20, widths=(8, 16), depths=(1, 1), dim=16, device="cpu"))
    picture = drawing(3, 0)
    pixels, file = np.asarray(picture), io.BytesIO()
    picture.save(file, "PNG")
    forms = [picture, pixels, pixels[..., None], torch.from_numpy(pixels.copy())[None], file.getvalue()]
    forms += [{"bytes": file.getvalue(), "path": None}, pixels.astype(np.float32) / 255]
    vectors = twin.encode(forms)
    np.testing.assert_allclose(vectors, np.repeat(vectors[:1], len(forms), 0), atol=1e-6)
    assert twin.similarity([picture], [pixels])[0] == pytest.approx(1, abs=1e-6)


def test_the_towers_of_an_asymmetric_twin_may_take_images_and_texts(inputs, tmp_path):
    left = scratch_image_encoder(size=20, widths=(8, 16), depths=(1, 1), dim=16, device="cpu")
    names = ["bread", "sky", "dog", "wine", "car", "tax", "music", "garden"]
    right = scratch_text_encoder(names, hidden=32, layers=1, heads=2, dim=16, device="cpu")
    pictures = []
    for c in range(CLASSES):
        drawing(c, 0).save(tmp_path / f"{c}.png")
        pictures.append(str(tmp_path / f"{c}.png"))
    captions = Pairs.from_texts(pictures, names, [1] * CLASSES)
    half = Twin(left, right)
    settings = Settings(epochs=60, batch_size=8, learning_rate=5e-3, tracker="none")
    losses = objective(info_nce=InfoNCELoss(temperature=0.1))
    train(half, captions, losses, output=tmp_path / "run", settings=settings, quiet=True)
    u, v = half.encode(pictures, side="left"), half.encode(names, side="right")
    assert ((u @ v.T).argmax(1) == np.arange(CLASSES)).mean() >= 0.75
    half.save_pretrained(tmp_path / "half")
    again = Twin.from_pretrained(tmp_path / "half", device="cpu")
    np.testing.assert_allclose(again.encode(pictures, side="left"), u, atol=1e-6)
    np.testing.assert_allclose(again.encode(names, side="right"), v, atol=1e-6)
