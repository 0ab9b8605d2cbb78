"""The tower of examples/voices against resemblyzer's own code, and saved and opened again."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest

librosa = pytest.importorskip("librosa", reason="needs librosa")

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def theirs():
    """Return resemblyzer's encoder; its voice detector, which no embedding uses, need not be installed."""
    from importlib.util import find_spec

    if find_spec("resemblyzer") is None:
        pytest.skip("needs resemblyzer: pip install --no-deps resemblyzer")
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("webrtcvad") is None:
            patch.setitem(sys.modules, "webrtcvad", types.ModuleType("webrtcvad"))
        from resemblyzer import VoiceEncoder

        yield VoiceEncoder("cpu", verbose=False)


def recordings():
    rng = np.random.default_rng(0)
    return [(0.2 * rng.normal(size=n)).astype(np.float32) for n in (4000, 16_000, 30_000, 47_000)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_it_encodes_as_resemblyzer_does(theirs, tmp_path):
    from voices import voice_encoder

    from textsiam import Twin

    twin = Twin(voice_encoder())
    sounds = [{"array": each, "sampling_rate": 16_000} for each in recordings()]
    vectors = twin.encode(sounds)
    expected = np.stack([theirs.embed_utterance(each) for each in recordings()])
    assert (vectors * expected).sum(1).min() > 0.99999
    twin.save_pretrained(tmp_path / "twin")
    assert np.array_equal(Twin.from_pretrained(tmp_path / "twin").encode(sounds), vectors)
