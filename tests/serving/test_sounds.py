"""Sounds over HTTP: base64 in, vectors out; what cannot be heard is refused by its place."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from textsiam.inference.scratch import scratch_sound_encoder
from textsiam.models.twin import Twin
from textsiam.sounds.decoding import wav_bytes

pytest.importorskip("soundfile", reason="needs textsiam[audio]")


def coded(samples):
    return base64.b64encode(wav_bytes(samples.astype(np.float32), 8000)).decode()


def test_sounds_are_encoded_and_bad_ones_refused(serve):
    twin = Twin(scratch_sound_encoder(rate=8000, bands=20, widths=(8,), depths=(1,), device="cpu"))
    sounds = [coded(np.random.default_rng(seed).normal(0, 0.1, 2000 + 500 * seed)) for seed in range(3)]
    client = serve(twin=twin, index=None)
    expected = twin.encode([f"data:audio/wav;base64,{sound}" for sound in sounds])
    found = client.post("/embed", json={"inputs": sounds})
    assert found.status_code == 200
    assert np.abs(np.array(found.json()) - expected).max() < 1e-5
    silent = client.post("/embed", json={"inputs": [sounds[0], coded(np.zeros(800))]})
    assert silent.status_code in (400, 413, 422)
    assert "inputs[1]" in silent.text
    assert "is silent" in silent.text
    path = client.post("/embed", json={"inputs": ["/etc/passwd"]})
    assert path.status_code in (400, 413, 422)
