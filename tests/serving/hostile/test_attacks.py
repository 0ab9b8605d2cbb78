"""The server as a process under attack: what it keeps in memory, how long others wait, and what kill -9 leaves."""

from __future__ import annotations

import base64
import io
import os
import random
import signal
import sys
import threading
import time
from contextlib import contextmanager

import httpx2
import numpy as np
import pytest
from PIL import Image

from textsiam.inference.scratch import scratch_image_encoder
from textsiam.models.twin import Twin
from textsiam.search.index.folder import FolderIndex
from textsiam.search.ingest import index_model

pytestmark = pytest.mark.slow


def memory(process, name):
    with open(f"/proc/{process.pid}/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))


@contextmanager
def others(address, body):
    """Ask for something small all the time; yields the seconds that each answer takes."""
    waits, stop = [], threading.Event()

    def ask():
        with httpx2.Client(base_url=address, timeout=120) as client:
            while not stop.is_set():
                begun = time.perf_counter()
                assert client.post("/embed", json=body).status_code == 200
                waits.append(time.perf_counter() - begun)
                stop.wait(0.02)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield waits
    finally:
        stop.set()
        asking.join()


def coded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def image_twin(tmp_path):
    """A folder with a twin for images."""
    encoder = scratch_image_encoder(size=224, channels=3, widths=(8, 16), depths=(1, 1), dim=16, device="cpu")
    return Twin(encoder).eval().save_pretrained(tmp_path / "twin")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_thirty_large_images_take_little_memory_and_nobody_waits_for_them(image_twin, tries, soon, result, served):
    rng = np.random.default_rng(0)
    small = {"inputs": [coded(Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)))]}
    large = coded(Image.new("1", (7071, 7071)))
    with served(image_twin) as (process, ready, _):
        address = ready["address"]
        httpx2.post(f"{address}/embed", json=small, timeout=60)
        idle = memory(process, "VmRSS")
        with others(address, small) as waits:
            body = {"inputs": [large] * tries(30)}
            assert httpx2.post(f"{address}/embed", json=body, timeout=600).status_code == 200
        peak = memory(process, "VmHWM") - idle
    p99 = float(np.quantile(waits, 0.99))
    assert peak < 1024
    assert p99 < soon
    result(images=len(body["inputs"]), peak_mib_over_idle=round(peak), p99_of_others_seconds=round(p99, 3))


LARGE = [
    ("PNG", "1", {}),
    ("PNG", "P", {}),
    ("PNG", "LA", {"compress_level": 1}),
    ("PNG", "RGBA", {"compress_level": 1}),
    ("JPEG", "RGB", {"quality": 10}),
    ("JPEG", "RGB", {"quality": 10, "progressive": True}),
    ("JPEG", "CMYK", {"quality": 10}),
    ("WEBP", "RGB", {"quality": 10, "method": 0}),
    ("WEBP", "RGBA", {"lossless": True, "quality": 0, "method": 0}),
    ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.skipif(os.environ.get("TEXTSIAM_HOSTILE") != "all", reason="takes minutes: TEXTSIAM_HOSTILE=all")
def test_thirty_large_images_of_ten_kinds_no_two_alike_take_little_memory(image_twin, result, served):
    bands, images = Image.linear_gradient("L").point(lambda value: value // 64 * 64), []
    for k in range(30):
        kind, mode, options = LARGE[k // 3]
        image = bands.rotate(12 * k).resize((7071, 7071), Image.Resampling.NEAREST).convert(mode)
        image.paste(0, (200 * k, 0, 200 * k + 100, 7071))
        images.append(coded(image, kind, **options))
    assert len(set(images)) == 30
    mixed, statuses = images[::3] + images[1::3] + images[2::3], []  # each request has all kinds
    bodies = {"/embed": {"inputs": mixed[:10]}, "/v1/embeddings": {"input": mixed[10:20]},
              "/similarity": {"inputs": {"source_sentence": mixed[20], "sentences": mixed[21:]}}}  # fmt: skip
    with served(image_twin) as (process, ready, _):
        httpx2.post(f"{ready['address']}/embed", json={"inputs": [coded(Image.new("RGB", (64, 64)))]}, timeout=60)
        idle = memory(process, "VmRSS")

        def send(path):
            statuses.append(httpx2.post(f"{ready['address']}{path}", json=bodies[path], timeout=600).status_code)

        senders = [threading.Thread(target=send, args=(path,)) for path in bodies]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        peak = memory(process, "VmHWM") - idle
    assert statuses == [200] * 3
    assert peak < 1024
    result(images=len(images), peak_mib_over_idle=round(peak))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_fifteen_megabytes_of_numbers_take_little_memory_and_nobody_waits_for_them(
    tower, tmp_path, tries, soon, result, served
):
    Twin(tower).save_pretrained(tmp_path / "twin")
    body = b'{"inputs":[' + b"1," * 7_500_000 + b"1]}"
    head, count = {"content-type": "application/json"}, tries(50)
    with served(tmp_path / "twin") as (process, ready, _):
        address = ready["address"]
        idle = memory(process, "VmRSS")
        with others(address, {"inputs": "why so?"}) as waits, httpx2.Client(base_url=address, timeout=60) as client:
            for _ in range(count):
                assert client.post("/embed", content=body, headers=head).status_code == 413
        peak = memory(process, "VmHWM") - idle
    p99 = float(np.quantile(waits, 0.99))
    assert peak < 1024
    assert p99 < soon
    result(requests=count, peak_mib_over_idle=round(peak), p99_of_others_seconds=round(p99, 3))


def test_batches_are_whole_after_kill_9(tower, tmp_path, tries, result, served):
    """Each batch replaces three questions: it is there as a whole or not at all, and once it is answered it is."""
    twin = Twin(tower)
    twin.save_pretrained(tmp_path / "twin")
    FolderIndex.create(tmp_path / "index", index_model(twin)).close()
    wanted, rng, acknowledged, kills, number = tries(1000), random.Random(22), 0, 0, 0
    while acknowledged < wanted:
        last = None
        with served(tmp_path / "twin", "--index", tmp_path / "index") as (process, ready, _):
            address = ready["address"]
            killer = threading.Timer(rng.uniform(0.5, 3), process.send_signal, [signal.SIGKILL])
            killer.start()
            with httpx2.Client(base_url=address, timeout=60) as client:
                try:
                    while True:
                        number += 1
                        body = {"delete": [f"{number - 1}-{k}" for k in range(3)],
                                "upsert": [{"id": f"{number}-{k}", "text": f"why is {k} odd in {number}?"}
                                           for k in range(3)]}  # fmt: skip
                        assert client.post("/questions:batch", json=body).status_code == 200
                        last, acknowledged = number, acknowledged + 1
                        assert acknowledged < wanted + 20_000 or not killer.is_alive()
                except httpx2.TransportError:
                    kills += 1
            killer.join()
        index = FolderIndex(tmp_path / "index")
        there = {n: [q is not None for q in index.get([f"{n}-{k}" for k in range(3)])] for n in (number - 1, number)}
        assert all(len(set(kept)) == 1 for kept in there.values()), there
        whole = [n for n, kept in there.items() if all(kept)]
        assert len(whole) == 1
        assert index.count() == 3
        assert last is None or whole[0] >= last
        number = whole[0]
        index.close()
    result(acknowledged=acknowledged, kills=kills)
