"""Images cost what they decode to: a large one is opened alone, and no more than the tower takes of it is kept."""

from __future__ import annotations

import base64
import io
import threading

import numpy as np
import pytest
from PIL import Image

from textsiam.images import pixels
from textsiam.images.decoding import plain_raster
from textsiam.inference.scratch import scratch_image_encoder
from textsiam.models.twin import Twin
from textsiam.serving.admission import pictures


def coded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def twin():
    encoder = scratch_image_encoder(size=28, channels=3, widths=(8, 16), depths=(1, 1), dim=16, device="cpu")
    return Twin(encoder).eval()


@pytest.fixture(scope="module")
def photos():
    """Images of 30,000 pixels, which is large where a step takes 100 tokens, and small ones."""
    rng = np.random.default_rng(0)
    shapes = [(200, 150, 3), (20, 30, 3), (150, 200, 3), (40, 20, 3)]
    return [coded(Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8))) for shape in shapes]


def test_large_images_get_the_vectors_of_the_library_and_are_opened_one_at_a_time(serve, twin, photos, monkeypatch):
    lock, most, opening = threading.Lock(), 0, 0
    plain = pixels.ready_picture

    def ready_picture(*arguments):
        nonlocal most, opening
        with lock:
            opening += 1
            most = max(most, opening)
        try:
            return plain(*arguments)
        finally:
            with lock:
                opening -= 1

    monkeypatch.setattr(pixels, "ready_picture", ready_picture)
    client = serve(twin=twin, index=None, max_tokens=100)
    expected = twin.encode([f"data:image/png;base64,{photo}" for photo in photos])
    found = []

    def ask():
        found.append(client.post("/embed", json={"inputs": photos}))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert len(found) == 4
    for answer in found:
        assert answer.status_code == 200, answer.text
        assert np.array(answer.json()) == pytest.approx(expected, abs=1e-5)


def test_pixels_of_a_request_and_of_all_that_wait_are_bounded(serve, twin, photos, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100_000)
    client = serve(twin=twin, index=None)
    many = client.post("/embed", json={"inputs": [photos[0]] * 4})
    assert (many.status_code, many.json()["error"]) == (
        413, "inputs: 120,000 pixels, at most 100,000 are taken together",
    )  # fmt: skip
    assert client.post("/embed", json={"inputs": [photos[0]] * 3}).status_code == 200
    assert client.post("/embed", json={"inputs": [photos[0]] * 3}).status_code == 200  # nothing waits any more


def test_a_damaged_large_image_is_named(serve, twin, photos):
    client = serve(twin=twin, index=None, max_tokens=100)
    cut = base64.b64encode(base64.b64decode(photos[0])[:5000]).decode()
    answer = client.post("/embed", json={"inputs": [photos[1], cut]})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("inputs[1]: ")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "LAB"])
def test_an_image_is_converted_in_strips_as_it_is_as_a_whole(mode, monkeypatch):
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 255, (61, 37), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 200)
    elif mode == "I":
        image = Image.fromarray(grey.astype(np.int32) * 200)
    elif mode == "LAB":
        image = Image.frombytes("LAB", (37, 61), rng.integers(0, 255, 61 * 37 * 3, dtype=np.uint8).tobytes())
    else:
        image = Image.fromarray(rng.integers(0, 255, (61, 37, 4), dtype=np.uint8), "RGBA").convert(mode)
    whole = plain_raster(image.copy(), "image")
    monkeypatch.setattr("textsiam.images.decoding._STRIP", 37 * 7)
    strips = plain_raster(image, "image")
    assert (strips.mode, strips.size) == (whole.mode, whole.size)
    assert strips.tobytes() == whole.tobytes()
