"""An image twin over HTTP: images in base64 where texts stand, and never a file."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from textsiam.inference.scratch import scratch_image_encoder
from textsiam.models.twin import Twin
from textsiam.search.index.memory import MemoryIndex
from textsiam.search.ingest import index_model


def coded(seed: int, kind: str = "PNG") -> str:
    pixels = np.random.default_rng(seed).integers(0, 255, (28, 28), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def images():
    return [coded(seed) for seed in range(6)]


@pytest.fixture
def client(serve):
    twin = Twin(scratch_image_encoder(size=28, channels=1, widths=(8, 16), depths=(1, 1), dim=16, device="cpu")).eval()
    return serve(twin=twin, index=MemoryIndex(index_model(twin)))


def test_images_are_encoded_as_the_library_does(client, images):
    vectors = np.array(client.post("/embed", json={"inputs": images}).json())
    assert vectors.shape == (6, 16)
    uri = f"data:image/png;base64,{images[2]}"
    assert client.post("/embed", json={"inputs": uri}).json() == [pytest.approx(vectors[2].tolist(), abs=1e-5)]


def test_an_index_of_images_finds_the_same_image_again(client, images):
    body = {"upsert": [{"id": str(k), "text": image} for k, image in enumerate(images)]}
    assert client.post("/questions:batch", json=body).json()["upserted"] == 6
    verdict = client.post("/duplicates", json={"question": images[4], "threshold": 0.99999, "limit": 6}).json()
    assert verdict["duplicates"][0]["id"] == "4"
    assert verdict["duplicates"][0]["similarity"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "bad", ["/etc/hostname", "photo.png", "http://127.0.0.1/cat.png", "train.zip#a.png", "AAAA", ""]
)
def test_what_is_no_image_is_named_and_no_file_is_opened(client, images, bad):
    answer = client.post("/embed", json={"inputs": [images[0], bad]})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("inputs[1]: ")
    assert answer.json()["error_type"] == "Tokenizer"


def test_a_damaged_image_is_refused(client, images):
    whole = base64.b64decode(images[0])
    cut = base64.b64encode(whole[: len(whole) // 2]).decode()
    assert client.post("/embed", json={"inputs": [cut]}).status_code == 422
